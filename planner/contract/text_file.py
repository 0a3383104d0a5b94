"""Reads a small text file that someone else wrote: bounded, UTF-8, and never waiting for what nobody writes."""

from __future__ import annotations

import os
import select
from pathlib import Path

from planner.contract.errors import InvalidInput
from planner.contract.files import open_plain

STREAM_SECONDS = 10.0
"""How long the first bytes of a stream, and each further ones, are waited for."""
_OPEN_STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")


def read(path: Path, where: str, *, max_bytes: int, what: str = "", links: bool = True) -> str:
    """The text of a file without its byte order mark.

    `where` opens the line of `InvalidInput`, `what` may say what the file is. With `links` the file is one that a
    person named, which may be a link or an open stream; without, it comes from anywhere and must be a plain file.
    Refused are files that can't be read, hold more than `max_bytes`, or are not UTF-8.
    """
    try:
        content = _content(path, links, where, max_bytes)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        why = getattr(error, "strerror", None) or str(error)
        raise InvalidInput(
            f"{where}: {what} can't be read: {why}" if what else f"{where}: cannot be read ({why})"
        ) from None
    if len(content) > max_bytes:
        raise InvalidInput(f"{where}: larger than {max_bytes} bytes, the most that is read")
    return decode(content, where)


def decode(content: bytes, where: str) -> str:
    """UTF-8 bytes as text, a byte order mark left out."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{where}: cannot be read (not UTF-8 text, byte {error.start})") from None


def _content(path: Path, links: bool, where: str, max_bytes: int) -> bytes:
    if links and str(path).startswith(_OPEN_STREAMS):
        return _stream(path, where, max_bytes)
    with os.fdopen(open_plain(path, links=links), "rb") as stream:
        return stream.read(max_bytes + 1)


def _stream(path: Path, where: str, max_bytes: int) -> bytes:
    """Standard input, or a pipe that the shell has opened (`<(command)`): read as it comes, each time only so long."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    parts, size = [], 0
    try:
        waiting = select.poll()
        waiting.register(handle, select.POLLIN)
        while size <= max_bytes:
            if not waiting.poll(STREAM_SECONDS * 1000):
                raise InvalidInput(f"{where}: nothing came out of it for {STREAM_SECONDS:.0f} s")
            part = os.read(handle, 1 << 16)
            if not part:
                break
            parts.append(part)
            size += len(part)
    finally:
        os.close(handle)
    return b"".join(parts)
