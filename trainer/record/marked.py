"""A recorder that also notes where each layer begins, forward and backward, and where a gradient is taken over."""

# mypy: disable-error-code="attr-defined"

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor

from trainer.record.memo import Memo
from trainer.record.turns import Chain, LoopWatch, Mark, gathered
from trainer.trace.recorder import NEVER, RealStorage, StepRecorder
from trainer.trace.result import component_of

_DEVICE = torch.ops.prim.device.default
_MEMO = Memo()


class MarkedRecorder(StepRecorder):
    """Marks are (event number, phase, layer): what comes after belongs there; layer is None outside all layers."""

    def __init__(self, layers: list[str], turns: LoopWatch) -> None:
        super().__init__(granularity=1)
        self.layers = {path: index for index, path in enumerate(layers)}
        self.marks: list[tuple[int, str, int | None]] = []
        self.taken_over: list[tuple[int, RealStorage]] = []
        """(event number, gradient) at which backward hands a parameter's gradient over."""
        self._at: tuple[str, int | None] = ("load", None)
        self.turns = turns
        self.turn_marks: list[Mark] = []
        self.events: list[tuple[float, list[Any]]] = []
        self._stage = ("", -1)
        self._turn_of_node: dict[int, Chain] = {}
        self._known: dict[str, int | None] = {"": None}

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        # Two of three calls ask a fake tensor for its device; nothing is made by that.
        if func is _DEVICE:
            return args[0].fake_device if isinstance(args[0], FakeTensor) else func(*args)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _made(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return super()._made(func, args, kwargs) if func in self._stand_ins else _MEMO.call(func, args, kwargs)

    def enter(self, phase: str) -> None:
        """Starts a phase."""
        super().enter(phase)
        self._mark(phase, None)

    def gradient(self, parameter: torch.Tensor) -> None:
        """Notes that this parameter's gradient is complete."""
        assert parameter.grad is not None
        entry = self._live.get(parameter.grad.untyped_storage()._cdata)
        if entry is not None:
            entry[1].role = "gradients"
            self.taken_over.append((self.clock, entry[1]))

    def _mark(self, phase: str, layer: int | None) -> None:
        if (phase, layer) != self._at:
            self._at = (phase, layer)
            self.marks.append((self.clock, phase, layer))

    def _locate(self) -> None:
        super()._locate()
        if self.phase not in ("forward", "backward", "eval", "loss"):
            return
        layer = self._layer(self._module)
        # In backward an operator of no module stays with the layer whose gradients it handles.
        if layer is not None or (self.phase != "backward" and self._module):
            self._mark(self.phase, layer)
        self._turn(layer)

    def _turn(self, layer: int | None) -> None:
        """Notes which turn of which loop begins."""
        chain: Chain = ()
        if self._backward:
            node = torch._C._current_autograd_node()
            chain = () if node is None else self._turn_of_node.get(node._sequence_nr(), ())
        elif layer is not None:
            if self._stage != (self.phase, layer):
                self.turns.again(layer)
                self._stage = (self.phase, layer)
            chain = self.turns.chain()
            if torch.is_grad_enabled():
                self._turn_of_node[torch.autograd._get_sequence_nr() - 1] = chain
        stage = self.phase if not self._backward else "derived"
        if self._backward:
            self._stage = ("", -1)
        if not self.turn_marks or self.turn_marks[-1][1:] != (stage, chain):
            self.turn_marks.append((self.clock, stage, chain))

    def _layer(self, path: str) -> int | None:
        if path not in self._known:
            parts = path.split(".")
            stems = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
            self._known[path] = next((self.layers[stem] for stem in stems if stem in self.layers), None)
        return self._known[path]

    def log(self, length: int) -> dict[str, Any]:
        """Parts in order: [phase, layer, events]; an event is [key, bytes, name] of an allocation, [key, -1] of its
        release, [key, -2] where a gradient is handed over. What was there before the step has no events but the batch.
        """
        begins = self.step_begins
        events: list[tuple[float, list[Any]]] = []
        numbers: dict[int, int] = {}
        relevant = [s for s in self.storages if s.born > begins or s.role == "batch"]
        relevant = sorted((s for s in relevant if s.died > begins), key=lambda storage: storage.born)
        for number, storage in enumerate(relevant):
            numbers[id(storage)] = number
            kind = component_of(storage, length)
            name = f"{storage.op}|{_anonymous(storage.module)}|{storage.dtype}|{int(storage.backward)}|{kind}"
            events.append((max(storage.born, begins + 0.25), [number, storage.size, name]))
            if storage.died < NEVER:
                events.append((storage.died, [number, -1]))
        for clock, storage in self.taken_over:
            if id(storage) in numbers:
                events.append((clock + 0.5, [numbers[id(storage)], -2]))
        events.sort(key=lambda event: event[0])
        self.events = events
        return {"parts": self._parts(events)}

    def shorter(self) -> dict[str, Any] | None:
        """The same log with long loops told by few turns; None where there are none."""
        found = gathered(self.events, [mark for mark in self.turn_marks if mark[0] >= self.step_begins])
        return None if found is None else {"parts": self._parts(found)}

    def _parts(self, events: list[tuple[float, list[object]]]) -> list[list[object]]:
        """The events by the stretches that the marks tell apart."""
        parts: list[list[object]] = []
        marks = [mark for mark in self.marks if mark[0] >= self.step_begins]
        position = 0
        for place, (_clock, phase, layer) in enumerate(marks):
            until = marks[place + 1][0] if place + 1 < len(marks) else float("inf")
            inside = []
            while position < len(events) and events[position][0] <= until + (0.75 if until != float("inf") else 0):
                inside.append(events[position][1])
                position += 1
            parts.append([phase, layer, inside])
        return parts


def _anonymous(path: str) -> str:
    """A module's path without the numbers of layers."""
    return ".".join("{}" if part.isdigit() else part for part in path.split("."))
