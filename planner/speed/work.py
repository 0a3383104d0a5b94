"""What one micro-batch asks of a device: floating-point operations, bytes moved and kernels, operation by operation.

Counts are per forward pass of one copy; `backward` says how many such passes the backward takes. A multiply-add is two
operations. Sources: a matrix product of T tokens costs 2*T*in*out (Kaplan et al. 2020, arXiv:2001.08361, table 1);
its backward one such product for the input's gradient and one for the weight's, so frozen weights cost 1 and trained
ones 2 forward passes; attention as in Dao et al. 2022 (arXiv:2205.14135): two products forward, five backward when the
scores are recomputed, four when they were kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from planner.contract.choices import TrainingChoices
from planner.contract.spec import ModelSpec, Module
from planner.contract.units import DTYPE_BYTES
from planner.models.lora import adapter_modules, adapter_rank, saved_modules, trainable_parameters

Array = NDArray[np.float64]

BYTES_PER_WEIGHT = {"nf4": 0.5, "nf4-double": 0.5, "int8": 1.0}
"""Storage of a quantized base weight, scales left out (they are below 4 %)."""

KEPT = {"mlp": 1.0, "norms": 0.4}
"""What stack `builtin` saves in backward where a piece isn't made again, in forward passes, by the bytes that its
functions move: an MLP's activation and its product, 10 of 10 bytes per element; of a norm the fp32 copy and its
product with 1/rms, 14 of 36 (trainer/modeling/lean)."""

GELU_AS_MANY_OPS = ("gelu_new", "gelu_fast", "gelu_accurate", "quick_gelu")
"""Activations that transformers writes as separate element-wise operations (transformers/activations.py)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One kind of operation of a micro-batch, with the cost of one forward pass of one copy."""

    name: str
    engine: Literal["matmul", "attention", "vector", "dequantize"]
    """What it runs on: matrix units in large products, an attention kernel, element-wise arithmetic, or a kernel that
    unpacks quantised weights.
    """
    flops: Array
    bytes: Array
    copies: int
    backward: float
    """Backward cost in forward passes: 0 where nothing before it is trained."""
    in_layer: bool
    """Whether a checkpointed layer repeats it."""
    kernels: float
    """Kernels launched by one forward pass of one copy."""
    dtype: str
    """Arithmetic type: fp32, tf32, bf16 or fp16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateWork:
    """What the optimizer step and gradient accumulation move, once per step and per micro-batch."""

    trainable_parameters: int
    step_bytes: float
    """Bytes of clipping and the optimizer's update."""
    accumulate_bytes: float
    """Bytes that adding one micro-batch's gradients moves."""
    gradient_bytes: float
    """Size of all gradients: what several devices exchange."""
    kernels: int


def compute_dtype(choices: TrainingChoices) -> str:
    """Arithmetic type of the matrix products under `--precision`: fp32, bf16 or fp16."""
    return choices.precision.removesuffix("-mixed").removesuffix("-amp")


def autocasts(choices: TrainingChoices) -> bool:
    """Whether products run under autocast, in 16 bit whatever their inputs are stored in."""
    return choices.precision.endswith(("-mixed", "-amp"))


def stream_dtype(choices: TrainingChoices) -> str:
    """Type of what flows between the layers: fp32 behind norms that k-bit preparation made fp32, else the products'.

    transformers' RMSNorm multiplies with its weight last, and bitsandbytes' Linear4bit hands out what it was given
    (transformers modeling_llama.py, bitsandbytes nn/modules.py, read 2026-11-27).
    """
    return "fp32" if choices.kbit_prepared != "none" else compute_dtype(choices)


def visible_pairs(length: Array, *, causal: bool, window: int | None) -> Array:
    """Query-key pairs of one sequence that attention computes, per head.

    Bidirectional L^2; causal L(L+1)/2; with a window W of earlier tokens each query sees at most W keys.
    """
    seen: Array = length if window is None else np.minimum(length, float(window))
    pairs: Array = seen * (seen + 1) / 2 + (length - seen) * seen if causal else length * length
    return pairs


def operations(
    model: ModelSpec,
    choices: TrainingChoices,
    batch_size: Array,
    length: Array,
    *,
    fused_attention: bool = True,
) -> Iterator[Operation]:
    """Every operation of one micro-batch of `batch_size` sequences of `length` tokens (arrays of one shape).

    `fused_attention`: whether the device has a kernel that never writes the scores (Apple's GPU has none).
    """
    tokens = batch_size * length
    adapted = adapter_modules(model, choices)
    yield from _products(model, choices, tokens, adapted)
    yield from _dequantized(model, choices, tokens)
    yield from _attention(model, choices, batch_size, length, fused_attention)
    yield from _elementwise(model, choices, tokens, adapted)
    yield _loss(model, choices, tokens)


def model_flops_per_token(model: ModelSpec, length: Array) -> Array:
    """Forward FLOPs per token that the mathematics asks for, attention counted over the whole square.

    With backward (three times this) it is PaLM's 6N + 12*L*H*Q*T (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
    """
    products = sum(2.0 * _active_weights(module, model) * module.copies for module in model.modules)
    layers = model.num_layers + 2 * model.num_decoder_layers
    return np.asarray(products + 4.0 * model.num_heads * model.head_dim * layers * length, dtype=np.float64)


def stored_bytes(choices: TrainingChoices) -> int:
    """Bytes of one weight that isn't quantised."""
    return 4 if choices.precision == "fp32" or choices.precision.endswith("-mixed") else 2


def update(model: ModelSpec, choices: TrainingChoices) -> UpdateWork:
    """Bytes of the optimizer step. Accesses per parameter were counted in torch/optim (2.13): each foreach kernel
    reads its inputs and writes its output."""
    parameters = trainable_parameters(model, choices)
    if choices.method == "full":
        size = stored_bytes(choices)
    else:
        size = DTYPE_BYTES[choices.adapter_dtype]
    accesses = _optimizer_accesses(choices, size)
    if choices.max_grad_norm > 0:
        accesses += 3 * size  # norm reads, scaling reads and writes
    return UpdateWork(
        trainable_parameters=parameters,
        step_bytes=float(parameters) * accesses,
        accumulate_bytes=3.0 * parameters * size,
        gradient_bytes=float(parameters) * size,
        kernels=40 if choices.optimizer_implementation != "forloop" else 20 * sum(m.copies for m in model.modules),
    )


def _optimizer_accesses(choices: TrainingChoices, size: int) -> float:
    """Bytes moved per trainable parameter by one update."""
    fused = choices.optimizer_implementation == "fused"
    return {
        "adamw": (7 if fused else 20) * size,
        "adamw-8bit": 3 * size + 4,
        "paged-adamw-8bit": 3 * size + 4,
        "adafactor": 12 * size,
        "sgd": 3 * size,
    }[choices.optimizer]


def _active_weights(module: Module, model: ModelSpec) -> float:
    """Weights of one copy that one token is multiplied with; 0 for look-ups, norms and biases."""
    if module.kind in ("linear", "conv1d"):
        return float(module.shape[0] * module.shape[1])
    if module.kind == "parameter" and len(module.shape) >= 2:  # a router, or all experts of a layer in one tensor
        share = model.experts_per_token / model.num_experts if _is_expert_stack(module, model) else 1.0
        return float(np.prod(module.shape)) * share
    return 0.0


def _is_expert_stack(module: Module, model: ModelSpec) -> bool:
    """Whether a tensor holds the weights of all experts of a layer: (experts, out, in)."""
    return len(module.shape) == 3 and module.shape[0] == model.num_experts > 0


def _products(
    model: ModelSpec, choices: TrainingChoices, tokens: Array, adapted: tuple[Module, ...]
) -> Iterator[Operation]:
    extra = 6.0 if choices.precision.endswith("-mixed") else 0.0  # autocast's copy of an fp32 weight
    head_in_fp32 = choices.kbit_prepared == "stock" and not autocasts(choices)
    saved = {module.path for module in saved_modules(model, choices)}
    for module in model.modules:
        active = _active_weights(module, model)
        if not active:
            continue
        trained = choices.method == "full" or module.path in saved
        dtype = "fp32" if head_in_fp32 and module.layers is None else compute_dtype(choices)
        size = DTYPE_BYTES[dtype]
        stored = float(np.prod(module.shape))
        experts = _is_expert_stack(module, model)
        per_token = model.experts_per_token if experts else 1
        touched = np.minimum(stored, tokens * active) if experts else stored
        yield Operation(
            name=module.path,
            engine="matmul",
            flops=2.0 * active * tokens,
            bytes=(size + extra) * touched + size * tokens * per_token * (module.shape[-1] + module.shape[-2]),
            copies=module.copies,
            backward=2.0 if trained else 1.0,
            in_layer=module.layers is not None,
            kernels=1 if not extra else 2,
            dtype=dtype,
        )
    for module in adapted:
        yield _adapter(model, module, choices, tokens)


def _dequantized(model: ModelSpec, choices: TrainingChoices, tokens: Array) -> Iterator[Operation]:
    """Unpacking every quantised weight before each product with it; backward, and each recomputation, does it anew."""
    if choices.method != "qlora":
        return
    moved = BYTES_PER_WEIGHT[choices.quantization] + 2.0
    for module in model.modules:
        if module.layers is None or not _active_weights(module, model):
            continue
        everything = np.full_like(tokens, float(np.prod(module.shape)))
        yield Operation(
            name=f"{module.path} (unpacked)",
            engine="dequantize",
            flops=np.zeros_like(tokens),
            bytes=moved * everything,
            copies=module.copies,
            backward=1.0,
            in_layer=True,
            kernels=1,
            dtype="fp32",
        )


def _adapter(model: ModelSpec, module: Module, choices: TrainingChoices, tokens: Array) -> Operation:
    """The two thin products of one LoRA pair; fp32 adapters on a 16-bit network compute in fp32 without autocast."""
    fp32 = choices.adapter_dtype == "fp32" and not autocasts(choices)
    dtype = "fp32" if fp32 else compute_dtype(choices)
    size = DTYPE_BYTES[dtype]
    rank = adapter_rank(model, module, choices)
    width = (module.shape[-1] + module.shape[-2]) * (model.experts_per_token if _is_expert_stack(module, model) else 1)
    weight = float(np.prod(module.shape))
    dora = choices.lora_variant == "dora"  # writes B A, adds it to the weight and takes the sum's norm, every forward
    return Operation(
        name=f"{module.path} (adapter)",
        engine="matmul",
        flops=2.0 * rank * width * tokens + (2.0 * rank * weight if dora else 0.0),
        bytes=size * (rank * width + tokens * (width + 2 * rank)) + (5.0 * weight * size if dora else 0),
        copies=module.copies,
        backward=2.0,
        in_layer=module.layers is not None,
        kernels=2 + 5 * dora,
        dtype=dtype,
    )


def _attention(
    model: ModelSpec, choices: TrainingChoices, batch_size: Array, length: Array, fused_attention: bool
) -> Iterator[Operation]:
    dtype = compute_dtype(choices) if autocasts(choices) else stream_dtype(choices)
    size = DTYPE_BYTES[dtype]
    fused = fused_attention and choices.attention != "eager"
    width = model.num_heads * model.head_dim
    heads = model.num_heads + model.num_kv_heads
    causal = model.facts.causal
    sliding = len(model.sliding_layers) if model.sliding_window else 0
    # (copies, causal, window): self-attention of each stack, and the decoder's look at the encoder
    stacks: list[tuple[int, bool, int | None]] = [
        (sliding, causal, model.sliding_window),
        (model.num_layers - sliding, causal, None),
        (model.num_decoder_layers, True, None),
        (model.num_decoder_layers, False, None),
    ]
    for copies, masked, window in stacks:
        if not copies:
            continue
        square = length * length
        pairs = visible_pairs(length, causal=masked, window=window) if fused else square
        scores = batch_size * model.num_heads * square
        moved = 2.0 * size * batch_size * length * heads * model.head_dim
        yield Operation(
            name="attention",
            engine="attention" if fused else "matmul",
            flops=4.0 * width * batch_size * pairs,
            # unfused: scores written, masked, widened for the softmax, narrowed, dropped out, read again
            bytes=moved if fused else moved + scores * (5.0 * size + 8.0),
            copies=copies,
            backward=2.5 if fused else 2.0,
            in_layer=True,
            kernels=3 if fused else 8,
            dtype=dtype,
        )


def _elementwise(
    model: ModelSpec, choices: TrainingChoices, tokens: Array, adapted: tuple[Module, ...]
) -> Iterator[Operation]:
    """Norms, residuals, rotation, activation and what an adapter adds: bytes per token, counted op by op for 16-bit."""
    scale = DTYPE_BYTES[stream_dtype(choices)] / 2
    layers = model.num_layers + model.num_decoder_layers
    lean = choices.stack == "builtin"
    norms, mlp = (KEPT[piece] if lean and not choices.makes_again(piece) else 0.0 for piece in ("norms", "mlp"))
    yield _vector("norms", choices, tokens, scale * _norm_bytes(model), 1, kernels=6.0 * 2 * layers, kept=norms)
    yield _vector("residuals", choices, tokens, scale * 12.0 * model.hidden_size, layers, kernels=2)
    if model.facts.positions == "rotary":
        rotated = (model.num_heads + model.num_kv_heads) * model.head_dim
        yield _vector("rotation", choices, tokens, scale * 20.0 * rotated, layers, kernels=10)
    yield _vector("activation", choices, tokens, scale * _activation_bytes(model), layers, kernels=2, kept=mlp)
    for module in adapted:
        yield _vector(
            f"{module.path} (adapter)", choices, tokens, _adapter_bytes(module, choices), module.copies, kernels=5
        )


def _vector(
    name: str,
    choices: TrainingChoices,
    tokens: Array,
    bytes_per_token: float,
    copies: int,
    kernels: float,
    *,
    kept: float = 0.0,
) -> Operation:
    """An element-wise operation; its backward moves about twice what its forward does (gradient, saved input, out),
    less what it needn't make again (`kept`, in forward passes)."""
    moved = bytes_per_token * tokens
    return Operation(
        name=name,
        engine="vector",
        flops=np.zeros_like(moved),
        bytes=moved,
        copies=copies,
        backward=2.0 - kept,
        in_layer=True,
        kernels=kernels,
        dtype="fp32",
    )


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
    fp32 = choices.adapter_dtype == "fp32" and not autocasts(choices)
    if choices.stack == "builtin":
        return 6.0 * module.shape[-2] + (5.0 if choices.lora_dropout else 0.0) * module.shape[-1]
    size = 4.0 if fp32 else 2.0
    dropout = (2 * size + 1) if choices.lora_dropout else 0.0
    cast = 2.0 + size if fp32 else 0.0
    return (cast + dropout) * module.shape[-1] + (5 * size + 4.0) * module.shape[-2]


def _loss(model: ModelSpec, choices: TrainingChoices, tokens: Array) -> Operation:
    """Softmax and cross-entropy over the vocabulary: widened copy, log-softmax and gradient, or chunk by chunk."""
    moved = (28.0 if choices.loss == "full" else 12.0) * model.vocab_size * tokens
    return Operation(
        name="loss",
        engine="vector",
        flops=np.zeros_like(moved),
        bytes=moved,
        copies=1,
        backward=0.0,  # forward and backward are counted together
        in_layer=False,
        kernels=8,
        dtype="fp32",
    )
