"""Data sets: shapes recognised, lengths measured, and every complaint with its file and line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.contract.errors import InvalidInput
from planner.data import dataset
from planner.data.lengths import lengths_of
from tests.support import small_tokenizers

SHAPES = {
    "prompt-completion": {"prompt": "2 + 2 =", "completion": " 4"},
    "messages": {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
    "alpaca": {"instruction": "add", "input": "2 2", "output": "4"},
    "text": {"text": "once upon a time"},
}


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_are_recognised(tmp_path: Path, shape: str) -> None:
    """GIVEN a file in one of the five shapes THEN it is recognised in JSONL, JSON and parquet."""
    rows = [SHAPES[shape]] * 3
    assert dataset.profile(write(tmp_path / "a.jsonl", rows)).format == shape
    (tmp_path / "b.json").write_text(json.dumps(rows), encoding="utf-8")
    assert dataset.profile(tmp_path / "b.json").examples == 3
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "c.parquet")
    found = dataset.profile(tmp_path / "c.parquet")
    assert (found.format, found.examples) == (shape, 3)


def test_csv_folders_and_columns(tmp_path: Path) -> None:
    """GIVEN CSV with other column names THEN a remap reads it, quoted newlines included, and a folder is one set."""
    (tmp_path / "a.csv").write_text('question,answer\n"one\nline",yes\ntwo,no\n', encoding="utf-8")
    (tmp_path / "b.csv").write_text("question,answer\nthree,maybe\n", encoding="utf-8")
    found = dataset.profile(tmp_path, columns={"prompt": "question", "completion": "answer"})
    assert found.examples == 3
    assert found.text_bytes == len("one\nlineyestwonothreemaybe")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "a.jsonl: the file is empty"),
        ("a.jsonl", b"\n\n", "holds no example"),
        ("a.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": \n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"text": "a"}\n\n[1]\n', "a.jsonl:3: an example must be an object"),
        ("a.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": "c"}\n', "a.jsonl:2: 'completion' is missing"),
        ("a.jsonl", b'{"prompt": "a", "completion": null}\n', "a.jsonl:1: 'completion' is missing"),
        ("a.jsonl", b'{"prompt": "a", "completion": {"x": 1}}\n', "a.jsonl:1: 'completion' must be text"),
        ("a.jsonl", b'{"question": "a"}\n', "a.jsonl:1: format not recognised, columns are question"),
        ("a.jsonl", b'{"text": "\xff"}\n', "a.jsonl:1: byte 11 of the line"),
        ("a.jsonl", b'{"messages": [{"role": "user", "content": "x"}]}\n', "a.jsonl:1: no message of the assistant"),
        ("a.jsonl", b'{"messages": [{"content": "x"}]}\n', "a.jsonl:1: message 1 of 'messages' needs a `role`"),
        ("a.jsonl", b'{"messages": []}\n', "a.jsonl:1: 'messages' must be a list"),
        ("a.jsonl", b'{"prompt": "a", "completion": ""}\n', "every completion is empty"),
        ("a.json", b'{"a": 1}', "format not recognised, columns are a"),
        ("a.json", b'[{"text": "a"},\n {"text": }]', "a.json:2: not valid JSON"),
        ("a.csv", b"prompt,completion\na,b\nc\n", "a.csv:3: fewer cells"),
        ("a.csv", b"prompt,completion\na,b,c\n", "a.csv:2: more cells"),
        ("a.parquet", b"PAR1 is not enough", "not a readable parquet file"),
        ("a.doc", b"hello", "data of this kind (.doc) can't be read"),
    ],
)
def test_complaints_name_the_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """GIVEN a broken file THEN one line names file, line and what is wrong."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        dataset.profile(tmp_path / name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_names_near_ones(tmp_path: Path) -> None:
    """GIVEN a misspelt file name THEN the right one is offered."""
    write(tmp_path / "train.jsonl", [SHAPES["text"]])
    with pytest.raises(InvalidInput, match=r"no such data file \(did you mean train.jsonl\?\)"):
        dataset.profile(tmp_path / "trian.jsonl")


def test_lengths_by_hand(tmp_path: Path) -> None:
    """GIVEN texts of known size under a byte-level vocabulary THEN lengths are bytes plus the closing token."""
    rows = [{"prompt": "a" * n, "completion": "b" * 10} for n in (10, 20, 90)]
    found = dataset.profile(write(tmp_path / "a.jsonl", rows), vocab_size=256)
    assert found.exact
    assert found.lengths.tolist() == [21, 31, 101]
    assert (found.longest, found.percentile(0.5), found.tokens) == (101, 31, 153)
    assert found.share_truncated(50) == pytest.approx(1 / 3)
    assert found.share_tokens_lost(50) == pytest.approx(51 / 153)
    assert found.tokens_per_epoch(50, batch_size=3) == 150
    assert found.tokens_per_epoch(50, batch_size=1) == 21 + 31 + 50
    assert found.tokens_per_epoch(50, padding="packed") == 150
    assert found.tokens_per_epoch(64, padding="max") == 192
    assert found.steps_per_epoch(2) == 2
    assert found.training_examples(0.1) == 2
    assert sum(count for _, count in found.histogram()) == 3
    assert found.spread(4) == [(21, 41, 2), (42, 62, 0), (63, 83, 0), (84, 104, 1)]


def test_lengths_that_are_all_alike_are_one_bar(tmp_path: Path) -> None:
    found = dataset.profile(write(tmp_path / "a.jsonl", [{"prompt": "aa", "completion": "b"}] * 5), vocab_size=256)
    assert found.spread(8) == [(4, 4, 5)]


def test_estimate_states_its_interval(tmp_path: Path) -> None:
    """GIVEN no tokenizer THEN the estimate lies inside its interval and says what it rests on."""
    found = dataset.profile(write(tmp_path / "a.jsonl", [{"text": "word " * 200}]))
    low, high = found.summary()["interval_tokens"]
    assert low <= found.tokens <= high
    assert not found.exact
    assert "4 bytes per token" in found.basis
    assert found.longest_upper > found.longest


def test_tokenizer_counts_exactly(tmp_path: Path) -> None:
    """GIVEN a tokenizer.json beside the model THEN every example is counted with it."""
    tokenizers = pytest.importorskip("tokenizers")
    maker = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    maker.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    maker.save(str(tmp_path / "tokenizer.json"))
    path = write(tmp_path / "a.jsonl", [{"text": "a b a"}, {"text": "b"}])
    found = dataset.profile(path, tokenizer=tmp_path)
    assert found.exact
    assert found.lengths.tolist() == [3, 1]  # it names no end-of-text token, so the trainer adds none
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidInput, match="not a readable tokenizer"):
        dataset.profile(path, tokenizer=tmp_path)


@pytest.mark.parametrize("blank", [" ", "\u00a0", "\n"])
def test_examples_without_a_character_have_a_length_all_the_same(tmp_path: Path, blank: str) -> None:
    """GIVEN texts of white space alone, whose tokens are marks THEN every figure is a number."""
    pytest.importorskip("tokenizers")
    small_tokenizers.write(tmp_path, "wordpiece", None, mask_token="<unk>")
    (tmp_path / "config.json").write_text("{}")
    turns = [{"from": "gpt", "value": blank}]
    path = write(tmp_path / "a.jsonl", [{"conversations": turns}, {"conversations": turns}])
    found = dataset.profile(path, tokenizer=tmp_path, task="masked")
    assert found.exact
    assert found.summary()["interval_tokens"] == [found.tokens, found.tokens]
    assert lengths_of(found, validation_split=0.0).training.tolist() == found.lengths.tolist()


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=400),
    batch=st.integers(1, 17),
    limit=st.integers(8, 256),
)
def test_padding_bounds(lengths: list[int], batch: int, limit: int) -> None:
    """GIVEN any lengths THEN grouped padding lies between the tokens themselves and padding everything."""
    found = dataset.DatasetProfile(
        path="",
        format="text",
        examples=len(lengths),
        text_bytes=sum(lengths),
        lengths=np.array(lengths, dtype=np.int64),
        completion_tokens=sum(lengths),
        bytes_per_token=1.0,
        bytes_per_token_interval=(1.0, 1.0),
        exact=True,
        basis="",
    )
    real = sum(min(length, limit) for length in lengths)
    grouped = found.tokens_per_epoch(limit, batch_size=batch)
    assert real <= grouped <= found.tokens_per_epoch(limit, batch_size=batch, padding="max")
    assert 0 <= found.padding_waste(limit, batch_size=batch) < 1
    assert found.tokens_per_epoch(limit, padding="packed") - real < limit
