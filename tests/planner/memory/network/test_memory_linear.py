"""Linear modules with their adapters, and the lean functions, against the modules that a run really has.

A small llama is built as the trainer builds it, for both stacks; single modules of it run on fake tensors with CUDA's
operators, beside the same module on the tape.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from planner.contract.choices import TrainingChoices  # noqa: E402
from planner.memory.engine.graph import Tensor  # noqa: E402
from planner.memory.engine.rules import Rules  # noqa: E402
from planner.memory.engine.tape import Tape  # noqa: E402
from planner.memory.network import layers, lean, loss  # noqa: E402
from planner.memory.network.blocks import llama  # noqa: E402
from planner.memory.network.net import Net  # noqa: E402
from planner.models.sources import from_config  # noqa: E402
from tests.support.memory_ops_support import Input, Op, agrees  # noqa: E402
from trainer import modeling  # noqa: E402
from trainer.modeling.checkpointing import base_model  # noqa: E402
from trainer.trace import int8, operators  # noqa: E402
from trainer.trace.fakes import make_fake  # noqa: E402

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 320,
    "max_position_embeddings": 4096,
}
SPEC = from_config(dict(CONFIG), "small")
LONG = 1100
"""Two sequences of this length are more tokens than one piece of a lean function takes."""


@cache
def network(chosen: TrainingChoices) -> tuple[Any, FakeTensorMode]:
    """The model of `chosen` on fake tensors."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    model = modeling.build(dict(CONFIG), dtype=modeling.weights_dtype(chosen.precision), device="meta")
    compute = modeling.autocast_dtype(chosen) or modeling.weights_dtype(chosen.precision)
    model = modeling.quantize(model, chosen, compute_dtype=compute)
    modeling.prepare_kbit(model, chosen)
    with operators.replaced(int8.readable_weights()):
        model = modeling.attach_adapters(model, chosen, low_cpu_mem_usage=True)
    make_fake(model, mode)
    return model, mode


def choices(**changes: Any) -> TrainingChoices:
    return TrainingChoices(
        **{"stack": "peft", "gradient_accumulation_steps": 1, "lora_targets": ("all-linear",), **changes}
    )


def compare(path: str, width: int, out: int, part: Callable[[Net, Tensor], Tensor], slack: int, **changes: Any) -> None:
    """Module `path` of the layer, width -> out, against `part` of the layer program."""
    chosen = choices(**changes)
    model, mode = network(chosen)
    module = base_model(model).model.layers[0].get_submodule(path)
    # Stock k-bit preparation leaves norms in fp32, and with them what enters the linear layers.
    dtype = "fp32" if chosen.precision != "bf16" or (chosen.method == "qlora" and chosen.stack == "peft") else "bf16"
    tape = Tape(Rules.of(chosen))
    net = Net.build(SPEC, chosen, tape=tape)
    narrow = tape.rules.autocast
    op = Op(
        f"{path} {changes}",
        (Input(("B", "S", width), dtype),),
        Input(("B", "S", out), "bf16" if narrow else dtype),
        module,
        lambda tape, x: part(net, x),
        module=module,
        mode=mode,
        device="cuda",
        autocast=narrow,
        length=LONG,
        slack=slack,
    )
    agrees(op, tape)


RANKED = 2 * 8 * 128 * 4 * 4
"""Rank-sized matrices of one adapter, 4 B a value: what the figures may differ by where such a one is transient."""

ADAPTERS: dict[str, dict[str, Any]] = {
    "no adapter": {"lora_targets": ("k_proj",)},
    "lora": {"lora_dropout": 0.0},
    "lora, dropout": {"lora_dropout": 0.05},
    "lora, bf16 adapters": {"lora_dropout": 0.05, "adapter_dtype": "bf16"},
    "lora, fp32": {"lora_dropout": 0.05, "precision": "fp32"},
    "lora, mixed": {"lora_dropout": 0.05, "precision": "bf16-mixed"},
    "full": {"method": "full"},
    "full, mixed": {"method": "full", "precision": "bf16-mixed"},
    "qlora": {"method": "qlora", "lora_dropout": 0.05},
    "qlora, nested": {"method": "qlora", "lora_dropout": 0.0, "quantization": "nf4-double"},
    "qlora, int8": {"method": "qlora", "lora_dropout": 0.05, "quantization": "int8"},
    "int8, no adapter": {"method": "qlora", "lora_targets": ("k_proj",), "quantization": "int8"},
    "dora": {"lora_variant": "dora", "lora_dropout": 0.0},
    "dora, dropout": {"lora_variant": "dora", "lora_dropout": 0.05},
    "dora over nf4": {"method": "qlora", "lora_variant": "dora", "lora_dropout": 0.0, "quantization": "nf4"},
    "dora over nested nf4": {"method": "qlora", "lora_variant": "dora", "lora_dropout": 0.05},
    "dora over int8": {"method": "qlora", "lora_variant": "dora", "lora_dropout": 0.05, "quantization": "int8"},
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_linear_module_with_its_adapter_is_what_peft_runs(name: str) -> None:
    compare(
        "self_attn.q_proj",
        128,
        128,
        lambda net, x: layers.linear(net, "self_attn.q_proj", x),
        slack=RANKED,
        **ADAPTERS[name],
    )


@pytest.mark.parametrize("name", [name for name in ADAPTERS if "lora" in name or "dora" in name])
def test_a_linear_module_that_narrows_is_what_peft_runs(name: str) -> None:
    compare(
        "mlp.down_proj",
        320,
        128,
        lambda net, x: layers.linear(net, "mlp.down_proj", x),
        slack=2 * RANKED,
        **ADAPTERS[name],
    )


LEAN = {
    "lora": {"lora_dropout": 0.0},
    "lora, dropout": {"lora_dropout": 0.05},
    "lora, bf16 adapters": {"lora_dropout": 0.05, "adapter_dtype": "bf16"},
    "lora, mixed": {"lora_dropout": 0.05, "precision": "bf16-mixed"},
    "qlora": {"method": "qlora", "lora_dropout": 0.05},
    "qlora, nested": {"method": "qlora", "lora_dropout": 0.0, "quantization": "nf4-double"},
    "qlora, int8": {"method": "qlora", "lora_dropout": 0.05, "quantization": "int8"},
    "int8, no adapter": {"method": "qlora", "lora_targets": ("k_proj",), "quantization": "int8"},
    "dora": {"lora_variant": "dora", "lora_dropout": 0.0},
    "dora, dropout": {"lora_variant": "dora", "lora_dropout": 0.05},
    "dora, bf16 adapters": {"lora_variant": "dora", "adapter_dtype": "bf16"},
    "dora, mixed": {"lora_variant": "dora", "precision": "bf16-mixed"},
    "dora over nf4": {"method": "qlora", "lora_variant": "dora"},
    "dora over int8": {"method": "qlora", "lora_variant": "dora", "quantization": "int8"},
    "int8, mixed": {"method": "qlora", "quantization": "int8", "precision": "bf16-mixed"},
}


@pytest.mark.parametrize("name", LEAN)
def test_a_lean_adapter_is_what_the_trainer_runs(name: str) -> None:
    compare(
        "self_attn.q_proj",
        128,
        128,
        lambda net, x: layers.linear(net, "self_attn.q_proj", x),
        slack=RANKED,
        stack="builtin",
        **LEAN[name],
    )


@pytest.mark.parametrize("name", [*LEAN, "no adapter on the last"])
def test_a_lean_mlp_is_what_the_trainer_runs(name: str) -> None:
    changes: dict[str, Any] = LEAN.get(name, {"lora_targets": ("gate_proj",)})
    compare("mlp", 128, 128, llama.gated_mlp, slack=4 * RANKED, stack="builtin", **changes)


@pytest.mark.parametrize("name", ["lora, dropout", "qlora"])
def test_an_mlp_that_keeps_its_activation_is_what_the_trainer_runs(name: str) -> None:
    compare("mlp", 128, 128, llama.gated_mlp, slack=4 * RANKED, stack="builtin", made_again=("norms",), **LEAN[name])


@pytest.mark.parametrize("stack", ["peft", "builtin"])
def test_an_mlp_is_what_the_stack_runs(stack: str) -> None:
    compare("mlp", 128, 128, llama.gated_mlp, slack=4 * RANKED, stack=stack, lora_dropout=0.05)


@pytest.mark.parametrize("made_again", [("norms",), ()], ids=["made again", "kept"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_lean_norm_is_what_the_trainer_runs(method: str, precision: str, made_again: tuple[str, ...]) -> None:
    compare(
        "input_layernorm",
        128,
        128,
        lambda net, x: layers.norm(net, "input_layernorm", x, form="cast_then_gain"),
        slack=8 * 128 * 4 + 2 * 2 * LONG * 4,
        stack="builtin",
        method=method,
        precision=precision,
        made_again=made_again,
    )


def test_seeded_dropout_keeps_no_mask() -> None:
    from trainer.modeling.lean.dropout import SeededDropout

    x = Input(("B", "S", 128), "bf16")
    agrees(
        Op(
            "seeded dropout",
            (x,),
            x,
            lambda x: SeededDropout.apply(x, 0.1, 0),
            lambda tape, x: lean.seeded_dropout(tape, x, 0.1, 128),
            device="cuda",
            length=LONG,
        )
    )


@pytest.mark.parametrize("trains", [False, True])
def test_the_chunked_loss_holds_one_chunk_of_logits(trains: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 64 tokens a chunk, as the figures' multipliers have it."""
    from trainer.modeling import chunked

    chosen = choices(loss="chunked", method="full" if trains else "lora")
    tape = Tape(Rules.of(chosen))
    net = Net.build(SPEC, chosen, tape=tape)
    labels = torch.zeros(2 * 192, dtype=torch.long)
    head = torch.nn.Parameter(torch.zeros(512, 128, dtype=torch.bfloat16), requires_grad=trains)
    monkeypatch.setattr(chunked, "chunk_rows", lambda vocabulary: 64)
    monkeypatch.setattr(chunked, "valid_rows", lambda found: torch.arange(2 * 191))
    agrees(
        Op(
            "chunked loss",
            (Input(("B", "S", 128), "bf16"),),
            Input(()),
            lambda x, w: chunked.ChunkedCrossEntropy.apply(x.flatten(0, 1), w, None, labels, 1.0, 1.0, None),
            lambda tape, x: loss.chunked(net, x, "lm_head"),
            (head,),
            device="cuda",
            slack=2 * 192 * 8 + 64 * 4 * 8,
        ),
        tape,
    )
