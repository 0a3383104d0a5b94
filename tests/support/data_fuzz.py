"""Data files by the thousand, well formed and broken in every way; each is read, or refused in a line.

`python -m tests.support.data_fuzz SEED COUNT` tries more of them than the test does.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from planner.contract.data.reader import open_data
from planner.contract.errors import InvalidInput
from planner.contract.run_settings import DataSettings
from tests.support.clock import takes_at_most

WORDS = (
    "amber",
    "",
    " ",
    "naïve",
    "世界",
    "\u2028",
    "\u0000",
    "<image>",
    "a\nb",
    "🙂",
    "[1]",
    "{'a': 1}",
    "x" * 300,
    "\ufeff",
)
ODD: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1e308,
    float("nan"),
    float("inf"),
    10**400,
    [],
    {},
    [[]],
    [None],
    {"a": {}},
    "\ud800",
    [{"role": "user"}],
    [{"from": 3, "value": {}}],
    {"role": "assistant", "content": "b"},
)
ROLES = (
    "user",
    "assistant",
    "system",
    "tool",
    "human",
    "gpt",
    "developer",
    "function_call",
    "observation",
    "cat",
    "User ",
    "",
)
COLUMNS = (
    *("prompt", "completion", "question", "answer", "instruction", "input", "output", "system", "history", "tools"),
    *("text", "label", "messages", "conversations", "chosen", "rejected", "context", "weight", "thinking", "image"),
    *("id", "Prompt", ""),
)


def text(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randrange(4)))


def message(rng: random.Random) -> Any:
    if rng.random() < 0.05:
        return rng.choice(ODD)
    who, what = rng.choice((("role", "content"), ("from", "value"), ("role", "value")))
    role = rng.choice(ROLES[:2]) if rng.random() < 0.6 else rng.choice(ROLES)
    made: dict[str, Any] = {who: role, what: text(rng)}
    while rng.random() < 0.25:
        made[rng.choice(("weight", "train", "tool_calls", "name", "reasoning_content", "id", "tool_call_id", what))] = (
            value(rng)
        )
    if rng.random() < 0.05:
        made[what] = [{"type": rng.choice(("text", "image", 3)), "text": text(rng)}, rng.choice(ODD)]
    return made


def messages(rng: random.Random) -> Any:
    made = [message(rng) for _ in range(rng.randrange(5))]
    return rng.choice((made, made, made, json.dumps(made), repr(made), tuple(made)))


def value(rng: random.Random) -> Any:
    draw = rng.random()
    if draw < 0.6:
        return text(rng)
    if draw < 0.75:
        return messages(rng)
    if draw < 0.8:
        return [{"type": "function", "function": {"name": "f", "arguments": rng.choice(('{"a": 1}', {}, "x", None))}}]
    return rng.choice(ODD)


def row(rng: random.Random, shape: int) -> Any:
    made: dict[str, Any]
    if shape == 0:
        made = {"messages": messages(rng)}
    elif shape == 1:
        made = {"prompt": text(rng), "completion": text(rng) + "."}
    elif shape == 2:
        made = {"instruction": text(rng), "input": text(rng), "output": text(rng) + "."}
    elif shape == 3:
        made = {"text": text(rng) + "."}
    elif shape == 4:
        made = {"conversations": messages(rng)}
    elif shape == 5:
        made = {"prompt": text(rng), "chosen": value(rng), "rejected": value(rng)}
    else:
        made = {}
    while rng.random() < (0.9 if shape == 6 else 0.15):
        made[rng.choice(COLUMNS)] = value(rng)
    if rng.random() < 0.02:
        return rng.choice(ODD)
    return made


def plain(made: Any) -> Any:
    """The row as JSON can hold it."""
    return json.loads(json.dumps(made, default=str))


def table(rng: random.Random, rows: list[Any]) -> str:
    rows = [made for made in rows if isinstance(made, dict)] or [{"text": "a"}]
    names = list(rows[0])
    out = io.StringIO()
    writer = csv.writer(out, delimiter=rng.choice(",;\t|"), lineterminator=rng.choice(("\n", "\r\n", "\r")))
    writer.writerow(names)
    for made in rows:
        cells = [made.get(name, "") for name in names]
        writer.writerow(
            [cell if isinstance(cell, str) else rng.choice((repr, str, json.dumps))(plain(cell)) for cell in cells]
        )
    return out.getvalue()


def arrow(rng: random.Random, rows: list[Any], kind: str) -> bytes:
    import pyarrow
    import pyarrow.parquet

    try:
        made = pyarrow.Table.from_pylist([plain(entry) for entry in rows if isinstance(entry, dict)])
    except Exception:  # rows that are no table
        made = pyarrow.table({"text": ["a", None]})
    out = io.BytesIO()
    if kind == "parquet":
        try:
            pyarrow.parquet.write_table(made, out, compression=rng.choice(("none", "snappy", "zstd")))
        except Exception:  # structs without fields can't be written
            pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), out := io.BytesIO())
    else:
        with pyarrow.ipc.new_stream(out, made.schema) as writer:
            writer.write_table(made)
    return out.getvalue()


def content(rng: random.Random) -> tuple[str, bytes]:
    """(name, bytes) of a data file."""
    shape = rng.randrange(7)
    rows = [row(rng, shape if rng.random() < 0.97 else rng.randrange(7)) for _ in range(rng.choice((0, 1, 2, 5, 20)))]
    kind = rng.choice(("jsonl", "jsonl", "jsonl", "json", "csv", "tsv", "txt", "parquet", "arrow"))
    if kind in ("parquet", "arrow"):
        return f"d.{kind}", broken(rng, arrow(rng, rows, kind), 0.3)
    if kind == "jsonl":
        made = rng.choice(("\n", "\r\n", "\r", "\n\n", "")).join(
            json.dumps(r, default=str, ensure_ascii=rng.random() < 0.5) for r in rows
        )
    elif kind == "json":
        made = json.dumps(
            rng.choice((rows, {"data": rows}, {"train": rows, "test": rows, "v": 1}, rows[:1] or 3)),
            default=str,
            indent=rng.choice((None, 1)),
        )
    elif kind in ("csv", "tsv"):
        made = table(rng, rows)
    else:
        made = "\n\n".join(text(rng) for _ in rows)
    encoding = rng.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le", "cp1252"))
    raw = broken(rng, made.encode(encoding, "ignore" if encoding == "cp1252" else "surrogatepass"), 0.2)
    packing = rng.choice(("", "", "", ".gz", ".bz2", ".xz"))
    if packing:
        raw = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[packing](raw)
        raw = broken(rng, raw, 0.2)
    return f"d.{kind}{packing}", raw


def broken(rng: random.Random, raw: bytes, share: float) -> bytes:
    """Some files with bytes changed, cut, doubled or put in."""
    if rng.random() > share or not raw:
        return raw
    made = bytearray(raw)
    for _ in range(rng.choice((1, 1, 3))):
        place = rng.randrange(len(made) + 1)
        action = rng.randrange(4)
        if action == 0:
            made[place : place + 1] = bytes([rng.randrange(256)])
        elif action == 1:
            del made[place : place + rng.choice((1, 9, 10**6))]
        elif action == 2:
            made[place:place] = made[: rng.randrange(1, 200)]
        else:
            made[place:place] = rng.choice(
                (b"\x00", b"\xff", b"\xe9", b'"', b"[" * 100, b"\\u", b"9" * 5000, b"\xef\xbb\xbf", b"\n")
            )
    return bytes(made)


def settings_of(rng: random.Random, path: Path) -> DataSettings:
    """How the file is to be read."""
    format: Any = (
        "auto"
        if rng.random() < 0.6
        else rng.choice(("messages", "sharegpt", "prompt-completion", "alpaca", "text", "classification", "preference"))
    )
    columns = {"prompt": rng.choice(COLUMNS)} if rng.random() < 0.05 else {}
    return DataSettings(path=str(path), format=format, columns=columns, skip_invalid=rng.random() < 0.5)


def try_one(rng: random.Random, folder: Path) -> str:
    """Reads one file: `read` or what was said. Anything but a line of refusal is raised."""
    name, raw = content(rng)
    path = folder / name
    path.write_bytes(raw)
    try:
        settings = settings_of(rng, path)
        with takes_at_most(10):
            reading = open_data(settings)
            for example in [*reading.training(), *reading.validation()]:
                for message_ in example.messages or ():
                    message_.content.encode()
                    json.dumps(message_.as_template_input()).encode()
                (example.text or "").encode()
        said = [*reading.account.sentences(), json.dumps(reading.account.summary())]
        outcome = "read"
    except InvalidInput as error:
        said = [str(error)]
        outcome = "refused"
    finally:
        path.unlink()
    for sentence in said[:1] if outcome == "refused" else said[:-1]:
        assert "\n" not in sentence, sentence
        assert len(sentence) < 700 + len(str(folder)) * 5, sentence
    return outcome


def main(seed: int, count: int) -> None:
    """Tries many, and keeps what it found."""
    outcomes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as name:
        for number in range(count):
            rng = random.Random(f"{seed}-{number}")
            try:
                outcome = try_one(rng, Path(name))
            except BaseException as error:
                outcome = f"{type(error).__name__}: {str(error)[:300]}"
                if outcome not in outcomes:
                    import traceback

                    print(seed, number, outcome, "".join(traceback.format_exc()[-1500:]), flush=True)
                if isinstance(error, KeyboardInterrupt):
                    raise
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print(outcomes)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
