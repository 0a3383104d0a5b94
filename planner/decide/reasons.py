"""Why a verdict is what it is, in sentences: where memory peaks, what takes most, how sure the figure is."""

from __future__ import annotations

from collections.abc import Mapping

from planner.contract.records import MemoryReport, Verdict
from planner.contract.sentence import named, sentence
from planner.contract.spec import HardwareProfile
from planner.contract.units import format_bytes, format_deviation
from planner.decide.verdict import TIGHT_SHARE, beyond_a_buffer

INSTANT_TEXT = {
    "load": "while the model is loaded",
    "forward": "at the end of the forward pass",
    "loss": "while the loss is computed",
    "backward": "in the backward pass",
    "optimizer": "in the optimizer's step",
    "eval": "during evaluation",
    "save": "while a checkpoint is saved",
}

COMPONENT_TEXT = {
    "weights": "model weights",
    "adapters": "adapters",
    "gradients": "gradients",
    "optimizer_state": "optimizer state",
    "checkpoints": "saved layer inputs",
    "layer_activations": "layer activations",
    "attention": "attention",
    "lora_activations": "adapter activations",
    "logits_and_loss": "logits and loss",
    "temporaries": "temporaries",
    "context": "device context",
    "fragmentation": "fragmentation",
}


def component_text(name: str) -> str:
    """A component's name as people read it."""
    return COMPONENT_TEXT.get(name, name.replace("_", " "))


def calibration_sentences(hardware: HardwareProfile) -> list[str]:
    """What this machine's measurements say of the prediction; nothing where there are none."""
    found = hardware.calibration
    if found is None:
        return []
    sentences = []
    if found.applied:
        off = found.errors.get("fitted_median")
        typical = f", typically {off:.1%} off for a model it had not seen" if off is not None else ""
        sentences.append(
            f"Corrected by {found.observations} measurements of {found.models} models on this machine{typical}."
        )
    elif found.reason:
        sentences.append(f"Not corrected by measurements here: {found.reason}.")
    if "runs" in found.errors:
        usual, worst = (format_deviation(found.errors[f"runs_{which}"]) for which in ("median", "worst"))
        sentences.append(f"{_runs(round(found.errors['runs']))} predicted {usual} off (worst {worst}).")
    return sentences


def _runs(count: int) -> str:
    return "The last training run here was" if count == 1 else f"The last {count} training runs here were"


def runs_inside(calibration: Mapping[str, object] | None) -> str:
    """How many runs' peaks the interval holds: what a calibration aims at, or what published runs showed without one.

    `calibration`: the report's own account of it.
    """
    return "95 of 100" if calibration is not None and calibration.get("applied") else "4 of 5"


def _allocated(memory: MemoryReport) -> str:
    """What is allocated, and what of it tensors fill, where that is another figure."""
    allocated, tensors = format_bytes(memory.allocated_peak_bytes), memory.tensors_peak_bytes
    if tensors is None or format_bytes(tensors) == allocated:
        return f"{allocated} of it in tensors"
    return f"{allocated} of it allocated, {format_bytes(tensors)} in tensors"


def basis(hardware: HardwareProfile) -> str:
    """What the interval of an uncalibrated device rests on, to be added to the sentence that has it; empty otherwise.

    A calibrated device's is told by `calibration_sentences`; a CPU's peaks are those of its tensors.
    """
    if hardware.kind == "cpu" or (hardware.calibration is not None and hardware.calibration.applied):
        return ""
    if hardware.kind == "mps":
        return ", by a rule that no run on a Mac has been held against yet"
    context = hardware.facts.get("context")
    guessed = context is not None and context.source.startswith(("estimate:", "rule:"))
    size = format_bytes(hardware.context_bytes)
    return ", by a rule from others' runs" + (f"; {size} of it, the context, are an estimate" if guessed else "")


def explain(
    memory: MemoryReport, verdict: Verdict, calibration: Mapping[str, object] | None = None, rests_on: str = ""
) -> list[str]:
    """Why the verdict is what it is: binding instant, largest components, what is left, how certain.

    rests_on: the interval's `basis`.
    """
    where = INSTANT_TEXT.get(memory.binding_instant, f"at {memory.binding_instant}")
    low, high = memory.interval_bytes
    left = memory.budget_bytes - memory.device_peak_bytes
    largest = sorted(memory.components.items(), key=lambda item: -item[1])[:3]
    parts = ", ".join(f"{component_text(name)} {format_bytes(size)}" for name, size in largest if size > 0)
    sentences = [
        f"Memory peaks {where}: {format_bytes(memory.device_peak_bytes)} on the device, {_allocated(memory)}.",
        f"Most of it: {parts}.",
    ]
    budget = format_bytes(memory.budget_bytes)
    if beyond_a_buffer(memory):
        sentences.append(
            sentence(
                f"One tensor takes {format_bytes(memory.largest_tensor_bytes or 0)}, and this device "
                f"puts at most {format_bytes(memory.largest_buffer_bytes or 0)} into one buffer, however much is free: "
                "take a smaller batch, or ",
                named("loss"),
                " chunked.",
            )
        )
    if memory.device_peak_bytes > memory.budget_bytes:
        sentences.append(f"The budget is {budget}: {format_bytes(-left)} are missing.")
    else:
        sentences.append(f"The budget is {budget}: {format_bytes(left)} are left.")
    inside = runs_inside(calibration)
    sentences.append(f"In {inside} runs the peak lies between {format_bytes(low)} and {format_bytes(high)}{rests_on}.")
    if verdict == "tight":
        if high > memory.budget_bytes:
            sentences.append("Tight: the upper end of that interval is beyond the budget.")
        else:
            sentences.append(f"Tight: the peak takes more than {TIGHT_SHARE:.0%} of the budget.")
    return sentences
