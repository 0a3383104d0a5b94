"""One editable field: how its value is written, read from a typed text, and what comes before and after it. UI-free."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from planner.contract.about import About
from planner.contract.errors import InvalidInput
from planner.contract.units import format_number

Where = Literal["choices", "hyperparameters", "data", "aim"]
Kind = Literal["whole", "number", "choice", "switch", "text", "names"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One editable field."""

    key: str
    """Field of `TrainingChoices`, `Hyperparameters`, `DataSettings` or, what is aimed at, of the wizard's state;
    `effective_batch_size` is derived.
    """
    label: str
    group: str
    where: Where
    kind: Kind
    help: str
    """One or two sentences: what it does, and to what."""
    options: tuple[str, ...] = ()
    """Allowed words of a `choice`; suggestions of `names`."""
    ladder: tuple[float, ...] = ()
    """Values that the left and right arrows step through; any value in range may be typed."""
    low: float | None = None
    high: float | None = None
    open: Literal["", "low", "high"] = ""
    """The bound that itself is out of range."""
    none: str = ""
    """How None is written and typed (`all`, `auto`); empty where the field must have a value."""

    def format(self, value: Any) -> str:
        """The value as it stands in the row."""
        if value is None or (self.none and value == ()):
            return self.none or "none"
        if self.kind == "switch":
            return "on" if value else "off"
        if self.kind == "names":
            return " ".join(value)
        if self.kind == "number":
            return format_number(value)
        return str(value)

    def parse(self, text: str) -> Any:
        """A typed text as a value; raises `InvalidInput` that names the row and what would be right."""
        text = text.strip()
        if self.kind == "choice" and text in self.options:
            return text
        if self.none and text.lower() in ("", self.none.lower(), "none"):
            return () if self.kind == "names" else None
        if self.kind == "switch":
            if text.lower() in ("on", "yes", "true", "1"):
                return True
            if text.lower() in ("off", "no", "false", "0"):
                return False
            raise InvalidInput(f"{self.label}: type on or off, not {text!r}")
        if self.kind == "choice":
            if text not in self.options:
                raise InvalidInput(f"{self.label}: {text!r} is unknown; choose one of {', '.join(self.options)}")
            return text
        if self.kind == "names":
            names = tuple(name for name in text.replace(",", " ").split() if name)
            if not names:
                raise InvalidInput(f"{self.label}: name at least one, e.g. {' or '.join(self.options[:2])}")
            if self.none and self.options and (unknown := sorted(set(names) - set(self.options))):
                raise InvalidInput(f"{self.label}: {unknown[0]!r} is unknown; choose among {', '.join(self.options)}")
            return names
        if self.kind == "text":
            return text
        return self._number(text)

    def _number(self, text: str) -> int | float:
        wanted = "a whole number" if self.kind == "whole" else "a number"
        try:
            value = float(text.replace("_", "").replace(",", ""))
        except ValueError:
            raise InvalidInput(f"{self.label}: type {wanted}, not {text!r}") from None
        if not math.isfinite(value) or (self.kind == "whole" and value != int(value)):
            raise InvalidInput(f"{self.label}: type {wanted}, not {text!r}")
        if not self._holds(value):
            bounds = []
            if self.low is not None:
                bounds.append(f"{'above' if self.open == 'low' else 'at least'} {format_number(self.low)}")
            if self.high is not None:
                bounds.append(f"{'below' if self.open == 'high' else 'at most'} {format_number(self.high)}")
            raise InvalidInput(f"{self.label}: {' and '.join(bounds)}, not {text}")
        return int(value) if self.kind == "whole" else value

    def _holds(self, value: float) -> bool:
        return About(help="", low=self.low, high=self.high, open=self.open).holds(value)

    def neighbour(self, value: Any, direction: int) -> Any:
        """The next value in the direction (+1, -1); the same one at the end of a ladder. Choices wrap around."""
        if self.kind == "switch":
            return not value
        if self.kind == "choice" and self.none:
            ring = (None, *self.options)
            return ring[(ring.index(value) + direction) % len(ring)]
        if self.kind == "choice":
            place = self.options.index(value) if value in self.options else 0
            return self.options[(place + direction) % len(self.options)]
        if self.kind == "names" and not self.options:
            return value
        if self.kind == "names":
            sets: list[tuple[str, ...]] = [(name,) for name in (self.options if self.none else self.options[:2])]
            sets = [(), *sets] if self.none else sets
            place = sets.index(tuple(value)) if tuple(value) in sets else -1
            return sets[(place + direction) % len(sets)]
        if self.kind == "text" or not self.ladder:
            return value
        return self._rung(value, direction)

    def _rung(self, value: Any, direction: int) -> Any:
        rungs: Sequence[float] = [rung for rung in self.ladder if self._holds(rung)]
        if value is None:
            return rungs[0] if direction > 0 else None
        beyond = [r for r in rungs if (r > value * (1 + 1e-9) if direction > 0 else r < value * (1 - 1e-9))]
        if not beyond:
            return None if self.none and direction < 0 else value
        found = min(beyond) if direction > 0 else max(beyond)
        return int(found) if self.kind == "whole" else found


def next_divisor(entry: Field, now: int, direction: int, whole: int) -> int:
    """The next value of a row that divides `whole`; `now` where there is none."""
    new = now
    while (further := int(entry.neighbour(new, direction))) != new:
        new = further
        if whole % new == 0:
            return new
    return now


def next_layers(now: int | None, direction: int, layers: int) -> int | None:
    """The next number of layers; all of them, which is None, stand above the last number."""
    place = (layers if now is None else now) + direction
    return None if place >= layers else max(0, place)
