"""Numbers turned into what a terminal shows: bars in whole cells, short texts. UI-free, no widget, no style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.contract.records import CheckReport, MemoryReport
from planner.contract.sentence import Sentence
from planner.contract.units import format_bytes, format_duration
from planner.tui.fields import BY_KEY

_LISTS = {"gpu": "GPU"}
"""What is chosen from a list of its own and whose name is no word."""
VERDICTS = {"fits": "FITS", "tight": "TIGHT", "does_not_fit": "DOES NOT FIT"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A stacked bar: cells per component, then empty cells; where the budget and the upper interval end stand."""

    segments: tuple[tuple[str, int], ...]
    """Component name and its whole cells, largest component first."""
    used_cells: int
    budget_cell: int
    """Cell in which the budget ends; equal to `width` where it ends at the bar's end."""
    upper_cell: int
    width: int


def memory_bar(memory: MemoryReport, width: int) -> Bar:
    """The peak's components against the budget in `width` cells; the scale is the larger of the two."""
    scale = max(memory.budget_bytes, memory.device_peak_bytes, 1)
    parts = sorted(((n, b) for n, b in memory.components.items() if b > 0), key=lambda part: -part[1])
    used = min(width, max(1, round(memory.device_peak_bytes / scale * width)))
    cells = apportion([size for _, size in parts], used)
    return Bar(
        segments=tuple((name, count) for (name, _), count in zip(parts, cells, strict=True) if count),
        used_cells=used,
        budget_cell=round(memory.budget_bytes / scale * width),
        upper_cell=min(width, round(memory.interval_bytes[1] / scale * width)),
        width=width,
    )


def apportion(weights: Sequence[float], cells: int) -> list[int]:
    """Whole cells in proportion to the weights, by largest remainder, summing to `cells`."""
    total = sum(weights)
    if not total:
        return [0] * len(weights)
    exact = [weight / total * cells for weight in weights]
    whole = [int(share) for share in exact]
    order = sorted(range(len(exact)), key=lambda index: whole[index] - exact[index])
    for index in order[: cells - sum(whole)]:
        whole[index] += 1
    return whole


def filled(value: float, full: float, width: int) -> int:
    """Cells of a plain bar, 0..width."""
    return 0 if full <= 0 else max(0, min(width, round(value / full * width)))


def components(memory: MemoryReport) -> list[tuple[str, int, float]]:
    """Name, bytes and share of the peak of every component, largest first."""
    peak = max(memory.device_peak_bytes, 1)
    parts = sorted(memory.components.items(), key=lambda part: -part[1])
    return [(name, size, size / peak) for name, size in parts if size]


def instants(memory: MemoryReport) -> list[tuple[str, int, bool]]:
    """Name, allocated bytes and whether it binds, in the order of a step."""
    return [(name, size, name == memory.binding_instant) for name, size in memory.instants.items()]


SHORT_NAMES = {
    "optimizer_state": "optimizer",
    "layer_activations": "layers",
    "lora_activations": "lora",
    "logits_and_loss": "logits",
    "fragmentation": "fragments",
    "checkpoints": "ckpts",
    "temporaries": "temps",
}


def short_name(component: str) -> str:
    """A component in ten letters at most."""
    return SHORT_NAMES.get(component, component.replace("_", " "))[:10]


def short_bytes(size_bytes: float) -> str:
    """Bytes in seven characters at most, for narrow columns: `15.8GiB`, `520MiB`."""
    number, unit = format_bytes(size_bytes).split()
    return f"{float(number):.0f}{unit}" if len(number) > 4 else f"{number}{unit}"


def byte_range(low: int, high: int) -> str:
    """Two sizes with the unit once where it is the same: `15.5–16.4 GiB`."""
    first, second = format_bytes(low), format_bytes(high)
    if first.split()[-1] == second.split()[-1]:
        first = first.split()[0]
    return f"{first}–{second}"


def speed_line(report: CheckReport) -> str:
    """Tokens per second and step time in one line."""
    speed = report.speed
    if speed is None:
        return "speed not known for this device"
    return f"{speed.tokens_per_second:,.0f} tokens/s · step {format_duration(speed.step_seconds)}"


def time_line(report: CheckReport, whole_run: str | None) -> str:
    """Time of an epoch and of the whole run; what would be needed to say it where it is not known."""
    parts = []
    if report.speed is not None and report.speed.epoch_seconds is not None:
        parts.append(f"epoch {format_duration(report.speed.epoch_seconds)}")
    if whole_run:
        parts.append(f"whole run {whole_run}")
    return " · ".join(parts) if parts else "time of an epoch: not known without data"


def total_time(report: CheckReport, epochs: float, max_steps: int | None) -> str | None:
    """How long the whole run takes, where the data or the number of steps is known."""
    speed = report.speed
    if speed is None:
        return None
    by_epochs = None if speed.epoch_seconds is None else speed.epoch_seconds * epochs
    by_steps = None if max_steps is None else speed.step_seconds * max_steps
    seconds = by_epochs if by_steps is None else by_steps  # as in the trainer, a number of steps goes before epochs
    return None if seconds is None else format_duration(seconds)


def tier_line(report: CheckReport) -> tuple[str, str, str, str]:
    """Tier name, shape, device peak and speed of one recommended configuration."""
    s = report.settings
    layers = "" if s.checkpoint_layers is None else s.checkpoint_layers
    recompute = f"rec{layers}" if s.gradient_checkpointing else ""
    shape = f"{s.batch_size}×{s.gradient_accumulation_steps} {s.max_length} {recompute}".strip()
    speed = f"{report.speed.tokens_per_second:,.0f}" if report.speed else "–"
    return report.tier or "", shape, short_bytes(report.memory.device_peak_bytes), speed


TIER_HEADER = ("tier", "batch length", "peak", "tok/s")
REMEDY_HEADER = f"{'memory':>8} {'a step':>7}  change"


def remedy_line(change: Mapping[str, object], saves_bytes: int, costs_seconds: float | None) -> str:
    """One remedy: what it frees, what it costs per step, what to change."""
    cost = "" if costs_seconds is None else short_seconds(costs_seconds)
    freed = f"{'−' if saves_bytes >= 0 else '+'}{short_bytes(abs(saves_bytes))}"
    return f"{freed:>8} {cost:>7}  {change_text(change)}"


def short_seconds(seconds: float) -> str:
    """A difference of times in seven characters: `+94ms`, `−2.4s`, `+3min`."""
    size = abs(seconds)
    if size < 0.0005:
        return "±0"
    text = f"{size * 1000:.2g}ms" if size < 0.0995 else format_duration(size).replace(" ", "")
    return f"{'+' if seconds >= 0 else '−'}{text}"


def change_text(change: Mapping[str, object]) -> str:
    """A change of settings in few words: `batch 4×16`, `checkpoint 5 layers`."""
    rest = dict(change)
    parts = []
    if {"batch_size", "gradient_accumulation_steps"} <= rest.keys():
        parts.append(f"batch {rest.pop('batch_size')}×{rest.pop('gradient_accumulation_steps')}")
    if rest.get("gradient_checkpointing") is True and "checkpoint_layers" in rest:
        layers = rest.pop("checkpoint_layers")
        rest.pop("gradient_checkpointing")
        parts.append("checkpoint all layers" if layers is None else f"checkpoint {layers} layers")
    parts += [f"{name.replace('_', ' ')} {word(new)}" for name, new in rest.items()]
    return ", ".join(parts)


def in_labels(text: str) -> str:
    """A sentence for the wizard: a field is called as its row is, one without a row by its name in words."""
    return Sentence(text).in_words(label)


def label(name: str) -> str:
    """What the wizard calls a field."""
    return BY_KEY[name].label if name in BY_KEY else _LISTS.get(name, name.replace("_", " "))


def word(value: object) -> str:
    """Any value of a setting as a person reads it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        return " ".join(str(item) for item in value)
    return "auto" if value is None else str(value)


def setting(name: str, value: object) -> str:
    """A setting's value as its row writes it; one without a row in words."""
    if name in BY_KEY:
        return BY_KEY[name].format(tuple(value) if isinstance(value, list) else value)
    return f"{value:g}" if isinstance(value, float) else word(value)


def histogram(bins: Sequence[tuple[int, int, int]], width: int) -> list[tuple[str, int, int]]:
    """Label, count and bar cells of every bin; `bins` are (fewest, most, count)."""
    top = max((count for _, _, count in bins), default=0)
    return [
        (f"{low:,}–{high:,}" if high > low else f"{low:,}", count, filled(count, top, width))
        for low, high, count in bins
    ]


def clipped(text: str, most: int) -> str:
    """A sentence of at most so many characters: its middle is left out, where a pasted value stands."""
    if len(text) <= most:
        return text
    tail = most // 2 - 2
    return f"{text[: most - tail - 3]} … {text[-tail:]}"


def row(name: str, size: str, width: int = 32) -> str:
    """A list's row: the name, shortened in its middle where it is long, and a size at the right."""
    room = width - len(size) - 1
    if len(name) > room:
        tail = (room - 1) // 2
        name = f"{name[: room - 1 - tail]}…{name[-tail:]}"
    return f"{name:<{room}} {size}"
