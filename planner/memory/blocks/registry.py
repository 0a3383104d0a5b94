"""Which layer program belongs to which architecture."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

from planner.memory.blocks import bert, llama, phi
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
    finish: Callable[[Net, list[Tensor], list[Tensor]], Tensor] | None = None
    """Head and loss where they are not the causal ones; takes its input out of the first list, so that nobody else
    holds it, and puts logits that are kept into the second."""
    between: Callable[[Net, Tensor], Tensor] | None = None
    """What runs between an encoder's layers and a decoder's, which count on from `spec.num_layers`."""


_LLAMA = Program(embed=llama.embed, layer=llama.layer, final=llama.final, kind=llama.kind)
_BERT = Program(embed=bert.embed, layer=bert.layer, final=bert.final, finish=bert.finish)

PROGRAMS: dict[str, Program] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "phi": Program(embed=phi.embed, layer=phi.layer, final=phi.final),
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "distilbert": replace(_BERT, layer=bert.distil_layer),
}


def program(spec: ModelSpec) -> Program:
    """The architecture's program; `NotModelled` where none exists."""
    found = PROGRAMS.get(spec.architecture)
    if found is None:
        raise unmodelled(f"memory of architecture {spec.architecture!r}")
    return found
