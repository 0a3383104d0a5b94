"""What is read off networks that share tensors, keep some wide, or are half of another."""

from __future__ import annotations

from typing import Any

from planner.models import recorded
from trainer import modeling
from trainer.record.network import describe
from trainer.record.session import cut

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
}


def _described(**config: Any) -> dict[str, object]:
    return {"schema": recorded.SCHEMA, "versions": {}, **describe({**SMALL, **config})}


def test_a_bias_that_two_modules_hold_is_counted_once() -> None:
    for cls in ("CamembertForCausalLM", "CamembertForMaskedLM"):
        found = _described(model_type="camembert", architectures=[cls])
        assert recorded.is_description(found)
    assert not recorded.is_description({**found, "parameters": 1})


def test_what_stays_wide_among_narrow_weights_is_named() -> None:
    own = {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16, "moe_layer_start_index": 1}
    found = _described(model_type="ernie4_5_moe", architectures=["Ernie4_5_MoeForCausalLM"], **own)
    assert any(path.endswith("gate.weight") for path in found["fp32"])  # type: ignore[attr-defined]
    assert _described(model_type="arcee", architectures=["ArceeForCausalLM"])["fp32"] == []


def test_the_decoder_alone_of_an_encoder_decoder_is_cut_by_its_own_layers() -> None:
    config = {"model_type": "blenderbot-small", "d_model": 32, "encoder_layers": 2, "decoder_layers": 6}
    made = modeling.as_config(cut({**config, "architectures": ["BlenderbotSmallForCausalLM"]}, 4))
    assert made.decoder_layers == 4
    assert cut({**SMALL, "model_type": "arcee", "architectures": ["ArceeForCausalLM"]}, 2)["num_hidden_layers"] == 2
