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


def _embed_rotary(net: Net) -> Tensor:
    x = net.embed("model.embed_tokens")
    net.prepare(phi.rotary_dim(net), rotary=True)
    return x


_LLAMA = Program(
    embed=_embed_rotary,
    layer=llama.layer,
    final=lambda net, x: net.norm("model.norm", x, style="llama"),
)

PROGRAMS: dict[str, Program] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "phi": Program(
        embed=_embed_rotary,
        layer=phi.layer,
        final=lambda net, x: net.norm("model.final_layernorm", x),
    ),
}


def program(spec: ModelSpec) -> Program:
    """The architecture's program; `NotModelled` where none exists."""
    found = PROGRAMS.get(spec.architecture)
    if found is None:
        raise unmodelled(f"memory of architecture {spec.architecture!r}")
    return found
