"""Folders that are either whole or not there: temporary name, fsync, rename; what they hold is listed and verified."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner.contract.errors import InvalidInput
from planner.contract.files import (
    OWN_PREFIX,
    NotAPlainFile,
    open_plain,
    read_plain,
    require_plain,
    sync_folder,
    write_json,
)
from planner.contract.run_folder import RESULTS, everything

MANIFEST = "manifest.json"
"""Name of the file that lists the size and SHA-256 of every other file in a checkpoint folder."""
SCHEMA = "tuneplan.manifest/1"


TEMPORARY, RETIRED = f"{OWN_PREFIX}tmp-", f"{OWN_PREFIX}old-"
"""Begin the name of a folder that is being written, and of one whose place another took; the final name follows."""


@contextlib.contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Yields a temporary sibling to fill; on success it is synced and takes the final name, else it is removed.

    An existing folder of the final name is replaced only once the new one is complete. A link or a file of that name
    is refused (`NotAPlainFile`, `InvalidInput`).
    """
    _require_folder_or_nothing(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f"{TEMPORARY}{final.name}"
    remove(temporary)
    temporary.mkdir()
    try:
        yield temporary
        for file in everything(temporary):
            if not stat.S_ISDIR(file.lstat().st_mode):
                handle = open_plain(file)
                os.fsync(handle)
                os.close(handle)
        sync_folder(temporary)
        _require_folder_or_nothing(final)
        if final.exists():
            old = final.parent / f"{RETIRED}{final.name}"
            remove(old)
            os.replace(final, old)
            os.replace(temporary, final)
            remove(old)
        else:
            os.replace(temporary, final)
        sync_folder(final.parent)
    except BaseException:
        remove(temporary)
        raise


def new_folder(path: Path, option: str = "--output") -> Path:
    """The whole path of a folder that a command makes; refused where something stands there that is not empty."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InvalidInput(f"{option} {path} is no folder; name a new one")
    whole = path.resolve()
    try:
        taken = whole.is_dir() and any(whole.iterdir())
    except OSError as error:
        raise InvalidInput(f"{option} {path} can't be read: {error.strerror or error}") from None
    if taken:
        raise InvalidInput(f"{option} {path} isn't empty; name a new folder")
    if Path.cwd().is_relative_to(whole):
        raise InvalidInput(f"{option} {path} is the folder you are in; name a new one inside it")
    return whole


def remove(path: Path) -> None:
    """Removes a folder or file of ours, as far as the system lets it; of a link only the link goes."""
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(path.lstat().st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def retire(path: Path) -> None:
    """Removes a folder so that a removal that is cut short leaves no half of it under a valid name."""
    doomed = path.parent / f"{RETIRED}{path.name}"
    remove(doomed)
    os.replace(path, doomed)
    remove(doomed)


def set_aside(path: Path) -> Path:
    """Gives what stands there a name of its own beside it; returns that name."""
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.aside-{number}")):
        number += 1
    os.replace(path, aside)
    return aside


def tidy(folder: Path) -> list[str]:
    """Clears away what a killed process left of its own temporary files; only for whoever holds the folder's lock.

    Returns the names of folders that were being written when the process died. A kill between the two renames of
    `whole_folder` leaves the old content alone: that one gets its name back.
    """
    half_written = []
    for leftover in sorted(folder.glob(f"{OWN_PREFIX}*")):
        name = leftover.name.removeprefix(RETIRED)
        # A result is replaced while it is whole; a checkpoint may have been half removed.
        whole = leftover.name != name and (name in RESULTS or manifest_problem(leftover) is None)
        if whole and not os.path.lexists(folder / name):
            leftover.rename(folder / name)
            continue
        if leftover.name.startswith(TEMPORARY) and leftover.is_dir():
            half_written.append(leftover.name.removeprefix(TEMPORARY))
        if leftover.name.startswith((TEMPORARY, RETIRED)):
            remove(leftover)
    return half_written


def _require_folder_or_nothing(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode):
            raise NotAPlainFile(errno.ENOTDIR, "a file where a folder belongs", str(path))
        if not stat.S_ISDIR(found.st_mode):
            require_plain(found, path)


def write_manifest(folder: Path) -> None:
    """Lists the folder's files with size and SHA-256, so that a damaged one is noticed before it is loaded."""
    entries = {}
    for file in everything(folder):
        found = file.lstat()
        if stat.S_ISREG(found.st_mode) and file.name != MANIFEST:
            entries[file.relative_to(folder).as_posix()] = {"bytes": found.st_size, "sha256": _digest(file)}
    write_json(folder / MANIFEST, {"schema": SCHEMA, "files": entries})


def manifest_problem(folder: Path) -> str | None:
    """Why the folder's content isn't what was written, or None when it is. No link is followed."""
    try:
        entries = json.loads(read_plain(folder / MANIFEST))["files"]
        for entry in entries.values():
            int(entry["bytes"]), str(entry["sha256"])
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except NotAPlainFile as error:
        return f"{MANIFEST} is {error.strerror}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return f"{MANIFEST} is damaged"
    if not entries:
        return f"{MANIFEST} lists no files"
    try:
        return _content_problem(folder, entries)
    except InvalidInput as error:  # a link, a pipe, a file that can't be read
        return str(error)
    except OSError as error:
        return f"{error.filename or folder} can't be read: {error.strerror or error}"


def _content_problem(folder: Path, entries: dict[str, Any]) -> str | None:
    there = set()
    for file in everything(folder):
        found, name = file.lstat(), file.relative_to(folder).as_posix()
        if stat.S_ISDIR(found.st_mode):
            continue
        if not stat.S_ISREG(found.st_mode):
            require_plain(found, file)
        there.add(name)
        if name != MANIFEST and name not in entries:
            return f"{name} isn't listed in {MANIFEST}"
    for name, entry in entries.items():
        if name not in there:  # also what lies outside of the folder
            return f"{name} is missing"
        file = folder / name
        size = file.lstat().st_size
        if size != entry["bytes"]:
            return f"{name} has {size} bytes instead of {entry['bytes']}"
        if _digest(file) != entry["sha256"]:
            return f"{name} differs from what was written"
    return None


def _digest(file: Path) -> str:
    with os.fdopen(open_plain(file), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def disk_problem(error: BaseException, folder: Path) -> str | None:
    """One clause for errors that mean `no room` or `not allowed`, whichever library wrapped them; None for others."""
    seen: BaseException | None = error
    while seen is not None:
        number = getattr(seen, "errno", None)
        text = str(seen)
        if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text or "os error 28" in text:
            return f"no space left on the disk of {folder}"
        if number == errno.EFBIG or "File too large" in text or "os error 27" in text:
            return f"a file in {folder} passed the size limit of this process or file system"
        if number in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"{folder} isn't writable"
        seen = seen.__cause__ or seen.__context__
    # torch's zip writer says only that a write fell short, so the disk itself has to be asked.
    text = str(error)
    if "file write failed" in text or "PytorchStreamWriter failed" in text or "unexpected pos" in text:
        return f"a file in {folder} could not be written completely: the disk is full or a size limit was reached"
    return None
