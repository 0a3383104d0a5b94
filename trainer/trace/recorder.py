"""Records the birth and the death of every tensor storage while the step runs, and who made it.

The recorder sits below autograd and sees each operator's outputs; a storage is counted from the operator that made it
until nothing refers to it. It holds weak references only, and its own lists are plain Python objects.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

NEVER = 1 << 62


@dataclass(slots=True)
class Storage:
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


class Recorder(TorchDispatchMode):
    """Dispatch mode that keeps the list of storages; `phase` is set by the step as it goes along."""

    def __init__(self, *, granularity: int = 1, constant_bytes: int = 0) -> None:
        super().__init__()
        self.granularity = granularity
        self.constant_bytes = constant_bytes
        self.phase = "load"
        self.current = constant_bytes
        self.clock = 0
        self.storages: list[Storage] = []
        self.peaks: dict[str, tuple[int, int]] = {}
        self.modules: list[str] = []
        self.ignoring = 0
        self._live: dict[int, tuple[weakref.ref[Any], Storage]] = {}
        self._module_of_node: dict[int, str] = {}
        self._scratch: dict[Any, Any] = {}

    # -- what the step tells ------------------------------------------------------------------------------------------

    def scratch_for(self, rules: dict[Any, Any]) -> None:
        """Rules by operator overload: `rule(args, outputs) -> list[bytes]` that the kernel holds while it runs."""
        self._scratch.update(rules)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Storages born inside are not counted (they live in host memory)."""
        self.ignoring += 1
        try:
            yield
        finally:
            self.ignoring -= 1

    def enter(self, phase: str) -> None:
        """Starts a phase; its peak starts from what is alive now."""
        self.phase = phase
        self._note_peak()

    def mark(self, tensor: torch.Tensor, role: str) -> None:
        """Says what a tensor's storage is."""
        entry = self._live.get(tensor.untyped_storage()._cdata)
        if entry is not None:
            entry[1].role = role

    def role_of(self, tensor: torch.Tensor) -> str | None:
        """The role of a tensor's storage; None when the storage is not known."""
        entry = self._live.get(tensor.untyped_storage()._cdata)
        return None if entry is None else entry[1].role

    def adopt(self, tensor: torch.Tensor, role: str, module: str) -> None:
        """Counts a tensor that was made outside (a weight)."""
        self._register(tensor, "parameter", module)
        self.mark(tensor, role)

    # -- recording ----------------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        in_backward = False
        if self.modules:
            module = self.modules[-1]
            if torch.is_grad_enabled():
                self._module_of_node[torch.autograd._get_sequence_nr() - 1] = module
        else:
            node = torch._C._current_autograd_node()
            module = ""
            if node is not None:
                in_backward = True
                module = self._module_of_node.get(node._sequence_nr(), "")
            elif torch.is_grad_enabled():
                self._module_of_node[torch.autograd._get_sequence_nr() - 1] = ""
        if isinstance(out, torch.Tensor):
            self._register(out, func, module, in_backward)
        elif isinstance(out, (tuple, list)):
            for item in out:
                if isinstance(item, torch.Tensor):
                    self._register(item, func, module, in_backward)
                elif isinstance(item, (tuple, list)):
                    for inner in item:
                        if isinstance(inner, torch.Tensor):
                            self._register(inner, func, module, in_backward)
        rule = self._scratch.get(func)
        if rule is not None:
            self._hold_scratch(func, module, rule(args, out))
        return out

    def _rounded(self, size: int) -> int:
        step = self.granularity
        return -(-size // step) * step

    def _register(self, tensor: torch.Tensor, op: Any, module: str, backward: bool = False) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live or self.ignoring:
            return
        size = storage.nbytes()
        if size == 0:
            return
        self.clock += 1
        record = Storage(
            self._rounded(size),
            self.clock,
            self.phase,
            op if isinstance(op, str) else op.__name__,
            module,
            str(tensor.dtype)[6:],
            tuple(tensor.shape),
            backward=backward,
        )
        self.storages.append(record)

        def on_death(_: Any, key: int = key, record: Storage = record) -> None:
            if self._live.pop(key, None) is not None:
                self.clock += 1
                record.died = self.clock
                self.current -= record.size

        self._live[key] = (weakref.ref(storage, on_death), record)
        self.current += record.size
        self._note_peak()

    def _hold_scratch(self, op: Any, module: str, sizes: list[int]) -> None:
        held = []
        for size in sizes:
            if size <= 0:
                continue
            self.clock += 1
            record = Storage(self._rounded(size), self.clock, self.phase, f"{op.__name__} scratch", module, "", (size,))
            record.role = "temporaries"
            self.storages.append(record)
            held.append(record)
            self.current += record.size
        if held:
            self._note_peak()
        for record in held:
            self.clock += 1
            record.died = self.clock
            self.current -= record.size

    def _note_peak(self) -> None:
        best = self.peaks.get(self.phase)
        if best is None or self.current > best[0]:
            self.peaks[self.phase] = (self.current, self.clock)

    # -- modules ------------------------------------------------------------------------------------------------------

    @contextmanager
    def naming(self, names: dict[int, str]) -> Iterator[None]:
        """Keeps the stack of running modules by hooks on every module call; `names` maps id(module) to its path."""

        def before(module: Any, _: Any) -> None:
            self.modules.append(names.get(id(module), type(module).__name__))

        def after(module: Any, *_: Any) -> None:
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

    def forget(self) -> None:
        """Drops the weak references, so that storages that outlive the recorder do not call back."""
        self._live.clear()
