"""Wrong inputs and odd surroundings: one line that names the thing, and nothing of anybody's is replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from planner.cli import main
from planner.cli.progress import Follower, summary_lines
from planner.contract.data.reader import read_examples
from planner.contract.errors import InvalidInput
from planner.contract.events import Event, FinishedEvent
from planner.contract.files import write_named
from planner.contract.run_settings import DataSettings
from planner.data import dataset
from planner.models import sources
from trainer.wire.request import Request, changes_since, read_plan, write_plan

PLAN = [sys.executable, "-m", "planner.cli"]
PAIR = '{"prompt": "say", "completion": "ab"}\n'


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that a refused command leaves."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stack", "peft", "--checkpoint-layers", "5"], "--checkpoint-layers 5 is for --stack builtin"),
        (["--strategy", "fsdp"], "--strategy fsdp divides nothing on one device; add --num-gpus N"),
    ],
)
def test_options_without_effect_are_refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["check"], []):
        assert said in complaint(capsys, *command, "--gpu", "a10g", *words)


def test_ddp_on_one_device_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--gpu", "a10g", "--strategy", "ddp", "--json"]) == 0


@pytest.mark.parametrize(
    ("name", "near"),
    [("bert-base", "bert-base-cased, bert-base-uncased"), ("t5", "t5-base"), ("llama-3", "llama-3-8b, llama-3-70b")],
)
def test_what_a_model_name_begins_comes_first(name: str, near: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        sources.load_model(name)
    assert near in str(refused.value)


def test_check_says_what_the_length_cuts(tmp_path: Path, capsys: pytest.CaptureFixture[str], model: Path) -> None:
    """GIVEN three short examples and a long one THEN the shares of examples and of tokens are those counted by hand."""
    data = tmp_path / "train.jsonl"
    data.write_text(PAIR * 3 + json.dumps({"prompt": "a" * 90, "completion": "ab"}) + "\n")
    words = ["check", "--gpu", "cpu", "--model", str(model), "--data", str(data), "--precision", "fp32", "--json"]
    assert main([*words, "--max-length", "50"]) == 0
    reasons = json.loads(capsys.readouterr().out)["reasons"]
    lengths = dataset.profile(data, tokenizer=model).lengths
    lost = sum(max(0, int(length) - 50) for length in lengths) / int(lengths.sum())
    assert f"--max-length 50 cuts 25.0% of the examples and {lost:.1%} of the tokens." in reasons


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"prompt": "\\ud800", "completion": "b"}\n', r"\ud800 is half a character"),
        ('{"prompt": NaN, "completion": "b"}\n', "'prompt' is nan, which is no text"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000 + "\n", "nested deeper than 64 levels"),
    ],
)
def test_rows_that_are_no_text_are_named_by_planner_and_trainer(row: str, said: str, tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text(PAIR + row)
    with pytest.raises(InvalidInput) as planned:
        dataset.profile(data)
    with pytest.raises(InvalidInput) as trained:
        read_examples(DataSettings(path=str(data)))
    for refused in (planned, trained):
        assert str(refused.value).startswith(f"{data}:2")
        assert said in str(refused.value)


def test_a_whole_character_in_two_escapes_is_text(tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text('{"prompt": "\\ud83d\\ude00", "completion": "b"}\n')
    assert dataset.profile(data).examples == 1


def test_text_files_are_paragraphs_whatever_their_line_ends(tmp_path: Path) -> None:
    file = tmp_path / "book.txt"
    file.write_bytes("\ufeffone\r\ntwo\r\n\r\nthree\n".encode())
    assert [example.text for example in read_examples(DataSettings(path=str(file)))] == ["one\ntwo", "three"]
    assert dataset.profile(file).format == "text"


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """GIVEN a pipe or a link under the name THEN the pipe gets the bytes and the link stays one."""
    pipe, real, link = tmp_path / "pipe", tmp_path / "real", tmp_path / "link"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_named(pipe, b"plan")
    assert os.read(reader, 10) == b"plan"
    assert pipe.is_fifo()
    real.write_bytes(b"old")
    link.symlink_to(real)
    write_named(link, b"new")
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    os.close(reader)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        child = subprocess.run([*PLAN, "gpus"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert child.returncode == 4
    assert child.stderr == "plan: the output can't be written: No space left on device\n"


@pytest.mark.parametrize("address", ["http://[bad", "ftp://anna:geheim7@hub", "anna:geheim7@hub", "http://"])
def test_a_wrong_endpoint_is_named_without_its_password(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    said = complaint(capsys, "check", "--gpu", "a10g", "--model", "owner/model")
    assert "HF_ENDPOINT" in said
    assert "geheim7" not in said


STEERS = "x[/][red]\x1b[2J\x9b31m\u202e\x07"


@pytest.mark.parametrize(
    "words",
    [
        ["check", "--gpu", "a10g", "--model", STEERS],
        ["trace", "--gpu", "a10g", "--model", STEERS],
        ["check", "--gpu", STEERS],
        ["gpus", STEERS],
        ["models", STEERS],
        ["train", STEERS],
        ["train", "plan.yaml", STEERS],
        ["train", "plan.yaml", f"--{STEERS}", "1"],
        [f"--{STEERS}"],
        [STEERS],
        ["check", "--gpu", "a10g", "--lora-r", STEERS],
        ["check", "--gpu", "a10g", "--lora-targets", STEERS],
        ["check", "--gpu", "a10g", "--precision", STEERS],
        ["check", "--gpu", "a10g", "--reserve", STEERS],
        ["check", "--gpu", "a10g", "--config", STEERS],
        ["check", "--gpu", "a10g", "--data", STEERS],
        ["check", "--gpu", "a10g", "--data", "x", "--columns", STEERS],
        ["trace", "--gpu", "a10g", "--timeline", STEERS],
    ],
)
def test_no_complaint_steers_the_terminal(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(capsys, *words)
    assert not set("\x1b\x9b\u202e\x07") & set(said)


def test_columns_and_folders_with_hostile_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], model: Path
) -> None:
    """GIVEN escape sequences in a CSV's header and a folder's name THEN reports and JSON write them out."""
    data = tmp_path / "d.csv"
    data.write_text(f"{STEERS},b\n1,2\n", encoding="utf-8")
    folder = tmp_path / STEERS.replace("/", "")
    folder.mkdir()
    (folder / "config.json").write_bytes((model / "config.json").read_bytes())
    words = ["check", "--gpu", "cpu", "--model", str(folder), "--precision", "fp32", "--max-length", "64"]
    assert r"\x1b[2J" in complaint(capsys, *words, "--data", str(data))
    assert main(words) == 0
    report = capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    content = capsys.readouterr().out
    for said in (report, content):
        assert not set("\x1b\x9b\u202e\x07") & set(said)
    assert "x[][red]" in report.replace("\n", "")
    assert json.loads(content)["model"]["id"].endswith(STEERS.replace("/", ""))


def test_closed_streams_lead_nowhere() -> None:
    command = f"{sys.executable} -m planner.cli gpus a10g >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--learning-rate"], "--learning-rate needs a value"),
        (["--learning-rate", "--epochs", "3"], "--learning-rate needs a value"),
        (["--deterministic=3"], "--deterministic takes no value"),
        (["--batch-size", "3"], "--batch-size is a setting of the plan"),
        (["stray"], "unexpected argument 'stray'"),
        (["--dry-run", "--output", "run"], "--output changes nothing in a dry run"),
        (["--dry-run", "--resume"], "--resume changes nothing in a dry run"),
        (["--dry-run", "--epochs", "3"], "--epochs changes nothing in a dry run"),
    ],
)
def test_options_of_train_are_checked_before_anything_starts(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in complaint(capsys, "train", "plan.yaml", *words)


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    from tests.support.trainer_support import make_plan

    return make_plan(tmp_path / "plan.json", tmp_path / "model", tmp_path / "train.jsonl")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", "inf"),
        ("epochs", "nan"),
        ("beta1", "1.5"),
        ("epsilon", "0"),
        ("seed", "-1"),
        ("warmup_steps", "-3"),
        ("weight_decay", "-1"),
        ("dataloader_workers", "-1"),
        ("sample_max_new_tokens", "0"),
    ],
)
def test_values_that_no_training_can_take_are_refused_by_option(name: str, value: str, plan_file: Path) -> None:
    with pytest.raises(InvalidInput, match=rf"^--{name.replace('_', '-')} must be "):
        read_plan(Request(plan=plan_file, overrides={name: value}))


def test_a_resume_says_what_the_plan_has_changed(plan_file: Path, tmp_path: Path) -> None:
    old = read_plan(Request(plan=plan_file))
    assert changes_since(tmp_path / "run", old) == []
    (tmp_path / "run").mkdir()
    write_plan(old, tmp_path / "run")
    assert changes_since(tmp_path / "run", old) == []
    new = read_plan(Request(plan=plan_file, overrides={"learning_rate": "0.5"}))
    assert changes_since(tmp_path / "run", new) == ["learning_rate was 0.01 and is 0.5 now"]


def test_a_data_file_is_kept_with_its_whole_path(
    plan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").write_text(PAIR)
    assert read_plan(Request(plan=plan_file, data="mine.jsonl")).data.path == str(tmp_path / "mine.jsonl")
    assert read_plan(Request(plan=plan_file, data="owner/set")).data.path == "owner/set"
    with pytest.raises(InvalidInput, match="--data is empty"):
        read_plan(Request(plan=plan_file, data=""))


def test_step_lines_name_both_kinds_of_memory() -> None:
    """The end of a run speaks of tensors; so does each step, beside what the process or the device holds."""
    import io

    for device, word in (("cpu", "process"), ("2 × cpu", "process"), ("cuda:0", "device")):
        stream = io.StringIO()
        follower = Follower(stream)
        follower.show(Event(kind="started", time=0.0, data={"device": device}))
        follower.show(
            Event(
                kind="step",
                time=0.0,
                data={"step": 1, "total_steps": 1, "allocated_peak_bytes": 2**20, "device_bytes": 2**30},
            )
        )
        assert f"tensors 1.0 MiB, {word} 1.0 GiB" in stream.getvalue()


def test_a_peak_of_lighter_batches_is_said_to_be_one() -> None:
    end = FinishedEvent(reason="completed", steps=9, predicted_bytes=2**21, measured_bytes=2**20, as_predicted=True)
    assert "lighter" not in "\n".join(summary_lines(end))
    lighter = end.model_copy(update={"as_predicted": False})
    assert "the measured steps met lighter ones" in "\n".join(summary_lines(lighter))


def test_generation_refuses_what_greedy_decoding_would_ignore(capsys: pytest.CaptureFixture[str]) -> None:
    from trainer.__main__ import main as trainer

    for words in (["--top-p", "0.5"], ["--top-k", "3"]):
        assert trainer(["generate", "run", "--prompt", "x", *words]) == 2
        assert "at --temperature 0 none is" in capsys.readouterr().err
    assert trainer(["generate", "run", "--prompt", "x", "--temperature", "nan"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["grid", "--learning-rates", "abc"], "'abc' is no list of numbers"),
        (["grid", "--ranks", "8.5"], "'8.5' is no list of whole numbers"),
        (["grid", "--learning-rates", ""], "--learning-rates must be above 0, not none"),
        (["grid", "--learning-rates", "nan"], "--learning-rates must be above 0"),
        (["grid", "--learning-rates", "inf,1e-3"], "--learning-rates must be above 0"),
        (["grid", "--max-steps", "0"], "--max-steps must be at least 1"),
        (["grid", "--trials", "0"], "--trials must be at least 1"),
        (["grid", "--epochs", "nan"], "--epochs must be above 0"),
        (["find-lr", "--plot", "x.gif"], "--plot x.gif: draws .png, .svg or .pdf"),
        (["find-lr", "--plot", "nowhere/x.png"], "there is no folder nowhere"),
        (["find-lr", "--max", "inf"], "need 0 < min < max"),
    ],
)
def test_searches_refuse_before_they_train(
    words: list[str], said: str, plan_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.__main__ import main as trainer

    try:
        code = trainer([words[0], str(plan_file), *words[1:]])
    except SystemExit as leave:  # the parser's own refusals
        code = int(leave.code or 0)
    assert code == 2
    assert said in capsys.readouterr().err
