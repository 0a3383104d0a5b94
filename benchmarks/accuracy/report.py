"""docs/accuracy.md from what was traced, measured and published."""

from __future__ import annotations

import datetime
import platform
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.accuracy import (
    collection,
    coverage,
    evaluate,
    litgpt,
    measured,
    metrics,
    observed,
    plot,
    published,
    throughput,
)
from benchmarks.accuracy.formulas import FORMULAS, GUIDES
from planner.contract.choices import TrainingChoices
from planner.contract.spec import ModelSpec
from planner.contract.units import GIB
from planner.data.lengths import Batch

DOCS = Path(__file__).parents[2] / "docs"

REASONS = {
    "tt-l32-3b-chunkedce": "measured under torch.compile, which fuses operators",
    "tt-l32-3b-ac": "measured under torch.compile, all memory options of that table switched on one after another",
    "rasbt-gpt2-7-flash": "its own GPT-2 code; the figure is reserved and given to 0.1 GiB",
    "rasbt-gpt2-9-vocabpad": "its own GPT-2 code, compiled; the figure is reserved",
    "rasbt-gpt2-0-base": "hand-written LayerNorm and attention keep more than the library's",
    "rasbt-gpt2-5-bf16": "hand-written LayerNorm and attention keep more than the library's",
}
"""Why rows of other model code differ, where it is known."""


DEVELOPMENT_SEEDS = (5, 20, 271, 314, 901, 2027, 4242, 7919, 104729, 1299709)
"""Seeds whose misses were looked into while the closed form was made; the others were drawn afterwards."""

NOTES = {
    7919: "Seed 7919 was held out until its misses were looked into: 400 peaks, median |e| 0.001 %, p95 0.013 %, "
    "worst -0.960 % (fp16 autocast over bf16 adapters).",
    104729: "Seed 104729 likewise: 320 peaks, median |e| 0.000 %, p95 0.008 %, worst +7.815 % (T5 with offloaded "
    "layers) and -1.955 % (falcon-40b, eager attention in re-entrant checkpoints), the others within 0.19 %. The "
    "causes are set right; the tables show the closed form of today.",
    1299709: "Seed 1299709 likewise: 60 peaks, median |e| 0.001 %, p95 0.010 %, worst +1.467 % (pythia, QLoRA, some "
    "layers checkpointed: a recomputation ended one tensor later than planned), the next -0.05 %.",
}
"""What a reader should know of a seed."""


@dataclass(slots=True)
class Point:
    """One grid configuration with both answers, in bytes."""

    spec: ModelSpec
    choices: TrainingChoices
    full_size: bool
    true: dict[str, int]
    predicted: dict[str, int]
    rows: Batch | None = None
    """Lengths in a ragged micro-batch; None where every row is full."""

    @property
    def peaks(self) -> tuple[int, int]:
        """Traced and predicted peak of a training step."""
        true, predicted = (
            max(size for name, size in found.items() if name in evaluate.INSTANTS)
            for found in (self.true, self.predicted)
        )
        return true, predicted

    @property
    def error(self) -> float:
        """Signed error of the peak."""
        true, predicted = self.peaks
        return predicted / true - 1


@dataclass(slots=True)
class Grid:
    """Everything about one seed's grid."""

    seed: int
    points: list[Point] = field(default_factory=list)
    planner_refused: Counter[str] = field(default_factory=Counter)
    trace_refused: Counter[str] = field(default_factory=Counter)
    trace_failed: list[str] = field(default_factory=list)
    older: int = 0
    """Traces of any seed that an earlier state of the trace's code made."""
    others: dict[int, list[Point]] = field(default_factory=dict)
    """Points of other seeds whose traces are kept."""

    @property
    def all_points(self) -> list[Point]:
        """The points of all seeds."""
        return [*self.points, *(point for points in self.others.values() for point in points)]


LARGEST = (
    "The largest errors (two rules overstate: a trained embedding's sums are counted from 2,048 tokens on where CUDA "
    "makes them beyond 3,072, and the softmax's backward of written-out attention over ragged sequences is not exact "
    "yet):"
)


def _grouped(points: Iterable[Point], key: Callable[[Point], str]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for point in points:
        found[key(point)].append(point.error)
    return dict(sorted(found.items()))


def _checkpointing(point: Point) -> str:
    count = point.choices.checkpointed_layers(point.spec.total_layers)
    return "none" if count == 0 else "all layers" if count == point.spec.total_layers else "some layers"


def _method(point: Point) -> str:
    c = point.choices
    return c.method if c.method == "full" or c.lora_variant == "lora" else f"{c.method} ({c.lora_variant})"


def _distributions(name: str, groups: dict[str, list[float]]) -> list[str]:
    return ["", *metrics.table((name, *metrics.HEADER[1:]), (metrics.row(k, v) for k, v in groups.items()))]


def _grid_section(grid: Grid) -> list[str]:
    points = grid.all_points
    architectures = {point.spec.architecture for point in points}
    seeds = {grid.seed: grid.points, **grid.others}
    groups = {
        f"seed {seed}" + (" (development)" if seed in DEVELOPMENT_SEEDS else ""): [p.error for p in members]
        for seed, members in sorted(seeds.items(), key=lambda item: (item[0] in DEVELOPMENT_SEEDS, item[0]))
    }
    held_out = [p.error for seed, members in seeds.items() if seed not in DEVELOPMENT_SEEDS for p in members]
    lines = [
        "## (a) Closed form against the traced step",
        "",
        f"{len(points)} random configurations over {len(architectures)} architectures "
        f"({sum(point.full_size for point in points)} at full size, the others with true widths and 3 to 5 layers): "
        "method, adapter kind, rank, targets, dropout, number formats, optimizer and implementation, checkpointing of "
        "none, all or some layers, re-entrant or not, offloaded or not, modules trained in full beside adapters, "
        "attention, loss and its older versions, stack, padding, accumulation, kept logits, 1–16 sequences of 128–4096 "
        "tokens in full rows or, where the trainer flattens a micro-batch, in ragged ones. The error is that of the "
        "allocated peak of a training step, cuBLAS workspaces included. The misses of "
        "the seeds marked as development were looked into while the model was made; the other seeds were drawn "
        "afterwards and are held out. The tables below the first count all of them.",
        "",
        *(NOTES[seed] for seed in NOTES if seed in seeds),
        "",
        "Targets: median |e| ≤ 0.2 %, p95 ≤ 1 %, worst ≤ 3 %.",
    ]
    lines += _distributions("", {"held-out seeds": held_out, "all": [p.error for p in points], **groups})
    lines += _distributions("stack", _grouped(points, lambda p: p.choices.stack))
    lines += _distributions("method", _grouped(points, _method))
    lines += _distributions("checkpointing", _grouped(points, _checkpointing))
    lines += _distributions("attention", _grouped(points, lambda p: p.choices.attention))
    lines += _distributions("precision", _grouped(points, lambda p: p.choices.precision))
    lines += _distributions("optimizer", _grouped(points, lambda p: p.choices.optimizer))
    lines += _distributions("micro-batch", _grouped(points, lambda p: "full rows" if p.rows is None else "ragged rows"))
    lines += _distributions("architecture", _grouped(points, lambda p: p.spec.architecture))
    instants: dict[str, list[float]] = {
        name: [p.predicted[name] / p.true[name] - 1 for p in points if name in p.true and name in p.predicted]
        for name in (*evaluate.INSTANTS, evaluate.EVAL)
    }
    lines += _distributions("instant (each instant's own peak, binding or not)", instants)
    lines += ["", "![predicted against true](images/accuracy.png)", "", LARGEST, ""]
    worst = sorted(points, key=lambda p: -abs(p.error))[:12]
    lines += metrics.table(
        ("model", "error", "settings that differ from the defaults"),
        (
            (
                f"{p.spec.id}, {p.spec.total_layers} layers",
                metrics.percent(p.error),
                ", ".join(f"{k}={v}" for k, v in evaluate.given(p.choices).items()),
            )
            for p in worst
        ),
    )
    lines += [
        "",
        f"Not compared: {sum(grid.planner_refused.values())} drawn configurations that the planner refuses by name,",
    ]
    lines += [
        f"{sum(grid.trace_refused.values())} that the trace refuses, {len(grid.trace_failed)} whose trace failed."
    ]
    for title, found in (("planner", grid.planner_refused), ("trace", grid.trace_refused)):
        lines += [f"- {title}: {reason} ({count})" for reason, count in found.most_common(12)]
    lines += [f"- failed: {text}" for text in grid.trace_failed[:8]]
    if grid.older:
        lines += [
            "",
            f"{grid.older} of the traces were made by an earlier state of the trace's code; the next run repeats them.",
        ]
    return lines


def _observed_section(runs: list[observed.Run], refused: list[str], cuda: bool) -> list[str]:
    name = "(c) Real GPU runs of this tool" if cuda else "(b) Real CPU runs"
    chosen = [run for run in runs if (run.kind in ("cuda", "rocm")) == cuda]
    lines = ["", f"## {name}", ""]
    if not chosen:
        return [*lines, f"No {'GPU' if cuda else 'CPU'} observations are in hardware_profiles/observations yet."]
    architectures = {run.model.architecture for run in chosen}
    lines += [
        f"{len(chosen)} runs over {len(architectures)} architectures on "
        f"{', '.join(sorted({run.device for run in chosen}))}; the true figure is "
        + (
            "the device's own counter."
            if cuda
            else "the storage meter's (trainer/measure/meter.py), not the process's memory."
        )
    ]
    groups: dict[str, list[float]] = {"all": [run.error for run in chosen]}
    for stack in ("builtin", "peft"):
        groups[f"stack {stack}"] = [run.error for run in chosen if run.choices.stack == stack]
    for method in ("full", "lora", "qlora"):
        groups[f"method {method}"] = [run.error for run in chosen if run.choices.method == method]
    for instant in evaluate.INSTANTS:
        pairs = [run.instants[instant] for run in chosen if instant in run.instants]
        groups[f"instant {instant}"] = [a / b - 1 for a, b in pairs]
    if cuda:
        groups["reserved"] = [run.reserved[0] / run.reserved[1] - 1 for run in chosen if run.reserved]
    lines += _distributions("", groups)
    lines += [f"- left out: {text}" for text in refused[:5]]
    return lines


def _published_section(cases: list[published.Case], run_traces: bool) -> list[str]:
    lines = [
        "",
        "## (d) Published measurements",
        "",
        "Each row by the reference trace and by `plan check`, told what its framework does differently. The rows of "
        "fms-acceleration at tier 1 are runs of transformers with every setting known: the trace must come within "
        "0.1 %, the closed form within 0.5 % in the median and 2 % at worst. LitGPT, torchtune and the GPT-2 of a "
        "textbook are other model code: they show how far a plan carries over. Figures of kind `reserved` are "
        "compared with the predicted reserved bytes.",
        "",
    ]
    rows, exact = _published_rows(cases, run_traces)
    lines += metrics.table(PUBLISHED_HEADER, rows)
    lines += _distributions(
        "well-specified transformers rows",
        {"closed form": [pair[0] for pair in exact], "trace": [pair[1] for pair in exact]},
    )
    return lines


PUBLISHED_HEADER = (
    "case",
    "tier",
    "kind",
    "measured GiB",
    "plan check",
    "error",
    "trace",
    "error",
    "told",
    "why it differs",
)


def _published_rows(
    cases: list[published.Case], run_traces: bool
) -> tuple[list[tuple[str, ...] | None], list[tuple[float, float]]]:
    """A line of the table for every case; errors of closed form and trace of the well-specified ones."""
    rows: list[tuple[str, ...] | None] = []
    exact: list[tuple[float, float]] = []
    for case in cases:
        closed, traced = published.closed_form(case), published.traced(case, run=run_traces)
        cells = []
        for found in (closed, traced):
            ok = "bytes" in found
            cells.append(f"{found['bytes'] / GIB:.3f}" if ok else "refused")
            cells.append(metrics.percent(found["bytes"] / case.measured - 1, 3 if case.exact else 1) if ok else "")
        error = closed["bytes"] / case.measured - 1 if "bytes" in closed else 0.0
        known = litgpt.REASON if litgpt.applies(case) else REASONS.get(case.id, case.reason)
        reason = known if abs(error) > 0.005 else ""
        rows.append(
            (
                f"[{case.id}]({case.url})",
                str(case.tier),
                case.kind,
                f"{case.measured / GIB:.3f}",
                *cells,
                "; ".join(case.told),
                reason or closed.get("refused", ""),
            )
        )
        if case.exact and "bytes" in closed and "bytes" in traced:
            exact.append((closed["bytes"] / case.measured - 1, traced["bytes"] / case.measured - 1))
    return rows, exact


def _formulas_section(grid: Grid, cases: list[published.Case]) -> list[str]:
    exact = [case for case in cases if case.source == "fms"]
    lines = ["", "## Rules of thumb and public formulas on the same cases", ""]
    rows: list[tuple[str, ...] | None] = []
    for formula in FORMULAS:
        errors = [formula.compute(p.spec, p.choices) / p.peaks[0] - 1 for p in grid.all_points]
        rows.append(metrics.row(f"{formula.name} ({formula.source}), grid", errors))
        errors = [formula.compute(case.spec, case.choices) / case.measured - 1 for case in exact]
        rows.append(metrics.row(f"{formula.name}, published transformers rows", errors))
    rows.append(metrics.row("this model, grid", [p.error for p in grid.all_points]))
    found = [(case, published.closed_form(case)) for case in exact]
    rows.append(
        metrics.row(
            "this model, published transformers rows",
            [closed["bytes"] / case.measured - 1 for case, closed in found if "bytes" in closed],
        )
    )
    lines += metrics.table(metrics.HEADER, rows)
    return lines + _guides()


def _guides() -> list[str]:
    from planner import memory
    from planner.devices.profiles import load
    from planner.models.sources import load_model

    spec, profile = load_model("phi-2"), load("a10g")
    rows = []
    for batch, length, stated in GUIDES:
        cells = [f"{batch} × {length}", f"{stated / 10**9:.0f} GB"]
        for checkpointing in (False, True):
            choices = TrainingChoices(
                batch_size=batch, max_length=length, gradient_checkpointing=checkpointing, stack="peft"
            )
            peak = memory.predict(spec, profile, choices).device_peak_bytes
            cells.append(f"{peak / 10**9:.1f} GB ({metrics.percent(stated / peak - 1, 0)})")
        rows.append(tuple(cells))
    header = (
        "phi-2, LoRA r8, 24 GB card",
        "guide says",
        "without checkpointing (guide's error)",
        "with (guide's error)",
    )
    return [
        "",
        "The table of a widespread guide, which does not say whether layers are checkpointed:",
        "",
        *metrics.table(header, rows),
    ]


def write(grid: Grid, *, run_traces: bool = True, docs: Path = DOCS) -> Path:
    """Writes accuracy.md and its picture; returns the page's path."""
    runs, refused = observed.read()
    cases, collected = published.read(), published.read(published.COLLECTED)
    versions = ", ".join(f"{name} {value}" for name, value in evaluate.versions().items())
    lines = [
        "# Accuracy",
        "",
        "Generated by `make accuracy`; do not edit. Signed errors are predicted / true − 1: a negative one predicts "
        "too little (`under` is the share of those, whatever their size). Medians and means are signed, sizes are "
        "marked |e|.",
        "",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, Python {platform.python_version()}, {versions}.",
        "",
        *_grid_section(grid),
        *_observed_section(runs, refused, cuda=False),
        *measured.section(),
        *_observed_section(runs, refused, cuda=True),
        *_published_section(cases, run_traces),
        *litgpt.section([*cases, *collected]),
        *collection.section(collected, published.read_verdicts()),
        *coverage.section([*cases, *collected], runs),
        *_formulas_section(grid, cases),
        "",
        *throughput.section(),
        "",
    ]
    groups: dict[str, list[tuple[int, int]]] = {
        f"traced, {stack}": [p.peaks for p in grid.all_points if p.choices.stack == stack]
        for stack in ("peft", "builtin")
    }
    groups["real CPU runs"] = [(run.measured, run.predicted) for run in runs if run.kind == "cpu"]
    groups["real GPU runs"] = [(run.measured, run.predicted) for run in runs if run.kind == "cuda"]
    told = [(case.measured, published.closed_form(case).get("bytes")) for case in cases if case.exact]
    groups["published, transformers"] = [(measured, bytes_) for measured, bytes_ in told if bytes_]
    plot.scatter(groups, docs / "images" / "accuracy.png")
    page = docs / "accuracy.md"
    temporary = page.with_suffix(".tmp")
    temporary.write_text("\n".join(lines))
    temporary.replace(page)
    return page
