"""Data sets of the hub: their files are brought into the cache once, then read as any folder is."""

from __future__ import annotations

from planner.contract.data.files import hub_snapshot, is_hub_id
from planner.contract.data.tables import SUFFIXES
from planner.contract.errors import InvalidInput
from planner.contract.files import expanded
from planner.contract.run_settings import DataSettings
from planner.contract.shown import clause


def local_data(settings: DataSettings) -> DataSettings:
    """The settings with the files at hand: a hub id that is neither a file here nor in the cache is downloaded."""
    path = settings.path
    if not path or expanded(path).exists() or not is_hub_id(path) or hub_snapshot(path) is not None:
        return settings
    import huggingface_hub

    wanted = [f"*{suffix}" for suffix in SUFFIXES] + ["README.md"]
    try:
        huggingface_hub.snapshot_download(path, repo_type="dataset", allow_patterns=wanted)
    except Exception as error:  # the hub client raises a dozen kinds; each is "this data set isn't there"
        reason = clause(str(error) or type(error).__name__)
        raise InvalidInput(f"{path}: neither a file here nor a data set that the hub hands out: {reason}") from None
    return settings
