"""Bytes of a data file as lines of UTF-8: unpacked within a budget, other encodings found by their mark.

Lines end with LF, CR or CRLF and with nothing else: U+2028 is a character of the text.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from planner.contract.errors import InvalidInput
from planner.contract.shown import clause

BLOCK = 1 << 20
LONGEST_LINE = 64 << 20
"""Bytes of one line; an example of more is no example."""
LARGEST_PACKED, LARGEST_RATIO = 64 << 20, 100
"""A packed file may unpack to the first many bytes, or to so many times its own size: text packs 3 to 20 times."""

PACKED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstandard"}
_MAGIC = {b"\x1f\x8b": ".gz", b"BZh": ".bz2", b"\xfd7zXZ\x00": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
_FOREIGN = {
    b"PAR1": "a parquet file",
    b"ARROW1": "an Arrow file",
    b"PK\x03\x04": "a ZIP archive (or an Excel file)",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\xd0\xcf\x11\xe0": "an old Office file",
    b"SQLite format 3": "an SQLite database",
    b"\x80\x04\x95": "a Python pickle, which is never read",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself (run `git lfs pull`)",
}
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BOM = codecs.BOM_UTF8
_LINE_END = re.compile(rb"\r\n|\n|\r")

Progress = Callable[[int], None]
"""Told how many bytes of the file have been read."""


class Invalid(InvalidInput):
    """One example is wrong, the next may be right."""


def open_regular(file: Path) -> IO[bytes]:
    """The file for reading; a pipe, device or socket under its name is refused and never waited for."""
    try:
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise InvalidInput(f"{file}: can't be read: {error.strerror or error}") from None
    mode = os.fstat(handle).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(handle, "rb")
    os.close(handle)
    what = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
    raise InvalidInput(f"{file}: is {what}, not a file; data is read twice (to plan, to train), so save it to a file")


def open_bytes(file: Path, progress: Progress | None = None) -> Iterator[bytes]:
    """Blocks of the file's content, unpacked where it is packed (whatever its name says)."""
    with open_regular(file) as raw:
        head = raw.read(32)
        raw.seek(0)
        packing = next((suffix for magic, suffix in _MAGIC.items() if head.startswith(magic)), "")
        named = file.suffix.lower()
        if named in PACKED and head and packing != named:
            raise InvalidInput(f"{file}: is not {PACKED[named]}, as its name says")
        foreign = next((what for magic, what in _FOREIGN.items() if head.startswith(magic)), "")
        if foreign:
            raise InvalidInput(f"{file}: is {foreign}")
        size = os.fstat(raw.fileno()).st_size
        budget = max(LARGEST_PACKED, LARGEST_RATIO * size) if packing else None
        source = _unpacked(raw, packing, file) if packing else raw
        total = 0
        while block := _block(source, file, packing):
            total += len(block)
            if budget is not None and total > budget:
                raise InvalidInput(
                    f"{file}: {size:,} bytes unpack to more than {budget >> 20:,} MiB, which no text does; "
                    "unpack it by hand if it is what you want"
                )
            if progress is not None:
                progress(raw.tell())
            yield block


def _block(source: IO[bytes], file: Path, packing: str) -> bytes:
    try:
        return source.read(BLOCK)
    except Exception as error:  # each packer has errors of its own
        if not packing and not isinstance(error, OSError):
            raise
        reason = clause(str(error) or type(error).__name__)
        what = f"damaged {PACKED[packing]} data" if packing else "can't be read"
        raise InvalidInput(f"{file}: {what}: {reason}") from None


def _unpacked(raw: IO[bytes], packing: str, file: Path) -> IO[bytes]:
    if packing == ".gz":
        import gzip

        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if packing == ".bz2":
        import bz2

        return bz2.BZ2File(raw)
    if packing == ".xz":
        return io.BufferedReader(_Xz(raw))
    return _zstandard(raw, file)


class _Xz(io.RawIOBase):
    """xz with a limit on the memory that a file may ask of its reader."""

    def __init__(self, raw: IO[bytes]) -> None:
        import lzma

        self._raw = raw
        self._make: Callable[[], Any] = lambda: lzma.LZMADecompressor(memlimit=256 << 20)
        self._reader = self._make()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._reader.eof:
                rest = self._reader.unused_data.lstrip(b"\0") or self._raw.read(BLOCK).lstrip(b"\0")
                if not rest:
                    return 0
                self._reader = self._make()
            elif self._reader.needs_input:
                rest = self._raw.read(64 << 10)
                if not rest:
                    raise EOFError("the file ends in the middle")
            else:
                rest = b""
            found = self._reader.decompress(rest, len(buffer))
            if found:
                buffer[: len(found)] = found
                return len(found)


def _zstandard(raw: IO[bytes], file: Path) -> IO[bytes]:
    try:
        import zstandard  # type: ignore[import-not-found,unused-ignore]

        return zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(raw, read_across_frames=True)  # type: ignore[no-any-return]
    except ImportError:
        pass
    try:
        import pyarrow
    except ImportError:
        raise InvalidInput(
            f"{file}: Zstandard needs pyarrow or zstandard (pip install zstandard); or unpack it with `zstd -d`"
        ) from None
    return pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, mode="r"), "zstd")  # type: ignore[no-any-return]


# ---- encodings -----------------------------------------------------------------------------------------------------


def utf8_blocks(file: Path, progress: Progress | None = None) -> Iterator[bytes]:
    """The content as UTF-8 without its first mark; UTF-16 and UTF-32 are told by theirs."""
    blocks = open_bytes(file, progress)
    first = next(blocks, b"")
    for mark, name in _MARKS:
        if first.startswith(mark):
            yield from _converted(file, name, first[len(mark) :], blocks)
            return
    if b"\0" in first[:1024]:
        raise InvalidInput(_holds_nul(file, first))
    yield first.removeprefix(_BOM)
    yield from blocks


def _holds_nul(file: Path, head: bytes) -> str:
    start = head[:4]
    guess = "UTF-16LE" if start[1:2] == b"\0" else "UTF-16BE" if start[:1] == b"\0" else ""
    if guess and head[:1024].count(b"\0") > len(head[:1024]) // 4:
        return f"{file}: looks like {guess} without its mark; convert it: iconv -f {guess} -t UTF-8 FILE > NEW"
    return f"{file}: holds NUL bytes at byte {head.index(0) + 1}, so it is no text file"


def _converted(file: Path, encoding: str, first: bytes, blocks: Iterator[bytes]) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder(encoding)()
    done = 0
    block: bytes | None = first
    while block is not None:
        following = next(blocks, None)
        try:
            yield decoder.decode(block, final=following is None).encode()
        except UnicodeError as error:
            place = done + int(getattr(error, "start", 0)) + 1
            raise InvalidInput(f"{file}: not valid {encoding.upper()} near byte {place:,}") from None
        done += len(block)
        block = following


def lines(file: Path, progress: Progress | None = None) -> Iterator[bytes]:
    """Lines of UTF-8 without their ends. A mark left in the middle by joining files is taken off the line."""
    for line in _split(file, progress, keep=False):
        yield line.removeprefix(_BOM) if line[:1] == b"\xef" else line


def lines_with_ends(file: Path, progress: Progress | None = None) -> Iterator[bytes]:
    """The same with their ends, for formats in which an end can stand inside a value."""
    for line in _split(file, progress, keep=True):
        yield line.removeprefix(_BOM) if line[:1] == b"\xef" else line


def _split(file: Path, progress: Progress | None, *, keep: bool) -> Iterator[bytes]:
    rest: list[bytes] = []
    held = 0
    number = 0
    open_cr = False
    """The last block ended with CR, whose LF may begin the next one."""
    for block in utf8_blocks(file, progress):
        if open_cr:
            block, open_cr = b"\r" + block, False
        if block.endswith(b"\r"):
            block, open_cr = block[:-1], True
        pieces = _pieces(block, keep)
        if len(pieces) == 1:
            held += len(pieces[0])
            if held > LONGEST_LINE:
                raise InvalidInput(
                    f"{file}:{number + 1}: a line of more than {LONGEST_LINE >> 20} MiB; one example must stand in less"
                )
            rest.append(pieces[0])
            continue
        pieces[0] = b"".join([*rest, pieces[0]])
        last = pieces.pop()
        number += len(pieces)
        yield from pieces
        rest, held = [last], len(last)
    last = b"".join(rest) + (b"\r" if open_cr and keep else b"")
    if last:
        yield last


def cut_lines(block: bytes) -> list[bytes]:
    """The lines of a piece of a file; the last may be broken off."""
    return _LINE_END.split(block)


def _pieces(block: bytes, keep: bool) -> list[bytes]:
    """The block cut after each line end; the last piece has none."""
    if b"\r" not in block:
        parts = block.split(b"\n")
        return [*(part + b"\n" for part in parts[:-1]), parts[-1]] if keep else parts
    if not keep:
        return _LINE_END.split(block)
    found, start = [], 0
    for match in _LINE_END.finditer(block):
        found.append(block[start : match.end()])
        start = match.end()
    return [*found, block[start:]]


def decode(line: bytes, where: str) -> str:
    """The line as text, or a refusal that names the byte and the command that converts the file."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise Invalid(
            f"{where}: byte {error.start + 1} of the line (0x{line[error.start]:02x}) is not UTF-8; "
            "convert the file: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW"
        ) from None


def text(file: Path, limit: int, progress: Progress | None = None) -> str:
    """All of the file as text, of at most `limit` bytes."""
    blocks, total = [], 0
    for block in utf8_blocks(file, progress):
        total += len(block)
        if total > limit:
            raise InvalidInput(
                f"{file}: a JSON document of more than {limit >> 20} MiB; write one example a line instead "
                "(jq -c '.[]' FILE > FILE.jsonl), which is read piece by piece"
            )
        blocks.append(block)
    content = b"".join(blocks)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        before = content[: error.start]
        number = len(_LINE_END.findall(before)) + 1
        start = max(before.rfind(b"\n"), before.rfind(b"\r")) + 1
        ends = _LINE_END.search(content, error.start)
        decode(content[start : ends.start() if ends else len(content)], f"{file}:{number}")
        raise
