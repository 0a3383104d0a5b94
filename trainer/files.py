"""Files that are either whole or not there: temporary name, fsync, rename; plus the lock of a run folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from planner.contract.errors import InvalidInput
from planner.contract.files import sync_folder, write_json

MANIFEST = "manifest.json"
"""Name of the file that lists the size and SHA-256 of every other file in a checkpoint folder."""


@contextlib.contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """Yields a temporary sibling to fill; on success it is synced and takes the final name, else it is removed.

    An existing folder of the final name is replaced only once the new one is complete.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            if file.is_file():
                with open(file, "rb") as stream:
                    os.fsync(stream.fileno())
        sync_folder(temporary)
        if final.exists():
            old = final.parent / f".{final.name}.old"
            shutil.rmtree(old, ignore_errors=True)
            os.replace(final, old)
            os.replace(temporary, final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(temporary, final)
        sync_folder(final.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def tidy(folder: Path) -> list[str]:
    """Clears away what a killed process left of `whole_folder`; only for whoever holds the folder's lock.

    Returns the names of folders that were being written when the process died. A kill between the two renames leaves
    the old content under `.name.old` alone: that one gets its name back.
    """
    for leftover in folder.glob(".*.old"):
        final = folder / leftover.name[1:].removesuffix(".old")
        if leftover.is_dir() and not final.exists() and manifest_problem(leftover) is None:
            leftover.rename(final)
    half_written = []
    for pattern in (".*.old", ".*.tmp"):
        for leftover in sorted(folder.glob(pattern)):
            if leftover.is_dir():
                if pattern == ".*.tmp":
                    half_written.append(leftover.name[1:].removesuffix(".tmp"))
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)
    return half_written


def write_manifest(folder: Path) -> None:
    """Lists the folder's files with size and SHA-256, so that a damaged one is noticed before it is loaded."""
    entries = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != MANIFEST:
            with open(file, "rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            entries[file.relative_to(folder).as_posix()] = {"bytes": file.stat().st_size, "sha256": digest}
    write_json(folder / MANIFEST, {"schema": "tuneplan.manifest/1", "files": entries})


def manifest_problem(folder: Path) -> str | None:
    """Why the folder's content isn't what was written, or None when it is."""
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for entry in entries.values():
            int(entry["bytes"]), str(entry["sha256"])
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    if not entries:
        return f"{MANIFEST} lists no files"
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and name != MANIFEST and name not in entries:
            return f"{name} isn't listed in {MANIFEST}"
    for name, entry in entries.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != entry["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
        with open(file, "rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != entry["sha256"]:
                return f"{name} differs from what was written"
    return None


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


class FolderLock:
    """Held while a run writes into its folder; released by the operating system when the process dies."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise InvalidInput(
                f"--output {folder} can't be written: {error.strerror or error}; choose a folder you own"
            ) from None
        try:
            self._acquire()
        except OSError:
            owner = os.pread(self._handle, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._handle)
            raise InvalidInput(
                f"{folder} is in use by another run (process {owner}); wait for it or choose another --output"
            ) from None
        try:
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise InvalidInput(f"--output {folder} can't be written: {error.strerror or error}") from None

    def _acquire(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            import msvcrt

            msvcrt.locking(self._handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
            return
        fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Gives the folder free. The file stays: removing it would race with a process that just opened it."""
        with contextlib.suppress(OSError):
            os.close(self._handle)
