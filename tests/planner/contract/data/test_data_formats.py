"""Every file kind and shape that people bring, and one line with file and line for each thing wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.contract.data.examples import Example, Message
from planner.contract.data.reader import read_examples
from planner.contract.errors import InvalidInput
from planner.contract.run_settings import DataSettings

RAW = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
PAIR = (Message("user", "2+2?", False), Message("assistant", "4", True))


def read(path: Path, **settings: Any) -> list[Example]:
    return read_examples(DataSettings(path=str(path), **settings))


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


@pytest.mark.parametrize(
    ("row", "shape"),
    [
        ({"messages": RAW}, "messages"),
        ({"prompt": "2+2?", "completion": "4"}, "prompt-completion"),
        ({"prompt": [RAW[0]], "completion": [RAW[1]]}, "prompt-completion"),
        ({"instruction": "2+2?", "input": "", "output": "4"}, "alpaca"),
        ({"instruction": "2+2?", "output": 4}, "alpaca"),
        ({"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}, "sharegpt"),
    ],
)
def test_shapes_are_recognised(tmp_path: Path, row: dict[str, Any], shape: str) -> None:
    (example,) = read(jsonl(tmp_path / "data.jsonl", row))
    assert example.shape == shape
    assert example.messages == PAIR
    assert example.where == f"{tmp_path}/data.jsonl:1"


def test_alpaca_input_and_system_and_plain_text(tmp_path: Path) -> None:
    row = {"instruction": "Add", "input": "2 and 2", "output": "4", "system": "Be brief."}
    (example,) = read(jsonl(tmp_path / "a.jsonl", row))
    assert example.messages is not None
    assert [message.role for message in example.messages] == ["system", "user", "assistant"]
    assert example.messages[1].content == "Add\n\n2 and 2"
    (text,) = read(jsonl(tmp_path / "t.jsonl", {"text": "Once."}))
    assert (text.text, text.messages) == ("Once.", None)


def test_columns_can_be_renamed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", {"question": "2+2?", "answer": "4", "id": 7})
    (example,) = read(path, columns={"prompt": "question", "completion": "answer"})
    assert example.messages == PAIR


def test_csv_tsv_json_parquet_txt_and_folders(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "a.csv").write_text('prompt,completion\n"2+2?","4"\n"two\nlines",x\n', encoding="utf-8-sig")
    assert [example.where.rsplit(":", 1)[-1] for example in read(tmp_path / "a.csv")] == ["2", "4"]
    (tmp_path / "b.tsv").write_text("prompt\tcompletion\n2+2?\t4\n")
    (tmp_path / "c.json").write_text(json.dumps([{"prompt": "2+2?", "completion": "4"}]))
    (tmp_path / "d.json").write_text(json.dumps({"version": 1, "data": [{"prompt": "2+2?", "completion": "4"}]}))
    (tmp_path / "e.json").write_text('{"prompt": "2+2?", "completion": "4"}\n{"prompt": "2+2?", "completion": "4"}\n')
    table = pyarrow.table({"messages": [RAW, RAW]})
    pyarrow.parquet.write_table(table, tmp_path / "f.parquet")
    for name, count in (("b.tsv", 1), ("c.json", 1), ("d.json", 1), ("e.json", 2), ("f.parquet", 2)):
        examples = read(tmp_path / name)
        assert len(examples) == count, name
        assert examples[0].messages == PAIR, name
    (tmp_path / "g.txt").write_text("First\nparagraph.\n\n\nSecond.\n")
    assert [example.text for example in read(tmp_path / "g.txt")] == ["First\nparagraph.", "Second."]
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.csv", "b.tsv"):
        (folder / name).write_bytes((tmp_path / name).read_bytes())
    assert len(read(folder)) == 3
    assert len(read(folder, max_examples=2)) == 2


GOOD = {"prompt": "a", "completion": "b"}


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([GOOD, "{broken"], "d.jsonl:2: not valid JSON"),
        ([GOOD, "", "[1]"], "d.jsonl:3: an example must be an object"),
        ([GOOD, {"prompt": "a"}], "d.jsonl:2: 'completion' is missing"),
        ([GOOD, {"prompt": "a", "completion": {"x": 1}}], "d.jsonl:2: 'completion' must be text, not an object"),
        ([{"foo": 1}], "d.jsonl:1: format not recognised, columns are foo"),
        ([{"messages": []}], "d.jsonl:1: 'messages' must be a list of at least one message"),
        ([{"messages": [{"role": "user"}]}], "d.jsonl:1: message 1 of 'messages' has no content"),
        ([{"conversations": [{"from": "cat", "value": "x"}]}], "is from 'cat', a role that is not known"),
        ([""], "holds no examples"),
    ],
)
def test_malformed_rows_are_named_by_line(tmp_path: Path, rows: list[Any], says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(jsonl(tmp_path / "d.jsonl", *rows))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_files_that_are_wrong(tmp_path: Path) -> None:
    (tmp_path / "bytes.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "\xff"}\n')
    (tmp_path / "short.csv").write_text("prompt,completion\na\n")
    (tmp_path / "long.csv").write_text("prompt,completion\na,b,c\n")
    (tmp_path / "not.parquet").write_text("no")
    (tmp_path / "x.json").write_text('{"a": \n ]')
    (tmp_path / "x.docx").write_text("")
    (tmp_path / "empty").mkdir()
    for name, says in (
        ("bytes.jsonl", "bytes.jsonl:2: byte 11 of the line (0xff) is not UTF-8"),
        ("short.csv", "short.csv:2: fewer cells"),
        ("long.csv", "long.csv:2: more cells"),
        ("not.parquet", "not a readable parquet file"),
        ("x.json", "x.json:2: not valid JSON"),
        ("x.docx", "data of this kind (.docx) can't be read"),
        ("empty", "no data file in this folder"),
        ("missing.jsonl", "no such data file"),
    ):
        with pytest.raises(InvalidInput) as caught:
            read(tmp_path / name)
        assert says in str(caught.value), name
    with pytest.raises(InvalidInput, match="no training data"):
        read_examples(DataSettings())
