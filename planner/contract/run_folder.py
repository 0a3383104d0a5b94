"""What a run folder holds, whose it is, and whether a trainer writes there now; shared by planner and trainer."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from planner.contract.errors import InvalidInput
from planner.contract.files import MARK, OWN_PREFIX, NotAPlainFile, open_plain, read_plain, require_plain
from planner.contract.sentence import named

SCHEMA = "tuneplan.run/1"
PLAN = "plan.yaml"
EVENTS = "events.jsonl"
COMMANDS = "commands.jsonl"
"""What its trainer was told by others than who started it."""
LOCK = "lock"
"""Holds the process id of the trainer that writes there."""
RESULTS = ("adapter", "model")
TENSORBOARD = "tensorboard"

_FILES = re.compile(
    rf"{re.escape(MARK)}|{LOCK}|{re.escape(EVENTS)}|{re.escape(COMMANDS)}|plan(-\d+)?\.yaml|log(-rank\d+)?\.txt|observation[a-z0-9-]*\.json"
)
_FOLDERS = re.compile(rf"checkpoint-\d+|{'|'.join(RESULTS)}|{TENSORBOARD}|{re.escape(OWN_PREFIX)}(tmp|old)-[^/]*")
_CHECKPOINT = re.compile(r"checkpoint-(0|[1-9][0-9]{0,17})")
_HARMLESS = re.compile(r"README(\.[a-z]+)?|\.gitkeep|\.gitignore|\.DS_Store|desktop\.ini|Thumbs\.db|lost\+found", re.I)
"""What a new folder may hold when a run begins there: no name of ours, and nobody's work."""
_ODD = 8
"""Levels of folders that are looked through for links; ours have two."""


def checkpoint_step(name: str) -> int | None:
    """The step in a checkpoint folder's name; None for other names."""
    found = _CHECKPOINT.fullmatch(name)
    return int(found[1]) if found else None


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoint folders by name, newest first, as (step, path); links are none."""
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            step = checkpoint_step(entry.name)
            if step is not None and entry.is_dir(follow_symlinks=False):
                found.append((step, folder / entry.name))
    return sorted(found, reverse=True)


def has_mark(folder: Path) -> bool:
    """Whether this program made the folder for a run."""
    try:
        return bool(json.loads(read_plain(folder / MARK, limit=1 << 12))["schema"] == SCHEMA)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def is_old_run(folder: Path) -> bool:
    """Whether a release that set no mark yet has run here: its lock, and an event as the first line of its events."""
    try:
        first = read_plain(folder / EVENTS, limit=1 << 16).split(b"\n", 1)[0]
        return str(json.loads(first)["schema"]).startswith("tuneplan.event/") and (folder / LOCK).is_file()
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def foreign(folder: Path, *, plan: Path | None = None) -> str | None:
    """Name of something that a new run would be mixed with; None for a folder that is empty, or as good as.

    `plan`: the plan file that is run, which may lie there.
    """
    for name in sorted(os.listdir(folder)):
        known = name in (PLAN, MARK) or name.startswith(OWN_PREFIX) or _HARMLESS.fullmatch(name)
        if not known and not (plan is not None and folder / name == plan):
            return name
    return None


def refuse_links(folder: Path) -> None:
    """Refuses by name what a run would write through: links, pipes and the like under any name that a run uses.

    A link that has another name is the user's own affair; no run touches it.
    """
    try:
        for name in sorted(os.listdir(folder)):
            if _FILES.fullmatch(name):
                require_plain((folder / name).lstat(), folder / name)
            elif _FOLDERS.fullmatch(name):
                _require_folder(folder / name, name)
    except NotAPlainFile as error:
        raise InvalidInput(f"{error}; move it away, or choose another ", named("output")) from None


def _require_folder(path: Path, name: str) -> None:
    found = path.lstat()
    if stat.S_ISREG(found.st_mode):
        if name.startswith(OWN_PREFIX):  # a temporary file
            return
        raise NotAPlainFile(errno.ENOTDIR, "a file where a folder belongs", str(path))
    if not stat.S_ISDIR(found.st_mode):
        require_plain(found, path)
    for inner in everything(path):
        if not stat.S_ISDIR(inner.lstat().st_mode):
            require_plain(inner.lstat(), inner)


def everything(folder: Path, depth: int = _ODD) -> Iterator[Path]:
    """All files and folders below, sorted, going through no link. Raises InvalidInput for a folder without end."""
    if depth == 0:
        raise InvalidInput(f"{folder}: folders within folders within folders; no run makes these")
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        yield folder / entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from everything(folder / entry.name, depth - 1)


# ---- who writes there ------------------------------------------------------------------------------------------------


def open_folder(folder: Path) -> int:
    """Descriptor of the folder itself, to be locked: nobody can remove that from under a run. Raises OSError."""
    return os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0))


def holder(folder: Path) -> int | None:
    """Process id of the trainer that writes into a run's folder; None where there is none (or this can't be told)."""
    if _is_locked(lambda: open_folder(folder)) or _is_locked(lambda: open_plain(folder / LOCK)):
        return owner(folder)
    return None


def owner(folder: Path) -> int | None:
    """The process id that the lock file names; None where it names none."""
    try:
        handle = open_plain(folder / LOCK)
    except OSError:
        return None
    try:
        text = os.read(handle, 32).decode(errors="replace").strip()
    except OSError:
        return None
    finally:
        os.close(handle)
    return int(text) if text.isascii() and text.isdigit() else None


def _is_locked(opened: Callable[[], int]) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        handle = opened()
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False
