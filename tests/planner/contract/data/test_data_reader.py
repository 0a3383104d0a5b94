"""The one reader of data: what people bring is read as they mean it, named with its count, or refused in one line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest

from planner.contract.data.examples import Example
from planner.contract.data.reader import Reading, open_data
from planner.contract.errors import InvalidInput
from planner.contract.run_settings import DataSettings
from planner.data import dataset
from planner.data.lengths import lengths_of
from tests.support.clock import takes_at_most
from tests.support.data_fuzz import try_one

PAIRS = "".join(json.dumps({"prompt": f"q{n}", "completion": f"a{n}"}) + "\n" for n in range(4))
CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
ANSWER = {"role": "model", "content": "a"}


def read(path: Path, **settings: Any) -> tuple[list[Example], list[Example], Reading]:
    reading = open_data(DataSettings(path=str(path), **settings))
    return list(reading.training()), list(reading.validation()), reading


def write(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(reading: Reading) -> str:
    return " ".join(reading.account.sentences())


def refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(path, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), path.name)


# ---- bytes into lines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        PAIRS.encode(),
        PAIRS.replace("\n", "\r\n").encode("utf-8-sig"),
        PAIRS.replace("\n", "\r").encode(),
        b"\xef\xbb\xbf" + PAIRS[: len(PAIRS) // 2].encode() + b"\xef\xbb\xbf" + PAIRS[len(PAIRS) // 2 :].encode(),
        PAIRS.encode("utf-16"),
        b"\xfe\xff" + PAIRS.encode("utf-16-be"),
        PAIRS.encode("utf-32"),
        PAIRS.replace("\n", "").encode(),
        json.dumps([json.loads(line) for line in PAIRS.splitlines()], indent=2).encode(),
        "\n".join(json.dumps(json.loads(line), indent=1) for line in PAIRS.splitlines()).encode(),
        json.dumps({"version": 1, "data": [json.loads(line) for line in PAIRS.splitlines()]}).encode(),
        json.dumps({"prompt": ["q0", "q1", "q2", "q3"], "completion": ["a0", "a1", "a2", "a3"]}).encode(),
    ],
    ids=["lines", "crlf", "cr", "joined", "utf-16", "utf-16-be", "utf-32", "concatenated", "list", "pretty", "wrapped",
         "columns"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["d.json", "d.jsonl"])
def test_json_in_every_dress(tmp_path: Path, content: bytes, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    examples, _, _ = read(tmp_path / name)
    assert [example.messages[1].content for example in examples if example.messages] == ["a0", "a1", "a2", "a3"]


def test_packed_files_are_unpacked_by_what_they_are(tmp_path: Path) -> None:
    import pyarrow

    for name, pack in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        (tmp_path / f"d.jsonl{name}").write_bytes(pack(PAIRS.encode()) + pack(PAIRS.encode()))
        assert len(read(tmp_path / f"d.jsonl{name}")[0]) == 8
    with pyarrow.CompressedOutputStream(str(tmp_path / "d.csv.zst"), "zstd") as stream:
        stream.write(b"prompt,completion\na,b\n")
    assert len(read(tmp_path / "d.csv.zst")[0]) == 1
    (tmp_path / "hidden.jsonl").write_bytes(gzip.compress(PAIRS.encode()))
    assert len(read(tmp_path / "hidden.jsonl")[0]) == 4
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(PAIRS.encode())[:-9])
    assert "damaged gzip data" in refusal(tmp_path / "cut.jsonl.gz")
    (tmp_path / "no.jsonl.gz").write_text(PAIRS)
    assert "is not gzip" in refusal(tmp_path / "no.jsonl.gz")


def test_bombs_and_endless_lines_end_soon(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    with takes_at_most(20):
        (tmp_path / "line.jsonl").write_bytes(b'{"text": "' + b"a" * (66 << 20))
        assert "a line of more than 64 MiB" in refusal(tmp_path / "line.jsonl")
        (tmp_path / "blank.jsonl.gz").write_bytes(gzip.compress((b" " * 999 + b"\n") * (70 << 10), 1))
        assert "unpack to more than 64 MiB" in refusal(tmp_path / "blank.jsonl.gz")
        one_text = pyarrow.DictionaryArray.from_arrays([0] * 2000, ["x" * 1_000_000])
        columns = {"prompt": one_text, "completion": ["y"] * 2000}
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "one.parquet", compression="zstd")
        pyarrow.parquet.write_table(
            pyarrow.table({"text": pyarrow.nulls(9_000_000, pyarrow.string())}), tmp_path / "two.parquet"
        )
        for name in ("one", "two"):
            assert "unpack to more than 64 MiB" in refusal(tmp_path / f"{name}.parquet")
        os.mkfifo(tmp_path / "pipe.jsonl")
        assert "is a pipe" in refusal(tmp_path / "pipe.jsonl")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            '{"text": "caf\xe9"}\n'.encode("latin1"),
            "d.jsonl:1: byte 14 of the line (0xe9) is not UTF-8; convert the file: iconv",
        ),
        (PAIRS.encode("utf-16-le"), "looks like UTF-16LE without its mark"),
        (b'{"prompt": "a", "prompt": "b", "completion": "c"}', "the key 'prompt' stands there twice"),
        (b'{"prompt": "a", "completion": ' + b"9" * 5000 + b"}", "a number of thousands of digits"),
        (b'{"a":' * 5000 + b"}" * 5000, "nested deeper than 64"),
        (b"\x80\x04\x95\x00", "a Python pickle, which is never read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "d.jsonl").write_bytes(content)
    message = refusal(tmp_path / "d.jsonl")
    assert says in message
    assert len(message) < 300


# ---- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        'prompt,completion\nq,"a, b"\n',
        "prompt;completion\nq;a, b\n",
        "prompt\tcompletion\nq\ta, b\n",
        "prompt|completion\nq|a, b\n",
        '\ufeffprompt,completion\r\nq,"a, b"\r\n',
        'prompt,completion\rq,"a, b"\r',
        ',prompt,completion\n0,q,"a, b"\n',
        'prompt,completion\nq,"a, b"\n\nprompt,completion\n',
    ],
)
def test_csv_of_every_dialect(tmp_path: Path, content: str) -> None:
    (tmp_path / "d.csv").write_bytes(content.encode())
    (example,), _, _ = read(tmp_path / "d.csv")
    assert example.messages is not None
    assert [message.content for message in example.messages] == ["q", "a, b"]


def test_cells_hold_lists_in_three_notations_and_nothing_is_run(tmp_path: Path) -> None:
    numpy = str(CHAT).replace("}, {", "}\n {")
    for cell in (json.dumps(CHAT), str(CHAT), numpy):
        (tmp_path / "d.csv").write_text('messages\n"' + cell.replace('"', '""') + '"\n')
        (example,), _, _ = read(tmp_path / "d.csv")
        assert example.messages is not None
        assert [message.content for message in example.messages] == ["hi", "yo"]
    (tmp_path / "d.csv").write_text(f"messages\n\"[__import__('os').mkdir('{tmp_path}/run')]\"\n")
    assert "neither JSON" in refusal(tmp_path / "d.csv")
    assert not (tmp_path / "run").exists()
    (tmp_path / "d.csv").write_text("prompt,completion,prompt\na,b,c\n")
    assert "names the column prompt twice" in refusal(tmp_path / "d.csv")
    (tmp_path / "d.tsv").write_text('prompt\tcompletion\n"Hi" he said\tok\n')
    assert read(tmp_path / "d.tsv")[0][0].messages[0].content == '"Hi" he said'  # type: ignore[index]


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_splits_of_folders(tmp_path: Path) -> None:
    """The train split trains, the validation split validates, the test split is left alone; all said."""
    rows = [{"prompt": "a", "completion": "b"}]
    layouts: dict[str, tuple[str, ...]] = {
        "flat": ("train.jsonl", "validation.jsonl", "test.jsonl"),
        "hub": ("data/train-00000-of-00002.jsonl", "data/valid-00000-of-00001.jsonl", "data/test-00000-of-00001.jsonl"),
        "nested": ("train/a.jsonl", "dev/b.jsonl", "eval/c.jsonl"),
        "named": ("my_train_set.jsonl", "my-val.jsonl", "my.test.jsonl"),
    }
    for layout, names in layouts.items():
        for name, count in zip(names, (3, 2, 5), strict=True):
            write(tmp_path / layout / name, *rows * count)
        (tmp_path / layout / "README.md").write_text("# about")
        (tmp_path / layout / "LICENSE.txt").write_text("All rights.\n")
        training, validation, reading = read(tmp_path / layout)
        assert (len(training), len(validation)) == (3, 2), layout
        assert "test split" in said(reading)
        assert "LICENSE.txt (a note" in said(reading)
        assert len(read(tmp_path / layout, validation_split=0)[1]) == 0
    planned = dataset.profile(tmp_path / "flat", vocab_size=256)
    lengths = lengths_of(planned, validation_split=0.1)
    assert (len(lengths.training), len(lengths.validation)) == (3, 2)
    assert planned.training_examples(0.1) == 3
    write(tmp_path / "only" / "test.jsonl", *rows)
    assert "no split to train on" in refusal(tmp_path / "only")
    write(tmp_path / "two" / "train.jsonl", *rows)
    (tmp_path / "two" / "train.csv").write_text("prompt,completion\na,b\n")
    assert "may be the same data" in refusal(tmp_path / "two")
    for name in ("train_sft", "train_gen"):
        write(tmp_path / "many" / f"{name}-00000-of-00001.jsonl", *rows)
    assert "train_gen, train_sft" in refusal(tmp_path / "many")
    assert len(read(tmp_path / "many" / "train_sft*")[0]) == 1


def test_cards_and_saved_data_sets(tmp_path: Path) -> None:
    import pyarrow

    card = tmp_path / "card"
    write(card / "data" / "a.jsonl", {"text": "train"})
    write(card / "data" / "b.jsonl", {"text": "test"})
    (card / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/a*\n"
        "  - split: test\n    path: data/b*\n---\n"
    )
    assert [example.text for example in read(card)[0]] == ["train"]
    table = pyarrow.table({"text": ["one", "two"]})
    for split in ("train", "validation", "test"):
        folder = tmp_path / "saved" / split
        folder.mkdir(parents=True)
        with pyarrow.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as stream:
            stream.write_table(table)
        (folder / "state.json").write_text('{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}')
        (folder / "dataset_info.json").write_text("{}")
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train", "validation", "test"]}')
    training, validation, reading = read(tmp_path / "saved")
    assert (len(training), len(validation)) == (2, 2)
    assert "test (test split" in said(reading)
    assert len(read(tmp_path / "saved" / "train")[0]) == 2
    whole = {split: [{"text": split}] for split in ("train", "test", "validation")}
    (tmp_path / "whole.json").write_text(json.dumps(whole))
    training, validation, reading = read(tmp_path / "whole.json")
    assert [example.text for example in training + validation] == ["train", "validation"]
    assert "test split, 1 examples" in said(reading)


def test_thousands_of_files(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"part-{number:04}.jsonl").write_text('{"text": "a"}\n')
    assert len(read(tmp_path)[0]) == 2000


# ---- what a row says -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "asked", "answered"),
    [
        ({"input": "q", "output": "a"}, "q", "a"),
        ({"question": "q", "answer": "a", "id": 3}, "q", "a"),
        ({"Query": "q", "Response": "a"}, "q", "a"),
        ({"problem": "q", "solution": "a"}, "q", "a"),
        ({"instruction": "q", "context": "", "response": "a"}, "q", "a"),
        ({"instruction": "q", "input": "x", "output": "a", "prompt": "whole"}, "q\n\nx", "a"),
        ({"question": "q", "context": "c", "answer": "a"}, "q\n\nc", "a"),
        ({"prompt": [{"role": "user", "content": "q"}], "completion": "a"}, "q", "a"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "q"}]},
                    {"role": "model", "content": "a"},
                ]
            },
            "q",
            "a",
        ),
        ({"conversation": [{"human": "q", "assistant": "a"}]}, "q", "a"),
    ],
)
def test_usual_names_are_known(tmp_path: Path, row: dict[str, Any], asked: str, answered: str) -> None:
    (example,), _, reading = read(write(tmp_path / "d.jsonl", row))
    assert example.messages is not None
    assert [message.content for message in example.messages] == [asked, answered]
    assert [message.learned for message in example.messages] == [False, True]
    if "id" in row:
        assert "'id' (1)" in said(reading)
        assert "prompt: question" in said(reading)


def test_tools_thoughts_weights_and_history(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    asked = {"role": "user", "content": "q"}
    for messages in (
        [
            asked,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "1"},
            CHAT[1],
        ],
        [
            {"from": "human", "value": "q"},
            {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            {"from": "observation", "value": "1"},
            {"from": "gpt", "value": "yo"},
        ],
    ):
        row = {"conversations": messages, "system": "S", "tools": '[{"name": "f", "parameters": {}}]'}
        (example,), _, _ = read(write(tmp_path / "d.jsonl", row))
        assert example.messages is not None
        assert [message.role for message in example.messages] == ["system", "user", "assistant", "tool", "assistant"]
        assert example.messages[2].extras["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}
        assert example.tools[0]["function"]["name"] == "f"
    thought = {"role": "assistant", "content": "a", "reasoning_content": "hm", "weight": 1}
    bad = {"role": "assistant", "content": "BAD", "train": False, "mood": "sad"}
    (example,), _, reading = read(write(tmp_path / "d.jsonl", {"messages": [asked, bad, asked, thought]}))
    assert example.messages is not None
    assert [message.learned for message in example.messages] == [False, False, False, True]
    assert example.messages[3].extras == {"reasoning_content": "hm"}
    assert "turns of the assistant with train 0 are not learned (1)" in said(reading)
    assert "key of messages 'mood' (1)" in said(reading)
    row = {"instruction": "q", "output": "a", "system": "S", "history": [["q1", "a1"]]}
    (example,), _, _ = read(write(tmp_path / "d.jsonl", row))
    assert example.messages is not None
    assert [message.content for message in example.messages] == ["S", "q1", "a1", "q", "a"]
    assert [message.learned for message in example.messages] == [False, False, True, False, True]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": [{"role": "cat", "content": "x"}]}, "is from 'cat', a role that is not known"),
        ({"messages": [CHAT[0], {**CHAT[1], "weight": 0.5}]}, "a turn is learned (1) or not (0)"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}, CHAT[1]]}, "a part of the type 'image'"),
        ({"prompt": "<image>\nWhat is it?", "completion": "a"}, "<image> stands for a picture"),
        ({"prompt": "see <image> here", "completion": "a", "images": ["x.png"]}, "<image> stands for a picture"),
        ({"prompt": "q", "completion": "a", "label": False}, "--format preference learns the good ones alone"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "--format preference learns the chosen answers"),
        ({"text": "t", "label": "x"}, "--format classification learns the label, --format text learns the text"),
        ({"Frage": "q", "Antwort": "a"}, "--columns prompt=NAME,completion=NAME"),
    ],
)
def test_what_would_change_what_is_learned_is_refused(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    message = refusal(write(tmp_path / "d.jsonl", row))
    assert says in message
    assert message.startswith("d.jsonl:1: ")


def test_preferences_and_good_answers_by_an_option(tmp_path: Path) -> None:
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    chats = {"chosen": CHAT, "rejected": CHAT}
    for row in (pair, chats):
        (example,), _, reading = read(write(tmp_path / "d.jsonl", row), format="preference")
        assert example.messages is not None
        assert example.messages[-1].content in ("a", "yo")
        assert "'rejected' (1)" in said(reading)
    assert len(read(tmp_path / "d.jsonl", format="preference")[0]) == 1
    write(tmp_path / "p.jsonl", pair)
    assert len(read(tmp_path / "p.jsonl", columns={"completion": "chosen"})[0]) == 1
    marked = [{"prompt": "q", "completion": f"a{n}", "label": n > 0} for n in range(3)]
    examples, _, reading = read(write(tmp_path / "k.jsonl", *marked), format="preference")
    assert [example.messages[1].content for example in examples if example.messages] == ["a1", "a2"]
    assert "label false (bad answers) are left out (1)" in said(reading)


def test_invalid_examples_are_counted_and_left_out_only_when_asked(tmp_path: Path) -> None:
    good, null = {"prompt": "q", "completion": "a"}, {"prompt": "q", "completion": None}
    path = write(tmp_path / "d.jsonl", good, null, good, {"messages": CHAT}, "no object")
    message = refusal(path)
    assert message.startswith(
        "d.jsonl:2: 'completion' is missing (3 of 5 examples are invalid; prompt-completion 2, messages 1"
    )
    assert "--skip-invalid" in message
    examples, _, reading = read(path, skip_invalid=True)
    assert len(examples) == 2
    assert "3 invalid examples left out" in said(reading)
    assert "d.jsonl:2" in said(reading)
    with pytest.raises(InvalidInput):
        read(write(tmp_path / "all.jsonl", null), skip_invalid=True)


def test_columns_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", {"a": "q", "b": "w"})
    assert "no such column; there are a, b" in refusal(path, columns={"prompt": "x", "completion": "b"})
    assert "there is no such role" in refusal(path, columns={"question": "a"})
    assert "can't be both" in refusal(path, columns={"prompt": "a", "completion": "a"})
    assert len(read(path, columns={"prompt": "a", "completion": "b"})[0]) == 1


def test_many_short_lines_are_read_quickly_and_in_little_room(tmp_path: Path) -> None:
    """2 M lines take a few seconds on a quiet core: 40,000 of them a fiftieth of that, with signs of life."""
    path = tmp_path / "d.jsonl"
    path.write_text(PAIRS * 10_000)
    told: list[int] = []
    with takes_at_most(4):
        profile = dataset.profile(path, progress=lambda examples, _: told.append(examples))
    assert profile.examples == 40_000
    assert told == [20_000, 40_000]


def test_no_file_ends_in_a_traceback(tmp_path: Path) -> None:
    """GIVEN files of all kinds, whole and broken THEN each is read, or refused in one line."""
    outcomes = [try_one(random.Random(f"3-{number}"), tmp_path) for number in range(300)]
    assert {"read", "refused"} == set(outcomes)


def test_the_reader_loads_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, planner.contract.data.reader; print(*sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    heavy = re.compile(r"^(torch|transformers|datasets|pyarrow|numpy|jinja2|tokenizers)$")
    assert not [name for name in modules if heavy.match(name)]
