"""Several runs beside one another: their curves, what they came to, and the settings in which they differ. UI-free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from planner.contract.errors import InvalidInput, TuneplanError
from planner.contract.records import Plan
from planner.contract.run_folder import PLAN
from planner.contract.units import format_bytes, format_duration
from planner.tui import figures, history
from planner.tui.history import PastRun
from planner.tui.live import RunSnapshot

MOST = 8
"""Runs that are compared at once: as many as there are colours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """What there is to see of several runs."""

    runs: tuple[tuple[str, RunSnapshot], ...]
    """By name, in the order in which they were chosen."""
    results: tuple[tuple[str, tuple[str, ...]], ...]
    """What they came to: the figure's name, and its text for each run."""
    settings: tuple[tuple[str, tuple[str, ...]], ...]
    """The settings in which they differ."""


def compare(runs: Sequence[PastRun]) -> Compared:
    """Reads the runs. Raises `TuneplanError` where one can't be read."""
    from planner.handover import plans

    names = short_names([run.folder.name for run in runs])
    snapshots, planned = [], []
    for run in runs[:MOST]:
        try:
            snapshots.append(history.replay(run.folder)[0])
            planned.append(_settings(plans.load(run.folder / PLAN, links=False)))
        except TuneplanError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            raise InvalidInput(f"{run.folder}: not a run that can be read: {error}") from None
    keys = list(dict.fromkeys(key for each in planned for key in each))
    rows = [(figures.label(key), tuple(each.get(key, "–") for each in planned)) for key in keys]
    return Compared(
        runs=tuple(zip(names, snapshots, strict=False)),
        results=_results(snapshots),
        settings=tuple((name, texts) for name, texts in rows if len(set(texts)) > 1),
    )


def short_names(names: Sequence[str]) -> list[str]:
    """The names without the beginning that all share, back to a hyphen; of one run its own."""
    if len(names) < 2:
        return list(names)
    shared = min(names)
    while shared and not all(name.startswith(shared) for name in names):
        shared = shared[:-1]
    cut = shared.rfind("-") + 1
    return [name[cut:] or name for name in names]


def _settings(plan: Plan) -> dict[str, str]:
    from planner.contract.settings import to_settings

    data = {"data": Path(plan.data.path).name if plan.data.path else "none"}
    data |= {name: figures.setting(name, getattr(plan.data, name)) for name in ("validation_split", "validation_path")}
    named = {"model": plan.model, "gpu": plan.gpu, **data}
    every = {**to_settings(plan.settings), **plan.hyperparameters.model_dump(mode="json")}
    return {**named, **{name: figures.setting(name, value) for name, value in every.items()}}


def _results(runs: Sequence[RunSnapshot]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    def row(name: str, texts: Sequence[str | None]) -> tuple[str, tuple[str, ...]]:
        return name, tuple(text or "–" for text in texts)

    best = [min((loss for _, loss in run.evals), default=None) for run in runs]
    return (
        row("state", [run.doing if run.over else run.phase for run in runs]),
        row("steps", [f"{run.step:,}" for run in runs]),
        row("best eval loss", [None if loss is None else f"{loss:.4f}" for loss in best]),
        row("last train loss", [f"{run.train[-1][1]:.4f}" if run.train else None for run in runs]),
        row("tokens/s", [f"{median(y for _, y in run.speeds):,.0f}" if run.speeds else None for run in runs]),
        row("peak in tensors", [format_bytes(run.measured_bytes) if run.measured_bytes else None for run in runs]),
        row("predicted", [format_bytes(run.predicted_bytes) if run.predicted_bytes else None for run in runs]),
        row("time", [format_duration(run.heard - run.began) if run.heard and run.began else None for run in runs]),
    )


def sort_key(order: str, run: PastRun) -> tuple[object, ...]:
    """How runs are listed: `time`, the newest first; `loss`, the lowest first, those without last; `name`."""
    if order == "loss":
        return (run.loss is None, run.loss or 0.0, -run.changed)
    return (run.folder.name,) if order == "name" else (-run.changed,)
