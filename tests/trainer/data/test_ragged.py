"""Ragged micro-batches: the closed form, the trace, a real step and a whole run agree on what they take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner import memory
from planner.calibration.attach import find
from planner.contract.choices import TrainingChoices
from planner.contract.microbatches import is_ragged
from planner.data import dataset
from planner.data.lengths import DataLengths, OneBatch, lengths_of
from planner.memory.engine.peak import envelope
from planner.memory.engine.values import chunk_rows, row_multipliers
from planner.memory.step.case import Case, flattens
from planner.memory.step.program import run
from planner.models.sources import from_config

pytest.importorskip("torch")

WORKSPACES = 2 * 8519680
INSTANTS = ("forward", "loss", "backward")
ROWS = ((512,), (437,), (301,), (120,))
PACKED = ((512,), (300, 212), (120, 120, 120, 90), (64,) * 7)

_BASE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "vocab_size": 8192,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GROUPED = {**_BASE, "num_key_value_heads": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**_BASE, "model_type": "llama"},
    "qwen2-grouped": {**_GROUPED, "model_type": "qwen2"},
    "phi": {**_BASE, "model_type": "phi", "resid_pdrop": 0.1},
    "gemma3-windows": {**_GROUPED, "model_type": "gemma3_text", "head_dim": 64, "sliding_window": 128}
    | {"sliding_window_pattern": 2},
    "gpt2": {"model_type": "gpt2", "n_embd": 256, "n_head": 4, "n_layer": 4, "n_positions": 512, "vocab_size": 8192},
}
RUNS: dict[str, dict[str, Any]] = {
    "lora-fp32-checkpointed": {"precision": "fp32"},
    "lora-bf16": {"precision": "bf16", "gradient_checkpointing": False},
    "full-fp32": {"precision": "fp32", "method": "full", "gradient_checkpointing": False},
    "full-bf16-checkpointed": {"precision": "bf16", "method": "full"},
}


def choices(**changes: Any) -> TrainingChoices:
    """Of stack `builtin`, with changes."""
    values = {"stack": "builtin", "loss": "chunked", "batch_size": 4, "max_length": 512}
    return TrainingChoices(**{**values, "gradient_accumulation_steps": 1, **changes})


def closed_form(config: dict[str, Any], chosen: TrainingChoices, rows: Any, target: str) -> dict[str, int]:
    """Peaks by instant in bytes of a flat micro-batch."""
    spec = from_config(dict(config), "small")
    own = [length for row in rows for length in row]
    layers = chosen.checkpointed_layers(spec.num_layers)
    windowed = bool(spec.sliding_layers) and max(own) > (spec.sliding_window or 0)
    case = Case(spec, chosen, layers, windowed=windowed, target=target, unaligned=target == "cuda", flat=True)
    found = envelope(run(case).ledger)
    live = (row_multipliers(own, layers, chunk_rows(spec.vocab_size)) @ found.coefficients.T.astype(float)).max(axis=0)
    peaks: dict[str, int] = {}
    for name, size in zip(found.instants, live, strict=True):
        peaks[name] = max(peaks.get(name, 0), round(size) + (WORKSPACES if target == "cuda" else 0))
    return peaks


@pytest.mark.parametrize("run_name", RUNS)
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_closed_form_and_trace_agree_on_a_flat_micro_batch(name: str, run_name: str, target: str) -> None:
    from trainer.trace import Setup, trace

    chosen = choices(**RUNS[run_name])
    computed = closed_form(CONFIGS[name], chosen, ROWS, target)
    traced = trace(CONFIGS[name], chosen, Setup(target=target, lengths=ROWS))
    for instant in INSTANTS:
        assert computed[instant] == pytest.approx(traced.instants[instant], rel=0.001), instant


def test_packed_rows_take_the_ragged_kernel_s_room_for_every_sequence() -> None:
    from trainer.trace import Setup, trace

    chosen = choices(padding="packed", precision="bf16", lora_dropout=0.0)
    computed = closed_form(CONFIGS["qwen2-grouped"], chosen, PACKED, "cuda")
    traced = trace(CONFIGS["qwen2-grouped"], chosen, Setup(lengths=PACKED))
    assert max(computed.values()) == pytest.approx(traced.allocated_peak_bytes, rel=0.001)


def test_the_ragged_kernel_s_scratch_by_hand() -> None:
    import torch

    from trainer.trace.ragged import varlen_backward_scratch

    query, key = (torch.empty(100, heads, 80, dtype=torch.bfloat16, device="meta") for heads in (8, 2))
    bounds = torch.empty(4, dtype=torch.int32, device="meta")  # three sequences
    sizes = varlen_backward_scratch((query, query, key, key, query, None, bounds), None)
    # dq accumulator and row sums of 100 + 3·128 rows (width 80 → 96), then dk and dv at all 8 heads.
    assert sizes == [484 * 8 * 96 * 4, 484 * 8 * 4, 100 * 8 * 80 * 2, 100 * 8 * 80 * 2]


@pytest.mark.parametrize(
    ("name", "changes", "rows"),
    [
        ("llama", {"precision": "fp32"}, ROWS),
        ("qwen2-grouped", {"precision": "bf16", "padding": "packed", "gradient_accumulation_steps": 2}, PACKED),
        ("gemma3-windows", {"precision": "bf16-mixed", "gradient_checkpointing": False}, ROWS),
        ("gpt2", {"precision": "fp32", "method": "full"}, ROWS),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_real_step_takes_what_trace_and_closed_form_say(name: str, changes: dict[str, Any], rows: Any) -> None:
    from tests.support.trace_support import measure
    from trainer.trace import Setup, trace

    config = CONFIGS[name]
    chosen = choices(**changes)
    measured = measure(config, chosen, lengths=rows)
    traced = trace(config, chosen, Setup(target="cpu", lengths=rows))
    for instant in INSTANTS:
        assert traced.instants[instant] == pytest.approx(measured[instant], rel=0.0001), instant
    predicted = memory.predict(from_config(dict(config), "small"), find("cpu"), chosen, lengths=OneBatch(rows))
    assert predicted.allocated_peak_bytes == pytest.approx(max(measured[i] for i in INSTANTS), rel=0.01)


def test_the_models_that_are_flattened_are_those_that_the_plan_counts_so() -> None:
    import torch

    from tests.planner.memory.test_memory_decoders import CONFIGS as DECODERS
    from tests.support.trace_support import build, ragged_batch
    from trainer import modeling
    from trainer.modeling import packing

    chosen = choices(batch_size=2, max_length=64, method="full", precision="fp32")
    for name in ("llama-biased-tied", "gemma2", "falcon-serial", "stablelm", "olmo2", "gpt-neox", "starcoder2"):
        config = {**DECODERS[name], "num_hidden_layers": 1}
        model = build(config, chosen)
        modeling.compute_loss(model, ragged_batch(config, [(60,), (40,)]), chosen, num_items=torch.tensor(3))
        assert packing.can_flatten(model) == flattens(from_config(dict(config), name), chosen), name
    spec = from_config(dict(CONFIGS["llama"]), "llama")
    for other in ({"stack": "peft", "loss": "full"}, {"loss": "full"}, {"attention": "eager"}, {"padding": "max"}):
        assert not flattens(spec, choices(**other))


# ---- lengths of a data set -----------------------------------------------------------------------------------------


def lengths(*tokens: int, continued: bool = False) -> DataLengths:
    ranked = -np.sort(-np.array(tokens))
    return DataLengths(training=ranked, validation=ranked[:0], continued=continued)


def test_the_heaviest_micro_batch_of_a_data_set_by_hand() -> None:
    data = lengths(90, 10, 70, 30, 700, 50)
    assert data.heaviest(choices(batch_size=2, max_length=512)) == [((512,), (90,))]
    assert data.heaviest(choices(batch_size=8, max_length=80)) == [((80,), (80,), (70,), (50,), (30,), (10,))]
    # Two rows cut to the same length run unflattened, and the next micro-batch flattened.
    assert data.heaviest(choices(batch_size=2, max_length=80)) == [((80,), (80,)), ((80,), (70,))]
    assert data.heaviest(choices(batch_size=2, max_length=100, padding="packed")) == [((100,), (90, 10))]
    # Plain text goes on in further rows: 700 = 512 + 188.
    assert lengths(90, 700, continued=True).heaviest(choices(batch_size=2)) == [((512,), (188,))]
    assert data.evaluated(choices()) is None


def test_the_heaviest_is_the_one_that_the_trainer_makes() -> None:
    from trainer.data.batches import EpochBatches

    generator = np.random.default_rng(5)
    tokens = [int(n) for n in np.clip(generator.lognormal(5, 0.8, 70), 2, 400)]
    for padding in ("longest", "packed"):
        chosen = choices(batch_size=5, max_length=400, padding=padding, gradient_accumulation_steps=2)
        (heaviest, *_) = lengths(*tokens).heaviest(chosen)
        batches = list(
            EpochBatches(tokens, batch_size=5, accumulation=2, max_length=400, packed=padding == "packed", seed=3)
        )
        rows = [row if isinstance(row, tuple) else (row,) for row in batches[3]]
        assert [tuple(tokens[index] for index in row) for row in rows] == list(heaviest)


def test_a_grid_and_one_prediction_agree() -> None:
    spec, profile = from_config(dict(CONFIGS["llama"]), "small"), find("a10g")
    data = lengths(*range(40, 500, 7))
    for padding, stack in (("longest", "builtin"), ("packed", "builtin"), ("longest", "peft")):
        chosen = choices(padding=padding, stack=stack, loss="chunked" if stack == "builtin" else "full")
        found = memory.predict_grid(spec, profile, chosen, [1, 4, 8], 512, [0, 2, 4], data=data)
        for size, layers, peak in zip([1, 4, 8], [0, 2, 4], found.allocated, strict=True):
            one = TrainingChoices(
                **{**{f: getattr(chosen, f) for f in chosen.__dataclass_fields__}, "batch_size": size}
                | {"gradient_checkpointing": layers > 0, "checkpoint_layers": layers or None}
            )
            # A grid counts tensors; blocks are those of the run that is replayed.
            assert memory.predict(spec, profile, one, lengths=data).tensors_peak_bytes == pytest.approx(peak, rel=0.005)


def test_full_rows_are_the_upper_end() -> None:
    spec, profile = from_config(dict(CONFIGS["gemma3-windows"]), "small"), find("cpu")
    full = memory.predict(spec, profile, choices())
    assert full.batch_lengths is None
    assert "batch_lengths" not in full.model_dump()
    ragged = memory.predict(spec, profile, choices(), lengths=lengths(*range(100, 500, 9)))
    assert ragged.allocated_peak_bytes < full.allocated_peak_bytes
    assert ragged.batch_lengths is not None
    assert is_ragged(ragged.batch_lengths)


# ---- a whole run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [["--padding", "longest"], ["--padding", "packed", "--stack", "builtin", "--method", "full"]], ids=str
)
def test_a_run_on_ragged_data_takes_what_was_planned(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from planner.calibration.store import recent_errors
    from planner.cli import main
    from planner.contract.records import Observation
    from planner.handover import plans
    from tests.support.trainer_support import make_model, of_kind, train

    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path / "home"))
    model = make_model(tmp_path / "model", layers=3, width=128)
    generator = np.random.default_rng(3)
    texts = ["a" * int(n) for n in np.clip(generator.lognormal(4, 0.6, 40), 12, 120)]
    data = tmp_path / "texts.jsonl"
    data.write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n")
    plan = tmp_path / "plan.yaml"
    asked = ["--gpu", "cpu", "--model", str(model), "--max-length", "120", "--batch-size", "4", "--precision", "fp32"]
    assert main(["check", *asked, *settings, "--data", str(data), "--save", str(plan), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["memory"]
    made = plans.load(plan)
    assert made.predicted is not None
    assert made.predicted.batch_lengths is not None
    assert [list(row) for row in made.predicted.batch_lengths] == shown["batch_lengths"]
    short = made.hyperparameters.model_copy(update={"max_steps": 3, "report_to": ()})
    plans.save(made.model_copy(update={"hyperparameters": short}), plan)
    events, failure = train(plan, tmp_path / "run")
    assert failure is None
    (end,) = of_kind(events, "finished")
    observation = Observation.model_validate_json(Path(end["observation_path"]).read_text())
    assert observation.batch_lengths == made.predicted.batch_lengths
    assert observation.allocated_peak_bytes is not None
    assert made.predicted.allocated_peak_bytes == pytest.approx(observation.allocated_peak_bytes, rel=0.03)
    assert [abs(error) < 0.03 for error in recent_errors(find("cpu"))] == [True]


def test_a_run_planned_without_data_is_judged_by_what_it_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from planner.calibration.store import recent_errors
    from planner.contract.records import Observation

    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path))
    spec, rows = from_config(dict(CONFIGS["llama"]), "small"), ROWS
    chosen = choices(precision="fp32")
    ran = memory.predict(spec, find("cpu"), chosen, lengths=OneBatch(rows)).allocated_peak_bytes
    observation = Observation(
        created="2026-11-26T10:00:00+00:00",
        source="run",
        hardware={"profile": "cpu"},
        versions={},
        model={"id": "small", "config": CONFIGS["llama"]},
        settings={key: getattr(chosen, key) for key in ("stack", "loss", "batch_size", "max_length", "precision")}
        | {"gradient_accumulation_steps": 1},
        predicted=memory.predict(spec, find("cpu"), chosen),
        allocated_peak_bytes=ran,
        batch_lengths=rows,
    )
    (tmp_path / "observations").mkdir()
    (tmp_path / "observations/run.json").write_text(observation.model_dump_json(by_alias=True))
    assert recent_errors(find("cpu")) == [pytest.approx(0, abs=0.001)]


def test_estimated_lengths_are_taken_at_their_upper_end(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(json.dumps({"text": "word " * count}) for count in (100, 40, 8)) + "\n")
    profile = dataset.profile(file)
    assert not profile.exact
    found = lengths_of(profile, validation_split=0.0)
    assert found.training[0] == profile.longest_upper
