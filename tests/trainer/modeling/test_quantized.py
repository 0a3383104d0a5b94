"""Quantised base weights: as transformers loads them, as plain PEFT trains over them, as the planner counts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

from planner.contract.choices import TrainingChoices  # noqa: E402
from planner.memory import predict  # noqa: E402
from planner.models.sources import from_config  # noqa: E402
from tests.planner.memory.test_memory_decoders import _FALCON, _GPT, _GROUPED  # noqa: E402
from tests.support.trace_support import TINY  # noqa: E402
from tests.trainer.modeling.test_lean_parity import RELATIVE, assert_parity, batch_of, choices, plain, step, worst  # noqa: E402
from trainer import modeling  # noqa: E402
from trainer.modeling.lean import apply_lean  # noqa: E402
from trainer.modeling.quantized import quantization_tensors  # noqa: E402


def own(name: str, quantization: str, folder: Path) -> tuple[Any, Any]:
    """The same weights quantised here and loaded quantised by transformers."""
    from transformers import BitsAndBytesConfig

    config = {**TINY[name], "bos_token_id": 1, "eos_token_id": 1}
    model = modeling.build(config, dtype=torch.float32, seed=1)
    model.save_pretrained(folder)
    ours = modeling.quantize(model, TrainingChoices(method="qlora", quantization=quantization), compute_dtype=None)  # type: ignore[arg-type]
    asked = (
        BitsAndBytesConfig(load_in_8bit=True)
        if quantization == "int8"
        else BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=quantization == "nf4-double"
        )
    )
    theirs = type(model).from_pretrained(folder, quantization_config=asked, dtype=torch.float32, device_map="cpu")
    return ours, theirs


@pytest.mark.parametrize("quantization", ["nf4", "nf4-double", "int8"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
def test_weights_are_quantised_as_transformers_loads_them(name: str, quantization: str, tmp_path: Path) -> None:
    """The same modules, GPT-2's transposed ones among them, and in each the same bytes."""
    ours, theirs = own(name, quantization, tmp_path)
    found, expected = dict(ours.named_modules()), dict(theirs.named_modules())
    assert found.keys() == expected.keys()
    packed = 0
    for path, module in expected.items():
        assert type(found[path]).__name__ == type(module).__name__, path
        tensors = quantization_tensors(module)
        packed += bool(tensors)
        if tensors:
            left = [found[path].weight, *quantization_tensors(found[path])]
            for mine, other in zip(left, [module.weight, *tensors], strict=True):
                assert torch.equal(mine.data, other.data), path
    assert packed > 8


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("llama", {"quantization": "int8"}),
        ("phi", {"quantization": "int8"}),
        ("gpt2", {"quantization": "int8"}),
        ("gpt2", {"quantization": "nf4"}),
        ("llama", {"quantization": "int8", "lora_targets": ("q_proj",)}),
        ("llama", {"quantization": "int8", "lora_variant": "dora"}),
        ("llama", {"quantization": "nf4", "lora_variant": "dora"}),
    ],
)
def test_the_lean_step_over_packed_weights_is_plain_peft(name: str, changes: dict[str, Any]) -> None:
    chosen = choices(method="qlora", **changes)
    assert_parity(plain(name, chosen), chosen, ("lora", "mlp", "norm", "dropout"))


def test_int8_inputs_survive_no_checkpoint_in_the_lean_step() -> None:
    """bitsandbytes keeps every input on the graph; the lean step recomputes, and to the same gradients."""
    chosen = choices(method="qlora", quantization="int8")
    model = apply_lean(plain("llama", chosen), chosen)
    loss, gradients = step(model, chosen)
    modeling.apply_checkpointing(model, choices(gradient_checkpointing=True))
    again, recomputed = step(model, chosen)
    assert again == loss
    assert worst(recomputed, gradients) < RELATIVE


@pytest.mark.parametrize("quantization", ["nf4-double", "int8"])
def test_adapters_over_packed_weights_are_exchanged_with_peft(quantization: str, tmp_path: Path) -> None:
    """Trained two steps here on stack `builtin`, loaded by plain PEFT over the base that transformers quantised."""
    from peft import PeftModel

    chosen = TrainingChoices(
        method="qlora",
        quantization=quantization,
        precision="fp32",
        lora_dropout=0.0,
        lora_r=4,
        stack="builtin",  # type: ignore[arg-type]
    )
    ours, theirs = own("gpt2", quantization, tmp_path / "base")
    modeling.prepare_kbit(ours, chosen)
    ours = modeling.attach_adapters(ours, chosen)
    optimizer = modeling.build_optimizer(ours, chosen)
    batch = batch_of((24, 24))
    for _ in range(2):
        step(ours, chosen, batch)
        optimizer.step()
    ours.save_pretrained(tmp_path / "adapter")
    adapted = PeftModel.from_pretrained(theirs, str(tmp_path / "adapter"))
    for model in (ours, adapted):
        model.train()  # where bitsandbytes does not quantise the inputs too
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    with torch.no_grad():
        mine, other = (model(batch["input_ids"]).logits for model in (ours, adapted))
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _GROUPED | {"model_type": "llama"},
    "phi": _GROUPED | {"model_type": "phi", "num_key_value_heads": 4, "resid_pdrop": 0.1},
    "gpt2": _GPT | {"model_type": "gpt2"},
    "bert": {**_GROUPED, "model_type": "bert", "architectures": ["BertForMaskedLM"]},
    "falcon": _FALCON | {"model_type": "falcon"},
    "falcon-40b": _FALCON | {"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon-one": _FALCON | {"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 1},
}
INT8, DORA = {"method": "qlora", "quantization": "int8"}, {"method": "qlora", "lora_variant": "dora"}
LONG = {"batch_size": 8, "max_length": 512}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("llama", INT8),
    ("llama", INT8 | {"gradient_checkpointing": False}),
    ("llama", INT8 | {"checkpoint_layers": 2, "stack": "builtin"}),
    ("llama", INT8 | {"checkpoint_layers": 2}),
    ("llama", INT8 | {"checkpoint_reentrant": True}),
    ("llama", INT8 | {"precision": "fp16-mixed", "gradient_accumulation_steps": 4}),
    ("llama", INT8 | {"stack": "builtin", "loss": "chunked", "lora_targets": ("q_proj", "v_proj")}),
    ("phi", INT8 | {"lora_dropout": 0.0, "precision": "bf16-mixed"}),
    ("bert", INT8 | {"checkpoint_layers": 2}),
    ("gpt2", INT8),
    ("gpt2", {"method": "qlora", "quantization": "nf4"}),
    ("gpt2", {"method": "qlora", "stack": "builtin", "loss": "chunked"}),
    ("llama", DORA | {"gradient_checkpointing": False}),
    ("phi", DORA | {"lora_dropout": 0.0, "stack": "builtin", "gradient_checkpointing": False}),
    ("llama", DORA | INT8 | {"loss": "chunked"}),
    ("falcon", {"attention": "flash", "gradient_checkpointing": False}),
    ("falcon-40b", {"attention": "flash", "method": "full"}),
    ("falcon-one", {"gradient_checkpointing": False, "stack": "builtin"}),
]


@pytest.mark.parametrize(("name", "changes"), SETTINGS, ids=lambda value: value if isinstance(value, str) else None)
def test_the_closed_form_is_the_trace(name: str, changes: dict[str, Any]) -> None:
    from planner.devices.profiles import load
    from trainer.trace import trace

    values = {"stack": "peft", "gradient_accumulation_steps": 1, "lora_dropout": 0.05, **LONG, **changes}
    chosen = TrainingChoices(**values)
    spec = from_config(dict(CONFIGS[name]), "small")
    traced = trace(dict(spec.config), chosen)
    closed = predict(spec, load("a100-80gb"), chosen).instants
    peak = max(traced.instants[instant] for instant in ("forward", "loss", "backward", "optimizer"))
    assert max(closed[i] for i in ("forward", "loss", "backward", "optimizer")) == pytest.approx(peak, rel=0.001)
    # Small tensors are rounded to 512 bytes in the trace; the embeddings' gradient would be 8 % here.
    assert closed["optimizer"] == pytest.approx(traced.instants["optimizer"], rel=0.01)
