"""Which curves a run has: loss, memory, speed, rate and norm, with what was predicted beside them. UI-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.contract.units import GIB, MIB
from planner.tui.live import Point, RunSnapshot
from planner.tui.plot import Curve

VIEWS = ("loss", "memory", "tokens/s", "learning rate", "gradient norm")
DEVICE = "device"
"""Load and temperature of the card, where it tells them."""
SMOOTH = 24
"""Points from which the loss is drawn smoothed too."""
SMOOTHED = 0.05
"""Share of a curve's points over which it is smoothed."""
LEAST = {"memory": 0.05, "tokens/s": 0.05}
"""Share of its values that a view spans at the least: what lies a hair apart shall not look far apart."""
MOST_ZOOM = 6
"""The nearest look is at 1/64 of the steps."""
PLANNED, MEASURED, RAW = "$warning", "$success", "$foreground 40%"
"""The accent is no colour beside success: both are green among the sixteen."""
RUN_COLORS = (
    *("$mem-communication", "$mem-lora-activations", "$mem-checkpoints", "$mem-gradients", "$mem-attention"),
    *("$mem-logits-and-loss", "$mem-adapters", "$mem-layer-activations"),
)
"""One for each run that is compared; neighbours differ in lightness too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How charts are looked at; the same for all that stand beside one another."""

    log: bool = False
    """Whether values stand on a logarithmic scale."""
    zoom: int = 0
    """How often the steps that are seen were halved."""
    cursor: float | None = None
    """Step under the cursor; None: there is none, and the newest steps are looked at."""

    def part(self, first: float, last: float) -> tuple[float, float]:
        """The share of the steps that is seen: the newest, or those around the cursor."""
        share = 0.5**self.zoom
        if self.cursor is None or last <= first:
            return 1 - share, 1.0
        middle = (self.cursor - first) / (last - first)
        start = min(max(0.0, middle - share / 2), 1 - share)
        return start, start + share


def curves_of(view: str, run: RunSnapshot) -> list[Curve]:
    """The curves of a view; empty ones are left out."""
    if view == "loss":
        smooth = smoothed(run.train) if len(run.train) >= SMOOTH else ()
        found = [
            Curve(points=run.train, name="train", color=RAW if smooth else "$primary"),
            Curve(points=smooth, name="smoothed", color="$primary"),
            Curve(points=run.evals, name="eval", color=PLANNED, marks=True),
        ]
    elif view == "memory":
        unit = memory_unit(run)[0]
        measured = tuple((x, y / unit) for x, y in run.memory)
        planned = _level(run.predicted_bytes / unit if run.predicted_bytes else None, measured)
        found = [
            Curve(points=planned, name="predicted", color=PLANNED),
            Curve(points=measured, name="measured", color=MEASURED),
        ]
    elif view == "learning rate":
        found = [Curve(points=run.learning_rates, color=MEASURED)]
    elif view == "gradient norm":
        found = [Curve(points=run.norms, color="$secondary")]
    elif view == DEVICE:
        found = [
            Curve(points=run.loads, name="load %", color=MEASURED),
            Curve(points=run.heats, name="°C", color="$error"),
        ]
    else:
        found = [
            Curve(points=_level(run.planned_speed, run.speeds), name="planned", color=PLANNED),
            Curve(points=run.speeds, name="measured", color=MEASURED),
        ]
    return [curve for curve in found if curve.points]


def memory_unit(run: RunSnapshot) -> tuple[int, str]:
    """The unit of a run's memory, in bytes and by name."""
    return (GIB, "GiB") if (run.predicted_bytes or 0) >= GIB else (MIB, "MiB")


def title(view: str, run: RunSnapshot | None) -> str:
    """A view's name with its unit; without a run it is that of several."""
    if view != "memory":
        return view
    return f"memory {'MiB' if run is None else memory_unit(run)[1]}"


def compared(view: str, runs: Sequence[tuple[str, RunSnapshot]]) -> list[Curve]:
    """One curve of each named run over one another; of the loss the smoothed one and the evaluations."""
    found = []
    for (name, run), color in zip(runs, RUN_COLORS, strict=False):
        if view == "loss":
            line = smoothed(run.train) if len(run.train) >= SMOOTH else run.train
            found.append(Curve(points=run.evals, color=color, marks=True))
        else:
            measured = {"memory": tuple((x, y / MIB) for x, y in run.memory), "tokens/s": run.speeds}
            measured |= {"learning rate": run.learning_rates, "gradient norm": run.norms, DEVICE: run.loads}
            line = measured[view]
        found.append(Curve(points=line, name=name, color=color))
    return [curve for curve in found if curve.points]


def _level(value: float | None, beside: Sequence[Point]) -> tuple[Point, ...]:
    """A level line as long as the curve that it stands beside."""
    return ((beside[0][0], value), (beside[-1][0], value)) if value and beside else ()


def smoothed(points: Sequence[Point]) -> tuple[Point, ...]:
    """The moving mean over about a twentieth of the points, four at the least: it trails by half of that."""
    share = 2 / (max(4.0, SMOOTHED * len(points)) + 1)
    found: list[Point] = []
    mean = points[0][1]
    for x, y in points:
        mean += share * (y - mean)
        found.append((x, mean))
    return tuple(found)
