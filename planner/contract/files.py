"""Reading and writing files: whole or not at all, with the user's own permissions, through no link that isn't theirs.

What a person names on the command line may be a link or a pipe (`write_named`). Inside run folders, exports and the
data folder nothing is: those may come from anywhere, so no link is followed there and only plain files are opened.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from pathlib import Path
from typing import TextIO

from planner.contract.errors import InvalidInput
from planner.contract.sentence import Sentence

OWN_PREFIX = ".tuneplan-"
"""Every temporary file and folder that this program leaves when it is killed begins so, and nobody else's does."""
MARK = "tuneplan-run.json"
"""File in a run folder that says whose it is; written when the run begins."""


class NotAPlainFile(InvalidInput, OSError):
    """A link, folder, pipe, socket or device where a plain file should be; `strerror` says which."""

    def __init__(self, *parts: object) -> None:
        super().__init__(*parts)
        self.sentence = Sentence(f"{self.filename}: {self.strerror}")


def expanded(path: str | Path) -> Path:
    """The path with `~` and `~user` written out; an unknown user's stays as it is, where pathlib raises."""
    return Path(os.path.expanduser(path))


def user_data_dir() -> Path:
    """Folder of this user's observations, fits and demo weights; the variable TUNEPLAN_HOME overrides it."""
    override = os.environ.get("TUNEPLAN_HOME")
    if override:
        return expanded(override)
    import platformdirs

    return Path(platformdirs.user_data_dir("tuneplan", appauthor=False))


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_whole(path: Path, content: bytes) -> None:
    """Temporary name in the same folder, fsync, rename: a reader sees the old file or the whole new one.

    A new file gets the permissions of the user's umask, one that stood there keeps its own. Raises OSError and leaves
    nothing behind when that fails; `NotAPlainFile` where the name is a link, a folder or a pipe.
    """
    mode = _replaceable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{OWN_PREFIX}tmp-{os.urandom(6).hex()}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _flag("O_CLOEXEC") | _flag("O_BINARY"), 0o666)
    try:
        with os.fdopen(handle, "wb") as stream:
            if mode is not None and hasattr(os, "fchmod"):
                os.fchmod(stream.fileno(), mode)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, content: object) -> None:
    """Writes the value as JSON, whole."""
    write_whole(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def write_named(path: Path, content: bytes) -> None:
    """Writes a file that a person named: a link stays one, a pipe or terminal is written to; else as `write_whole`.

    A link in a run folder is not the person's choice and is refused.
    """
    _require_name(path)
    try:
        kind = path.stat().st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _circle(path) from None
        kind = stat.S_IFREG
    if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
        _write_into(path, content)
        return
    write_whole(path if (path.parent / MARK).exists() else path.resolve(), content)


def _write_into(path: Path, content: bytes) -> None:
    """Into a pipe or a device. A pipe that nobody reads is refused: it would wait for ever."""
    try:
        handle = os.open(path, os.O_WRONLY | _flag("O_NONBLOCK") | _flag("O_NOCTTY"))
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise NotAPlainFile(errno.ENXIO, "a named pipe that nobody reads", str(path)) from None
        raise
    if hasattr(os, "set_blocking"):
        os.set_blocking(handle, True)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)


def _replaceable(path: Path) -> int | None:
    """Permissions of the plain file that stands there; None where there is none. Raises OSError for all else."""
    _require_name(path)
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    require_plain(found, path)
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    return stat.S_IMODE(found.st_mode) & 0o777


def sync_folder(path: Path) -> None:
    """Makes a rename in this folder survive a power cut; file systems that can't are passed over."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# ---- opening ---------------------------------------------------------------------------------------------------------


def require_plain(found: os.stat_result, path: Path) -> None:
    """Raises `NotAPlainFile` for what isn't one, by what it is."""
    kinds = (
        (stat.S_ISLNK, errno.ELOOP, "a link, and links are not followed here"),
        (stat.S_ISDIR, errno.EISDIR, "a folder where a file belongs"),
        (stat.S_ISFIFO, errno.EINVAL, "a named pipe where a file belongs"),
        (stat.S_ISSOCK, errno.EINVAL, "a socket where a file belongs"),
    )
    for matches, number, what in kinds:
        if matches(found.st_mode):
            raise NotAPlainFile(number, what, str(path))
    if not stat.S_ISREG(found.st_mode):
        raise NotAPlainFile(errno.EINVAL, "a device where a file belongs", str(path))


def _circle(path: Path) -> NotAPlainFile:
    return NotAPlainFile(errno.ELOOP, "a link that leads in a circle", str(path))


def _require_name(path: Path) -> None:
    """A name from a file may hold what no system takes; it answers with ValueError, which nobody expects of a file."""
    if "\0" in str(path):
        raise NotAPlainFile(errno.EINVAL, "a name with a null byte in it", str(path).replace("\0", "\\0"))


def open_plain(path: Path, flags: int = os.O_RDONLY, *, links: bool = False, mode: int = 0o666) -> int:
    """Opens a plain file and nothing else, without ever waiting for one; `links` follows a link to it.

    Returns the descriptor; raises OSError, `NotAPlainFile` among them.
    """
    _require_name(path)
    extra = _flag("O_NONBLOCK") | _flag("O_CLOEXEC") | _flag("O_NOCTTY") | _flag("O_BINARY")
    if not links:
        extra |= _flag("O_NOFOLLOW")
    try:
        handle = os.open(path, flags | extra, mode)
    except OSError as error:
        if links and error.errno == errno.ELOOP:
            raise _circle(path) from None
        # Says what stands there: the system's own words are about loops and devices.
        with contextlib.suppress(FileNotFoundError):
            require_plain(os.stat(path) if links else os.lstat(path), path)
        raise
    try:
        require_plain(os.fstat(handle), path)
    except BaseException:
        os.close(handle)
        raise
    return handle


def read_plain(path: Path, *, links: bool = False, limit: int = -1) -> bytes:
    """The content of a plain file, or its first `limit` bytes; raises OSError, `NotAPlainFile` among them."""
    with os.fdopen(open_plain(path, links=links), "rb") as stream:
        return stream.read(limit)


def append_to(path: Path) -> TextIO:
    """A plain file to append lines to, made where it isn't there.

    One that has a second name elsewhere (a hard link) is replaced by a copy first: the other name keeps its content.
    """
    with contextlib.suppress(FileNotFoundError):
        if path.lstat().st_nlink > 1:
            write_whole(path, read_plain(path))
    handle = open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return os.fdopen(handle, "a", encoding="utf-8", buffering=1)


def _flag(name: str) -> int:
    """A flag of `os.open` that not every system has."""
    return int(getattr(os, name, 0))
