"""What a step's program found is kept on disk: the same figures, from content that is right or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from planner.contract.choices import TrainingChoices
from planner.contract.spec import ModelSpec
from planner.devices.profiles import load
from planner.memory import loads, predict
from planner.memory.step import kept, program
from planner.models.sources import from_config, load_model

CHOICES = TrainingChoices(batch_size=3, max_length=640, gradient_accumulation_steps=2)


@pytest.fixture(autouse=True)
def forgetful(home: Path) -> Iterator[Path]:
    """A folder of the test's own, and nothing remembered within the process."""
    kept._folder.cache_clear()
    kept._make_room.cache_clear()
    yield home / "cache" / "steps"
    kept._folder.cache_clear()


def figures(spec: ModelSpec) -> str:
    """A prediction as a new process makes it."""
    loads._ENVELOPES.clear()
    kept._LATELY.clear()
    return predict(spec, load("a10g"), CHOICES).model_dump_json()


def without_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*words: object, **options: object) -> None:
        raise AssertionError("the program was run")

    monkeypatch.setattr(program, "run", refuse)


def test_a_second_start_runs_no_program(forgetful: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN a question asked before THEN the answer is the same to the byte and no program runs."""
    spec = load_model("llama-3.2-1b")
    first = figures(spec)
    assert len(list(forgetful.glob("*.json"))) >= 4
    without_program(monkeypatch)
    assert figures(spec) == first


def test_other_code_or_config_is_another_case(forgetful: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN one key of the config changed, or the memory model's own source, THEN nothing that was kept is taken."""
    spec = load_model("llama-3.2-1b")
    figures(spec)
    known = len(list(forgetful.iterdir()))
    figures(replace(spec, config={**spec.config, "no_rope_layers": [1] * spec.num_layers}))
    assert len(list(forgetful.iterdir())) == 2 * known
    monkeypatch.setattr(kept, "code", lambda: "other")
    figures(spec)
    assert len(list(forgetful.iterdir())) == 3 * known


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[[1],[2],[3]]", "-1", '["a", null, 3]', "9" * 5000])
def test_damaged_content_is_computed_anew(forgetful: Path, content: str) -> None:
    """GIVEN files that hold something else THEN the figures are right, and so are the files afterwards."""
    spec = load_model("llama-3.2-1b")
    first = figures(spec)
    for path in forgetful.glob("*.json"):
        path.write_text(content)
    assert figures(spec) == first
    assert all(path.read_text() != content for path in forgetful.glob("*.json"))


def test_a_changed_digit_is_noticed(forgetful: Path) -> None:
    """GIVEN files of the right form in which one digit is another THEN the figures are right all the same."""
    spec = load_model("llama-3.2-1b")
    first = figures(spec)
    for path in forgetful.glob("*.json"):
        digest, text = path.read_text().split("\n")
        path.write_text(f"{digest}\n{text.replace('1', '3', 1)}")
    assert figures(spec) == first


def test_content_of_the_wrong_form_is_computed_anew(forgetful: Path) -> None:
    """GIVEN files that are whole and hold something else THEN the figures are right."""
    spec = load_model("llama-3.2-1b")
    first = figures(spec)
    for content in ([], [[], [], []], None, {}, [[[1] * 34], ["load"], [[0, 0]]], [["weights", [1]]], [1, -2, 3]):
        for path in forgetful.glob("*.json"):
            kept._write(path, content)
        assert figures(spec) == first


def test_a_link_is_not_followed(forgetful: Path, tmp_path: Path) -> None:
    """GIVEN a link in place of a file THEN what it points to is neither read nor written."""
    spec = load_model("llama-3.2-1b")
    first = figures(spec)
    other = tmp_path / "other.json"
    other.write_text("mine")
    for path in forgetful.glob("*.json"):
        path.unlink()
        path.symlink_to(other)
    assert figures(spec) == first
    assert other.read_text() == "mine"


def test_nothing_is_kept_where_it_is_switched_off(forgetful: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN TUNEPLAN_CACHE=off THEN no file is written."""
    monkeypatch.setenv("TUNEPLAN_CACHE", "off")
    kept._folder.cache_clear()
    figures(from_config(dict(load_model("phi-2").config), "phi"))
    assert not forgetful.exists()


def test_the_older_half_goes_where_too_much_is_kept(forgetful: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GIVEN more files than are kept THEN half of them go, and files of others stay."""
    forgetful.mkdir(parents=True)
    (forgetful / "notes.txt").write_text("mine")
    for number in range(12):
        (forgetful / f"{number:040x}.json").write_text("1")
    monkeypatch.setattr(kept, "MOST_FILES", 10)
    kept._make_room.cache_clear()
    kept._write(forgetful / "new.json", 1)
    assert len(list(forgetful.glob("0*.json"))) == 6
    assert (forgetful / "new.json").exists()  # a name that isn't one of ours
    assert (forgetful / "notes.txt").read_text() == "mine"
