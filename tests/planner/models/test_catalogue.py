"""The catalogue: every entry matches transformers and the published total, and is found fast by any spelling."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from planner.contract.architectures import supported
from planner.contract.towers import text_part
from planner.models import catalogue, recorded
from planner.models.sources import load_model, parameter_shapes
from tests.planner.models.test_sources_parity import assert_same_parameters
from tests.support.sources_cases import build_on_meta, case_task

ENTRIES = catalogue.entries()

PUBLISHED = {
    "phi-2": 2_779_683_840,
    "llama-3.2-1b": 1_235_814_400,
    "qwen2.5-0.5b": 494_032_768,
    "mistral-7b-v0.1": 7_241_732_096,
    "llama-2-7b": 6_738_415_616,
    "tinyllama-1.1b": 1_100_048_384,
    "gpt2": 124_439_808,
    "gemma-2-9b": 9_241_705_984,
    "mixtral-8x7b": 46_702_792_704,
    "pythia-6.9b": 6_857_302_016,
}


NETWORKS = list({recorded.identity(text_part(entry.config)): entry for entry in reversed(ENTRIES)}.values())[::-1]
"""One entry of each network: a tuned form of a model is built as its base is."""
WRITTEN = [entry for entry in NETWORKS if text_part(entry.config)["model_type"] in supported()]
RECORDED = [entry for entry in NETWORKS if entry not in WRITTEN]


@pytest.mark.parametrize("entry", RECORDED, ids=lambda entry: entry.name)
def test_a_network_without_a_program_is_described_as_transformers_builds_it(entry: catalogue.CatalogueEntry) -> None:
    """Every parameter of the true-size network has our name and shape; the description is the shipped one."""
    import torch

    from trainer import modeling

    spec = load_model(entry.name)
    assert spec.config["recorded"]["shipped"]
    model = modeling.build(text_part(entry.config), dtype=torch.bfloat16, device="meta")
    assert_same_parameters(parameter_shapes(spec), model)
    assert spec.parameters == sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize("entry", WRITTEN, ids=lambda entry: entry.name)
def test_entry_equals_transformers_at_true_size(entry: catalogue.CatalogueEntry) -> None:
    """Every parameter of the true-size network, built without weights, has our name and shape."""
    spec = load_model(entry.name)
    config = text_part(entry.config)
    model = build_on_meta(dict(config), case_task(config))
    assert_same_parameters(parameter_shapes(spec), model)
    assert spec.parameters == sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entry_equals_the_published_total(entry: catalogue.CatalogueEntry) -> None:
    if entry.published_parameters is None:
        pytest.skip("no published total known")
    spec = load_model(entry.name)
    expected = entry.published_parameters
    if spec.architecture == "t5" and spec.config["is_gated_act"]:
        # The checkpoint brings an output layer of its own, which the config says nothing of.
        expected -= spec.vocab_size * spec.hidden_size
    assert spec.parameters == expected


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_entry_says_how_many_parameters_transformers_builds(entry: catalogue.CatalogueEntry) -> None:
    assert entry.parameters == load_model(entry.name).parameters


def test_published_totals_stand_as_they_were_looked_up() -> None:
    assert {name: load_model(name).parameters for name in PUBLISHED} == PUBLISHED


def test_there_are_at_least_350_and_every_architecture_is_among_them() -> None:
    assert len(ENTRIES) >= 350
    assert {text_part(entry.config)["model_type"] for entry in WRITTEN} <= set(supported())


def test_entries_carry_source_date_and_check() -> None:
    for entry in ENTRIES:
        assert entry.source == f"https://huggingface.co/{entry.hub_id}/blob/main/config.json"
        assert len(entry.date) == 10
        assert entry.checked
        assert entry.name == entry.name.lower()
        assert " " not in entry.name


def test_a_licence_has_its_source_and_what_is_not_known_says_so() -> None:
    for entry in ENTRIES:
        assert entry.gated in ("yes", "no", "unknown")
        assert (entry.licence, entry.gated) == ("unknown", "unknown") or entry.licence_source, entry.name
        assert (entry.licence != "unknown") == ("licence: " in (entry.licence_source or "")), entry.name
        assert (entry.gated != "unknown") == ("gated: " in (entry.licence_source or "")), entry.name
        assert re.fullmatch(r"[a-z0-9.+-]+", entry.licence)
    by_name = {entry.name: (entry.licence, entry.gated) for entry in ENTRIES}
    assert by_name["llama-3.2-1b"] == ("llama3.2", "yes")
    assert by_name["qwen2.5-3b"] == ("qwen-research", "no")
    assert by_name["qwen2.5-7b"] == ("apache-2.0", "no")
    assert by_name["gemma-3-1b"] == ("gemma", "yes")


def test_index_is_what_the_files_say() -> None:
    assert catalogue.build_index() == json.loads((catalogue.FOLDER / "index.json").read_text())


@pytest.mark.parametrize("spelling", ["phi-2", "PHI-2", "microsoft/phi-2", "Microsoft/Phi-2", " phi-2 "])
def test_spellings_find_the_same_model(spelling: str) -> None:
    """The name stays the one that was asked for, as the hub and the catalogue write it."""
    assert load_model(spelling).id == ("microsoft/phi-2" if "/" in spelling else "phi-2")
    assert load_model(spelling).parameters == PUBLISHED["phi-2"]


def test_one_model_loads_fast_and_without_the_others() -> None:
    """GIVEN a fresh process WHEN one model is loaded THEN one file is read and it takes under 30 ms."""
    code = (
        "import pathlib\n"
        "read = pathlib.Path.read_text\n"
        "seen = []\n"
        "pathlib.Path.read_text = lambda self, *a, **k: (seen.append(self), read(self, *a, **k))[1]\n"
        "from planner.models.sources import load_model\n"
        "from tests.support.clock import reference_seconds\n"
        "first = reference_seconds(lambda: load_model('llama-3.1-8b'), repeats=1)\n"
        "print(first, sum(p.parent.name == 'models' for p in seen))\n"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    times = [float(run.stdout.split()[0]) for run in runs]
    assert {run.stdout.split()[1] for run in runs} == {"1"}
    assert min(times) < 0.03
