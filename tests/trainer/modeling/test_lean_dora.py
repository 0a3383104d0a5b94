"""Lean DoRA beside plain PEFT's: loss and every gradient, the magnitudes' among them, with and without dropout."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.trainer.modeling.test_lean_parity import (  # noqa: E402
    RELATIVE,
    assert_parity,
    batch_of,
    choices,
    distance,
    plain,
    several_pieces,  # noqa: F401
    step,
    worst,
)
from trainer import modeling  # noqa: E402
from trainer.modeling.lean import apply, apply_lean, dora  # noqa: E402
from trainer.modeling.lean.dropout import SeededDropout  # noqa: E402


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a weight are measured in more than one block, the last one ragged."""
    monkeypatch.setattr(dora, "NORM_ROWS", 25)


def adapted(name: str, **changes: Any) -> Any:
    """Plain PEFT with DoRA whose magnitudes are no longer the weights' own lengths."""
    model = plain(name, choices(lora_variant="dora", **changes))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "magnitude" in path:
                parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("name", ["llama", "phi", "gpt2", "olmo2"])
def test_it_is_plain_peft(name: str) -> None:
    chosen = choices(lora_variant="dora")
    model = adapted(name)
    assert_parity(model, chosen, ("lora",))
    assert any(type(m).__name__ == "Linear" and "_dora_forward" in str(m.forward) for m in model.modules())


class _SameMasks(torch.nn.Dropout):
    """Dropout by the masks that the lean step draws from seed 7."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return SeededDropout.apply(input, self.p, 7)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_dropout_is_plain_peft_under_the_same_masks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "draw_seed", lambda: 7)
    chosen = choices(lora_variant="dora", lora_dropout=0.2)
    model = adapted(name, lora_dropout=0.2)
    for module in model.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = _SameMasks(0.2)
    assert_parity(model, chosen, ("lora",))


def test_dropout_survives_recomputation() -> None:
    chosen = choices(lora_variant="dora", lora_dropout=0.1)
    model = apply_lean(adapted("llama", lora_dropout=0.1), chosen)
    loss, gradients = step(model, chosen)
    modeling.apply_checkpointing(model, choices(gradient_checkpointing=True))
    again, recomputed = step(model, chosen)
    assert again == loss
    assert worst(recomputed, gradients) < RELATIVE


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_bf16_is_no_further_from_fp32_than_plain_peft(name: str) -> None:
    wide, narrow = choices(lora_variant="dora"), choices(lora_variant="dora", precision="bf16")
    model = adapted(name, precision="bf16")
    _, reference = step(copy.deepcopy(model).float(), wide)
    _, stock = step(model, narrow)
    apply_lean(model, narrow)
    _, lean = step(model, narrow)

    assert distance(lean, reference) <= 1.5**2 * distance(stock, reference)


def test_evaluation_takes_no_dropout() -> None:
    chosen = choices(lora_variant="dora", lora_dropout=0.3)
    model = adapted("llama", lora_dropout=0.3).eval()
    ids = batch_of()["input_ids"]
    with torch.no_grad():
        expected = model(ids).logits
        apply_lean(model, chosen)
        torch.testing.assert_close(model.eval()(ids).logits, expected, rtol=1e-4, atol=RELATIVE)
