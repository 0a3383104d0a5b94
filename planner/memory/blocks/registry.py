"""Which layer program belongs to which architecture."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from planner.memory.blocks import llama, phi
from planner.memory.net import Net, unmodelled
from planner.memory.tape import Tensor
from planner.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Program:
    """The forward of one architecture in four parts."""

    embed: Callable[[Net], Tensor]
    layer: Callable[[Net, Tensor, int], Tensor]
    final: Callable[[Net, Tensor], Tensor]
    head: str = "lm_head"
    kind: Callable[[Net, int], Hashable] = lambda net, index: 0
    """What distinguishes the layer at an index from others in bytes."""


_LLAMA = Program(embed=llama.embed, layer=llama.layer, final=llama.final, kind=llama.kind)

PROGRAMS: dict[str, Program] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "phi": Program(embed=phi.embed, layer=phi.layer, final=phi.final),
}


def program(spec: ModelSpec) -> Program:
    """The architecture's program; `NotModelled` where none exists."""
    found = PROGRAMS.get(spec.architecture)
    if found is None:
        raise unmodelled(f"memory of architecture {spec.architecture!r}")
    return found
