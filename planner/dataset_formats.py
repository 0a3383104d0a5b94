"""Reads examples from JSONL, JSON, CSV and parquet and recognises their shape; every complaint names file and line.

Without torch, transformers or datasets. pyarrow is used for parquet only, where it is installed.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from planner.contract.errors import InvalidInput
from planner.contract.settings import near

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
FORMATS = ("messages", "prompt-completion", "alpaca", "sharegpt", "text", "classification")

REQUIRED: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt-completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
    "text": ("text",),
    "classification": ("text", "label"),  # never guessed: with both columns `text` comes first
}
"""Columns that make a format, in the order in which formats are tried."""

OPTIONAL: dict[str, tuple[str, ...]] = {"alpaca": ("input",)}


class Row(NamedTuple):
    """One raw example and where it stands."""

    place: str
    """`train.jsonl:17`; for parquet and JSON lists the example's number."""
    values: dict[str, Any]


class Example(NamedTuple):
    """One example reduced to the texts that become tokens."""

    prompt: str
    """What the loss skips by default; empty for plain text."""
    completion: str
    turns: int
    """Messages in it; each costs a few template tokens."""


def data_files(path: Path) -> list[Path]:
    """The file itself, or the readable files of a folder in order of name."""
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        if not found:
            raise InvalidInput(f"{path}: the folder holds no {', '.join(SUFFIXES)} file")
        return found
    if not path.exists():
        hint = ""
        if path.parent.is_dir():
            hint = near(path.name, [p.name for p in path.parent.iterdir() if p.exists()])
        raise InvalidInput(f"{path}: no such file{hint}; data must be a local file to be measured")
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInput(f"{path}: unknown kind of file {path.suffix!r}; use one of {', '.join(SUFFIXES)}")
    return [path]


def read_rows(path: Path) -> Iterator[Row]:
    """Every example of a file or folder as a mapping of columns."""
    for file in data_files(path):
        try:
            size = file.stat().st_size
            if size == 0:
                raise InvalidInput(f"{file}: the file is empty")
            suffix = file.suffix.lower()
            if suffix in (".jsonl", ".ndjson"):
                yield from _read_jsonl(file)
            elif suffix == ".json":
                yield from _read_json(file)
            elif suffix == ".parquet":
                yield from _read_parquet(file)
            elif suffix == ".txt":
                yield from _read_text(file)
            else:
                yield from _read_csv(file, "\t" if suffix == ".tsv" else ",")
        except OSError as error:
            raise InvalidInput(f"{file}: cannot be read ({error.strerror or error})") from None


def _decode(line: bytes, place: str) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            f"{place}: not UTF-8 at byte {error.start + 1} of the line; save the file as UTF-8"
        ) from None


def _mapping(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f'{place}: an example must be an object like {{"prompt": …}}, not {type(value).__name__}')
    return value


def _refuse_half_characters(line: str, value: Any, place: str) -> None:
    """`\\ud800` without its other half is allowed in JSON and is no text: no tokenizer takes it."""
    if "\\u" not in line:
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise InvalidInput(f"{place}: {half} is half a character; mend the text or leave the example out") from None


def _read_text(file: Path) -> Iterator[Row]:
    """Paragraphs, separated by blank lines, as the trainer takes them."""
    block: list[str] = []
    start = 1
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            line = _decode(raw, f"{file}:{number}").removeprefix("\ufeff" if number == 1 else "")
            if line.strip():
                start = start if block else number
                block.append(line)
            elif block:
                yield Row(f"{file}:{start}", {"text": "".join(block).rstrip("\r\n")})
                block = []
    if block:
        yield Row(f"{file}:{start}", {"text": "".join(block).rstrip("\r\n")})


def _read_jsonl(file: Path) -> Iterator[Row]:
    with file.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            place = f"{file}:{number}"
            line = _decode(raw, place)
            if number == 1:
                line = line.removeprefix("\ufeff")
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                what = (
                    f"{error.msg}, column {error.colno}"
                    if isinstance(error, json.JSONDecodeError)
                    else "nested too deep"
                )
                raise InvalidInput(f"{place}: not a line of JSON ({what})") from None
            _refuse_half_characters(line, value, place)
            yield Row(place, _mapping(value, place))


def _read_json(file: Path) -> Iterator[Row]:
    text = _decode(file.read_bytes(), str(file)).removeprefix("\ufeff")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            # A .json file that is really JSON lines is common enough to read.
            yield from _read_jsonl(file)
            return
        raise InvalidInput(f"{file}:{error.lineno}: not JSON ({error.msg}, column {error.colno})") from None
    except RecursionError:
        raise InvalidInput(f"{file}: not JSON (nested too deep)") from None
    _refuse_half_characters(text, value, str(file))
    if isinstance(value, dict):
        lists = [item for item in value.values() if isinstance(item, list)]
        if len(lists) == 1 and len(value) == 1:
            value = lists[0]
        elif recognise(value) is not None:
            value = [value]
    if not isinstance(value, list):
        raise InvalidInput(f"{file}: must hold a list of examples, not {type(value).__name__}")
    for number, item in enumerate(value, start=1):
        place = f"{file}: example {number}"
        yield Row(place, _mapping(item, place))


def _read_csv(file: Path, separator: str) -> Iterator[Row]:
    # A field may hold a whole document; the module's 128 KiB default is meant for tables.
    csv.field_size_limit(2**31 - 1)
    with file.open("rb") as stream:
        lines = (_decode(raw, f"{file}:{number}") for number, raw in enumerate(stream, start=1))
        reader = csv.DictReader(lines, delimiter=separator, strict=True)
        try:
            header = [name.removeprefix("\ufeff") for name in reader.fieldnames or []]
            reader.fieldnames = header
            for values in reader:
                place = f"{file}:{reader.line_num}"
                if None in values:
                    raise InvalidInput(f"{place}: more fields than the header's {len(header)} columns")
                if any(value is None for value in values.values()):
                    raise InvalidInput(f"{place}: fewer fields than the header's {len(header)} columns")
                yield Row(place, dict(values))
        except csv.Error as error:
            raise InvalidInput(f"{file}:{reader.line_num}: not valid CSV ({error})") from None


def _read_parquet(file: Path) -> Iterator[Row]:
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise InvalidInput(
            f"{file}: parquet needs pyarrow (pip install pyarrow); JSONL and CSV need nothing more"
        ) from None
    try:
        reader = parquet.ParquetFile(file)
        number = 0
        for batch in reader.iter_batches(batch_size=4096):
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{file}: row {number}", values)
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from these
        raise InvalidInput(f"{file}: not a readable parquet file ({str(error).splitlines()[0]})") from None


# --------------------------------------------------------------------------------------------------------------------
# Shapes


def recognise(values: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> str | None:
    """The format whose columns are all there; None if none is. `columns` maps a role to the column that plays it."""
    remap = columns or {}
    for name, required in REQUIRED.items():
        if all(remap.get(role, role) in values for role in required):
            return name
    return None


def require_format(row: Row, wanted: str, columns: Mapping[str, str]) -> str:
    """The format of the first example, or a complaint that lists what was found."""
    if wanted != "auto":
        if wanted not in FORMATS:
            raise InvalidInput(f"--format {wanted!r} is unknown; choose one of auto, {', '.join(FORMATS)}")
        return wanted
    found = recognise(row.values, columns)
    if found is None:
        shapes = "; ".join("+".join(required) for required in REQUIRED.values())
        have = ", ".join(map(str, row.values)) or "nothing"
        raise InvalidInput(
            f"{row.place}: format not recognised, columns are {have}; expected one of {shapes} "
            "(name other columns with --columns role=name)"
        )
    return found


def to_example(row: Row, format_name: str, columns: Mapping[str, str]) -> Example:
    """The texts of one example; a missing or mistyped column is refused with its place."""

    def column(role: str, default: Any = ...) -> Any:
        name = columns.get(role, role)
        value = row.values.get(name, default)
        if value is ... or (value is None and default is ...):
            raise InvalidInput(f"{row.place}: {name!r} is missing (format {format_name})")
        return default if value is None else value

    if format_name == "classification":
        column("label")
    if format_name in ("text", "classification"):
        return Example("", _text(column("text"), row, "text"), 0)
    if format_name == "prompt-completion":
        prompt, prompt_turns = _text_or_turns(column("prompt"), row, "prompt")
        completion, turns = _text_or_turns(column("completion"), row, "completion")
        return Example(prompt, completion, prompt_turns + turns)
    if format_name == "alpaca":
        instruction = _text(column("instruction"), row, "instruction")
        extra = _text(column("input", ""), row, "input")
        output = _text(column("output"), row, "output")
        return Example(f"{instruction}\n{extra}" if extra else instruction, output, 2)
    role = "messages" if format_name == "messages" else "conversations"
    return _conversation(column(role), row, role)


def _text(value: Any, row: Row, role: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(f"{row.place}: {role!r} is {value}, which is no text; leave the example out")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise InvalidInput(f"{row.place}: {role!r} must be text, not {type(value).__name__}")


def _text_or_turns(value: Any, row: Row, role: str) -> tuple[str, int]:
    if isinstance(value, list):
        texts = [_turn(item, row, role)[1] for item in value]
        return "\n".join(texts), len(texts)
    return _text(value, row, role), 0


def _turn(item: Any, row: Row, role: str) -> tuple[str, str]:
    if isinstance(item, dict):
        who = item.get("role", item.get("from"))
        said = item.get("content", item.get("value"))
        if isinstance(said, list):  # content in parts: only text parts become tokens
            said = "".join(part.get("text", "") for part in said if isinstance(part, dict))
        if isinstance(who, str) and (isinstance(said, str) or (said is None and "tool_calls" in item)):
            return who, said or json.dumps(item.get("tool_calls"))
    raise InvalidInput(f"{row.place}: each entry of {role!r} needs a role and its content")


def _conversation(value: Any, row: Row, role: str) -> Example:
    if isinstance(value, str):  # CSV holds a conversation as JSON text
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise InvalidInput(f"{row.place}: {role!r} is not a JSON list of messages") from None
    if not isinstance(value, list) or not value:
        raise InvalidInput(f"{row.place}: {role!r} must be a list of at least one message")
    turns = [_turn(item, row, role) for item in value]
    learned = [text for who, text in turns if who in ("assistant", "gpt", "model")]
    if not learned:
        raise InvalidInput(f"{row.place}: no message of the assistant, so nothing to learn from")
    others = [text for who, text in turns if who not in ("assistant", "gpt", "model")]
    return Example("\n".join(others), "\n".join(learned), len(turns))
