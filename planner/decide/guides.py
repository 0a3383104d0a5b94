"""The guides' own configurations as data, and what theirs and ours take at the same batch and length.

Theirs is judged as their scripts run it: PEFT's modules in the stock Trainer, the whole vocabulary's loss. Ours is what
the search takes for as many sequences of the same length per step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from planner.contract.records import CheckReport
from planner.contract.units import counted, format_bytes
from planner.decide.advice_sources import GUIDE_1, GUIDE_4
from planner.decide.check import check
from planner.decide.question import Question
from planner.decide.search import NothingFits, recommend


@dataclass(frozen=True, kw_only=True, slots=True)
class Configured:
    """One configuration that a guide prints; what it leaves out is its default."""

    name: str
    source: str = GUIDE_1
    batch_size: int = 8
    accumulation: int = 8
    length: int = 1024
    recomputed: bool = True
    says: str = ""
    """What the guide expects it to take."""
    precision: str = "bf16"
    tier: str | None = None
    """Ours that stands beside it; None is the usual one."""

    def choices(self, base: TrainingChoices) -> TrainingChoices:
        """As training choices, with the method and targets of `base`."""
        return replace(
            base,
            batch_size=self.batch_size,
            gradient_accumulation_steps=self.accumulation,
            max_length=self.length,
            gradient_checkpointing=self.recomputed,
            checkpoint_layers=None,
            checkpoint_offload=False,
            precision=self.precision,
            lora_alpha=32,
            lora_dropout=0.05,
            loss="full",
            stack="peft",
            attention="sdpa",
            padding="longest",
        )


A10G = {
    "high": Configured(name="high", tier="high", batch_size=8, accumulation=4, length=2048, says="about 20 GB"),
    "balanced": Configured(name="balanced", tier="balanced", batch_size=4, accumulation=8, says="about 16 GB"),
    "low": Configured(name="low", tier="low", batch_size=2, accumulation=16, length=768, says="about 12 GB"),
}
M3 = {
    "high": Configured(name="high", tier="high", batch_size=3, accumulation=8, says="about 16 GB"),
    "balanced": Configured(name="balanced", tier="balanced", batch_size=2, accumulation=16, says="about 14 GB"),
    "low": Configured(name="low", tier="low", batch_size=2, accumulation=16, length=768, says="about 12 GB"),
    "safe": Configured(name="safe", tier="safe", batch_size=1, accumulation=32, length=768, says="about 10 GB"),
}
TIERS_OF = {"a10g": A10G, "m3-18gb": M3}
"""Guide 1's tiers by device; `--gradient_checkpointing` is its default where it isn't written."""

RECOMMENDED = (
    Configured(name="quick testing", batch_size=2, accumulation=8),
    Configured(name="production training", batch_size=4, accumulation=16),
    Configured(name="memory-limited", batch_size=2, accumulation=32, length=768, tier="safe"),
)
"""Guide 1's recommended configurations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """One of guide 4's scenarios: the card and the time that it names, and our name for it."""

    setting: Configured
    gpu: str
    time: str
    scenario: str


def _of_guide_4(name: str, batch: int, steps: int, *, recomputed: bool = False, precision: str = "bf16") -> Configured:
    return Configured(
        name=name,
        source=GUIDE_4,
        batch_size=batch,
        accumulation=steps,
        recomputed=recomputed,
        precision=precision,
        tier="safe" if name.startswith("memory") else None,
    )


SITUATIONS = (
    Situation(
        setting=_of_guide_4("quick experiment", 16, 1, precision="fp16"), gpu="rtx-3070", time="1h", scenario="quick"
    ),
    Situation(setting=_of_guide_4("standard training", 8, 2), gpu="rtx-4080", time="4h", scenario="standard"),
    Situation(setting=_of_guide_4("production quality", 4, 4), gpu="rtx-4090", time="12h", scenario="production"),
    Situation(
        setting=_of_guide_4("memory constrained", 2, 8, recomputed=True, precision="fp16"),
        gpu="gtx-1050-ti",
        time="",
        scenario="memory-constrained",
    ),
    Situation(setting=_of_guide_4("time constrained", 32, 1), gpu="a10g", time="30m", scenario="time-constrained"),
)
"""Guide 4's five, each on a card of the memory that it names ("any" is the A10G); its lengths are guide 1's 1,024."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TheirsAndOurs:
    """Theirs and ours on one device, at the same sequences per step and length."""

    setting: Configured
    theirs: CheckReport | None
    refused: str
    """Why theirs doesn't run there, where that is no matter of memory."""
    ours: CheckReport | None


def beside(question: Question, setting: Configured) -> TheirsAndOurs:
    """One of the guides' settings beside ours, for the question's model and device."""
    bare = replace(question, data=None, notes=(), budget=question.budget, effective_batch_size=None)
    theirs, refused = None, ""
    try:
        theirs = check(bare.having(setting.choices(question.choices)), with_remedies=False)
    except NotModelled as error:
        refused = str(error)
    shape = replace(question.choices, max_length=setting.length)
    fixed = (question.fixed - {"batch_size", "gradient_accumulation_steps"}) | {"max_length"}
    asked = replace(
        bare, fixed=fixed, effective_batch_size=setting.batch_size * setting.accumulation, tier=setting.tier
    )
    ours = None
    try:
        ours = recommend(asked.having(shape)).recommended
    except (NothingFits, NotModelled):
        ours = None
    return TheirsAndOurs(setting=setting, theirs=theirs, refused=refused, ours=ours)


def of_tier(question: Question) -> TheirsAndOurs | None:
    """What guide 1 has for the question's device and tier; None where it has nothing."""
    setting = TIERS_OF.get(question.hardware.name, {}).get(question.tier or "")
    return None if setting is None else beside(question, setting)


def sentences(found: TheirsAndOurs) -> Iterator[str]:
    """Theirs, ours, and why ours is better (or that it isn't)."""
    s = found.setting
    shape = f"{s.batch_size} × {s.accumulation} of {s.length:,}"
    said = f" (it says {s.says})" if s.says else ""
    name = s.source.split(" (")[0].removeprefix("training ").capitalize()
    if found.theirs is None:
        yield f"{name}, {s.name}: {shape} does not run here: {found.refused}."
    else:
        yield f"{name}, {s.name}: {shape}, {_recomputed(found.theirs)}: {_taken(found.theirs)}{said}."
    if found.ours is None:
        yield "Ours: nothing fits at this batch and length."
        return
    o = found.ours.settings
    yield (
        f"Ours for the same: {o.batch_size} × {o.gradient_accumulation_steps}, {_recomputed(found.ours)}"
        f"{', ' + o.method if o.method != 'lora' else ''}: {_taken(found.ours)}{_why(found)}."
    )


def _taken(report: CheckReport) -> str:
    size = format_bytes(report.memory.device_peak_bytes)
    if report.verdict == "does_not_fit":
        return f"{size}, which does not fit {format_bytes(report.memory.budget_bytes)}"
    rate = "" if report.speed is None else f", {report.speed.tokens_per_second:,.0f} tokens/s"
    return f"{size}{rate}"


def _recomputed(report: CheckReport) -> str:
    s = report.settings
    if not s.gradient_checkpointing:
        return "nothing recomputed"
    return "all recomputed" if s.checkpoint_layers is None else f"{counted(s.checkpoint_layers, 'layer')} recomputed"


def _why(found: TheirsAndOurs) -> str:
    """What ours does better, in figures."""
    theirs, ours = found.theirs, found.ours
    assert ours is not None
    if theirs is None or theirs.verdict == "does_not_fit":
        return "; it fits"
    parts = []
    if theirs.speed is not None and ours.speed is not None:
        gain = ours.speed.tokens_per_second / theirs.speed.tokens_per_second - 1
        if abs(gain) >= 0.01:
            parts.append(f"{abs(gain):.0%} {'faster' if gain > 0 else 'slower'}")
    less = theirs.memory.device_peak_bytes - ours.memory.device_peak_bytes
    if abs(less) > 0.02 * theirs.memory.device_peak_bytes:
        parts.append(f"{format_bytes(abs(less))} {'less' if less > 0 else 'more'}")
    return f": {', '.join(parts)}" if parts else ": the same"
