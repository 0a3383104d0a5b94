"""One configuration by the closed form and by the reference trace."""

from __future__ import annotations

import hashlib
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.accuracy.fingerprint import fingerprint
from benchmarks.accuracy.grid import HARDWARE, Configuration
from planner import memory
from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled, TuneplanError
from planner.contract.settings import to_settings
from planner.contract.spec import ModelSpec
from planner.data.lengths import Batch, OneBatch
from planner.devices.profiles import load

INSTANTS = ("forward", "loss", "backward", "optimizer")
"""The instants that a trace of a training step has."""
EVAL = "eval"
"""An evaluation batch after the step: compared by itself, no part of the step's peak."""
ROOT = Path(__file__).parents[2]
DEFAULTS = to_settings(TrainingChoices())


def given(choices: TrainingChoices) -> dict[str, Any]:
    """The settings that differ from the defaults."""
    return {name: value for name, value in to_settings(choices).items() if value != DEFAULTS[name]}


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that decide what a step allocates."""
    from importlib.metadata import version

    return {name: version(name).split("+")[0] for name in ("torch", "transformers", "peft", "bitsandbytes")}


@cache
def trace_code() -> str:
    """Names the reference's own code: a result traced by other code is traced again."""
    return fingerprint(ROOT)


def padded(choices: TrainingChoices) -> bool:
    """Whether a mask of padded tokens reaches the model: stack `builtin` pads on the right and hands none over."""
    return choices.padding == "max" and choices.stack == "peft"


ADDED = {
    "keep_cache": False,
    "kbit_preparation": None,
    "expandable_segments": False,
    "liger": False,
    "liger_kernels": ["rope", "rms_norm", "swiglu", "fused_linear_cross_entropy"],
    "made_again": ["mlp", "norms"],
    "garbage_collection_threshold": None,
    "max_target_length": None,
}
"""Settings that came after the first traces were kept, as those traces have them: so they name no other configuration.

A setting that stands neither here nor in `FIRST` would put all kept traces aside; a test says so.
"""
FIRST = (
    *("batch_size", "gradient_accumulation_steps", "max_length", "gradient_checkpointing", "checkpoint_layers"),
    *("checkpoint_reentrant", "checkpoint_offload", "method", "lora_r", "lora_alpha", "lora_dropout", "lora_targets"),
    *("lora_variant", "modules_to_save", "precision", "adapter_dtype", "quantization", "optimizer"),
    *("optimizer_implementation", "loss", "attention", "padding", "stack", "transformers_version", "keep_logits"),
    *("max_grad_norm", "eval_batch_size", "num_gpus", "strategy"),
)
"""Settings that the first kept traces had."""


def _named(choices: TrainingChoices) -> dict[str, Any]:
    return {k: v for k, v in to_settings(choices).items() if k not in ADDED or v != ADDED[k]}


def key(spec: ModelSpec, choices: TrainingChoices, rows: Batch | None = None) -> str:
    """What names one traced configuration: the model's config, the settings, the versions, rows if they are ragged."""
    parts: list[Any] = [dict(spec.config), _named(choices), padded(choices), versions()]
    experts = spec.facts.experts
    if choices.separate_experts and experts is not None and experts.were_modules:
        parts.append("experts as modules of their own")  # which earlier traces of the same settings did not have
    content = json.dumps(parts if rows is None else [*parts, rows], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def closed_form(
    spec: ModelSpec, choices: TrainingChoices, gpu: str = HARDWARE, rows: Batch | None = None
) -> dict[str, int]:
    """Allocated bytes by training instant and of an evaluation, through the call that `plan check` makes.

    rows: the lengths in a ragged micro-batch; an evaluation of it is not compared.
    """
    found = memory.predict(spec, load(gpu), choices, lengths=None if rows is None else OneBatch(rows)).instants
    return {name: found[name] for name in (*INSTANTS, *((EVAL,) if rows is None else ()))}


def traced(
    spec: ModelSpec, choices: TrainingChoices, gpu: str = HARDWARE, rows: Batch | None = None, *, evaluate: bool = False
) -> dict[str, Any]:
    """Allocated bytes by training instant from the fake-tensor reference, or why it refused.

    evaluate: an evaluation batch of full rows follows (instant `eval`).
    """
    from planner.memory.device import workspace_bytes
    from trainer.trace import Setup, trace

    began = time.perf_counter()
    try:
        result = trace(
            dict(spec.config),
            choices,
            Setup(
                padded=padded(choices),
                cublas_workspace_bytes=int(workspace_bytes(load(gpu))),
                lengths=rows,
                evaluate=evaluate,
            ),
        )
    except NotModelled as error:
        return {"refused": str(error)}
    return {
        "instants": {name: result.instants[name] for name in (*INSTANTS, EVAL) if name in result.instants},
        "seconds": round(time.perf_counter() - began, 2),
    }


def record(configuration: Configuration) -> dict[str, Any]:
    """The line of the results file for one configuration: what it is, and what the trace found."""
    spec, choices, rows = configuration.spec, configuration.choices, configuration.rows
    line: dict[str, Any] = {
        "key": key(spec, choices, rows),
        "model": configuration.model,
        "layers": configuration.layers,
        "settings": given(choices),
        "code": trace_code(),
        "versions": versions(),
    }
    if rows is not None:
        line["rows"] = rows
    try:
        closed_form(spec, choices, rows=rows)
    except NotModelled as error:  # nothing to compare: the trace is spared
        return {**line, "planner_refused": str(error)}
    try:
        return {**line, **traced(spec, choices, rows=rows, evaluate=rows is None)}
    except (TuneplanError, RuntimeError, ValueError, TypeError, AttributeError, AssertionError) as error:
        return {**line, "trace_failed": f"{type(error).__name__}: {error}"[:300]}
