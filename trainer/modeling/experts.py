"""Mixtral's experts as linear modules of their own, as transformers had them before version 5.

Quantising replaces linear modules, so that every expert there is quantised; transformers 5 fuses a layer's experts
into tensors that stay as they are. Source: transformers 4.48 models/mixtral/modeling_mixtral.py,
MixtralSparseMoeBlock (read 2026-11).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from planner.contract import architectures
from planner.contract.choices import TrainingChoices


class Expert(nn.Module):
    """w2(act(w1(x)) · w3(x)) of x (rows, hidden)."""

    def __init__(self, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, act: Any) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = _linear(gate), _linear(down), _linear(up)
        self.act_fn = act

    def forward(self, x: torch.Tensor) -> Any:
        """The expert's rows (rows, hidden)."""
        return self.w2(self.act_fn(self.w1(x)) * self.w3(x))


class SeparateExperts(nn.Module):
    """Router and experts of one layer, made of transformers 5's fused ones; each runs on the rows that it was sent."""

    def __init__(self, fused: Any) -> None:
        super().__init__()
        self.top_k = fused.top_k
        self.gate = _linear(fused.gate.weight.data)
        both, down = fused.experts.gate_up_proj.data, fused.experts.down_proj.data
        self.experts = nn.ModuleList()
        for index in range(both.shape[0]):
            gate, up = both[index].chunk(2)
            self.experts.append(Expert(gate, up, down[index], fused.experts.act_fn))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, length, hidden) to the same shape."""
        shape = hidden_states.shape
        hidden_states = hidden_states.view(-1, shape[-1])
        router_logits = self.gate(hidden_states)
        weights = functional.softmax(router_logits, dim=1, dtype=torch.float)
        weights, chosen = torch.topk(weights, self.top_k, dim=-1)
        weights /= weights.sum(dim=-1, keepdim=True)
        weights = weights.to(hidden_states.dtype)
        total = torch.zeros_like(hidden_states)
        count = len(self.experts)
        sent = functional.one_hot(chosen, num_classes=count).permute(2, 1, 0)
        for index in range(count):
            place, token = rows_sent(sent[index], count)
            state = hidden_states[None, token].reshape(-1, shape[-1])
            made = self.experts[index](state) * weights[token, place, None]
            total.index_add_(0, token, made.to(hidden_states.dtype))
        return total.reshape(shape)


def rows_sent(sent: torch.Tensor, experts: int) -> tuple[torch.Tensor, ...]:
    """Which of a token's choices it is, and which token, for each row that one of `experts` was sent.

    sent: (top_k, tokens), nonzero where the expert was chosen.
    """
    return torch.where(sent)


def separate_experts(model: Any, choices: TrainingChoices) -> Any:
    """Gives every expert of a Mixtral its own modules where the choices name a release before transformers 5."""
    facts = architectures.of(model.config.model_type).experts
    if choices.separate_experts and facts is not None and facts.were_modules:
        for layer in model.model.layers:
            layer.mlp = SeparateExperts(layer.mlp)
    return model


def _linear(weight: torch.Tensor) -> nn.Linear:
    """A linear module without bias over a copy of `weight` (out, in)."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta", dtype=weight.dtype)
    made.weight = nn.Parameter(weight.clone())
    return made
