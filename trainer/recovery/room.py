"""Host memory asked for before it is taken, so that a shortage comes as an exception that recovery handles.

A process may be limited: by `ulimit -v` or `-d`, by a system that doesn't overcommit, by the memory cgroup of its
container. Libraries that don't look at malloc's answer then end it with SIGSEGV: oneDNN does while it makes the machine
code of a product, in the last 1.5 MiB (torch 2.13). A cgroup has no answer at all but SIGKILL.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.recovery import limits

LIBRARIES = 4 * 2**20
"""Bytes that must be free beside a product's result, for machine code and small buffers of the libraries: of 8 shapes
in fp32 and bf16, none ended otherwise than by an exception with more than 1.5 MiB (one thread)."""

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_linear_pointwise")
"""Operators below autograd whose result is two matrices' product."""
LIKE_INPUT = ("gelu", "gelu_backward", "_scaled_dot_product_flash_attention_for_cpu", "convolution")
"""Operators that may compile code, and whose result is about as large as their first input."""


def ask(count: int) -> None:
    """Raises torch.OutOfMemoryError unless there are `count` bytes for a tensor and the libraries' share beside it."""
    if not limits.has(count, beside=LIBRARIES):
        raise torch.OutOfMemoryError(f"can't allocate memory: {count} bytes aren't free under this process's limit")


class _Asking(TorchDispatchMode):
    """Asks for an operator's result and the libraries' share before the operator runs."""

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        needed = result_bytes(func.overloadpacket.__name__, args)
        if needed is not None:
            ask(needed)
        return func(*args, **(kwargs or {}))


def result_bytes(name: str, args: tuple[Any, ...]) -> int | None:
    """Bytes that the operator `name` takes for its result on `args`; None where it compiles nothing."""
    plain = name.rstrip("_")
    if plain in LIKE_INPUT:
        return 2 * int(args[0].numel()) * int(args[0].element_size())
    if plain not in PRODUCTS:
        return None
    if name.endswith("_"):
        return 0
    if plain == "_linear_pointwise":
        rows, columns = args[0].numel() // max(args[0].shape[-1], 1), args[1].shape[0]
    else:
        first, second = args[-2:] if plain in ("addmm", "baddbmm") and len(args) < 4 else args[:2]
        rows, columns = first.numel() // max(first.shape[-1], 1), second.shape[-1]
    return int(rows * columns) * int(args[0].element_size())


@contextlib.contextmanager
def asked_first(device: torch.device) -> Iterator[None]:
    """Within the block, on a limited cpu, memory runs out in an exception. Costs some 10 µs an operator."""
    if device.type != "cpu" or not limits.limited():
        yield
        return
    with _Asking():  # type: ignore[no-untyped-call]
        yield


def make_ready() -> int:
    """Loads and starts on a cpu what the first step would have to, while there is room; returns torch's threads.

    libgomp ends the process when a thread can't be made, so as many threads of ours are made and ended first, and
    fewer taken where that fails.
    """
    wanted = torch.get_num_threads()
    if not limits.limited() and limits.cgroup() is None:
        return wanted
    with _Asking():  # type: ignore[no-untyped-call]  # a dispatch mode's first operator imports torch._dynamo
        torch.ones(2).add_(1)
    if wanted == 1:
        return 1
    done = threading.Event()
    made: list[threading.Thread] = []
    try:
        for _ in range(wanted - 1):
            thread = threading.Thread(target=done.wait, daemon=True)
            thread.start()
            made.append(thread)
        fits = limits.has(LIBRARIES)
    except (RuntimeError, MemoryError):
        fits = False
    done.set()
    for thread in made:
        thread.join()
    if not fits:
        torch.set_num_threads(max(1, len(made) // 2))
    # An operator that is large enough to be divided among all.
    torch.zeros(torch.get_num_threads() * 2**16).add_(1)
    return torch.get_num_threads()
