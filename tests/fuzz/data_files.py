"""Data files in the shapes that people have, damaged: planner and trainer find the same in them, or refuse them."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from planner.contract.data import reader, render_process
from planner.contract.run_settings import DataSettings
from planner.data import dataset
from planner.data.lengths import lengths_of
from tests.fuzz import mutations, oracle
from tests.support import data_fuzz, small_tokenizers
from tests.support.template_kinds import CHATML, THINKING_LAST

IGNORED = -100

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


WORDS = (
    "plan",
    "so",
    " ",
    "\n",
    "é",
    "世界",
    "🙂",
    "1234",
    "</s>",
    "<think>",
    "<|im_end|>",
    "x" * 40,
    "",
    "a b c d e f g",
)


def _said_otherwise(value: Any, random: Random) -> Any:
    """The same shape with other texts."""
    if isinstance(value, dict):
        fixed = ("role", "from", "type", "name", "arguments", "label")
        return {key: each if key in fixed else _said_otherwise(each, random) for key, each in value.items()}
    if isinstance(value, list):
        return [_said_otherwise(each, random) for each in value]
    return " ".join(random.choices(WORDS, k=random.randint(1, 6))) if isinstance(value, str) else value


def _good(random: Random, folder: Path, task: str) -> Path:
    """A file that a task can learn from, more often than not."""
    fitting = [rows for rows in ROWS if (task == "classification") == (set(rows[0]) == {"text", "label"})]
    chosen = random.choice(fitting) * random.randint(1, 4)
    rows = [_said_otherwise(row, random) for row in chosen]
    kind = random.choice(("jsonl", "json", "csv", "jsonl.gz"))
    (folder / f"train.{kind}").write_bytes(_rows_as(kind, rows, random))
    return folder / f"train.{kind}"


def _written(random: Random, folder: Path) -> Path:
    """A damaged data file, or one of columns and turns drawn at random."""
    if random.random() < 0.4:
        name, raw = data_fuzz.content(random)
        (folder / name).write_bytes(raw)
        return folder / name
    rows = list(random.choice(ROWS)) * random.randint(1, 3)
    place = random.randrange(len(rows))
    rows[place] = mutations.mutate(rows[place], random, tuple(rows[place]))
    kind = random.choice(("jsonl", "jsonl", "jsonl", "json", "csv", "tsv", "txt", "jsonl.gz", "parquet"))
    file = folder / f"train.{kind}"
    raw = _rows_as(kind, rows, random)
    file.write_bytes(mutations.damage(raw, random) if random.random() < 0.3 else raw)
    return file


def data(random: Random, folder: Path) -> None:
    """A damaged data file: planner and trainer refuse it, or find the same examples in it."""
    file = _written(random, folder)
    given = DataSettings(path=str(file))
    with oracle.limited():
        planned, refused = oracle.asked(lambda: dataset.profile(file).examples)
        trained, said = oracle.asked(lambda: len(reader.read_examples(given)))
        if (refused is None) != (said is None) or planned != trained:
            raise oracle.Broken(f"planner {planned} {refused!r:.150}, trainer {trained} {said!r:.150}")


MODELS = (
    ("gpt2", "causal", None),
    ("llama3", "causal", CHATML),
    ("llama2", "causal", THINKING_LAST),
    ("wordpiece", "masked", None),
    ("unigram", "seq2seq", None),
    ("wordpiece", "classification", None),
    ("unigram", "classification", None),
    ("gpt2", "classification", None),
)
"""Tokenizer, task and chat template."""
LENGTH = 12
"""At which what was counted whole is cut or goes on."""


@cache
def _model(number: int) -> tuple[Path, Any, str]:
    """A tokenizer's folder, the tokenizer as the trainer has it, and the task."""
    from trainer.loop.loading import load_tokenizer

    kind, task, template = MODELS[number]
    folder = Path(_folder().name) / str(number)
    folder.mkdir()
    more = {"mask_token": "<unk>"} if task == "masked" else {}
    small_tokenizers.write(folder, kind, template, **more)
    (folder / "config.json").write_text('{"model_type": "t5"}' if kind == "unigram" else "{}")
    return folder, load_tokenizer(str(folder)), task


@cache
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="fuzz-models-")


def tokens(random: Random, folder: Path) -> None:
    """A damaged data file for a model of any task: planner and trainer refuse it, or make the same tokens of it."""
    place, tokenizer, task = _model(random.randrange(len(MODELS)))
    file = _good(random, folder, task) if random.random() < 0.6 else _written(random, folder)
    skip = random.random() < 0.3
    # Planner and trainer name a template's place differently; here both of each template wait for the next case.
    with oracle.limited(), patch.object(render_process, "KEPT", 8):
        planned, refused = oracle.asked(lambda: dataset.profile(file, tokenizer=place, task=task, skip_invalid=skip))
        given = DataSettings(path=str(file), skip_invalid=skip)
        trained, said = oracle.asked(lambda: _trained(given, place, tokenizer, task))
        if (refused is None) != (said is None):
            raise oracle.Broken(f"{task}: planner {refused!r:.150}, trainer {said!r:.150}")
        if planned is not None:
            _same(planned, *trained)


def _trained(given: DataSettings, place: Path, tokenizer: Any, name: str) -> tuple[Any, Any]:
    """What the trainer makes of the file, whole and cut."""
    from trainer.tasks.base import Task
    from trainer.tasks.classification import Classification
    from trainer.tasks.masked import Masked
    from trainer.tasks.seq2seq import SequenceToSequence

    kinds = {"masked": Masked, "seq2seq": SequenceToSequence, "classification": Classification}
    task = kinds.get(name, Task)(json.loads((place / "config.json").read_text()))
    reading = reader.open_data(task.data_settings(given))
    examples = list(reading.training())
    list(reading.validation())
    task.prepare(examples, tokenizer)
    return tuple(task.tokenize(examples, tokenizer, max_length=length) for length in (10**6, LENGTH))


def _same(planned: dataset.DatasetProfile, whole: Any, cut: Any) -> None:
    """Every length, what is learned of it, and what becomes of it at a maximal length."""
    assert planned.exact
    left = iter(planned.lengths)
    for length in whole.lengths:  # the others have nothing to learn
        if all(length != found for found in left):
            raise oracle.Broken(f"lengths: planner {planned.lengths.tolist()}, trainer {whole.lengths}")
    if planned.examples != len(whole.lengths) + whole.skipped:
        raise oracle.Broken(f"planner {planned.examples}, trainer {len(whole.lengths)} and {whole.skipped} skipped")
    chats = planned.format not in ("text", "classification") and not planned.continued
    learned = sum(label != IGNORED for sequence in whole.sequences for label in sequence.labels)
    if chats and planned.completion_tokens != learned:
        raise oracle.Broken(f"learned: planner {planned.completion_tokens}, trainer {learned}")
    if planned.continued:
        lengths = lengths_of(planned, validation_split=0.0)
        made = [length for length in lengths._sequences(LENGTH).tolist() if length]
        if made != sorted(cut.lengths, reverse=True):
            raise oracle.Broken(f"in rows of {LENGTH}: planner {made}, trainer {cut.lengths}")
