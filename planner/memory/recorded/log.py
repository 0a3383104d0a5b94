"""A step as it was recorded: its allocations and releases in order, each size a polynomial."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planner.contract.errors import InvalidInput
from planner.memory.engine.monomials import WIDTH

SCHEMA = "tuneplan.envelope/1"
RELEASE, HANDED_OVER = -1, -2
"""In place of a size: the key is released; the key's gradient is handed over to its parameter."""
MOST_EVENTS = 2_000_000
PHASES = ("forward", "loss", "backward", "eval")

Event = tuple[int, int, int]
"""(key, size's number or one of the codes above, component's number)."""
Size = tuple[tuple[int, int], ...]
"""(monomial, coefficient) of every term of a size in bytes."""


@dataclass(frozen=True, slots=True)
class Part:
    """A stretch of the step."""

    phase: str
    layer: int | None
    """The layer that runs; None outside the layers."""
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Window:
    """Two equal stretches of `period` layers, the first of which begins at layer `start`."""

    start: int
    period: int


@dataclass(frozen=True, slots=True)
class Log:
    """One program: a step of a network that was cut to few layers."""

    parts: tuple[Part, ...]
    sizes: tuple[Size, ...]
    components: tuple[str, ...]
    windows: tuple[Window, ...]
    """The stretches that repeat in the whole network; from the first layer on."""
    windowless: bool = False
    """Whether layers with a window were taken for those without: no length of the program reaches it."""
    picked: bool = False
    """Whether layers were left out wherever equal ones follow one another, not only behind the first ones."""

    def content(self) -> dict[str, object]:
        """The log as JSON holds it."""
        return {
            "schema": SCHEMA,
            "parts": [[part.phase, part.layer, [list(event) for event in part.events]] for part in self.parts],
            "sizes": [[list(term) for term in size] for size in self.sizes],
            "components": list(self.components),
            "windows": [[window.start, window.period] for window in self.windows],
            **({"windowless": True} if self.windowless else {}),
            **({"picked": True} if self.picked else {}),
        }

    @classmethod
    def read(cls, content: Any, origin: str) -> Log:
        """What `content` made, read back; anything else is refused."""
        try:
            found = cls._parsed(content)
        except (KeyError, TypeError, ValueError, IndexError):
            raise InvalidInput(f"{origin} is no {SCHEMA}; delete it, it will be recorded again") from None
        return found

    @classmethod
    def _parsed(cls, content: Mapping[str, Any]) -> Log:
        if content["schema"] != SCHEMA:
            raise ValueError
        sizes = tuple(tuple((_within(m, 0, WIDTH), _number(c)) for m, c in size) for size in content["sizes"])
        components = tuple(_text(name) for name in content["components"])
        if sum(len(part[2]) for part in content["parts"]) > MOST_EVENTS:
            raise ValueError
        parts = []
        born: set[int] = set()
        for phase, layer, events in content["parts"]:
            if phase not in PHASES or not (layer is None or _number(layer) >= 0):
                raise ValueError
            read = []
            for key, code, component in events:
                _within(key, 0, 1 << 40), _within(code, HANDED_OVER, len(sizes))
                _within(component, 0, max(1, len(components)))
                if code >= 0 and (key in born or born.add(key)):  # type: ignore[func-returns-value]
                    raise ValueError
                if code < 0 and key not in born:
                    raise ValueError
                read.append((key, code, component))
            parts.append(Part(phase, layer, tuple(read)))
        windows = tuple(Window(_within(a, 1, 4096), _within(b, 1, 4096)) for a, b in content["windows"])
        windowless, picked = content.get("windowless", False), content.get("picked", False)
        if type(windowless) is not bool or type(picked) is not bool:
            raise ValueError
        return cls(tuple(parts), sizes, components, windows, windowless, picked)


def _number(value: object) -> int:
    if type(value) is not int or abs(value) >= 1 << 62:
        raise ValueError
    return value


def _within(value: Any, low: int, high: int) -> int:
    if not low <= _number(value) < high:
        raise ValueError
    return int(value)


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > 60:
        raise ValueError
    return value
