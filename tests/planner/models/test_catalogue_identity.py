"""The model that was asked for is the one that is planned and trained: a sibling lends its dimensions, never its id."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from planner.cli import main
from planner.contract.errors import InvalidInput
from planner.devices.profiles import load
from planner.handover import plans
from planner.handover.places import loadable, tokenizer_folder
from planner.models import catalogue
from planner.models.sources import identity_notes, load_model
from planner.report.finding import ListEntry
from planner.tui import reading, state, work
from planner.tui.screens.model import details_text
from planner.tui.widgets.filter_list import FilterList

SPELLINGS = catalogue.spellings()
TUNED = re.compile(r"(?:^|[-_/])(instruct|chat|it|zephyr|reasoning)(?=$|[-_])")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_keeps_the_identity_that_it_names(spelling: str) -> None:
    found = catalogue.look_up(spelling)
    assert found is not None
    spec = load_model(spelling)
    if "/" in spelling:
        assert found.hub_id.lower() == spelling
        assert spec.id == found.hub_id
    else:
        assert spec.id == spelling
        # What a short name says of the kind, the hub id says too.
        assert set(TUNED.findall(spelling)) <= set(TUNED.findall(found.hub_id.lower()))
    assert loadable(spelling) == loadable(spelling.upper()) == loadable(f" {spelling} ") == found.hub_id
    assert load_model(spelling.upper()).id == spec.id
    entry = catalogue.entry(spelling)
    assert found.hub_id in (entry.hub_id, *entry.siblings)
    assert dict(spec.config) == dict(load_model(entry.hub_id).config)


def test_every_model_of_the_catalogue_has_a_row_of_its_own() -> None:
    models = catalogue.models()
    assert len({name for name, *_ in models}) == len({hub_id for _, hub_id, _ in models}) == len(models)
    for name, hub_id, spellings in models:
        assert loadable(name) == hub_id
        assert {loadable(spelling) for spelling in spellings} == {hub_id}
    assert {spelling for *_, spellings in models for spelling in spellings} == set(SPELLINGS)


@pytest.mark.parametrize(
    ("asked", "id", "model"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
        ("META-LLAMA/llama-3.2-1b-instruct", "meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-1B-Instruct"),
        ("llama-3.2-1b-instruct", "llama-3.2-1b-instruct", "meta-llama/Llama-3.2-1B-Instruct"),
        ("gemma-3-1b-it", "gemma-3-1b-it", "google/gemma-3-1b-it"),
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"),
        (
            "mistralai/Mistral-7B-Instruct-v0.3",
            "mistralai/Mistral-7B-Instruct-v0.3",
            "mistralai/Mistral-7B-Instruct-v0.3",
        ),
        ("mistral-7b-instruct-v0.3", "mistral-7b-instruct-v0.3", "mistralai/Mistral-7B-Instruct-v0.3"),
        ("phi-2", "phi-2", "microsoft/phi-2"),
        ("mistral-7b-v0.2", "mistral-7b-v0.2", "mistralai/Mistral-7B-Instruct-v0.2"),
    ],
)
def test_header_json_and_plan_name_what_was_asked_for(
    asked: str, id: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "plan.yaml"
    words = ["check", "--gpu", "a100-80gb", "--model", asked, "--batch-size", "1", "--max-length", "128"]
    assert main([*words, "--save", str(file)]) == 0
    assert f"Fits: {id} on" in " ".join(capsys.readouterr().out.split())
    assert plans.load(file).model == model
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["id"] == id


def test_a_short_name_that_hides_the_model_is_spelt_out() -> None:
    assert identity_notes("mistral-7b-v0.2") == ["mistral-7b-v0.2 is mistralai/Mistral-7B-Instruct-v0.2."]
    assert identity_notes("phi-2") == identity_notes("microsoft/phi-2") == identity_notes("someone/model") == []


def test_near_names_lead_to_what_was_meant() -> None:
    with pytest.raises(InvalidInput, match=r"near: llama-3\.2-1b-instruct,"):
        load_model("llama-3.2-1b-instrct")
    with pytest.raises(InvalidInput, match=r"near: .*gemma-3-1b-it"):
        load_model("gemma-3-1b-ti")


def test_an_unknown_model_of_a_known_owner_is_not_taken_for_its_sibling(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("meta-llama/Llama-3.2-1B-Instruct-QLORA_INT4_EO8", "someone/Llama-3.2-1B-Instruct"):
        assert loadable(name) == name
        with pytest.raises(InvalidInput, match="not known here"):
            load_model(name)


def cached(home: Path, hub_id: str, config: dict[str, object]) -> Path:
    """The hub cache's folder of one model, with its config."""
    folder = home / "hub" / f"models--{hub_id.replace('/', '--')}" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_file_of_the_very_model_that_says_otherwise_is_believed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """GIVEN an Instruct whose vocabulary outgrew its base's THEN a plan made anew has the true size."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    base = dict(catalogue.entry("llama-3.2-1b").config)
    folder = cached(tmp_path, "meta-llama/Llama-3.2-1B-Instruct", {**base, "vocab_size": 128264})
    assert load_model("llama-3.2-1b-instruct").vocab_size == 128264
    assert load_model("meta-llama/Llama-3.2-1B-Instruct").vocab_size == 128264
    assert load_model("meta-llama/Llama-3.2-1B").vocab_size == 128256
    cached(tmp_path, "microsoft/phi-2", {**catalogue.entry("phi-2").config, "torch_dtype": "float16"})
    assert "torch_dtype" not in load_model("phi-2").config
    (folder / "tokenizer.json").write_text("{}")
    assert tokenizer_folder(loadable("llama-3.2-1b-instruct")) == folder
    assert tokenizer_folder(loadable("llama-3.2-1b")) is None


@pytest.mark.parametrize("name", ["phi-2", "llama-3.2-1b-instruct", "google/gemma-3-1b-it", "Qwen2.5-0.5B-Instruct"])
def test_the_wizards_plan_loads_the_same_model_as_the_command_lines(name: str) -> None:
    model = reading.read_model(name, final=True).model
    assert model is not None
    wizard = state.with_hardware(state.preset({"max_length": 128, "batch_size": 1}, {}, None), load("a100-80gb"))
    plan = work.plan_of(wizard := state.with_model(wizard, model, name), work.evaluate(wizard))
    assert plan.model == loadable(name)
    assert "/" in plan.model
    assert plan.model_config_inline == dict(load_model(name).config)


def test_the_wizard_lists_the_sibling_and_says_which_it_is() -> None:
    text = str(details_text(load_model("llama-3.2-1b-instruct")))
    assert "meta-llama/Llama-3.2-1B-Instruct" in text


async def test_a_name_typed_whole_is_under_the_cursor() -> None:
    """GIVEN names that begin alike WHEN one is typed whole THEN Enter takes that one, not the first of them."""
    from textual.app import App, ComposeResult

    class Lists(App[None]):
        def compose(self) -> ComposeResult:
            yield FilterList("type", id="models")

    async with Lists().run_test() as pilot:
        listing = pilot.app.query_one(FilterList)
        listing.fill(
            ListEntry(key=name, row=name, more=hub_id, names=(hub_id.lower(), *more))
            for name, hub_id, more in catalogue.models()
        )
        listing.focus_filter()
        for typed, wanted in (
            ("phi-1", "phi-1"),
            ("google/gemma-2b-it", "gemma-2b-it"),
            ("meta-llama/Llama-3.2-1B", "llama-3.2-1b"),
            ("meta-llama/llama-3.2-1b-instruct", "llama-3.2-1b-instruct"),
            ("Qwen/Qwen3-0.6B-Base", "qwen3-0.6b-base"),
        ):
            listing.query_one("FilterInput").value = typed  # type: ignore[attr-defined]
            await pilot.pause()
            assert listing.current == wanted
