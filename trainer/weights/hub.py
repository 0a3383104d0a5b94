"""Why the hub hands out no file of a model, in one line with the way out."""

from __future__ import annotations

import os

from planner.contract.shown import clause


def why(error: BaseException, model: str) -> str:
    """What stands in the way, from whichever exception of the hub's client lies at the bottom of `error`."""
    from huggingface_hub import errors

    place = f"{(os.environ.get('HF_ENDPOINT') or 'https://huggingface.co').rstrip('/')}/{model}"
    for cause in _chain(error):
        if isinstance(cause, errors.GatedRepoError):
            return (
                f"{model} is gated: accept its licence at {place}, then give your token in HF_TOKEN or with "
                "`hf auth login`"
            )
        if isinstance(cause, errors.RepositoryNotFoundError):
            return f"{model}: the hub has no such model, or it is private: look at {place}, give your token in HF_TOKEN"
        if isinstance(cause, errors.RemoteEntryNotFoundError):
            return f"{model}: the hub's copy lacks a file that is needed: {_first_line(cause)}"
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return f"{model} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it"
        if isinstance(cause, errors.HFValidationError):
            return f"{model}: neither a folder here nor a hub id (owner/name)"
    return f"{model}: neither a folder here nor a model that the hub hands out: {_first_line(error)}"


def _chain(error: BaseException | None) -> list[BaseException]:
    """The exception and all that led to it."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _first_line(error: BaseException) -> str:
    return clause((str(error).strip().splitlines() or [type(error).__name__])[0])
