"""Data files in the shapes that people have, damaged: planner and trainer find the same in them, or refuse them."""

from __future__ import annotations

import gzip
from pathlib import Path
from random import Random
from typing import Any

from planner.contract import records
from planner.contract.data import reader
from planner.data import dataset
from tests.fuzz import mutations, oracle

ROWS: tuple[tuple[dict[str, Any], ...], ...] = (
    ({"prompt": "a b", "completion": "c"}, {"prompt": "x", "completion": "y z"}),
    ({"instruction": "i", "input": "", "output": "o"}, {"instruction": "i", "input": "x", "output": "o"}),
    ({"text": "words and words"}, {"text": "more"}),
    ({"text": "good", "label": "yes"}, {"text": "bad", "label": "no"}),
    ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0}]},) * 2,
    (
        {
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "q"}]},
                {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
                {"role": "tool", "content": "1"},
                {"role": "assistant", "content": "a", "reasoning_content": "r"},
            ],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        },
    )
    * 2,
    ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},) * 2,
    ({"prompt": "p", "completion": "c", "label": False}, {"prompt": "p", "completion": "c", "label": True}),
    ({"prompt": "p", "chosen": "c", "rejected": "r"},) * 2,
)
"""Examples in the shapes that people have."""


def _rows_as(kind: str, rows: list[Any], random: Random) -> bytes:
    """The rows as a file of one kind; what the kind can't hold as JSON lines."""
    lines = b"\n".join(mutations.text(row, random).replace(b"\n", b" ") for row in rows) + b"\n"
    if kind == "json":
        return mutations.text(rows, random)
    if kind in ("csv", "tsv", "txt"):
        between = {"csv": ",", "tsv": "\t", "txt": " "}[kind]
        cells = [list(row) for row in rows[:1] if isinstance(row, dict)]
        cells += [[str(cell)[:200] for cell in row.values()] for row in rows if isinstance(row, dict)]
        quoted = [[f'"{cell}"' if random.random() < 0.5 else str(cell) for cell in line] for line in cells]
        return "\n".join(between.join(line) for line in quoted).encode("utf-8", errors="replace")
    return gzip.compress(lines) if kind == "jsonl.gz" else lines


def data(random: Random, folder: Path) -> None:
    """A damaged data file: planner and trainer refuse it, or find the same examples in it."""
    rows = list(random.choice(ROWS)) * random.randint(1, 3)
    place = random.randrange(len(rows))
    rows[place] = mutations.mutate(rows[place], random, tuple(rows[place]))
    kind = random.choice(("jsonl", "jsonl", "jsonl", "json", "csv", "tsv", "txt", "jsonl.gz", "parquet"))
    file = folder / f"train.{kind}"
    raw = _rows_as(kind, rows, random)
    file.write_bytes(mutations.damage(raw, random) if random.random() < 0.3 else raw)
    given = records.DataSettings(path=str(file))
    with oracle.limited():
        planned, refused = oracle.asked(lambda: dataset.profile(file).examples)
        trained, said = oracle.asked(lambda: len(reader.read_examples(given)))
        if (refused is None) != (said is None) or planned != trained:
            raise oracle.Broken(f"planner {planned} {refused!r:.150}, trainer {trained} {said!r:.150}")
