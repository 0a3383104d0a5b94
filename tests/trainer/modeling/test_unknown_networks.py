"""Stack `builtin` on networks without a written program learns what plain PEFT learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from planner.contract.choices import TrainingChoices
from trainer import modeling

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 16,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DELTA = {
    "num_hidden_layers": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
GEMMA4 = {"global_head_dim": 16, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0}
TYPES: list[tuple[str, str, dict[str, Any], bool]] = [
    ("arcee", "ArceeForCausalLM", {}, False),
    ("olmo3", "Olmo3ForCausalLM", {}, False),
    ("gpt_oss", "GptOssForCausalLM", {"num_local_experts": 4, "num_experts_per_tok": 2}, False),
    ("gemma4_text", "Gemma4ForCausalLM", GEMMA4, False),
    ("qwen3_5_text", "Qwen3_5ForCausalLM", DELTA, False),
    ("llama4_text", "Llama4ForCausalLM", {"num_local_experts": 2, "intermediate_size_mlp": 96}, False),
    ("cohere2", "Cohere2ForCausalLM", {}, True),
    ("ministral3", "Ministral3ForCausalLM", {}, True),
    ("glm4", "Glm4ForCausalLM", {}, True),
    ("exaone4", "Exaone4ForCausalLM", {}, True),
    ("apertus", "ApertusForCausalLM", {}, True),
    ("lfm2", "Lfm2ForCausalLM", {}, True),
    ("nemotron", "NemotronForCausalLM", {}, True),
]


def _learned(config: dict[str, Any], **given: Any) -> tuple[float, torch.Tensor]:
    """Loss and gradients of all adapters of one micro-batch, with norms and adapters that are no identities."""
    choices = TrainingChoices(batch_size=2, max_length=32, precision="fp32", lora_dropout=0.0, **given)
    model = modeling.build(config, dtype=torch.float32, seed=3)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model = modeling.attach_adapters(model, choices)
    torch.manual_seed(6)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    modeling.apply_checkpointing(model, choices)
    torch.manual_seed(7)
    ids = torch.randint(3, 500, (2, 32))
    batch = {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}
    loss, _ = modeling.compute_loss(model, batch, choices, num_items=torch.tensor(62))
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("kind", "cls", "more"),
    [
        pytest.param(kind, cls, more, id=kind, marks=[pytest.mark.nightly] if by_night else [])
        for kind, cls, more, by_night in TYPES
    ],
)
def test_the_lean_step_learns_what_plain_peft_learns(kind: str, cls: str, more: dict[str, Any]) -> None:
    config = {"model_type": kind, "architectures": [cls], **SMALL, **more}
    lean, plain = _learned(config, stack="builtin", loss="chunked"), _learned(config, stack="peft", loss="full")
    assert lean[0] == pytest.approx(plain[0], rel=1e-5)
    assert torch.linalg.vector_norm(lean[1] - plain[1]) < 3e-5 * torch.linalg.vector_norm(plain[1])
