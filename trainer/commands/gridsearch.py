"""Short runs over learning rate × rank × effective batch, compared in a table; each in a process of its own.

A cell is an ordinary run of the plan with three values replaced. The micro-batch stays what the plan found to fit; the
effective batch is reached by accumulation. Alpha keeps its ratio to the rank. Finished cells are kept in `grid.json`:
a grid that was stopped goes on where it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from planner.contract import json_text, process
from planner.contract.errors import Interrupted, InvalidInput, NotModelled, RunFailed
from planner.contract.events import Event, FailedEvent, FinishedEvent, StepEvent, line_of
from planner.contract.files import read_plain, write_json, write_whole
from planner.contract.process import held
from planner.contract.records import Plan
from planner.contract.run_folder import EVENTS, checkpoints
from planner.contract.settings import to_settings
from planner.contract.shown import clause
from planner.contract.words import LAYOUT, one_line, visible
from trainer.wire import files


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One combination."""

    learning_rate: float
    lora_r: int
    effective_batch_size: int

    @property
    def name(self) -> str:
        """Folder name of its run."""
        return f"lr{self.learning_rate:g}-r{self.lora_r}-b{self.effective_batch_size}"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PointOutcome:
    """How a cell's run ended."""

    cell: Cell
    eval_loss: float | None
    """Lowest held-out loss; None where the run failed or there is no validation set (then `train_loss` counts)."""
    train_loss: float | None
    """Mean of the last tenth of the steps."""
    seconds: float
    peak_bytes: int | None
    steps: int
    failure: str | None = None
    exit_code: int = 0
    """Of the run that failed."""

    @property
    def score(self) -> float:
        """What the table is ordered by; lower is better."""
        value = self.eval_loss if self.eval_loss is not None else self.train_loss
        return math.inf if value is None or self.failure else value


Runner = Callable[[Path, Path], list[Event]]
"""Runs (plan file, run folder) and returns the events of the run, a `failed` one included."""


def cell_plan(plan: Plan, cell: Cell, *, max_steps: int | None = None, epochs: float | None = None) -> Plan:
    """The plan with the cell's values; the micro-batch is the largest divisor of the batch up to the plan's."""
    settings, micro = plan.settings, plan.settings.batch_size
    micro = next(
        size for size in range(min(micro, cell.effective_batch_size), 0, -1) if cell.effective_batch_size % size == 0
    )
    settings = replace(
        settings,
        batch_size=micro,
        gradient_accumulation_steps=cell.effective_batch_size // micro,
        lora_r=cell.lora_r,
        lora_alpha=settings.lora_alpha / settings.lora_r * cell.lora_r,
    )
    changes: dict[str, object] = {"learning_rate": cell.learning_rate, "report_to": (), "save_total_limit": 1}
    if max_steps is not None:
        changes |= {"max_steps": max_steps, "eval_steps": max(1, max_steps // 4), "save_steps": max_steps}
    if epochs is not None:
        changes["epochs"] = epochs
    return plan.model_copy(
        update={
            "settings": settings,
            "hyperparameters": plan.hyperparameters.model_copy(update=changes),
            "predicted": None,  # it was for another rank or batch
            "predicted_speed": None,
        }
    )


def in_child(plan: Path, output: Path) -> list[Event]:
    """A run in a process of its own: each cell starts with an empty device. One that was stopped goes on."""
    command = process.command("trainer", "run", str(plan), "--output", str(output))
    earlier: list[Event] = []
    if checkpoints(output):
        command += ["--resume", "auto"]
        with contextlib.suppress(OSError):
            earlier = _events(read_plain(output / EVENTS).decode(errors="replace"))
    with held():
        started = subprocess.Popen(
            command, env=process.environment(), stdout=subprocess.PIPE, text=True, encoding="utf-8", errors="replace"
        )
    with started as child:
        assert child.stdout is not None
        try:
            said = child.stdout.read()
        except KeyboardInterrupt:
            # In a terminal it has the signal already; either way it stops after its step, with a checkpoint.
            child.terminate()
            child.stdout.read()
            raise
    events = _events(said)
    if not any(isinstance(event.told, FinishedEvent | FailedEvent) for event in events):
        message = f"the trainer ended with exit code {child.returncode} before it finished"
        events.append(line_of(FailedEvent(message=message, exit_code=child.returncode), 0.0))
    return [*(event for event in earlier if isinstance(event.told, StepEvent)), *events]


def _events(text: str) -> list[Event]:
    found = []
    for line in text.split("\n"):
        with contextlib.suppress(ValueError):
            found.append(Event.model_validate_json(line))
    return found


def run_cell(plan: Plan, cell: Cell, folder: Path, runner: Runner, **limits: Any) -> PointOutcome:
    """Trains one cell and sums it up."""
    where = folder / cell.name
    file = folder / f"{cell.name}.plan.json"
    write_whole(file, cell_plan(plan, cell, **limits).model_dump_json(by_alias=True).encode())
    told = [event.told for event in runner(file, where)]
    # A run that went on from a checkpoint takes some steps again; the later account of a step counts.
    steps = list({step.step: step for step in told if isinstance(step, StepEvent)}.values())
    losses = [step.loss for step in steps if step.loss is not None]
    last = losses[-max(1, len(losses) // 10) :]
    end = next((each for each in told if isinstance(each, FinishedEvent)), FinishedEvent())
    failed = next((each for each in told if isinstance(each, FailedEvent)), None)
    failure = None if failed is None else failed.message or "failed"
    if end.reason == "stopped":
        failure = f"stopped after {end.steps} steps"
    return PointOutcome(
        cell=cell,
        eval_loss=end.eval_loss,
        train_loss=sum(last) / len(last) if last else None,
        seconds=round(end.seconds or 0.0, 2),
        peak_bytes=end.measured_bytes,
        steps=end.steps or len(steps),
        failure=failure,
        exit_code=0 if failed is None else failed.exit_code or 0,
    )


def cells(rates: Sequence[float], ranks: Sequence[int], batches: Sequence[int]) -> list[Cell]:
    """All combinations; the rates vary slowest, so that an early stop has seen small and large models at one rate."""
    if not rates or any(not 0 < rate < math.inf for rate in rates):
        raise InvalidInput(f"--learning-rates must be above 0, not {', '.join(map(str, rates)) or 'none'}")
    for option, values in (("--ranks", ranks), ("--batches", batches)):
        if not values or any(value < 1 for value in values):
            raise InvalidInput(
                f"{option} must be whole numbers of at least 1, not {', '.join(map(str, values)) or 'none'}"
            )
    return [
        Cell(learning_rate=rate, lora_r=rank, effective_batch_size=batch)
        for rate, rank, batch in itertools.product(dict.fromkeys(rates), dict.fromkeys(ranks), dict.fromkeys(batches))
    ]


def search(
    plan: Plan,
    wanted: Sequence[Cell],
    folder: Path,
    *,
    trials: int | None = None,
    runner: Runner = in_child,
    on_outcome: Callable[[PointOutcome], None] = lambda outcome: None,
    **limits: object,
) -> list[PointOutcome]:
    """Every cell, or with `trials` as many as Optuna proposes between their smallest and largest values; best first."""
    known = {outcome.cell: outcome for outcome in _load(folder, plan, limits)}
    _save(folder, plan, limits, list(known.values()))  # from here on the folder is known as a grid's

    def take(cell: Cell) -> PointOutcome:
        if cell not in known:
            known[cell] = run_cell(plan, cell, folder, runner, **limits)
            _save(folder, plan, limits, list(known.values()))
            on_outcome(known[cell])
        return known[cell]

    count = len(wanted) if trials is None else trials
    done: list[PointOutcome] = []
    try:
        if trials is None:
            for cell in wanted:
                done.append(take(cell))
        else:
            for outcome in _optuna(wanted, trials, plan.hyperparameters.seed, take):
                done.append(outcome)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; {len(done)} of {count} runs are finished and kept in {folder / 'grid.md'}; the same command "
            "goes on there"
            if done
            else f"interrupted; no run is finished yet; the same command goes on in {folder}"
        ) from None
    return sorted(done, key=lambda outcome: outcome.score)


def _optuna(
    wanted: Sequence[Cell], trials: int, seed: int, take: Callable[[Cell], PointOutcome]
) -> Iterator[PointOutcome]:
    """Tree-structured Parzen estimator over the same ranges; the learning rate is continuous on a logarithmic scale."""
    try:
        import optuna
    except ImportError:
        raise NotModelled("--trials needs optuna: pip install 'tuneplan[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rates = [cell.learning_rate for cell in wanted]
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    for _ in range(trials):
        trial = study.ask()
        rate = trial.suggest_float("learning_rate", min(rates), max(rates), log=True)
        cell = Cell(
            learning_rate=float(f"{rate:.2e}"),
            lora_r=trial.suggest_categorical("lora_r", sorted({cell.lora_r for cell in wanted})),
            effective_batch_size=trial.suggest_categorical("batch", sorted({c.effective_batch_size for c in wanted})),
        )
        outcome = take(cell)
        failed = not math.isfinite(outcome.score)
        study.tell(trial, None if failed else outcome.score, optuna.trial.TrialState.FAIL if failed else None)
        yield outcome


def _key(plan: Plan, limits: dict[str, object]) -> dict[str, object]:
    """All that the cells have in common: an outcome counts only beside others of the same."""
    swept = ("batch_size", "gradient_accumulation_steps", "lora_r")
    fixed = {k: v for k, v in to_settings(plan.settings).items() if k not in swept}
    rest = plan.hyperparameters.model_dump(mode="json", exclude={"learning_rate", "report_to", "save_total_limit"})
    content = {
        "model": plan.model,
        "data": plan.data.model_dump(mode="json"),
        "content": _digest(plan.data.path),
        "settings": fixed,
        "hyperparameters": rest,
        "limits": limits,
    }
    return cast(dict[str, object], json.loads(json.dumps(content)))


def _digest(path: str | None) -> str | None:
    """SHA-256 of a data file, or of the files of a folder; None where it isn't a local path."""
    if path is None or not Path(path).exists():
        return None
    found = hashlib.sha256()
    where = Path(path)
    for file in [where] if where.is_file() else sorted(item for item in where.rglob("*") if item.is_file()):
        with open(file, "rb") as stream:
            found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()


def _save(folder: Path, plan: Plan, limits: dict[str, object], outcomes: list[PointOutcome]) -> None:
    ordered = sorted(outcomes, key=lambda outcome: outcome.score)
    cells = [dataclasses.asdict(outcome) for outcome in ordered]
    write_json(folder / "grid.json", {"schema": "tuneplan.grid/1", "plan": _key(plan, limits), "cells": cells})
    write_whole(folder / "grid.md", (table(ordered) + "\n").encode())


def _load(folder: Path, plan: Plan, limits: dict[str, object]) -> list[PointOutcome]:
    """Finished cells of an earlier search in this folder; another plan's are refused."""
    file = folder / "grid.json"
    if not os.path.lexists(file):
        files.new_folder(folder)
        return []
    try:
        content = json_text.parse(read_plain(file), str(file))
        was = content["plan"]
        found = [PointOutcome(**{**entry, "cell": Cell(**entry["cell"])}) for entry in content["cells"]]
    except (OSError, KeyError, TypeError, AttributeError, InvalidInput):
        raise InvalidInput(f"{file}: not the results of a grid; choose another --output") from None
    now = _key(plan, limits)
    if was != now:
        words = {"content": "content of the data", "limits": "length of the runs"}
        other = ", ".join(words.get(name, name) for name in now if was.get(name) != now[name])
        raise InvalidInput(f"{file}: holds a grid of another plan (other {other or 'plan'}); choose another --output")
    return [outcome for outcome in found if outcome.failure is None]


def table(outcomes: Sequence[PointOutcome]) -> str:
    """The comparison as a Markdown table, best first."""
    lines = [
        "| learning rate | rank | effective batch | held-out loss | perplexity | train loss | steps | s | peak MiB |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for outcome in outcomes:
        c = outcome.cell
        loss = outcome.eval_loss
        if outcome.failure:
            values = [f"failed: {clause(outcome.failure, 120)}", "", "", str(outcome.steps), "", ""]
        else:
            values = [
                _number(loss),
                _number(math.exp(loss) if loss is not None and loss < 50 else None),
                _number(outcome.train_loss),
                str(outcome.steps),
                f"{outcome.seconds:.0f}",
                f"{outcome.peak_bytes / 2**20:.0f}" if outcome.peak_bytes else "–",
            ]
        lines.append(
            "| " + " | ".join([f"{c.learning_rate:g}", str(c.lora_r), str(c.effective_batch_size), *values]) + " |"
        )
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def command(given: Namespace) -> int:
    """`python -m trainer grid`."""
    from trainer.wire.request import Request, read_plan

    for option, value in (("--max-steps", given.max_steps), ("--trials", given.trials)):
        if value is not None and value < 1:
            raise InvalidInput(f"{option} must be at least 1, not {value}")
    if given.epochs is not None and not 0 < given.epochs < math.inf:
        raise InvalidInput(f"--epochs must be above 0, not {given.epochs:g}")
    plan = read_plan(Request(plan=given.plan, data=given.data))
    if plan.data.path is not None and Path(plan.data.path).exists():
        plan = plan.model_copy(
            update={"data": plan.data.model_copy(update={"path": str(Path(plan.data.path).resolve())})}
        )
    choices = plan.settings
    rate = plan.hyperparameters.learning_rate
    rates = [rate / 3, rate, rate * 3] if given.learning_rates is None else given.learning_rates
    ranks = [choices.lora_r] if given.ranks is None else given.ranks
    wanted = cells(rates, ranks, [choices.effective_batch_size] if given.batches is None else given.batches)
    print(f"{given.trials or len(wanted)} runs into {one_line(given.output)}", file=sys.stderr)

    def tell(outcome: PointOutcome) -> None:
        what = outcome.failure or f"loss {_number(outcome.score)} in {outcome.seconds:.0f} s"
        print(one_line(f"{outcome.cell.name}: {what}"), file=sys.stderr)

    found = search(
        plan,
        wanted,
        given.output,
        trials=given.trials,
        on_outcome=tell,
        max_steps=given.max_steps,
        epochs=given.epochs,
    )
    if given.json:
        print(json.dumps([dataclasses.asdict(outcome) for outcome in found], indent=1))
    else:
        print(visible(table(found), keep=LAYOUT))
    if not found or not math.isfinite(found[0].score):
        codes = {outcome.exit_code for outcome in found}
        code = codes.pop() if len(codes) == 1 else RunFailed.exit_code
        raise process.failure(code, f"no run of the grid finished; see {given.output}")
    return 0
