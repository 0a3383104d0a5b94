"""What of a model fits a device at the least: in some seconds for the whole catalogue, later in two.

One sequence with every layer recomputed, the chunked loss where it is modelled, no dropout: the smallest usual LoRA
run, and the same on a quantised base. Reserved bytes are the search's rule; `plan check` says more.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Literal

from planner.contract.choices import DEFAULTS
from planner.contract.errors import TuneplanError
from planner.contract.settings import fit_to_hardware
from planner.contract.spec import HardwareProfile, ModelSpec

Fit = Literal["fits", "tight", "qlora", "no", "unknown"]
WORDS: dict[Fit, str] = {
    "fits": "fits",
    "tight": "tight",
    "qlora": "QLoRA",
    "no": "no",
    "unknown": "?",
}
"""How each is called. `qlora`: only on a quantised base; `unknown`: no program is written for it."""
LENGTH = 512
"""Tokens of the sequence, where the model has as many positions."""
LEAST_BYTES = 0.5
"""Bytes of a parameter at the least: what exceeds the budget so fits in no way."""


def fit_of(model: ModelSpec, hardware: HardwareProfile, *, budget_bytes: int, length: int = LENGTH) -> Fit:
    """Whether the smallest usual run fits `budget_bytes` of the device."""
    if LEAST_BYTES * model.parameters > budget_bytes:
        return "no"
    full = _peak(model, hardware, "lora", length)
    if full is None:
        return "unknown"
    if full[0] <= budget_bytes:
        return "fits" if full[1] <= budget_bytes else "tight"
    quantized = _peak(model, hardware, "qlora", length) if hardware.kind == "cuda" else None
    return "qlora" if quantized is not None and quantized[1] <= budget_bytes else "no"


def _peak(model: ModelSpec, hardware: HardwareProfile, method: str, length: int) -> tuple[int, int] | None:
    """Device peak and its interval's upper end, bytes; None where it is not modelled."""
    from planner import memory

    tokens = min(length, model.max_positions or length)
    wanted = replace(DEFAULTS, method=method, gradient_checkpointing=True, lora_dropout=0.0, max_length=tokens)
    for precision, loss in product((wanted.precision, "fp32"), ("chunked", "full")):
        try:
            choices, _ = fit_to_hardware(replace(wanted, loss=loss, precision=precision), hardware)
            choices = choices.with_usual_implementation(hardware.kind)
            found = memory.predict_grid(model, hardware, choices, 1, tokens, model.total_layers)
        except TuneplanError:
            continue
        return int(found.device[0]), int(found.upper[0])
    return None
