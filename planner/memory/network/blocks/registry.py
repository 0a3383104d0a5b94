"""Which layer program belongs to which architecture."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

from planner.contract.spec import ModelSpec
from planner.memory.engine.graph import Tensor
from planner.memory.network.blocks import (
    bert,
    experts,
    falcon,
    gemma,
    gpt2,
    gpt_neox,
    llama,
    olmo,
    phi,
    phi3,
    stablelm,
    starcoder2,
    t5,
)
from planner.memory.network.net import Net, unmodelled


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
    bind: Callable[[Net, int], t5.Bound] | None = None
    """Instead of `layer`: the layer at an index with all it takes besides the hidden states, which it holds on to."""
    mask_by_position: bool = False
    """Whether layers get their mask by position: a checkpoint then saves it (and offloads it) with the input."""


_LLAMA = Program(embed=llama.embed, layer=llama.layer, final=llama.final, kind=llama.kind)
_GEMMA = Program(embed=gemma.embed, layer=gemma.layer, final=llama.final, kind=llama.kind)
_BIGCODE = Program(embed=gpt2.embed, layer=gpt2.layer, final=gpt2.final)
_EXPERTS = Program(embed=experts.embed, layer=experts.layer, final=llama.final, kind=experts.kind)
_BERT = Program(embed=bert.embed, layer=bert.layer, final=bert.final, finish=bert.finish, mask_by_position=True)

PROGRAMS: dict[str, Program] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "phi": Program(embed=phi.embed, layer=phi.layer, final=phi.final),
    "falcon": Program(embed=falcon.embed, layer=falcon.layer, final=falcon.final),
    "gemma": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "olmo": Program(embed=olmo.embed, layer=olmo.layer, final=olmo.final),
    "olmo2": Program(embed=olmo.embed, layer=olmo.layer2, final=llama.final),
    "phi3": Program(embed=phi3.embed, layer=phi3.layer, final=llama.final),
    "stablelm": Program(embed=phi.embed, layer=stablelm.layer, final=stablelm.final),
    "starcoder2": Program(embed=starcoder2.embed, layer=starcoder2.layer, final=stablelm.final),
    "gpt_neox": Program(embed=gpt_neox.embed, layer=gpt_neox.layer, final=gpt_neox.final),
    "gpt2": replace(_BIGCODE, mask_by_position=True),
    "gpt_bigcode": _BIGCODE,
    "t5": Program(
        embed=t5.embed,
        layer=t5.layer,
        final=t5.final,
        kind=t5.kind,
        finish=t5.finish,
        between=t5.between,
        bind=t5.bind,
    ),
    "mixtral": _EXPERTS,
    "qwen2_moe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
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
    if found.finish is None and all(module.path != found.head for module in reversed(spec.modules)):
        raise unmodelled(f"memory of {spec.architecture} with a {spec.task} head")
    return found
