"""What is read off networks that share tensors, keep some wide, or are half of another."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from planner.contract.architectures import ARCHITECTURES
from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from planner.contract.towers import text_part
from planner.models import catalogue, recorded, shipped
from trainer import modeling
from trainer.commands import record
from trainer.modeling.build import auto_class
from trainer.record.network import describe, modules, task_of
from trainer.record.session import Session, cut

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 64,
}


PARTS_OF_T5 = (("encoder", 1), ("decoder", 2))
"""Both stacks, and which of a block's parts is its MLP."""


def _described(**config: Any) -> dict[str, object]:
    return {"schema": recorded.SCHEMA, "versions": {}, **describe({**SMALL, **config})}


@pytest.mark.nightly
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


def test_what_a_network_asks_to_be_left_unquantised_is_named() -> None:
    own = {"d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2, "vocab_size": 64}
    found = _described(model_type="mt5", architectures=["MT5ForConditionalGeneration"], **own)
    assert found["unquantized"] == [f"{part}.block.{{}}.layer.{n}.DenseReluDense.wo" for part, n in PARTS_OF_T5]
    assert _described(model_type="arcee", architectures=["ArceeForCausalLM"])["unquantized"] == []


def test_the_decoder_alone_of_an_encoder_decoder_is_cut_by_its_own_layers() -> None:
    config = {"model_type": "blenderbot-small", "d_model": 32, "encoder_layers": 2, "decoder_layers": 6}
    made = modeling.as_config(cut({**config, "architectures": ["BlenderbotSmallForCausalLM"]}, range(4)))
    assert made.decoder_layers == 4
    assert (
        cut({**SMALL, "model_type": "arcee", "architectures": ["ArceeForCausalLM"]}, range(2))["num_hidden_layers"] == 2
    )


def test_a_number_of_layers_that_another_one_gives_is_cut_by_that_one() -> None:
    own = {"num_layers": 5, "n_routed_experts": 4, "moe_topk": 2, "zero_expert_num": 1, "num_attention_heads": 2}
    config = {"model_type": "longcat_flash", "architectures": ["LongcatFlashForCausalLM"], **own}
    made = modeling.as_config(cut(config, range(2)))
    assert (made.num_layers, made.num_hidden_layers) == (2, 4)


def test_kinds_of_layers_that_are_written_in_multiples_are_cut_with_them() -> None:
    own = {"num_layers": 12, "num_heads": 2, "hidden_size": 32, "attention_types": [[["global", "local"], 6]]}
    config = {"model_type": "gpt_neo", "architectures": ["GPTNeoForCausalLM"], **own}
    made = modeling.as_config(cut(config, range(5)))
    assert (made.num_layers, made.attention_layers) == (5, ["global", "local", "global", "local", "global"])


def test_a_class_whose_name_says_nothing_is_built_with_the_head_that_has_it() -> None:
    import transformers

    heads = {
        name: auto_class({"model_type": kind, "architectures": [name]})
        for kind, name in (
            ("flaubert", "FlaubertWithLMHeadModel"),
            ("xlnet", "XLNetLMHeadModel"),
            ("marian", "MarianMTModel"),
        )
    }
    assert heads == {
        "FlaubertWithLMHeadModel": transformers.AutoModelForMaskedLM,
        "XLNetLMHeadModel": transformers.AutoModelForCausalLM,
        "MarianMTModel": transformers.AutoModelForSeq2SeqLM,
    }


def test_a_decoder_of_an_unwritten_type_begins_with_a_token_too() -> None:
    made = modeling.as_config({"model_type": "longt5", "architectures": ["LongT5ForConditionalGeneration"]})
    assert made.decoder_start_token_id == made.pad_token_id


def test_windows_of_each_layer_s_own_are_refused_by_their_lengths() -> None:
    own = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = {"model_type": "neomme", "architectures": ["NeoMMEForMaskedLM"], "num_hidden_layers": 6, **own}
    with pytest.raises(NotModelled, match="windows of 256, 1024 tokens"):
        describe({**config, "vocab_size": 300, "head_dim": 16, "layer_types": None})


def test_what_a_fake_tensor_does_not_know_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise DynamicOutputShapeException(torch.ops.aten.nonzero.default)

    monkeypatch.setattr(record._Desk, "answer", fails)
    said = record._answer(record._Desk(), "{}")
    assert said == {"error": "its code reads values of tensors (nonzero), which a trace doesn't have", "code": 2}


def test_a_network_that_exchanges_its_modules_is_no_one_program() -> None:
    """BigBird attends in full to short sequences, with modules that it makes when the first of them comes."""
    config = {"model_type": "big_bird", "architectures": ["BigBirdForMaskedLM"], **SMALL}
    choices = TrainingChoices(method="full", loss="full", gradient_checkpointing=False)
    session = Session(config, choices, target="cuda", padded=False, layers=None)
    with pytest.raises(NotModelled, match="in the place of others"):
        session.run(2, 32, piece=1 << 20, chunk=1 << 20, checkpointed=0, evaluate=False)


def test_a_further_parameter_of_an_embedding_is_counted() -> None:
    class Words(torch.nn.Embedding):
        def __init__(self) -> None:
            super().__init__(6, 4)
            self.further = torch.nn.Parameter(torch.zeros(4))

    found = {module["path"]: (module["kind"], module["shape"]) for module in modules(torch.nn.Sequential(Words()), [])}
    assert found == {"0.further": ("parameter", [4]), "0": ("embedding", [6, 4])}


def test_a_recurrence_is_told_by_the_tokens_that_it_takes_at_a_time() -> None:
    pieces = {
        "mamba": _described(model_type="mamba", architectures=["MambaForCausalLM"], state_size=4),
        "arcee": _described(model_type="arcee", architectures=["ArceeForCausalLM"]),
    }
    assert {name: found["recurrent_piece"] for name, found in pieces.items()} == {"mamba": 1, "arcee": 0}


def test_a_head_whose_name_says_nothing_is_found_in_the_lists() -> None:
    assert task_of(type("BertGenerationDecoder", (), {})()) == "causal"
    with pytest.raises(NotModelled, match="no head"):
        task_of(type("BertPooler", (), {})())


@pytest.mark.nightly
def test_shipped_descriptions_are_what_networks_are_described_by() -> None:
    """Whoever teaches `describe` something new describes the catalogue's networks anew (`benchmarks.catalogue`)."""
    parts = [text_part(entry.config) for entry in catalogue.entries()]
    parts = [part for part in parts if part["model_type"] not in ARCHITECTURES]
    assert len(parts) > 60
    outdated = []
    for part in parts:
        packed = (shipped.FOLDER / recorded.folder(part).name / "spec.json.gz").read_bytes()
        kept, now = json.loads(gzip.decompress(packed)), json.loads(json.dumps(describe(dict(part))))
        usual = {list: [], int: 0}
        if any(kept.get(key, usual.get(type(value))) != value for key, value in now.items()):
            outdated.append(part["model_type"])
    assert not outdated
