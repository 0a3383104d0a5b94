"""The folder of a run: taken by one process, looked at before anything is written, marked as ours.

Nothing is written, removed or followed in a folder before it is clear that it is this program's to write in.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from planner.contract.errors import InvalidInput, TuneplanError
from planner.contract.files import MARK, open_plain, read_plain, write_json
from planner.contract.records import Plan, read_plan
from planner.contract.run_folder import (
    LOCK,
    PLAN,
    RESULTS,
    SCHEMA,
    checkpoints,
    foreign,
    has_mark,
    is_old_run,
    open_folder,
    owner,
    refuse_links,
)
from planner.contract.words import visible
from trainer.wire import files

PATIENCE_SECONDS = 0.5
"""A wizard that looks whether the folder is free holds it for a moment."""


class FolderLock:
    """Held while a run writes into its folder; released by the operating system when the process dies.

    What is locked is the folder itself, which can't be removed and made anew unnoticed, and the file `lock` in it, for
    systems that lock no folders; the file says who.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / LOCK
        self._handles: list[int] = []
        try:
            if os.path.lexists(folder) and not folder.is_dir():
                raise InvalidInput(f"--output {folder} is no folder; choose another one")
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(PermissionError):  # Windows opens no folders
                self._take(open_folder(folder), is_folder=True)
        except NotADirectoryError:
            raise InvalidInput(f"--output {folder} can't be written: a file stands where a folder belongs") from None
        except OSError as error:
            self.release()
            raise InvalidInput(
                f"--output {folder} can't be written: {error.strerror or error}; choose a folder you own"
            ) from None

    def sign(self) -> None:
        """Marks the folder as ours and writes who holds it. Raises InvalidInput where that can't be written."""
        try:
            if not has_mark(self.folder):
                write_json(self.folder / MARK, {"schema": SCHEMA})
            self._take(self._open_file(), is_folder=False)
            os.ftruncate(self._handles[-1], 0)
            os.pwrite(self._handles[-1], f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise InvalidInput(f"--output {self.folder} can't be written: {error.strerror or error}") from None

    def _open_file(self) -> int:
        """The lock file; one that has a second name elsewhere is replaced, that name keeps its content."""
        handle = open_plain(self.path, os.O_RDWR | os.O_CREAT)
        if os.fstat(handle).st_nlink > 1:
            os.close(handle)
            self.path.unlink()
            handle = open_plain(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        return handle

    def _take(self, handle: int, *, is_folder: bool) -> None:
        """Locks the descriptor and keeps it, or refuses by the process that has it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                _lock(handle)
                break
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                os.close(handle)
                self.release()
                who = owner(self.folder)
                raise InvalidInput(
                    f"{self.folder} is in use by another run (process {who or 'unknown'}); wait for it or choose "
                    "another --output"
                ) from None
            except OSError:
                if not is_folder:
                    os.close(handle)
                    raise
                break  # a file system that locks no folders: the file has to do
        self._handles.append(handle)

    def release(self) -> None:
        """Gives the folder free. The file stays: removing it would race with a process that just opened it."""
        for handle in self._handles:
            with contextlib.suppress(OSError):
                os.close(handle)
        self._handles = []


def _lock(handle: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        return
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def claim(folder: Path, *, resumes: bool, plan_file: Path, plan: Plan) -> FolderLock:
    """Takes the folder for this process. Refused, with nothing touched, are folders that another run writes in, that
    hold links where a run writes, that hold a run (unless it is resumed) or somebody's files.

    `plan_file` is what is run, `plan` what it says with the command line's changes.
    """
    check(folder, resumes=resumes, plan_file=plan_file, plan=plan)
    lock = FolderLock(folder)
    try:
        check(folder, resumes=resumes, plan_file=plan_file, plan=plan)  # again: now nobody else writes there
        lock.sign()
    except BaseException:
        lock.release()
        raise
    return lock


def check(folder: Path, *, resumes: bool, plan_file: Path, plan: Plan) -> None:
    """Raises InvalidInput where a run must not write into the folder; touches nothing."""
    if not os.path.lexists(folder):
        if resumes:
            raise InvalidInput(f"--resume: {folder} holds no good checkpoint; start without --resume")
        return
    if not folder.is_dir():
        raise InvalidInput(f"--output {folder} is no folder; choose another one")
    try:
        refuse_links(folder)
        if not resumes and holds_run(folder):
            raise InvalidInput(f"{folder} already holds a run: go on with --resume, or choose another --output")
        if not has_mark(folder) and not is_old_run(folder):
            _check_unmarked(folder, resumes, plan_file, plan)
    except TuneplanError:
        raise
    except OSError as error:
        raise InvalidInput(f"--output {folder} can't be read: {error.strerror or error}") from None


def _check_unmarked(folder: Path, resumes: bool, plan_file: Path, plan: Plan) -> None:
    """A folder in which no run has begun yet, or one that was moved about without its mark."""
    if resumes:
        if not any(is_ours(path) for _, path in checkpoints(folder)):
            raise InvalidInput(f"--resume: {folder} holds no good checkpoint; start without --resume")
        return
    given = Path(os.path.realpath(plan_file.parent)) / plan_file.name
    other = foreign(folder, plan=given)
    if other is not None:
        raise InvalidInput(
            f"--output {folder} holds other things ({visible(other)}) and no run of tuneplan; name a new or an empty "
            "folder"
        )
    own = folder / PLAN
    if os.path.lexists(own) and not os.path.samefile(own, given) and earlier_plan(folder) != plan:
        raise InvalidInput(f"{own} is another plan than the one that is run; choose another --output")


def earlier_plan(folder: Path) -> Plan | None:
    """The plan that lies in the folder; None where none can be read."""
    try:
        return read_plan(folder / PLAN, links=False)
    except InvalidInput:
        return None


def holds_run(folder: Path) -> bool:
    """Whether a run left a checkpoint or a result there."""
    return any(name in RESULTS or name.startswith("checkpoint-") for name in os.listdir(folder))


def is_ours(checkpoint: Path) -> bool:
    """Whether a checkpoint folder was written by this program, damaged or not: its identity or its list of files."""
    for name, schema in (("tuneplan.json", "tuneplan.checkpoint/1"), (files.MANIFEST, files.SCHEMA)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            if json.loads(read_plain(checkpoint / name))["schema"] == schema:
                return True
    return False
