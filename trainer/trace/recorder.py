"""Records the birth and the death of every tensor storage while the step runs, and who made it.

The recorder sits below autograd and sees each operator's outputs; a storage is counted from the operator that made it
until nothing refers to it. It holds weak references only, and its own lists are plain Python objects.
"""

# mypy: disable-error-code="attr-defined"

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from trainer.measure.meter import StorageMeter

NEVER = 1 << 62
Operator = torch._ops.OpOverload[..., object]
Arguments = Sequence[Any]
"""What an operator is called with."""
ScratchRules = dict[Operator, Callable[[Arguments, Any], list[int]]]
"""By operator, the bytes that its kernel holds while it runs, from its arguments and outputs."""
StandIns = dict[Operator, Callable[..., Any]]
"""By operator, what is called in its place (a fake implementation that is too narrow)."""


@dataclass(slots=True)
class RealStorage:
    """One storage: its size, its life as event numbers, and where it came from."""

    size: int
    """Bytes as the device's allocator counts them (rounded)."""
    born: int
    phase: str
    op: str
    module: str
    dtype: str
    shape: tuple[int, ...]
    died: int = NEVER
    role: str = ""
    """Set where the step knows what it is (weights, gradients, ...); else the category follows from op and module."""
    backward: bool = False
    """Made by a backward operator (not by a forward or a recomputation inside backward)."""


class StepRecorder(StorageMeter):
    """A storage meter that keeps every storage's life and origin; `phase` is set by the step as it goes along."""

    def __init__(self, *, granularity: int = 1, constant_bytes: int = 0) -> None:
        super().__init__(granularity=granularity, constant_bytes=constant_bytes)
        self.clock = 0
        self.storages: list[RealStorage] = []
        self.peak_clock: dict[str, int] = {}
        """Event number of each phase's peak."""
        self.step_begins = 0
        """Number of the last event before the step."""
        self.modules: list[str] = []
        self.ignoring = 0
        self._module_of_node: dict[int, str] = {}
        self._scratch: ScratchRules = {}
        self._stand_ins: StandIns = {}
        self._module, self._backward = "", False

    # What the step tells.

    def scratch_for(self, rules: ScratchRules) -> None:
        """Further rules of what kernels hold."""
        self._scratch.update(rules)

    def stand_in_for(self, rules: StandIns) -> None:
        """Further stand-ins."""
        self._stand_ins.update(rules)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Storages born inside are not counted (they live in host memory)."""
        self.ignoring += 1
        try:
            yield
        finally:
            self.ignoring -= 1

    def mark(self, tensor: torch.Tensor, role: str) -> None:
        """Says what a tensor's storage is."""
        entry = self._live.get(tensor.untyped_storage()._cdata)
        if entry is not None:
            entry[1].role = role

    def role_of(self, tensor: torch.Tensor) -> str | None:
        """The role of a tensor's storage; None when the storage is not known."""
        entry = self._live.get(tensor.untyped_storage()._cdata)
        return None if entry is None else entry[1].role

    def take(self, tensor: torch.Tensor, role: str, module: str) -> None:
        """Counts a tensor that was made outside (a weight)."""
        self._module = module
        self._see(tensor, "parameter")
        self.mark(tensor, role)

    # Recording.

    def reset_peaks(self) -> None:
        """The step begins here."""
        super().reset_peaks()
        self.step_begins = self.clock

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        self._settle()
        out = self._made(func, args, kwargs or {})
        self._locate()
        if self._is_engine_sum(func, args):
            self._see_sum(args[0], out, func)
        else:
            self._see_all(out, func)
        rule = self._scratch.get(func)
        if rule is not None:
            self._hold(func, rule(args, out))
        return out

    def _made(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """What the operator, or what stands in for it, makes."""
        return self._stand_ins.get(func, func)(*args, **kwargs)

    def _locate(self) -> None:
        """Finds the module that runs: the innermost call, or in backward the one whose forward made the node."""
        self._backward = False
        if self.modules:
            self._module = self.modules[-1]
        else:
            node = torch._C._current_autograd_node()
            if node is not None:
                self._backward = True
                self._module = self._module_of_node.get(node._sequence_nr(), "")
                return
            self._module = ""
        if torch.is_grad_enabled():
            self._module_of_node[torch.autograd._get_sequence_nr() - 1] = self._module

    def _counts(self, tensor: torch.Tensor) -> bool:
        return not self.ignoring

    def _born(self, tensor: torch.Tensor, size: int, origin: object) -> RealStorage:
        self.clock += 1
        record = RealStorage(
            size=size,
            born=self.clock,
            phase=self.phase,
            op=origin if isinstance(origin, str) else origin.__name__,
            module=self._module,
            dtype=str(tensor.dtype)[6:],
            shape=tuple(tensor.shape),
            backward=self._backward,
        )
        self.storages.append(record)
        return record

    def _died(self, token: RealStorage) -> None:
        self.clock += 1
        token.died = self.clock

    def _at_peak(self) -> None:
        self.peak_clock[self.phase] = self.clock

    def _in_place(self, first: RealStorage, made: RealStorage | None) -> None:
        """The sum took the operand's place: in the record it is born when that one dies."""
        if made is not None and made.born < first.died < NEVER:
            made.born, first.died = first.died, made.born

    def _hold(self, op: Operator, sizes: list[int]) -> None:
        held = []
        for size in sizes:
            if size > 0:
                self.clock += 1
                rounded = -(-size // self.granularity) * self.granularity
                name = f"{op.__name__} scratch"
                record = RealStorage(
                    rounded, self.clock, self.phase, name, self._module, "", (size,), role="temporaries", backward=True
                )
                self.storages.append(record)
                held.append(record)
                self.current += rounded
        self._note_peak()
        for record in held:
            self.current -= record.size
            self._died(record)

    @contextmanager
    def naming(self, names: dict[int, str]) -> Iterator[None]:
        """Keeps the stack of running modules by hooks on every module call; `names` maps id(module) to its path."""

        def before(module: torch.nn.Module, _: object) -> None:
            self.modules.append(names.get(id(module), type(module).__name__))

        def after(module: torch.nn.Module, *_: object) -> None:
            if self.modules:
                self.modules.pop()

        handles = [
            torch.nn.modules.module.register_module_forward_pre_hook(before),
            torch.nn.modules.module.register_module_forward_hook(after, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
