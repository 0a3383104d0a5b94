"""Text towers of multimodal checkpoints: planned, trained, and fitted to the whole model again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from planner.contract.architectures import ARCHITECTURES
from planner.contract.towers import text_part
from planner.models.sources import from_config
from tests.support.trainer_support import make_plan, train, write_pairs
from trainer import modeling
from trainer.commands.demo import tokenizer
from trainer.loop import loading
from trainer.modeling.text_towers import causal_class
from trainer.publish import folder
from trainer.record.network import describe
from trainer.weights import adapter_files, model_files

Kind = dict[str, Any]
TEXT: Kind = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "bos_token_id": None,
}
EXPERTS: Kind = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
QWEN_VISION: Kind = {
    "depth": 1,
    "hidden_size": 32,
    "num_heads": 2,
    "out_hidden_size": 32,
    "embed_dim": 32,
    "intermediate_size": 32,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}
VISION: Kind = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 28,
    "patch_size": 14,
}
THREE_PARTS: Kind = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e5, "mrope_section": [1, 1, 2]},
}
KINDS: dict[str, tuple[Kind, Kind]] = {
    "qwen2_vl": (THREE_PARTS, QWEN_VISION),
    "qwen2_5_vl": (THREE_PARTS, QWEN_VISION),
    "qwen3_vl": ({"head_dim": 8, **THREE_PARTS}, QWEN_VISION),
    "qwen3_vl_moe": ({"head_dim": 8, **EXPERTS, **THREE_PARTS}, QWEN_VISION),
    "gemma3": ({"head_dim": 8, "model_type": "gemma3_text"}, VISION),
    "mistral3": ({"model_type": "mistral"}, {**VISION, "model_type": "pixtral"}),
    "llava": ({"model_type": "llama"}, {**VISION, "model_type": "clip_vision_model"}),
    "smolvlm": ({"model_type": "llama"}, VISION),
    "glm4v": ({**THREE_PARTS, "head_dim": 8}, QWEN_VISION),
    "paddleocr_vl": ({**THREE_PARTS, "head_dim": 8}, VISION),
}
"""Keys of the text part and the vision part of small ones: towers told in other words, those with a head, and those
that get one here."""


def whole(folder: Path, model_type: str) -> Any:
    """A small multimodal model, saved with a tokenizer."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    made = tokenizer.build()
    made.save_pretrained(folder)
    text, vision = KINDS[model_type]
    more = {"image_token_id": 5} if model_type == "smolvlm" else {}
    text = {**TEXT, **text, "vocab_size": len(made)}
    config = AutoConfig.for_model(model_type, text_config=text, vision_config=vision, tie_word_embeddings=False, **more)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(folder)
    return model.eval()


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randint(6, 40, (2, 11), generator=generator)
    mask = torch.ones_like(tokens)
    mask[1, 7:] = 0
    return tokens, mask


def logits(model: Any) -> torch.Tensor:
    tokens, mask = rows()
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=tokens, attention_mask=mask).logits
    return found[mask.bool()]


@pytest.mark.parametrize("model_type", KINDS)
def test_a_tower_computes_what_the_whole_model_does_of_text(model_type: str, tmp_path: Path) -> None:
    """GIVEN a multimodal folder WHEN its tower is loaded THEN text gives the same logits to the bit; it is planned."""
    model = whole(tmp_path, model_type)
    config = loading.read_config(str(tmp_path))
    tower = modeling.build(config, dtype=torch.float32, weights=str(tmp_path)).eval()
    assert torch.equal(logits(tower), logits(model))
    held = sum(parameter.numel() for parameter in tower.parameters())
    if config["model_type"] in ARCHITECTURES:
        assert from_config(loading.whole_config(str(tmp_path)), "tower").parameters == held
    else:
        assert describe(config)["parameters"] == held


def test_a_flat_config_of_the_first_ones_is_read_as_published() -> None:
    """GIVEN Qwen2-VL's published layout, text keys at the top WHEN read THEN it is a Qwen2 with plain rotation."""
    said = {
        "model_type": "qwen2_vl",
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "vision_config": {"depth": 1},
    }
    said |= {"hidden_size": 64, "rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}
    part = text_part(said)
    assert part["model_type"] == "qwen2"
    assert part["rope_scaling"] == {"type": "default"}
    assert "vision_config" not in part
    assert "architectures" not in part


def test_a_tower_whose_whole_does_more_than_a_product_has_no_class() -> None:
    """GIVEN towers WHEN a class is asked for THEN one that scales its logits gets none, one with its own keeps it."""
    from transformers import AutoConfig

    found = {name: causal_class(type(AutoConfig.for_model(name))) for name in ("granite4_vision_text", "glm4v_text")}
    assert found["granite4_vision_text"] is None
    assert found["glm4v_text"].__name__ == "Glm4vTextForCausalLM"
    assert causal_class(type(AutoConfig.for_model("mllama_text_model"))).__module__.startswith("transformers.")


@pytest.mark.parametrize("model_type", ["qwen3_vl", "smolvlm", pytest.param("glm4v", marks=pytest.mark.nightly)])
def test_an_adapter_over_a_tower_fits_the_whole_model(model_type: str, tmp_path: Path) -> None:
    """GIVEN a trained text tower WHEN its adapter is published THEN PEFT takes it over the multimodal model and over
    the tower, with the same logits.
    """
    from peft import PeftModel

    base = tmp_path / "whole"
    model = whole(base, model_type)
    data = write_pairs(tmp_path / "pairs.jsonl")
    plan = make_plan(tmp_path / "plan.json", base, data, max_steps=3, learning_rate=1e-2)
    _, failure = train(plan, tmp_path / "run")
    assert failure is None
    published = tmp_path / "published"
    published.mkdir()
    folder.publish(tmp_path / "run", published, merged=False)
    plain = logits(model)
    over_whole = logits(PeftModel.from_pretrained(model, published).eval())
    tower = modeling.build(loading.read_config(str(base)), dtype=torch.float32, weights=str(base))
    over_tower = logits(adapter_files.attach(tower, published))
    assert torch.equal(over_whole, over_tower)
    assert not torch.equal(over_whole, plain)
    assert "AutoModelForImageTextToText" in (published / "README.md").read_text()
    assert model_files.find(str(base)).weights
