"""Parquet and Arrow files row by row; memory is bounded by bytes, not by rows. pyarrow is loaded when one is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner.contract.data.account import Account
from planner.contract.data.streams import LARGEST_PACKED, LARGEST_RATIO, LONGEST_LINE, Progress, open_regular
from planner.contract.errors import InvalidInput
from planner.contract.shown import clause

AT_ONCE = 32 << 20
"""Bytes of rows that are unpacked at a time."""
MOST_ROWS = 1024
LEAST_ROW = 8
"""Bytes that a row counts at the least, where its cells take none."""


def parquet_rows(file: Path, account: Account, progress: Progress | None) -> Iterator[tuple[str, object]]:
    """Rows of a parquet file. Columns of bytes (pictures, sound) are named and not read."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise InvalidInput(f"{file}: parquet needs pyarrow (pip install pyarrow)") from None
    with open_regular(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        budget = _Budget(file, size)
        try:
            reader = parquet.ParquetFile(
                stream, thrift_string_size_limit=64 << 20, thrift_container_size_limit=1 << 20, memory_map=False
            )
            names = _columns(reader.schema_arrow, account, reader.metadata.num_rows)
            groups = [reader.metadata.row_group(number) for number in range(reader.metadata.num_row_groups)]
            budget.refuse_if(sum(max(0, group.total_byte_size) for group in groups))
            budget.refuse_if(LEAST_ROW * reader.metadata.num_rows)
            number = 0
            for place, group in enumerate(groups):
                for packed in reader.iter_batches(_batch_rows(group), row_groups=[place], columns=names):
                    batch = _dense(packed)
                    budget.take(batch)
                    for values in _rows(batch, file):
                        number += 1
                        yield f"{file}, row {number}", values
                if progress is not None:
                    progress(size * (place + 1) // len(groups))
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise _damaged(file, "parquet", error) from None


def _batch_rows(group: Any) -> int:
    """Rows to unpack at once. A value of a column is at most as large as the column, and may stand in every row."""
    largest = 1
    for number in range(group.num_columns):
        column = group.column(number)
        encodings = column.encodings or ()
        if any("DICTIONARY" in str(name) for name in encodings):
            # Writers keep a column's dictionary under a mebibyte; what claims more is small as a whole.
            largest = max(largest, min(column.total_uncompressed_size, 4 << 20 if group.num_rows > 4096 else 1 << 40))
    return max(1, min(MOST_ROWS, AT_ONCE // largest, 1 << 20))


def arrow_rows(file: Path, account: Account, progress: Progress | None) -> Iterator[tuple[str, Any]]:
    """Rows of an Arrow file or stream, as `datasets` saves them."""
    try:
        import pyarrow
    except ImportError:
        raise InvalidInput(f"{file}: Arrow needs pyarrow (pip install pyarrow)") from None
    with open_regular(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        budget = _Budget(file, size)
        head = stream.read(6)
        stream.seek(0)
        try:
            number = 0
            for batch in _batches(pyarrow, stream, head):
                batch.validate(full=True)
                names = _columns(batch.schema, account, batch.num_rows)
                batch = _dense(batch.select(names))
                budget.take(batch)
                for values in _rows(batch, file):
                    number += 1
                    yield f"{file}, row {number}", values
                if progress is not None:
                    progress(min(size, stream.tell()))
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
            raise _damaged(file, "Arrow", error) from None


def _batches(pyarrow: Any, stream: object, head: bytes) -> Iterator[Any]:
    if head == b"ARROW1":
        reader = pyarrow.ipc.open_file(stream)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)
    else:
        yield from pyarrow.ipc.open_stream(stream)


def _columns(schema: Any, account: Account, count: int) -> list[str]:
    """Columns that can hold text; those of bytes are named in the account."""
    names = []
    for field in schema:
        if _holds_bytes(field.type):
            account.unused["column of bytes (pictures, sound)", field.name] += count
        else:
            names.append(field.name)
    if not names:
        raise ValueError("no column that could hold text")
    return names


def _dense(batch: Any) -> object:
    """The batch with values in place of numbers that stand for them: one value may stand for millions."""
    for place, field in enumerate(batch.schema):
        if str(field.type).startswith("dictionary"):
            values = batch.column(place).dictionary_decode()
            batch = batch.set_column(place, field.name, values)
    return batch


def _holds_bytes(kind: object) -> bool:
    text = str(kind)
    return text in ("binary", "large_binary", "binary_view") or text.startswith(
        ("struct<bytes: binary", "fixed_size_b")
    )


def _rows(batch: Any, file: Path) -> Iterator[dict[str, object]]:
    """A batch's rows as plain values, so many at a time as stand in the room for them."""
    step = max(1, min(MOST_ROWS, batch.num_rows * AT_ONCE // max(1, batch.nbytes)))
    if batch.num_rows and batch.nbytes // batch.num_rows > LONGEST_LINE:
        raise InvalidInput(f"{file}: rows of more than {LONGEST_LINE >> 20} MiB, which are no examples")
    for start in range(0, batch.num_rows, step):
        yield from batch.slice(start, step).to_pylist()


class _Budget:
    """What a file may unpack to, as for packed text."""

    def __init__(self, file: Path, size: int) -> None:
        self.file, self.size, self.used = file, size, 0
        self.limit = max(LARGEST_PACKED, LARGEST_RATIO * size)

    def take(self, batch: Any) -> None:
        self.used += max(batch.nbytes, LEAST_ROW * batch.num_rows)
        self.refuse_if(self.used)

    def refuse_if(self, size: int) -> None:
        if size > self.limit:
            raise InvalidInput(
                f"{self.file}: {self.size:,} bytes unpack to more than {self.limit >> 20:,} MiB, which no text does"
            )


def _damaged(file: Path, kind: str, error: BaseException) -> InvalidInput:
    return InvalidInput(f"{file}: not a readable {kind} file: {clause(str(error) or type(error).__name__)}")
