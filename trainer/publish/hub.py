"""A folder pushed to the hub with the user's token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from planner.contract.errors import InvalidInput, RunFailed
from planner.contract.shown import clause
from planner.contract.words import one_line


def push(folder: Path, repository: str, *, private: bool) -> dict[str, Any]:
    """Makes the repository where it isn't there and commits the folder; the token is huggingface_hub's own."""
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if repository.count("/") != 1:
        raise InvalidInput(f"--repo {one_line(repository[:80])} is no repository's name; write owner/name")
    if get_token() is None:
        raise InvalidInput("the hub needs a token that may write: HF_TOKEN, or `hf auth login`")
    hub = HfApi()
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        done = hub.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Published with tuneplan")
    except HFValidationError as error:
        raise InvalidInput(f"--repo {one_line(repository[:80])}: {clause(error)}") from None
    except (HfHubHTTPError, OSError) as error:
        raise RunFailed(f"the hub refused {one_line(repository[:80])}: {clause(error)}") from None
    return {"repository": repository, "commit": str(done.oid)}
