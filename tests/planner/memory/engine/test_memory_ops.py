"""Every operator of the tape against PyTorch's: bytes at the peak of forward, kept for backward, at backward's peak.

Operators that the CPU runs as CUDA does are run for real; dropout and attention kernels on fake tensors with CUDA's.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, get_args

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional  # noqa: E402

from planner.contract.architecture import NormForm  # noqa: E402
from planner.memory.engine import norms, ops, products  # noqa: E402
from planner.memory.engine.graph import Tensor  # noqa: E402
from planner.memory.engine.tape import Tape  # noqa: E402
from planner.memory.engine.weight import Weight  # noqa: E402
from planner.memory.network import attention, loss  # noqa: E402
from planner.memory.network.attention import Heads, Style  # noqa: E402
from tests.support.memory_ops_support import BATCH, LENGTH, Input, Op, agrees  # noqa: E402

W, H, D, K, V = 96, 4, 32, 2, 640
"""Width, heads, width of a head, key heads, vocabulary."""
HALF, WIDE = Input(("B", "S", W), "bf16"), Input(("B", "S", W))
FROZEN = Input(("B", "S", W), "bf16", grad=False)
TABLE = Input(("S", W), "bf16", grad=False)
VECTOR = Input((W,), "bf16", grad=False)
SCORES = Input(("B", H, "S", "S"), "bf16")


STATISTICS = 2 * 2 * BATCH * LENGTH
"""Mean and deviation of a row are fp32 on CUDA; the CPU's LayerNorm keeps those of 16-bit rows in 16 bits."""


def parameter(*sizes: int, dtype: Any = torch.bfloat16, trains: bool = True) -> Any:
    return torch.nn.Parameter(torch.zeros(sizes, dtype=dtype), requires_grad=trains)


def weight(tape: Tape, elements: int, itemsize: int = 2, trains: bool = True) -> Weight:
    """A weight without bytes of its own, as the layer programs use it."""
    made = Weight(tape, 0, itemsize, trainable=False)
    made.tensor.elements = elements
    if trains:
        made.parameter = made.tensor.node = Weight(tape, 0, itemsize, trainable=True).parameter
        made.parameter.elements = elements
    return made


def _linear(trains: bool, bias: bool, x: Input = HALF) -> Op:
    parameters = [parameter(2 * W, W, trains=trains)] + ([parameter(2 * W, trains=trains)] if bias else [])
    return Op(
        f"linear{' trained' if trains else ''}{' biased' if bias else ''}{'' if x.grad else ' of a constant'}",
        (x,),
        Input(("B", "S", 2 * W), "bf16"),
        functional.linear,
        lambda tape, x: products.linear(
            tape,
            x,
            weight(tape, 2 * W * W, trains=trains),
            2 * W,
            W,
            weight(tape, 2 * W, trains=trains) if bias else None,
        ),
        tuple(parameters),
    )


def _autocast_linear(trains: bool) -> Op:
    return Op(
        f"linear under autocast{' trained' if trains else ''}",
        (WIDE,),
        Input(("B", "S", 2 * W), "bf16"),
        functional.linear,
        lambda tape, x: products.linear(tape, x, weight(tape, 2 * W * W, 4, trains), 2 * W, W),
        (parameter(2 * W, W, dtype=torch.float32, trains=trains),),
        device="cuda",
        autocast=True,
    )


def _layer_norm(trains: bool, autocast: bool = False) -> Op:
    dtype = torch.bfloat16
    return Op(
        f"layer_norm{' trained' if trains else ''}{' under autocast' if autocast else ''}",
        (HALF,),
        Input(("B", "S", W), "fp32" if autocast else "bf16"),
        lambda x, w, b: functional.layer_norm(x, (W,), w, b),
        lambda tape, x: norms.layer_norm(tape, x, weight(tape, W, trains=trains), weight(tape, W, trains=trains), W),
        (parameter(W, dtype=dtype, trains=trains), parameter(W, dtype=dtype, trains=trains)),
        device="cuda",
        autocast=autocast,
        slack=STATISTICS + 8 * W,
    )


def _rms_norm(form: NormForm, trains: bool) -> Op:
    from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm

    kind = {"cast_then_gain": LlamaRMSNorm, "shifted_gain": GemmaRMSNorm, "gain_then_cast": Olmo2RMSNorm}[form]
    module = kind(W).to(torch.bfloat16).requires_grad_(trains)
    return Op(
        f"rms_norm {form}{' trained' if trains else ''}",
        (HALF,),
        HALF,
        lambda x, w: module(x),
        lambda tape, x: norms.rms_norm(tape, x, weight(tape, W, trains=trains), W, form=form),
        (module.weight,),
        slack=16 * W,
    )


def _activation(name: str) -> Op:
    from transformers.activations import ACT2FN

    act = ACT2FN[name]
    return Op(f"activation {name}", (HALF,), HALF, act, lambda tape, x: ops.activation(tape, x, name))


def _rotary() -> Op:
    from transformers.models.llama.modeling_llama import rotate_half

    def rotate(x: Any, cos: Any, sin: Any) -> Any:
        x = x.view(*x.shape[:2], H, -1).transpose(1, 2)
        cos, sin = cos[None, None], sin[None, None]
        return ((x * cos) + (rotate_half(x) * sin)).transpose(1, 2).flatten(2)

    tables = Input(("S", D), "bf16", grad=False)
    x = Input(("B", "S", H * D), "bf16")
    return Op("rotary", (x, tables, tables), x, rotate, ops.rotary)


def _embedding(trains: bool) -> Op:
    tokens = torch.zeros(2, 192, dtype=torch.long)
    return Op(
        f"embedding{' trained' if trains else ''}",
        (),
        Input(("B", "S", W), "bf16"),
        lambda w: functional.embedding(tokens, w),
        lambda tape: ops.embedding(tape, weight(tape, V * W), W),
        (parameter(V, W),),
    )


POINTWISE = [
    Op("cast down", (WIDE,), HALF, lambda x: x.to(torch.bfloat16), lambda t, x: ops.to(t, x, 2)),
    Op("cast up", (HALF,), WIDE, lambda x: x.float(), lambda t, x: ops.to(t, x, 4)),
    Op("no cast", (HALF,), HALF, lambda x: x.to(torch.bfloat16), lambda t, x: ops.to(t, x, 2)),
    Op("copy", (HALF,), HALF, lambda x: x.clone(), ops.contiguous),
    Op("sum", (HALF, HALF), HALF, torch.add, ops.add),
    Op("sum with a constant", (HALF, FROZEN), HALF, torch.add, ops.add),
    Op("sum of two dtypes", (HALF, WIDE), WIDE, torch.add, ops.add),
    Op("sum with a row", (HALF, VECTOR), HALF, torch.add, ops.add),
    Op("sum in place", (HALF, HALF), HALF, lambda a, b: a.add_(b), ops.add_),
    Op("product", (HALF, HALF), HALF, torch.mul, ops.mul),
    Op("product with a constant", (HALF, FROZEN), HALF, torch.mul, ops.mul),
    Op("product with a table", (HALF, TABLE), HALF, torch.mul, ops.mul),
    Op("product with a row", (HALF, VECTOR), HALF, torch.mul, ops.mul),
    Op("product with a row that trains", (HALF, Input((W,), "bf16")), HALF, torch.mul, ops.mul),
    Op("product with a row that trains, of two dtypes", (HALF, Input((W,))), WIDE, torch.mul, ops.mul),
    Op("sum with a row that trains", (HALF, Input((W,), "bf16")), HALF, torch.add, ops.add),
    Op("product of two dtypes", (WIDE, HALF), WIDE, torch.mul, ops.mul),
    Op("times a number", (HALF,), HALF, lambda x: x * 3.0, ops.scale),
    Op("plus a number", (HALF,), HALF, lambda x: x + 3.0, ops.shift),
    Op("negation", (HALF,), HALF, torch.neg, ops.neg),
    Op("square", (WIDE,), WIDE, lambda x: x.pow(2), ops.power),
    Op("cube", (HALF,), HALF, lambda x: x.pow(3.0), ops.power),
    Op(
        "mean of the last dimension",
        (WIDE,),
        Input(("B", "S", 1)),
        lambda x: x.mean(-1, keepdim=True),
        lambda t, x: ops.mean_last(t, x, W),
    ),
    Op("rsqrt", (WIDE,), WIDE, torch.rsqrt, ops.rsqrt),
    Op("silu", (HALF,), HALF, functional.silu, ops.pointwise),
    Op("tanh", (HALF,), HALF, torch.tanh, lambda t, x: ops.pointwise(t, x, save="output")),
]

SHAPES = [
    Op(
        "concatenation",
        (HALF, HALF),
        Input(("B", "S", 2 * W), "bf16"),
        lambda a, b: torch.cat((a, b), dim=-1),
        ops.concat,
    ),
    Op(
        "slice",
        (HALF,),
        Input(("B", "S", W // 2), "bf16"),
        lambda x: x[..., : W // 2],
        lambda t, x: ops.part(t, x, W // 2),
    ),
    Op(
        "split, both used",
        (HALF,),
        Input(("B", "S", W // 2), "bf16"),
        lambda x: torch.mul(*x.chunk(2, dim=-1)),
        lambda t, x: ops.mul(t, *ops.split(t, x, W // 2, W // 2)),
    ),
    _rotary(),
]

PRODUCTS = [
    _linear(False, False),
    _linear(False, True),
    _linear(True, False),
    _linear(True, True),
    _linear(True, False, FROZEN),
    _autocast_linear(False),
    _autocast_linear(True),
    _embedding(True),
]

NORMS = [
    _layer_norm(False),
    _layer_norm(True),
    _layer_norm(False, autocast=True),
    *[_rms_norm(form, trains) for form in get_args(NormForm) for trains in (False, True)],
    Op("softmax", (SCORES,), SCORES, lambda x: x.softmax(-1), norms.softmax),
    Op(
        "softmax in fp32",
        (SCORES,),
        SCORES,
        lambda x: functional.softmax(x, dim=-1, dtype=torch.float32).to(x.dtype),
        norms.softmax_fp32,
        device="cuda",
    ),
]

ACTIVATIONS = [
    _activation(name) for name in ("silu", "gelu", "gelu_new", "gelu_fast", "quick_gelu", "relu", "gelu_pytorch_tanh")
]

DROPOUTS = [
    Op(
        f"dropout on {device}",
        (WIDE,),
        WIDE,
        lambda x: functional.dropout(x, 0.1, True),
        lambda t, x: ops.dropout(t, x, 0.1),
        device=device,
    )
    for device in ("cuda", "cpu")
]


def _heads(x: Any, heads: int = H) -> Any:
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def _flat(x: Any) -> Any:
    return x.transpose(1, 2).flatten(2)


def _sdpa(q: Any, k: Any, v: Any, mask: Any = None, *, grouped: bool = False) -> Any:
    kv = K if grouped else H
    return _flat(
        functional.scaled_dot_product_attention(
            _heads(q), _heads(k, kv), _heads(v, kv), attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
        )
    )


def _eager(groups: int, softcap: float | None = None, dropout: float = 0.0) -> Any:
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward as capped
    from transformers.models.llama.modeling_llama import eager_attention_forward as plain

    def run(q: Any, k: Any, v: Any, mask: Any) -> Any:
        module = SimpleNamespace(num_key_value_groups=groups, training=True, head_dim=D)
        heads = (_heads(q), _heads(k, H // groups), _heads(v, H // groups))
        if softcap:
            out, _weights = capped(module, *heads, mask, dropout, 0.1, softcap)
        else:
            out, _weights = plain(module, *heads, mask, 0.1, dropout)
        return out.flatten(2)

    return run


def _eager_tape(kv_heads: int, **options: Any) -> Any:
    def run(tape: Tape, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        out, _weights = attention.eager(tape, q, k, v, mask, Heads(H, kv_heads, D), Style(**options))
        return out

    return run


def _qkv(dtype: str = "bf16", kv_heads: int = H, width: int = D) -> tuple[Input, ...]:
    return (
        Input(("B", "S", H * width), dtype),
        Input(("B", "S", kv_heads * width), dtype),
        Input(("B", "S", kv_heads * width), dtype),
    )


MASK = Input(("B", 1, "S", "S"), "bf16", grad=False)
FLAGS = Input(("B", 1, "S", "S"), "bool", grad=False)

ATTENTION = [
    Op(
        "flash",
        _qkv(),
        _qkv()[0],
        _sdpa,
        lambda t, q, k, v: attention.flash(t, q, k, v, Heads(H, H, D)),
        device="cuda",
    ),
    Op(
        "flash, grouped",
        _qkv(kv_heads=K),
        _qkv()[0],
        lambda q, k, v: _sdpa(q, k, v, grouped=True),
        lambda t, q, k, v: attention.flash(t, q, k, v, Heads(H, K, D)),
        device="cuda",
    ),
    Op(
        "flash, heads of 80",
        _qkv(width=80),
        _qkv(width=80)[0],
        _sdpa,
        lambda t, q, k, v: attention.flash(t, q, k, v, Heads(H, H, 80)),
        device="cuda",
    ),
    Op(
        "efficient, boolean mask",
        (*_qkv(), FLAGS),
        _qkv()[0],
        _sdpa,
        lambda t, q, k, v, m: attention.efficient(t, q, k, v, m, Heads(H, H, D)),
        device="cuda",
        length=256,
    ),
    Op(
        "efficient, additive mask",
        (*_qkv(), MASK),
        _qkv()[0],
        _sdpa,
        lambda t, q, k, v, m: attention.efficient(t, q, k, v, m, Heads(H, H, D)),
        device="cuda",
        length=256,
    ),
    Op(
        "efficient, wide heads",
        (*_qkv(width=160), FLAGS),
        _qkv(width=160)[0],
        _sdpa,
        lambda t, q, k, v, m: attention.efficient(t, q, k, v, m, Heads(H, H, 160)),
        device="cuda",
        length=256,
    ),
    Op(
        "efficient in fp32",
        _qkv("fp32"),
        _qkv("fp32")[0],
        _sdpa,
        lambda t, q, k, v: attention.efficient(t, q, k, v, None, Heads(H, H, D)),
        device="cuda",
        length=256,
    ),
    Op(
        "math",
        _qkv("fp32", K),
        _qkv("fp32")[0],
        lambda q, k, v: _sdpa(q, k, v, grouped=True),
        lambda t, q, k, v: attention.math(t, q, k, v, None, Heads(H, K, D), Style()),
        device="cuda",
    ),
    *[
        Op(
            f"eager, {name}",
            (*_qkv(kv_heads=H // groups), MASK),
            _qkv()[0],
            _eager(groups, **torch_options),
            _eager_tape(H // groups, **tape_options),
            device="cuda",
        )
        for name, groups, torch_options, tape_options in (
            ("one key head a query head", 1, {}, {}),
            ("grouped", 2, {}, {}),
            ("dropout", 1, {"dropout": 0.1}, {"dropout": 0.1}),
            ("soft cap", 2, {"softcap": 30.0}, {"softcap": True}),
        )
    ],
]

LOGITS, ROWS = Input(("B", "S", V), "bf16"), Input(("B", "S", V))
LABELS = torch.zeros(2, 192, dtype=torch.long)
INT64_ROWS = 4 * 2 * 193 * 8
"""Shifted copies of the labels and of their padding, which the tape leaves out: 8 bytes a token beside 2·V and more."""


def _stock_loss(version: str | None) -> Any:
    from transformers.loss.loss_utils import ForCausalLMLoss

    from trainer.modeling.loss import shifted_copy_loss, unconverted_loss

    def run(logits: Any) -> Any:
        function = {None: ForCausalLMLoss, "4.48": shifted_copy_loss, "no-upcast": unconverted_loss}[version]
        return function(logits, LABELS, V, num_items_in_batch=torch.ones((), dtype=torch.long))

    return run


def _loss_tape(version: str) -> Any:
    def run(tape: Tape, logits: Tensor) -> Tensor:
        net: Any = SimpleNamespace(tape=tape, choices=SimpleNamespace(batch_size=2))
        return loss.upcast_loss(net, logits, version)

    return run


SCALAR = Input(())
LOSSES = [
    Op(
        "cross-entropy",
        (ROWS,),
        SCALAR,
        lambda x: functional.cross_entropy(x.view(-1, V), LABELS.view(-1), reduction="sum"),
        loss.cross_entropy,
        slack=INT64_ROWS,
    ),
    Op("loss of today", (LOGITS,), SCALAR, _stock_loss(None), _loss_tape("5"), slack=INT64_ROWS),
    Op("loss of 4.48", (LOGITS,), SCALAR, _stock_loss("4.48"), _loss_tape("4.48"), slack=INT64_ROWS),
    Op(
        "loss without upcast",
        (LOGITS,),
        Input((), "bf16"),
        _stock_loss("no-upcast"),
        _loss_tape("no-upcast"),
        slack=INT64_ROWS,
    ),
]

OPS = POINTWISE + SHAPES + PRODUCTS + NORMS + ACTIVATIONS + DROPOUTS + ATTENTION + LOSSES


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_an_operator_takes_the_bytes_that_pytorch_takes(op: Op) -> None:
    agrees(op)
