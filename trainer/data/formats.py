"""Reads JSONL, JSON, CSV, parquet and text files in the usual shapes into `Example`s that know where they stood."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from planner.contract.data.examples import Example, Message, Shape
from planner.contract.errors import InvalidInput
from planner.contract.records import DataSettings

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")

_NEEDED: dict[Shape, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt-completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "text": ("text",),
    "classification": ("text", "label"),
}
"""Columns by which a shape is recognised, in the order in which they are tried; the last is never guessed."""

_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_call": "assistant",
}


def read_examples(settings: DataSettings) -> list[Example]:
    """All examples of the data set in file order. `InvalidInput` names file and line of the first that is malformed."""
    if not settings.path:
        raise InvalidInput("no training data: give --data FILE or `data: {path: ...}` in the plan")
    return read_path(settings.path, settings)


def read_path(path: str, settings: DataSettings) -> list[Example]:
    """Examples of one file, folder or hub id, at most `settings.max_examples`."""
    examples: list[Example] = []
    shape: Shape | None = None if settings.format == "auto" else settings.format
    remap = {column: role for role, column in settings.columns.items()}
    for where, row in _rows(path):
        if not isinstance(row, dict):
            raise InvalidInput(f"{where}: expected an object with named fields, found {type(row).__name__}")
        row = {remap.get(key, key): value for key, value in row.items()}
        if shape is None:
            shape = recognise(row, where)
        examples.append(_example(row, shape, where))
        if settings.max_examples is not None and len(examples) >= settings.max_examples:
            break
    if not examples:
        raise InvalidInput(f"{path}: holds no examples")
    return examples


def recognise(row: dict[str, Any], where: str) -> Shape:
    """Shape of a row by its columns."""
    for shape, needed in _NEEDED.items():
        if all(column in row for column in needed):
            return shape
    raise InvalidInput(
        f"{where}: columns {', '.join(map(str, row)) or '(none)'} fit no known shape (messages | conversations | "
        "prompt+completion | instruction+output | text); name them with "
        "`data: {columns: {prompt: ..., completion: ...}}`"
    )


def _example(row: dict[str, Any], shape: Shape, where: str) -> Example:
    missing = [column for column in _NEEDED[shape] if row.get(column) is None]
    if missing:
        raise InvalidInput(f"{where}: {missing[0]!r} is missing (the data has the shape {shape})")
    if shape == "text":
        return Example(None, _string(row, "text", where), where, shape)
    if shape == "classification":
        label = row["label"]
        if isinstance(label, bool) or not isinstance(label, (str, int)) or label == "":
            raise InvalidInput(f"{where}: 'label' must be a name or a whole number, not {label!r:.40}")
        return Example(None, _string(row, "text", where), where, shape, label)
    if shape == "prompt-completion":
        if isinstance(row["prompt"], list):
            messages = _messages(row["prompt"], where, "prompt") + _messages(row["completion"], where, "completion")
        else:
            messages = (
                Message("user", _string(row, "prompt", where), False),
                Message("assistant", _string(row, "completion", where), True),
            )
        return Example(messages, None, where, shape)
    if shape == "alpaca":
        question = _string(row, "instruction", where)
        if row.get("input"):
            question = f"{question}\n\n{_string(row, 'input', where)}"
        system = (Message("system", _string(row, "system", where), False),) if row.get("system") else ()
        answer = Message("assistant", _string(row, "output", where), True)
        return Example((*system, Message("user", question, False), answer), None, where, shape)
    column = "messages" if shape == "messages" else "conversations"
    return Example(_messages(row[column], where, column), None, where, shape)


def _string(row: dict[str, Any], column: str, where: str) -> str:
    value = row[column]
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"{where}: {column!r} is {value}, which is no text; leave the example out")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise InvalidInput(f"{where}: {column!r} must be text, not {type(value).__name__}")
    return value


def _messages(value: Any, where: str, column: str) -> tuple[Message, ...]:
    if isinstance(value, str):  # CSV cells can only hold text
        try:
            value = json.loads(value)
        except ValueError:
            raise InvalidInput(f"{where}: {column!r} must be a list of messages") from None
    if hasattr(value, "tolist"):  # parquet hands out arrays
        value = value.tolist()
    if not isinstance(value, list) or not value:
        raise InvalidInput(f"{where}: {column!r} must be a list of at least one message")
    messages = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict):
            raise InvalidInput(f"{where}: message {number} of {column!r} must be an object with role and content")
        role = message.get("role", message.get("from"))
        content = message.get("content", message.get("value"))
        if not isinstance(role, str) or not isinstance(content, str):
            raise InvalidInput(f"{where}: message {number} of {column!r} needs a `role` and a `content`, both text")
        if "from" in message:
            if role not in _SHAREGPT_ROLES:
                raise InvalidInput(f"{where}: message {number} is from {role!r}, which is neither human nor gpt")
            role = _SHAREGPT_ROLES[role]
        messages.append(Message(role, content, role == "assistant"))
    return tuple(messages)


# --------------------------------------------------------------------------------------------------------------------
# Rows of files


def _rows(path: str) -> Iterator[tuple[str, Any]]:
    local = Path(path).expanduser()
    if local.is_dir():
        files = sorted(file for file in local.iterdir() if file.suffix.lower() in SUFFIXES)
        if not files:
            raise InvalidInput(f"{path}: no data file in this folder (looked for {', '.join(SUFFIXES)})")
    elif local.is_file():
        files = [local]
    elif local.suffix.lower() not in SUFFIXES and path.count("/") <= 1 and not path.startswith((".", "/", "~")):
        yield from _hub_rows(path)
        return
    else:
        raise InvalidInput(f"{path}: no such data file")
    for file in files:
        reader = _READERS.get(file.suffix.lower())
        if reader is None:
            raise InvalidInput(f"{file}: data of this kind can't be read; use one of {', '.join(SUFFIXES)}")
        try:
            yield from reader(file)
        except UnicodeDecodeError as error:
            raise InvalidInput(f"{file}:{_line_of_byte(file)}: not UTF-8 text ({error.reason})") from None
        except OSError as error:
            raise InvalidInput(f"{file}: can't be read: {error.strerror or error}") from None


def _line_of_byte(file: Path) -> int:
    """Line of the first byte that isn't UTF-8; 0 when there is none."""
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    return 0


def _read_jsonl(file: Path) -> Iterator[tuple[str, Any]]:
    with open(file, encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InvalidInput(f"{file}:{number}: not valid JSON: {error}") from None
            except RecursionError:
                raise InvalidInput(f"{file}:{number}: not valid JSON: nested too deep") from None
            _refuse_half_characters(line, row, f"{file}:{number}")
            yield f"{file}:{number}", row


def _refuse_half_characters(text: str, value: Any, where: str) -> None:
    """`\\ud800` without its other half is allowed in JSON and is no text: no tokenizer takes it."""
    if "\\u" not in text:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise InvalidInput(f"{where}: {half} is half a character; mend the text or leave the example out") from None


def _read_json(file: Path) -> Iterator[tuple[str, Any]]:
    text = file.read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSON lines under the name of JSON
            yield from _read_jsonl(file)
            return
        raise InvalidInput(f"{file}:{error.lineno}: not valid JSON: {error.msg}") from None
    except RecursionError:
        raise InvalidInput(f"{file}: not valid JSON: nested too deep") from None
    _refuse_half_characters(text, content, str(file))
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        if len(lists) != 1:
            yield f"{file}:1", content
            return
        content = lists[0]
    if not isinstance(content, list):
        raise InvalidInput(f"{file}: expected a list of examples, found {type(content).__name__}")
    for number, row in enumerate(content, 1):
        yield f"{file}, item {number}", row


def _read_csv(file: Path) -> Iterator[tuple[str, Any]]:
    csv.field_size_limit(2**31 - 1)
    with open(file, encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise InvalidInput(f"{file}:{reader.line_num}: not valid CSV: {error}") from None
            where = f"{file}:{reader.line_num}"
            if None in row:
                raise InvalidInput(f"{where}: more cells than the header has columns")
            if any(value is None for value in row.values()):
                raise InvalidInput(f"{where}: fewer cells than the header has columns")
            yield where, row


def _read_parquet(file: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(file)
        number = 0
        for batch in table.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", row
    except pyarrow.ArrowException as error:
        raise InvalidInput(f"{file}: not a readable parquet file: {str(error).splitlines()[0]}") from None


def _read_text(file: Path) -> Iterator[tuple[str, Any]]:
    """Paragraphs, separated by blank lines, each an example of plain text."""
    block: list[str] = []
    start = 1
    with open(file, encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                if not block:
                    start = number
                block.append(line)
            elif block:
                yield f"{file}:{start}", {"text": "".join(block).rstrip("\n")}
                block = []
    if block:
        yield f"{file}:{start}", {"text": "".join(block).rstrip("\n")}


def _hub_rows(name: str) -> Iterator[tuple[str, Any]]:
    import datasets  # type: ignore[import-untyped]

    try:
        dataset = datasets.load_dataset(name, split="train")
    except Exception as error:  # the hub client raises a dozen kinds; each is "this data set isn't there"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidInput(
            f"{name}: neither a file here nor a data set that the hub hands out: {reason:.160}"
        ) from None
    for number, row in enumerate(dataset, 1):
        yield f"{name}, row {number}", row


_READERS = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}
