"""What a trace found: peaks by instant, components at the peak, and the storages that were alive there."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from typing import Any

from planner.contract.choices import TrainingChoices
from planner.contract.units import format_bytes
from trainer.trace.recorder import RealStorage, StepRecorder

COMPONENTS = (
    "weights",
    "adapters",
    "gradients",
    "optimizer_state",
    "checkpoints",
    "layer_activations",
    "attention",
    "lora_activations",
    "logits_and_loss",
    "temporaries",
    "workspaces",
)
INSTANTS = ("load", "forward", "loss", "backward", "optimizer", "eval")
_ATTENTION_OPS = re.compile(r"scaled_dot_product|flash|efficient_attention|_safe_softmax")


@dataclass(frozen=True, kw_only=True, slots=True)
class OperatorGroup:
    """Live storages of one kind at the peak."""

    component: str
    module: str
    """Module path with `{}` in place of layer indices; empty outside modules."""
    op: str
    phase: str
    dtype: str
    shape: tuple[int, ...]
    count: int
    size: int
    """Bytes of all of them."""
    backward: bool


@dataclass(frozen=True, kw_only=True)
class TraceResult:
    """Everything in bytes that are live in tensors (allocated), library workspaces included on cuda."""

    allocated_peak_bytes: int
    binding_instant: str
    instants: dict[str, int]
    components: dict[str, int]
    """At the peak; they sum to `allocated_peak_bytes`."""
    at_peak: list[OperatorGroup]
    at_instant: dict[str, list[OperatorGroup]]
    """The same grouping at the peak of each instant."""
    timeline: list[tuple[int, int, str]]
    """(event number, allocated bytes after it, phase) for every allocation and release of the step."""
    seconds: float
    events: list[dict[str, object]] = field(default_factory=list)
    step_begins: int = 0
    """Number of the last event before the step: weights, optimizer state and the batch are there by then."""

    def to_json(self) -> dict[str, object]:
        """The fields of the planner's `memory` object that a trace knows, and the largest groups at the peak.

        Reserved and device bytes are not part of a trace: the caller adds its allocator model and the card's context.
        """
        found: dict[str, object] = {
            "schema": "tuneplan.trace/1",
            "memory": {
                "allocated_peak_bytes": self.allocated_peak_bytes,
                "binding_instant": self.binding_instant,
                "instants": self.instants,
                "components": self.components,
            },
            "groups": [asdict(group) for group in self.at_peak[:40]],
            "seconds": round(self.seconds, 3),
        }
        if self.events:
            found["events"], found["step_begins"] = self.events, self.step_begins
        return found


def pattern(path: str) -> str:
    """A module path with layer indices replaced by `{}`."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "{}", path)


def component_of(record: RealStorage, length: int) -> str:
    """Which additive part of the peak a storage belongs to."""
    if record.role == "batch":
        return "temporaries"
    if record.role:
        return record.role
    if record.phase in ("optimizer", "accumulate", "load"):
        return "temporaries"
    if record.phase == "loss":
        return "logits_and_loss"
    path = record.module
    if "lora_" in path:
        return "lora_activations"
    if record.backward:
        return "logits_and_loss" if not path or "head" in path.rsplit(".", 1)[-1] else "temporaries"
    if _ATTENTION_OPS.search(record.op):
        return "attention"
    if len(record.shape) >= 3 and record.shape[-1] == record.shape[-2] == length:
        return "attention"
    if not path:
        return "temporaries"
    return "layer_activations"


def group(alive: list[RealStorage], length: int) -> list[OperatorGroup]:
    """Storages grouped by kind, largest first."""
    table: dict[tuple[Any, ...], list[int]] = {}
    for record in alive:
        key = (
            component_of(record, length),
            pattern(record.module),
            record.op,
            record.phase,
            record.dtype,
            record.shape,
            record.backward,
        )
        entry = table.setdefault(key, [0, 0])
        entry[0] += 1
        entry[1] += record.size
    groups = [
        OperatorGroup(
            component=k[0], module=k[1], op=k[2], phase=k[3], dtype=k[4], shape=k[5], backward=k[6], count=c, size=s
        )
        for k, (c, s) in table.items()
    ]
    return sorted(groups, key=lambda g: -g.size)


def summarise(
    recorder: StepRecorder, choices: TrainingChoices, *, target: str, seconds: float, events: bool
) -> TraceResult:
    """Reads a finished recording."""
    length = choices.max_length
    instants, at_instant = {}, {}
    for name in INSTANTS:
        if name in recorder.instants:
            instants[name], clock = recorder.instants[name], recorder.peak_clock[name]
            at_instant[name] = group([r for r in recorder.storages if r.born <= clock < r.died], length)
    instants["load"] = recorder.constant_bytes + sum(
        r.size for r in recorder.storages if r.role in ("weights", "adapters")
    )
    instants = {name: instants[name] for name in INSTANTS if name in instants}
    binding = max((n for n in instants if n in at_instant), key=lambda n: instants[n])
    components = dict.fromkeys(COMPONENTS, 0)
    for g in at_instant[binding]:
        components[g.component] += g.size
    components["workspaces"] = recorder.constant_bytes
    timeline, log = _timeline(recorder, length, events)
    return TraceResult(
        allocated_peak_bytes=instants[binding],
        binding_instant=binding,
        instants=instants,
        components=components,
        at_peak=at_instant[binding],
        at_instant=at_instant,
        timeline=timeline,
        seconds=seconds,
        events=log,
        step_begins=recorder.step_begins,
    )


def _timeline(
    recorder: StepRecorder, length: int, events: bool
) -> tuple[list[tuple[int, int, str]], list[dict[str, Any]]]:
    points: list[tuple[int, int, RealStorage]] = []
    for record in recorder.storages:
        points.append((record.born, record.size, record))
        if record.died < 1 << 62:
            points.append((record.died, -record.size, record))
    points.sort(key=lambda point: point[0])
    total, timeline, log = recorder.constant_bytes, [], []
    for clock, change, record in points:
        total += change
        timeline.append((clock, total, record.phase))
        if events:
            log.append(
                {
                    "event": clock,
                    "kind": "alloc" if change > 0 else "free",
                    "id": record.born,
                    "bytes": abs(change),
                    "op": record.op,
                    "module": record.module,
                    "phase": record.phase,
                    "dtype": record.dtype,
                    "shape": list(record.shape),
                    "component": component_of(record, length),
                }
            )
    return timeline, log


def explain(result: TraceResult, *, instant: str | None = None, limit: int = 30) -> str:
    """The largest groups of live storages at an instant's peak, as text."""
    name = instant or result.binding_instant
    groups = result.at_instant[name]
    total = result.instants[name]
    lines = [
        f"{name}: {total} bytes ({format_bytes(total)}); instants "
        + ", ".join(f"{k} {format_bytes(v)}" for k, v in result.instants.items()),
        f"{'bytes':>15} {'count':>5}  {'component':<18} {'dtype':<9} {'shape':<24} {'op':<34} module",
    ]
    for g in groups[:limit]:
        mark = " (backward)" if g.backward else ""
        lines.append(
            f"{g.size:>15} {g.count:>5}  {g.component:<18} {g.dtype:<9} {'x'.join(map(str, g.shape)):<24} "
            f"{g.op[:34]:<34} {g.module}{mark} [{g.phase}]"
        )
    rest = groups[limit:]
    if rest:
        lines.append(f"{sum(g.size for g in rest):>15} {sum(g.count for g in rest):>5}  in {len(rest)} smaller groups")
    return "\n".join(lines)
