"""The memory model against traces, real CPU steps and published measurements: a small version of docs/accuracy.md."""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import collection, evaluate, fingerprint, grid, litgpt, metrics, published, store
from planner import memory
from planner.contract.errors import NotModelled
from planner.contract.settings import to_flags
from planner.devices.profiles import load
from planner.models import catalogue
from planner.models.sources import from_config, load_model
from tests.support.trace_support import TINY, choices, measure

CASES = {case.id: case for case in published.read()}
EXACT = [case for case in CASES.values() if case.exact]
COLLECTED = {case.id: case for case in published.read(published.COLLECTED)}


def test_random_configurations_agree_with_the_trace() -> None:
    """GIVEN a dozen random configurations of few layers WHEN closed form and trace answer THEN they are within 3 %."""
    errors: dict[str, float] = {}
    for configuration in itertools.islice(grid.configurations(3), 0, None, 2):
        if len(errors) == 12:
            break
        spec, chosen = configuration.spec, configuration.choices
        if configuration.layers is None or configuration.layers > 4:
            continue  # a trace of few layers takes a second
        try:
            predicted = evaluate.closed_form(spec, chosen)
            true = evaluate.traced(spec, chosen)["instants"]
        except NotModelled:
            continue
        errors[f"{spec.id} {evaluate.given(chosen)}"] = max(predicted.values()) / max(true.values()) - 1
    assert len(errors) == 12
    assert statistics.median(abs(error) for error in errors.values()) <= 0.002, errors
    assert max(abs(error) for error in errors.values()) <= 0.03, errors


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2", "granite", "phi"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_real_cpu_steps_agree_with_the_closed_form(family: str, method: str) -> None:
    """GIVEN a tiny model WHEN it takes a real step on the CPU THEN its tensors peak within 1 % of the prediction."""
    chosen = choices(method=method, precision="fp32", gradient_checkpointing=method == "lora", batch_size=4)
    config: dict[str, Any] = TINY[family]
    measured = measure(config, chosen)
    spec = from_config(config, family)
    found = memory.predict(spec, load("cpu"), chosen).instants
    predicted = max(found[name] for name in evaluate.INSTANTS)
    true = max(measured[name] for name in evaluate.INSTANTS)
    assert abs(predicted / true - 1) <= 0.01, (found, measured)


def test_closed_form_of_published_transformers_runs() -> None:
    """GIVEN the well-specified published rows WHEN `plan check` answers THEN median 0.5 % and worst 2 % hold by far."""
    errors = [published.closed_form(case)["bytes"] / case.measured - 1 for case in EXACT]
    assert len(errors) >= 10
    assert statistics.median(abs(error) for error in errors) <= 0.0005
    assert max(abs(error) for error in errors) <= 0.001


def test_closed_form_of_collected_transformers_runs() -> None:
    """GIVEN rows of other models, releases and k-bit preparations WHEN `plan check` answers THEN 0.1 % holds too."""
    exact = [case for case in COLLECTED.values() if case.exact]
    errors = {case.id: published.closed_form(case)["bytes"] / case.measured - 1 for case in exact}
    assert len(errors) >= 24
    assert max(abs(error) for error in errors.values()) <= 0.001, errors


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.nightly)])
def test_devices_of_fsdp_runs_hold_what_a_step_cannot_use_again(every: int) -> None:
    """GIVEN device figures of runs on several cards THEN they are met in part, and lie inside the interval."""
    rows = [
        case
        for case in COLLECTED.values()
        if case.kind == "device" and case.choices.strategy == "fsdp" and case.choices.num_gpus > 1
    ]
    scored = [collection.score(case) for case in rows[::every]]
    assert statistics.fmean(abs(row.error) for row in scored) <= 0.14, [(row.case.id, row.error) for row in scored]
    assert all(-0.27 < row.error < 0.08 for row in scored)
    assert sum(bool(row.inside) for row in scored) >= 0.9 * len(scored) - 1


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.nightly)])
def test_litgpt_s_rows_are_met_with_what_its_code_holds_beside(every: int) -> None:
    """GIVEN LitGPT's adapter rows WHEN its source's terms are added THEN they are met, and what is planned is low."""
    rows = [case for case in (*CASES.values(), *COLLECTED.values()) if litgpt.applies(case)]
    found = [(case.measured, *litgpt.allocated(case)) for case in rows[::every]]
    errors = [whole / measured - 1 for measured, _, whole in found]
    assert statistics.fmean(abs(error) for error in errors) <= 0.015, errors
    assert max(abs(error) for error in errors) <= 0.05, errors
    assert statistics.fmean(planned / measured - 1 for measured, planned, _ in found) < -0.1


@pytest.mark.parametrize(
    ("row", "most"), [("fms-a100_80gb-4", 0.002), ("fms-a100_80gb-70", 0.01), ("fms-a100_80gb-72", 0.01)]
)
def test_older_santacoder_returns_its_keys_and_values(row: str, most: float) -> None:
    """GIVEN rows whose release left `use_cache` on WHEN that is told THEN they are met within a percent."""
    case = CASES[row]
    assert case.choices.keep_cache
    assert abs(published.closed_form(case)["bytes"] / case.measured - 1) <= most


@pytest.mark.parametrize("every", [9, pytest.param(1, marks=pytest.mark.nightly)])
def test_other_frameworks_rows_get_an_answer(every: int) -> None:
    """GIVEN every published row WHEN it is put to the planner THEN none is refused."""
    rows = [*CASES.values(), *list(COLLECTED.values())[::every]]
    assert [case.id for case in rows if "bytes" not in published.closed_form(case)] == []


def test_the_collection_is_what_it_says() -> None:
    """250 rows of 8 cards at least, each with a source that can be opened, and no id twice."""
    assert len(COLLECTED) >= 250
    assert len({case.device.name for case in COLLECTED.values()}) >= 8
    assert all(case.url.startswith("https://") for case in COLLECTED.values())
    content = json.loads(published.COLLECTED.read_text())
    assert len(COLLECTED) == len(content["cases"])
    assert all(row["date"] and row["note"] for row in content["cases"])


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.nightly)])
def test_rows_of_several_cards_are_met(every: int) -> None:
    """GIVEN accelerate's FSDP on 2 and 4 cards WHEN `plan check` answers THEN allocated bytes are within 6 %."""
    rows = [c for c in COLLECTED.values() if c.choices.num_gpus > 1 and c.tier == 2 and c.kind == "allocated"][::every]
    errors = {case.id: published.closed_form(case)["bytes"] / case.measured - 1 for case in rows}
    assert max(abs(error) for error in errors.values()) <= 0.06, errors
    assert statistics.fmean(abs(error) for error in errors.values()) <= 0.03, errors


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.nightly)])
def test_published_failures_are_said(every: int) -> None:
    """GIVEN runs that ended out of memory THEN four of five are said not to fit, and none to fit with room."""
    said = {verdict.id: collection.said(verdict) for verdict in published.read_verdicts()[::every]}
    right = sum(word == "does_not_fit" for word in said.values())
    assert right >= 0.8 * len(said), said
    assert set(said.values()) <= {"does_not_fit", "tight"}, said


@pytest.mark.parametrize(
    "name",
    [
        "fms-a100_80gb-34",
        pytest.param("fms-a100_80gb_granite-22", marks=pytest.mark.nightly),
        pytest.param("fms-4.45-powerlm-qlora-trl-4", marks=pytest.mark.nightly),
    ],
)
def test_trace_of_published_transformers_runs(name: str) -> None:
    """GIVEN a published run WHEN its step is traced THEN the peak is within 0.1 % of the measurement."""
    case = {**CASES, **COLLECTED}[name]
    instants = evaluate.traced(case.spec, case.choices, case.device.name)["instants"]
    assert abs(max(instants.values()) / case.measured - 1) <= 0.001


def test_a_published_row_through_the_command_line(tmp_path: Path) -> None:
    """GIVEN a row's config.json and settings WHEN `plan check --json` runs THEN it prints the same bytes."""
    case = CASES["fms-a100_80gb_granite-22"]
    config = tmp_path / "config.json"
    config.write_text(json.dumps(dict(case.spec.config)))
    command = [sys.executable, "-m", "planner.cli", "check", "--model", str(config), "--gpu", "A100-80GB", "--json"]
    done = subprocess.run([*command, *to_flags(case.choices)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["memory"]["allocated_peak_bytes"]
    assert found == published.closed_form(case)["bytes"]


def test_distribution_by_hand() -> None:
    """GIVEN three errors WHEN they are summarised THEN signs, sizes and shares are those computed by hand."""
    found = metrics.distribution([-0.02, 0.01, 0.0])
    assert found is not None
    assert (found.count, found.median, found.worst) == (3, 0.0, -0.02)
    assert found.mean == pytest.approx(-0.01 / 3)
    assert found.p95_size == 0.02
    assert found.under == pytest.approx(1 / 3)
    assert metrics.distribution([]) is None


def test_a_reduced_config_keeps_widths_and_cuts_every_list() -> None:
    """GIVEN a config with per-layer lists WHEN it is cut to two layers THEN widths stay and the lists are shorter."""
    small = grid.reduced({"num_hidden_layers": 8, "hidden_size": 64, "layer_types": list("abcdefgh")}, 2)
    assert small == {"num_hidden_layers": 2, "hidden_size": 64, "layer_types": ["a", "b"]}


def test_the_grid_is_the_same_for_the_same_seed() -> None:
    """GIVEN a seed WHEN the grid is drawn twice THEN it is the same, over at least 20 architectures."""
    first, second = (list(itertools.islice(grid.configurations(5), 40)) for _ in range(2))
    assert [c.choices for c in first] == [c.choices for c in second]
    assert len({c.architecture for c in first}) >= 20


def test_the_models_of_the_draws_are_a_kept_list() -> None:
    """GIVEN the list of models that seeds draw from THEN each is in the catalogue under the architecture it says."""
    models = grid.by_architecture()
    assert len(models) >= 25
    for architecture, names in models.items():
        assert load_model(names[-1]).architecture == architecture
        assert set(names) <= set(catalogue.names())


def test_kept_traces_are_read_whatever_settings_came_later() -> None:
    """GIVEN the traces kept of a seed THEN each is still found, and every setting is known to their names."""
    assert set(evaluate.DEFAULTS) == {*evaluate.FIRST, *evaluate.ADDED}
    kept = store.Store(5)
    lines = [line for line in kept.lines.values() if "instants" in line]
    assert len(lines) >= 50
    assert len(list(kept.configurations())) >= 0.95 * len(lines)  # some name a config that was put right since


CODE = {
    "trainer/trace/run.py": "from trainer.modeling import loss\n\ndef trace(): return loss.compute()\n",
    "trainer/modeling/__init__.py": "",
    "trainer/modeling/loss.py": "def compute(): return scale()\n\ndef scale(): return 2\n\ndef save(): return 3\n",
}


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("def save(): return 3", "def save(): return 4", True),  # what no trace runs
        ("def scale(): return 2", 'def scale():\n    """Twice."""\n    return 2  # two', True),
        ("def scale(): return 2", "def scale(): return 3", False),
        ("def compute(): return scale()", "def compute(): return 2 * scale()", False),
        ("def save(): return 3", "def save(): return 3\n\nsave()", False),  # run at import
    ],
)
def test_a_fingerprint_is_that_of_what_a_trace_runs(old: str, new: str, same: bool, tmp_path: Path) -> None:
    """GIVEN code of a trace WHEN a line of it changes THEN its fingerprint does so only if a trace runs it."""
    found = []
    for source in (CODE, {name: text.replace(old, new) for name, text in CODE.items()}):
        for name, text in source.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        found.append(fingerprint.fingerprint(tmp_path))
    assert (found[0] == found[1]) is same


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.nightly)])
def test_the_uncalibrated_interval_holds_what_it_says(every: int) -> None:
    """GIVEN published figures of the whole device THEN four of five of them lie inside the interval, as a plan says."""
    cases = [case for case in COLLECTED.values() if case.kind == "device"][::every]
    inside = 0
    for case in cases:
        low, high = memory.predict(case.spec, case.device, case.choices).interval_bytes
        inside += low <= case.measured <= high
    assert len(cases) >= 20
    assert inside / len(cases) >= 0.8, (inside, len(cases))
