"""Pieces of stack `builtin` on networks without a written program: proven on the module's own code, or left out."""

from __future__ import annotations

import importlib

import pytest
import torch

from trainer.modeling.lean import proof
from trainer.modeling.plain_head import plain_head


def _module(kind: str, name: str):
    return getattr(importlib.import_module(f"transformers.models.{kind}.modeling_{kind}"), name)


@pytest.mark.parametrize(
    ("kind", "name", "form"),
    [
        ("llama", "LlamaRMSNorm", (0.0, False)),
        ("olmo2", "Olmo2RMSNorm", (0.0, True)),
        ("olmo3", "Olmo3RMSNorm", (0.0, True)),
        ("gemma2", "Gemma2RMSNorm", (1.0, True)),
        ("qwen3_next", "Qwen3NextRMSNorm", (1.0, True)),
        ("gpt_oss", "GptOssRMSNorm", (0.0, True)),
        ("glm4_moe", "Glm4MoeRMSNorm", (0.0, False)),
    ],
)
def test_a_norm_gets_the_form_that_its_own_code_has(kind: str, name: str, form: tuple[float, bool]) -> None:
    with torch.device("meta"):
        norm = _module(kind, name)(512, eps=1e-6)
    assert proof.norm_form(norm) == form


class _OddRMSNorm(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(16))
        self.eps = 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


def test_a_norm_of_another_kind_stays_as_it_is() -> None:
    assert proof.norm_form(_OddRMSNorm()) is None


class _Gated(torch.nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(self, name, torch.nn.Linear(32, 32, bias=False))
        self.scale, self.act_fn = scale, torch.nn.functional.silu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x) * self.scale) * self.up_proj(x))


@pytest.mark.parametrize(("scale", "holds"), [(1.0, True), (0.5, False)])
def test_an_mlp_that_scales_its_gate_is_told_apart(scale: float, holds: bool) -> None:
    mlp = _Gated(scale)
    assert (
        proof.mlp_holds(mlp, lambda m, x: m.down_proj(torch.nn.functional.silu(m.gate_proj(x)) * m.up_proj(x))) is holds
    )
    assert mlp.gate_proj.weight.shape == (32, 32)


@pytest.mark.parametrize(
    ("kind", "name", "plain"),
    [
        ("arcee", "ArceeForCausalLM", True),
        ("gpt_oss", "GptOssForCausalLM", True),
        ("cohere2", "Cohere2ForCausalLM", True),
        ("gemma4", "Gemma4ForCausalLM", True),
        ("falcon_h1", "FalconH1ForCausalLM", False),
        ("bert", "BertLMHeadModel", False),
    ],
)
def test_a_head_that_does_more_than_a_product_gets_no_chunked_loss(kind: str, name: str, plain: bool) -> None:
    assert plain_head(_module(kind, name)) is plain
