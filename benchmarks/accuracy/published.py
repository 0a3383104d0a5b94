"""Published measurements: each row of tests/cases as a configuration, told what its framework did differently.

`variant` in a row says which release's loss code ran, whether the logits stayed alive through backward, and a precision
that the stock options do not have; a key that is the name of a setting is taken as it is. `_framework` adds what a
source's code does beyond that, wherever an option says it. `collected.json` beside this module holds rows of our own
collection in the same form.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.accuracy import evaluate
from benchmarks.accuracy.store import RESULTS
from planner.contract.choices import TrainingChoices
from planner.contract.errors import TuneplanError
from planner.contract.settings import choices_from
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.decide import check
from planner.decide.question import Question
from planner.devices import hardware
from planner.models.sources import from_config

CASES = Path(__file__).parents[2] / "tests" / "cases"
COLLECTED = Path(__file__).parent / "collected.json"
"""Rows that were looked up besides the given ones: the same form, with the `date` of reading and a `reason`."""
TRAINERS = ("fms", "transformers-docs")
"""Sources that ran transformers' Trainer: where a row names no implementation of AdamW, its release's own ran. Loops of
their own call `torch.optim`, whose default is the multi-tensor one.
"""
VARIANT_KEYS = {"loss", "hold_output", "precision"}
LOSSES = {"legacy-4.48": "4.48", "legacy-4.45": "4.45", "legacy-no-upcast": "no-upcast"}


@dataclass(frozen=True, slots=True)
class Case:
    """One published row."""

    id: str
    source: str
    tier: int
    note: str
    url: str
    spec: ModelSpec
    device: HardwareProfile
    choices: TrainingChoices
    kind: str
    """What was measured: allocated, reserved or device."""
    measured: int
    told: tuple[str, ...]
    """What was told beyond the row's settings."""
    reason: str = ""
    """Why the prediction differs, where that is known; of rows of our own collection."""

    @property
    def exact(self) -> bool:
        """Whether the row is a well-specified run of transformers code, which must come out to the percent."""
        return self.source == "fms" and self.tier == 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """A published run that ended out of memory."""

    id: str
    source: str
    url: str
    spec: ModelSpec
    device: HardwareProfile
    choices: TrainingChoices


def _framework(row: dict[str, Any], choices: TrainingChoices) -> tuple[TrainingChoices, list[str]]:
    """What a framework does beyond its row's settings, in the terms of the options."""
    changes = dict(_FRAMEWORKS.get(row["source"], _plain_modules)(row, choices))
    return replace(choices, **{name: value for name, (value, _) in changes.items()}), [t for _, t in changes.values()]


def _fms(row: dict[str, Any], choices: TrainingChoices) -> Iterator[tuple[str, tuple[Any, str]]]:
    """fms-acceleration: the Trainer of transformers 4 (scripts/benchmarks, plugins/accelerated-peft; read 2026-11)."""
    if choices.gradient_checkpointing:
        yield "checkpoint_reentrant", (True, "re-entrant checkpoints, the default of transformers 4")
    if choices.method == "qlora" and choices.precision == "bf16":
        yield "precision", ("bf16-amp", "bf16 autocast over bf16 weights, as the table's column bf16 has it")
    if choices.method == "qlora" and choices.kbit_preparation is None and "baseline" in row["note"]:
        yield "kbit_preparation", ("norms", "norms in fp32, as TRL prepares the model in baseline-peft-bnb")
    if row["config"]["model_type"] == "gpt_bigcode":
        if choices.transformers_version is None:
            yield "transformers_version", ("no-upcast", "loss on bf16 logits")
        if choices.gradient_checkpointing:
            yield "keep_cache", (True, "keys and values returned: that release leaves use_cache on")


def _litgpt(row: dict[str, Any], choices: TrainingChoices) -> Iterator[tuple[str, tuple[Any, str]]]:
    """LitGPT: model code of its own (litgpt/lora.py, litgpt/finetune; read 2026-11)."""
    yield from _plain_modules(row, choices)
    # The head runs in chunks of 128 tokens, but backward keeps the half-precision softmax of every chunk.
    yield "loss", ("full", "loss of all tokens")
    yield "transformers_version", ("no-upcast", "on bf16 logits")
    if choices.method == "qlora":
        if "quantization" not in (row.get("variant") or {}):
            yield "quantization", ("nf4", "nf4 without double quantisation")
        yield "kbit_preparation", ("none", "norms, embeddings and head stay bf16")


def _plain_modules(row: dict[str, Any], choices: TrainingChoices) -> Iterator[tuple[str, tuple[Any, str]]]:
    # `builtin` in these rows says that no transformers Trainer ran; this trainer's lean functions did not either.
    if choices.stack != "peft":
        yield "stack", ("peft", "plain modules")


def _written_out(row: dict[str, Any]) -> bool:
    """Whether a textbook row runs LayerNorm and GELU that are written out in operators."""
    return row["source"] == "rasbt" and "hand-written" in row["note"]


_FRAMEWORKS = {"fms": _fms, "litgpt": _litgpt}
_FUSED_GELU = {"gelu_new": "gelu_pytorch_tanh"}
"""The same function as one operator: LitGPT calls PyTorch's, where transformers writes out seven."""
_TIED = ("gemma", "gemma2")
"""Types whose configs tie head and embeddings without saying so."""


def _config(row: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The model's config, and what of it is told otherwise."""
    config = dict(row["config"])
    if _written_out(row):
        return {**config, "activation_function": "gelu_new"}, ["gelu in seven operators"]
    if row["source"] != "litgpt":
        return config, []
    told = []
    if config.get("tie_word_embeddings", config["model_type"] in _TIED):
        # litgpt/model.py makes `lm_head` and `wte` apart for every model; a checkpoint fills both.
        config["tie_word_embeddings"] = False
        told.append("head and embeddings apart")
    fused = _FUSED_GELU.get(str(config.get("hidden_act")))
    if fused is not None:
        config["hidden_act"] = fused
        told.append("gelu as one operator")
    return config, told


def _loss(name: str) -> str:
    """The release of a loss code: `legacy-4.48` or, for any other release, `legacy-X.Y`."""
    return LOSSES.get(name, name.removeprefix("legacy-"))


def read(path: Path = CASES / "published_dev.json") -> list[Case]:
    """The rows of a file of cases; a row's config stands in it or, by name, in the file's `configs`."""
    content = json.loads(path.read_text())
    configs = content.get("configs", {})
    rows = [{**row, "config": configs.get(str(row["config"]), row["config"])} for row in content["cases"]]
    return [_case(row) for row in rows]


def read_verdicts(path: Path = COLLECTED) -> list[Verdict]:
    """The runs of a file of cases that ended out of memory."""
    content = json.loads(path.read_text())
    found = []
    for line in content["verdicts"]:
        row = {**line, "config": content["configs"][line["config"]]}
        settings = dict(row["settings"])
        device = hardware.find(settings.pop("gpu"))
        choices, _ = _framework(row, choices_from(settings))
        if row["source"] in TRAINERS:
            choices = choices.with_usual_implementation(device.kind)
        spec = from_config(row["config"], row["model"])
        found.append(Verdict(row["id"], row["source"], row["url"], spec, device, choices))
    return found


def _case(row: dict[str, Any]) -> Case:
    settings = dict(row["settings"])
    variant = row.get("variant") or {}
    told = []
    for name in sorted(variant.keys() - VARIANT_KEYS):
        settings[name] = variant[name]
        told.append(f"{name} {variant[name]}")
    if variant.get("loss"):
        settings["transformers_version"] = _loss(variant["loss"])
        told.append(f"loss code {settings['transformers_version']}")
    if variant.get("hold_output"):
        settings["keep_logits"] = True
        told.append("logits kept")
    if variant.get("precision"):
        settings["precision"] = variant["precision"]
        told.append(f"precision {variant['precision']}")
    device = hardware.find(settings.pop("gpu"))
    choices, more = _framework(row, choices_from(settings))
    if row["source"] in TRAINERS and "optimizer_implementation" not in settings:
        choices = choices.with_usual_implementation(device.kind)
    config, exceptions = _config(row)
    return Case(
        id=row["id"],
        source=row["source"],
        tier=row["tier"],
        note=row["note"],
        url=row["url"],
        spec=from_config(config, row["model"]),
        device=device,
        choices=choices,
        kind=row["kind"],
        measured=row["measured_bytes"],
        told=(*told, *more, *exceptions),
        reason=row.get("reason", ""),
    )


def closed_form(case: Case) -> dict[str, Any]:
    """What `plan check` says: bytes of the measured kind, the binding instant, or why it refused."""
    try:
        question = Question(model=case.spec, hardware=case.device, choices=case.choices)
        report = check.check(question, with_remedies=False).memory
    except TuneplanError as error:
        return {"refused": str(error)}
    return {"bytes": getattr(report, f"{case.kind}_peak_bytes"), "instant": report.binding_instant}


@cache
def _cached() -> dict[str, dict[str, Any]]:
    path = RESULTS / "published.json"
    found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    return found


def traced(case: Case, *, run: bool = True) -> dict[str, Any]:
    """The reference's answer, from the results kept beside this module where the trace code is the same."""
    name = evaluate.key(case.spec, case.choices)
    line = next((line for line in _cached().values() if line["key"] == name), None)
    if line is None or (run and line["code"] != evaluate.trace_code()):
        if not run:
            return {"refused": "not traced"}
        line = {"key": name, "code": evaluate.trace_code()}
        line |= evaluate.traced(case.spec, case.choices, case.device.name)
        _cached()[case.id] = line
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / "published.json").write_text(json.dumps(_cached(), indent=1, sort_keys=True) + "\n")
    if "instants" not in line:
        return line
    allocated = max(line["instants"].values())
    return {**line, "bytes": allocated if case.kind == "allocated" else _beyond(case, allocated)}


def _beyond(case: Case, allocated: int) -> int:
    """Reserved or device bytes over a traced allocated peak: the planner's own margin, which a trace does not have."""
    question = Question(model=case.spec, hardware=case.device, choices=case.choices)
    report = check.check(question, with_remedies=False).memory
    return allocated + int(getattr(report, f"{case.kind}_peak_bytes")) - report.allocated_peak_bytes
