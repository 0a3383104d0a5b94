"""What a page tells: the plan judged anew, memory over a step, peaks around it, and what the run wrote down."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.contract import json_text, settings
from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput, TuneplanError
from planner.contract.events import Event
from planner.contract.files import open_plain
from planner.contract.records import CheckReport, Plan, parse_record, read_plan
from planner.contract.run_folder import PLAN
from planner.contract.spec import HardwareProfile, ModelSpec

if TYPE_CHECKING:
    from planner.decide.search import FrontPoint

EVENTS = "events.jsonl"
MAX_EVENTS_BYTES = 128 * 1024**2
BATCHES = (1, 2, 4, 8, 16, 32, 64)
FREE = {"batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "checkpoint_layers"}
"""What changes memory and speed and not what is learned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """All that is on a page."""

    plan: Plan
    hardware: HardwareProfile
    choices: TrainingChoices
    report: CheckReport
    instants: tuple[tuple[str, dict[str, int]], ...]
    """By instant of a step: bytes by component."""
    by_batch: tuple[tuple[int, tuple[tuple[int, int], ...]], ...]
    """Length -> (batch, device peak) pairs."""
    front: tuple[FrontPoint, ...] = ()
    """Ways to the same effective batch, from the fastest to the smallest; none where nothing fits."""
    events: tuple[Event, ...] = ()


def gather(path: Path) -> Content:
    """Of a plan file or a run's folder."""
    from planner.calibration import attach
    from planner.decide.check import check
    from planner.decide.question import Question
    from planner.memory.explain import explain
    from planner.models import sources

    run = path.is_dir()
    plan = read_plan(path / PLAN if run else path, links=not run)
    hardware = attach.find(plan.gpu)
    choices = plan.settings
    inline = plan.model_config_inline
    model = sources.from_config(inline, plan.model) if inline else sources.load_model(plan.model)
    found = explain(model, hardware, choices, every_instant=True)
    instants = []
    for item in found:
        sizes: dict[str, int] = {}
        for term in item.terms:
            sizes[term.component] = sizes.get(term.component, 0) + term.bytes
        instants.append((item.instant, sizes))
    return Content(
        plan=plan,
        hardware=hardware,
        choices=choices,
        report=check(Question(model=model, hardware=hardware, choices=choices), with_remedies=False),
        instants=tuple(instants),
        by_batch=_around(model, hardware, choices),
        front=_front(model, hardware, choices),
        events=_events(path / EVENTS) if run else (),
    )


def _around(
    model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices
) -> tuple[tuple[int, tuple[tuple[int, int], ...]], ...]:
    """Peaks at other batches and lengths, the effective batch aside."""
    from planner import memory

    own = choices.max_length
    longest = model.max_positions or own * 2
    found = []
    for length in sorted({max(64, own // 2), own, min(longest, own * 2)}):
        points = []
        for batch in sorted({*BATCHES, choices.batch_size}):
            try:
                one = replace(choices, batch_size=batch, max_length=length)
                settings.check_length(model, one)
                peak = memory.predict(model, hardware, one).device_peak_bytes
            except TuneplanError:
                continue
            points.append((batch, peak))
            if peak > 1.5 * hardware.budget_bytes:
                break
        if points:
            found.append((length, tuple(points)))
    return tuple(found)


def _front(model: ModelSpec, hardware: HardwareProfile, choices: TrainingChoices) -> tuple[FrontPoint, ...]:
    """What else trains the same: only the batch's division and the recomputation are free."""
    from planner.decide.question import Question
    from planner.decide.search import recommend

    fixed = {field.name for field in fields(choices)} - FREE
    effective = choices.batch_size * choices.gradient_accumulation_steps * choices.num_gpus
    question = Question(
        model=model,
        hardware=hardware,
        choices=choices,
        fixed=frozenset(fixed),
        effective_batch_size=effective,
    )
    try:
        return tuple(recommend(question).front)
    except TuneplanError:
        return ()


def _events(path: Path) -> tuple[Event, ...]:
    """What the run wrote; a run without events is one that hasn't begun."""
    try:
        with os.fdopen(open_plain(path), "rb") as stream:
            text = stream.read(MAX_EVENTS_BYTES + 1)
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror or error}") from None
    found = []
    for line in text[:MAX_EVENTS_BYTES].split(b"\n"):
        try:
            found.append(parse_record(Event, json_text.parse(line, EVENTS), EVENTS))
        except InvalidInput:
            continue  # half a line, after a power cut
    return tuple(found)


def of_kind(content: Content, kind: str) -> list[dict[str, Any]]:
    """The data of the events of a kind."""
    return [event.data for event in content.events if event.kind == kind]
