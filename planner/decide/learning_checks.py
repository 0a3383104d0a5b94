"""What must hold before a recording is kept: a cut-down network is like the whole, it weighs what the planner counts,
and a held-out trace comes out to the byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from planner.contract.choices import TrainingChoices
from planner.contract.spec import ModelSpec
from planner.memory.recorded.fit import Irregular, Point, Uncuttable
from planner.memory.recorded.log import RELEASE, Log


def alike(whole: Sequence[str], cut_down: Sequence[str]) -> None:
    """Refuses a cut-down network whose layers differ from one another otherwise than those of the whole that it has:
    the first ones, as `whole` has them."""
    first = whole[: len(cut_down)]
    told = set(zip(first, cut_down, strict=False))
    if len(first) < len(cut_down) or not len(set(first)) == len(set(cut_down)) == len(told):
        raise Uncuttable("with fewer layers its layers are others")


def weighed(spec: ModelSpec, choices: TrainingChoices, places: Sequence[int], answer: Mapping[str, Any]) -> None:
    """Refuses where the planner would count other weights or adapters than the network with these layers has."""
    from planner.memory.network.net import Net
    from planner.memory.step.program import rank_shares
    from planner.models.lora import trainable_parameters

    kept, number = [], {place: index for index, place in enumerate(places)}
    for module in spec.modules:
        if module.layers is None:
            kept.append(module)
        elif inside := tuple(number[index] for index in module.layers if index in number):
            kept.append(replace(module, layers=inside))
    part = replace(spec, modules=tuple(kept), num_layers=len(places))
    shares = rank_shares(Net.build(part, choices))
    ours = {"weights": shares.weights - int(spec.config["recorded"]["buffer_bytes"]), "adapters": shares.adapters}
    theirs = {name: answer["weights"][name] for name in ours}
    if choices.method == "full":
        ours["adapters"] = theirs["adapters"]
    if ours != theirs or trainable_parameters(part, choices) != answer["trainable"]:
        cause = Uncuttable if len(places) < spec.total_layers else Irregular
        raise cause(f"its weights or adapters are stored in a way that is not known here ({theirs}, not {ours})")


def verify(log: Log, traced: Mapping[str, Any], point: Point) -> None:
    """Refuses a program that does not give a held-out trace to the byte."""
    values = point.values()
    sizes = [sum(coefficient * values[monomial] for monomial, coefficient in size) for size in log.sizes]
    ours = _peaks(
        [(part.phase, [(key, code if code < 0 else sizes[code]) for key, code, _ in part.events]) for part in log.parts]
    )
    theirs = _peaks([(phase, [(event[0], event[1]) for event in events]) for phase, _, events in traced["parts"]])
    if ours != theirs:
        raise Irregular(
            f"a trace of {point.batch} x {point.length} tokens has {theirs} bytes, its polynomials give {ours}"
        )


def _peaks(parts: Sequence[tuple[str, Sequence[tuple[int, int]]]]) -> dict[str, int]:
    """Largest live bytes by phase, and those that stay."""
    live: dict[int, int] = {}
    total = 0
    peaks: dict[str, int] = {}
    for phase, events in parts:
        if phase == "end":
            continue
        peaks[phase] = max(peaks.get(phase, 0), total)
        for key, size in events:
            if size >= 0:
                live[key] = size
                total += size
                peaks[phase] = max(peaks[phase], total)
            elif size == RELEASE:
                total -= live.pop(key)
    peaks["after"] = total
    return peaks
