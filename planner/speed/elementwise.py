"""What runs between the products: norms, residuals, rotation, dropout, activation, casts and what an adapter adds.

Bytes are counted operator by operator as PyTorch runs them, what each reads and writes of one token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner.contract.choices import TrainingChoices
from planner.contract.spec import ModelSpec, Module
from planner.contract.units import DTYPE_BYTES
from planner.speed.operation import Array, Operation, autocasts, stream_dtype, vector

KEPT = {"mlp": 1.0, "norms": 0.4}
"""What stack `builtin` saves in backward where a piece isn't made again, in forward passes, by the bytes that its
functions move: an MLP's activation and its product, 10 of 10 bytes per element; of a norm the fp32 copy and its
product with 1/rms, 14 of 36 (trainer/modeling/lean)."""

GELU_AS_MANY_OPS = ("gelu_new", "gelu_fast", "gelu_accurate", "quick_gelu")
"""Activations that transformers writes as separate element-wise operations (transformers/activations.py)."""


def elementwise(
    model: ModelSpec, choices: TrainingChoices, tokens: Array, adapted: tuple[Module, ...]
) -> Iterator[Operation]:
    """Norms, residuals, rotation, activation and what an adapter adds: bytes per token, counted op by op for 16-bit."""
    scale = DTYPE_BYTES[stream_dtype(choices)] / 2
    layers = model.num_layers + model.num_decoder_layers
    lean = choices.stack == "builtin"
    norms, mlp = (KEPT[piece] if lean and not choices.makes_again(piece) else 0.0 for piece in ("norms", "mlp"))
    yield vector("norms", choices, tokens, scale * _norm_bytes(model), 1, kernels=6.0 * 2 * layers, kept=norms)
    yield vector("residuals", choices, tokens, scale * 12.0 * model.hidden_size, layers, kernels=2, backward=1.0)
    if model.facts.positions == "rotary":
        rotated = (model.num_heads + model.num_kv_heads) * model.head_dim
        yield vector("rotation", choices, tokens, scale * 20.0 * rotated, layers, kernels=10, backward=1.0)
    dropouts = 2 if model.hidden_dropout else 0
    yield vector("dropout", choices, tokens, scale * 5.0 * model.hidden_size, dropouts * layers, 1, backward=1.0)
    if choices.attention != "flash":  # heads laid beside each other again
        width = model.num_heads * model.head_dim
        yield vector("heads", choices, tokens, scale * 4.0 * width, layers, kernels=1, backward=1.0)
    biases = sum(module.shape[-2] * module.copies for module in model.modules if module.bias and len(module.shape) > 1)
    if choices.method == "full":  # their gradients sum what the products' outputs are handed
        yield replace(
            vector("biases", choices, tokens, scale * 2.0 * biases, 1, kernels=0), backward=0.0, in_layer=False
        )
    routed = scale * 14.0 * model.experts_per_token * model.hidden_size  # picked, weighted, added up again
    yield vector("routing", choices, tokens, routed, layers, kernels=3 * model.num_experts)
    yield vector("activation", choices, tokens, scale * _activation_bytes(model), layers, kernels=2, kept=mlp)
    for module in adapted:
        moved = _adapter_bytes(module, choices)
        yield vector(f"{module.path} (adapter)", choices, tokens, moved, module.copies, kernels=5, backward=1.0)


def _norm_bytes(model: ModelSpec) -> float:
    """Bytes per token of all norms: LayerNorm is one kernel (read and write), RMSNorm is written op by op in fp32."""
    total = 0.0
    for module in model.modules:
        if module.kind == "norm":
            total += (4.0 if module.bias else 36.0) * module.shape[-1] * module.copies
    return total


def _activation_bytes(model: ModelSpec) -> float:
    """Bytes per token and layer of the activation: a gate's function and product, or one function in many kernels."""
    width = model.intermediate_size
    if model.num_experts:
        width = model.experts_per_token * model.expert_intermediate_size + model.shared_expert_intermediate_size
    if model.activation in GELU_AS_MANY_OPS:
        return 36.0 * width
    gated = any(module.leaf in ("gate_proj", "gate_up_proj", "wi_1") for module in model.modules)
    return (10.0 if gated else 4.0) * width


def _adapter_bytes(module: Module, choices: TrainingChoices) -> float:
    """Bytes per token that PEFT's `result + lora_B(lora_A(dropout(x))) * scaling` adds beside the products."""
    stream = float(DTYPE_BYTES[stream_dtype(choices)])
    into, out = module.shape[-1], module.shape[-2]
    if choices.stack == "builtin":
        return 6.0 * out + (5.0 if choices.lora_dropout else 0.0) * into
    wide = max(stream, float(DTYPE_BYTES[choices.adapter_dtype]))  # PEFT hands A what its weights are
    cast = stream + wide if wide > stream else 0.0
    dropout = 2 * wide + 1 if choices.lora_dropout else 0.0
    again = wide + 2.0 if autocasts(choices) and wide > 2 else 0.0  # autocast narrows it once more
    size = 2.0 if autocasts(choices) else wide  # of what B puts out: scaled, added to the product, cast back
    back = wide + stream if size > stream else 0.0
    return (cast + dropout + again) * into + (2 * size + stream + size + max(size, stream) + back) * out
