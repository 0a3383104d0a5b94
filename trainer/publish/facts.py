"""What a run's folder says of it: plan, events, observation; nothing of the user's paths."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planner.contract import text_file
from planner.contract.errors import InvalidInput
from planner.contract.events import DataEvent, EvalEvent, Event, FinishedEvent, StartedEvent
from planner.contract.records import Plan, read_plan
from planner.contract.run_folder import EVENTS, PLAN

MAX_EVENTS_BYTES = 256 * 1024**2


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """A finished run, as its card tells of it."""

    plan: Plan
    base: str
    """Hub id, or the last part of a folder's name."""
    finished: FinishedEvent | None = None
    started: StartedEvent = field(default_factory=StartedEvent)
    data: DataEvent = field(default_factory=DataEvent)
    losses: tuple[tuple[int, float], ...] = ()
    """Evaluations: step and loss."""

    @property
    def dataset(self) -> str:
        """The data's name, without the folders above it."""
        path = self.plan.data.path or "not named"
        return Path(path).name if Path(path).is_absolute() else path


def read(run_dir: Path) -> Facts:
    """The facts of a run folder; `InvalidInput` where it holds no plan."""
    path = run_dir / PLAN
    if not path.is_file():
        raise InvalidInput(f"{run_dir}: no run folder (there is no {PLAN} in it)")
    plan = read_plan(path, links=False)
    finished, started, data = None, StartedEvent(), DataEvent()
    losses: list[tuple[int, float]] = []
    for event in _events(run_dir / EVENTS):
        match event.told:
            case FinishedEvent():
                finished = event.told
            case StartedEvent():
                started = event.told
            case DataEvent():
                data = event.told
            case EvalEvent(loss=float(loss), step=step):
                losses.append((step or 0, loss))
    local = Path(plan.model).is_absolute() or plan.model.startswith((".", "~"))
    return Facts(
        plan=plan,
        base=Path(plan.model).name if local else plan.model,
        finished=finished,
        started=started,
        data=data,
        losses=tuple(losses),
    )


def _events(path: Path) -> list[Event]:
    """Whole lines of the log; a power cut may leave half of one."""
    if not path.is_file():
        return []
    found = []
    for line in text_file.read(path, str(path), max_bytes=MAX_EVENTS_BYTES, links=False).splitlines():
        try:
            found.append(Event.model_validate_json(line))
        except ValueError:
            continue
    return found


def licence(base: str) -> str | None:
    """The licence that the base's own card names, where it lies here: its folder, or the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    place: Any = Path(base) / "README.md"
    if not place.is_file():
        try:
            place = try_to_load_from_cache(base, "README.md")
        except ValueError:
            return None
    if not isinstance(place, str | Path) or not Path(place).is_file():
        return None
    text = text_file.read(Path(place), "README.md", max_bytes=4 * 1024**2)
    head = text.split("---", 2)[1] if text.startswith("---") and text.count("---") >= 2 else ""
    for line in head.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "license" and value.strip().replace("-", "").replace(".", "").isalnum():
            return value.strip()
    return None
