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

import numpy as np

from planner.contract.choices import TrainingChoices
from planner.contract.spec import ModelSpec, Module
from planner.contract.units import DTYPE_BYTES
from planner.models.lora import adapter_modules, adapter_rank, saved_modules, trainable_parameters
from planner.speed.elementwise import elementwise
from planner.speed.operation import Array, Operation, autocasts, compute_dtype, stream_dtype, vector

BYTES_PER_WEIGHT = {"nf4": 0.5, "nf4-double": 0.5, "int8": 1.0}
"""Storage of a quantized base weight, scales left out (they are below 4 %)."""
ATTENTION = frozenset(("self_attn", "self_attention", "attention", "attn"))
"""What transformers calls a layer's attention over all tokens; `linear_attn`, `conv` and `mamba` stand beside it."""


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
    yield from elementwise(model, choices, tokens, adapted)
    yield _loss(model, choices, tokens)


def model_flops_per_token(model: ModelSpec, length: Array) -> Array:
    """Forward FLOPs per token that the mathematics asks for, attention counted over the whole square.

    With backward (three times this) it is PaLM's 6N + 12*L*H*Q*T (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
    """
    products = sum(2.0 * _active_weights(module, model) * module.copies for module in model.modules)
    layers = attention_layers(model) + 2 * model.num_decoder_layers
    return np.asarray(products + 4.0 * model.num_heads * model.head_dim * layers * length, dtype=np.float64)


def attention_layers(model: ModelSpec) -> int:
    """Layers of the (first) stack that look at other tokens: not a hybrid's convolutions, recurrences or linear
    attention, whose own products are among the modules."""
    if "recorded" not in model.config:
        return model.num_layers
    found = {
        index for module in model.modules if ATTENTION & {*module.path.split(".")} for index in module.layers or ()
    }
    return len(found) or model.num_layers


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
            span=float(np.sqrt(float(module.shape[-1]) * float(module.shape[-2]))),
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
        if stream_dtype(choices) != compute_dtype(choices):  # what comes in is narrowed, what goes out widened again
            cast = 6.0 * (module.shape[-1] + module.shape[-2])
            yield vector(f"{module.path} (cast)", choices, tokens, cast, module.copies, kernels=2, backward=1.0)


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
        (attention_layers(model) - sliding, causal, None),
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
            span=length,
        )


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
