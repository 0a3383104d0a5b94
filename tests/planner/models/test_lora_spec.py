"""Adapted modules and trainable parameters equal what PEFT makes of the same targets on the same network."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from planner.contract import architectures
from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.spec import ModelSpec
from planner.models.lora import adapter_modules, resolve_targets, trainable_parameters
from planner.models.sources import from_config, load_model
from tests.support.sources_cases import CASES, build_on_meta, case_task

pytestmark = pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings")

CONFIGS = dict(CASES)
TASK_TYPES = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "classification": "SEQ_CLS", "masked": None}


def peft_trainable(config: dict[str, Any], task: str, targets: str | list[str], **keys: Any) -> int:
    """Trainable parameters that PEFT reports on the meta device."""
    from peft import LoraConfig, get_peft_model

    model = build_on_meta(config, task)
    lora = LoraConfig(r=keys.pop("r", 4), target_modules=targets, task_type=TASK_TYPES[task], **keys)
    adapted = get_peft_model(model, lora, low_cpu_mem_usage=True)
    return sum(value.numel() for value in adapted.parameters() if value.requires_grad)


def spec_of(name: str, task: str | None = None) -> ModelSpec:
    return from_config(copy.deepcopy(CONFIGS[name]), name, task=task)


def plan(*targets: str, **keys: Any) -> TrainingChoices:
    return TrainingChoices(**({"lora_targets": targets, "lora_r": 4, "lora_dropout": 0.0} | keys))


def paths(spec: ModelSpec, choices: TrainingChoices) -> list[str]:
    """Full paths of the adapted modules, as PEFT takes them."""
    found = adapter_modules(spec, choices)
    return [m.path.replace("{}", str(i), 1) for m in found for i in (m.layers if m.layers is not None else (0,))]


@pytest.mark.parametrize("name", CONFIGS)
def test_all_linear_equals_peft(name: str) -> None:
    spec, task = spec_of(name), case_task(CONFIGS[name])
    assert trainable_parameters(spec, plan("all-linear")) == peft_trainable(CONFIGS[name], task, "all-linear")


@pytest.mark.parametrize("name", CONFIGS)
def test_attention_equals_peft_on_the_modules_it_names(name: str) -> None:
    """GIVEN the set `attention` WHEN PEFT gets its full paths THEN it trains as many parameters."""
    spec, task = spec_of(name), case_task(CONFIGS[name])
    full = paths(spec, plan("attention"))
    assert trainable_parameters(spec, plan("attention")) == peft_trainable(CONFIGS[name], task, full)


ATTENTION_LEAVES = {
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "phi3": {"qkv_proj", "o_proj"},
    "phi": {"q_proj", "k_proj", "v_proj", "dense"},
    "gpt2": {"c_attn", "c_proj"},
    "gpt-bigcode": {"c_attn", "c_proj"},
    "gpt-neox": {"query_key_value", "dense"},
    "falcon-40b-like": {"query_key_value", "dense"},
    "bert": {"query", "key", "value", "dense"},
    "distilbert": {"q_lin", "k_lin", "v_lin", "out_lin"},
    "t5": {"q", "k", "v", "o"},
    "mixtral": {"q_proj", "k_proj", "v_proj", "o_proj"},
}


@pytest.mark.parametrize("name", ATTENTION_LEAVES)
def test_attention_means_the_projections_of_attention_only(name: str) -> None:
    spec = spec_of(name)
    modules = resolve_targets(spec, ("attention",))
    assert {module.leaf for module in modules} == ATTENTION_LEAVES[name]
    assert not any(".mlp." in module.path or "intermediate" in module.path for module in modules)


NAMED: dict[str, tuple[str, ...]] = {
    "llama": ("q_proj", "v_proj", "self_attn.o_proj"),
    "mistral": ("q_proj", "mlp.down_proj"),
    "qwen2": ("k_proj", "gate_proj", "lm_head"),
    "qwen3": ("layers.1.self_attn.q_proj", "v_proj"),
    "granite": ("q_proj", "embed_tokens"),
    "smollm3": ("o_proj", "up_proj"),
    "olmo": ("q_proj", "k_proj"),
    "olmo2": ("q_proj", "down_proj"),
    "phi3": ("qkv_proj", "gate_up_proj"),
    "stablelm": ("v_proj", "gate_proj"),
    "starcoder2": ("c_fc", "c_proj"),
    "gemma": ("q_proj", "embed_tokens"),
    "gemma2": ("k_proj", "v_proj"),
    "gemma3": ("o_proj", "layers.0.mlp.up_proj"),
    "mixtral": ("q_proj", "w2", "gate"),
    "qwen2-moe": ("q_proj", "gate_proj", "down_proj", "shared_expert_gate"),
    "qwen3-moe": ("v_proj", "gate_proj", "up_proj"),
    "qwen3-moe-sparse-step": ("q_proj", "down_proj"),
    "phi": ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"),
    "gpt2": ("c_attn", "c_proj", "wte"),
    "gpt-bigcode": ("attn.c_proj", "c_fc"),
    "gpt-neox": ("dense", "dense_h_to_4h"),
    "falcon-7b-like": ("query_key_value", "dense_4h_to_h"),
    "bert": ("query", "dense"),
    "roberta": ("value", "dense", "decoder"),
    "xlm-roberta": ("output.dense", "key"),
    "distilbert": ("q_lin", "lin1", "vocab_transform"),
    "t5": ("q", "v", "wi", "shared"),
    "t5-gated": ("wi_0", "EncDecAttention.k", "wo"),
}
_NAMED_TYPES = {CONFIGS[name]["model_type"] for name in NAMED}
NAMED |= {name: ("q_proj", "down_proj") for name, config in CONFIGS.items() if config["model_type"] not in _NAMED_TYPES}


@pytest.mark.parametrize("variant", ["lora", "dora", "rslora"])
@pytest.mark.parametrize("name", NAMED)
def test_named_targets_equal_peft(name: str, variant: str) -> None:
    spec, task, targets = spec_of(name), case_task(CONFIGS[name]), NAMED[name]
    choices = plan(*targets, lora_variant=variant)
    if variant == "dora" and any(m.kind == "parameter" for m in resolve_targets(spec, targets)):
        with pytest.raises(InvalidInput, match="DoRA"):
            trainable_parameters(spec, choices)
        return
    keys = {"use_dora": variant == "dora", "use_rslora": variant == "rslora"}
    assert trainable_parameters(spec, choices) == peft_trainable(CONFIGS[name], task, list(targets), **keys)


CLASSIFIERS = [
    name
    for name, config in CONFIGS.items()
    if architectures.of(config["model_type"]).classifies and config["model_type"] != "distilbert"
]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classification_equals_peft(name: str) -> None:
    spec = spec_of(name, "classification")
    assert trainable_parameters(spec, plan("all-linear")) == peft_trainable(
        CONFIGS[name], "classification", "all-linear"
    )


def test_distilbert_classification_as_peft_allows_it() -> None:
    """PEFT's plain text comparison also saves pre_classifier, so an adapter on it is refused there and here."""
    spec, config = spec_of("distilbert", "classification"), CONFIGS["distilbert"]
    with pytest.raises(InvalidInput, match="pre_classifier"):
        trainable_parameters(spec, plan("all-linear"))
    with pytest.raises(TypeError):
        peft_trainable(config, "classification", "all-linear")
    expected = peft_trainable(config, "classification", ["q_lin", "v_lin"])
    assert trainable_parameters(spec, plan("q_lin", "v_lin")) == expected


@pytest.mark.parametrize(
    ("name", "targets", "saved"),
    [
        ("llama", ("q_proj",), ("lm_head", "embed_tokens")),
        ("llama-tied-biased", ("q_proj",), ("lm_head", "embed_tokens")),
        ("llama", ("q_proj",), ("norm",)),
        ("llama", ("q_proj", "o_proj"), ("o_proj",)),
        ("gpt2", ("c_attn",), ("wte", "ln_f")),
        ("t5", ("q", "v"), ("shared",)),
        ("phi", ("fc1",), ("lm_head",)),
        ("qwen2-moe", ("q_proj",), ("experts",)),
    ],
)
def test_modules_to_save_equal_peft(name: str, targets: tuple[str, ...], saved: tuple[str, ...]) -> None:
    spec, task = spec_of(name), case_task(CONFIGS[name])
    expected = peft_trainable(CONFIGS[name], task, list(targets), modules_to_save=list(saved))
    assert trainable_parameters(spec, plan(*targets, modules_to_save=saved)) == expected


def test_published_example_phi_2() -> None:
    """phi-2, r8 on q,k,v,dense,fc1,fc2: per layer 4 maps 2560->2560 and 2 maps between 2560 and 10240."""
    spec = load_model("phi-2")
    choices = plan("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2", lora_r=8)
    assert trainable_parameters(spec, choices) == 32 * 8 * (4 * (2560 + 2560) + 2 * (2560 + 10240))
    assert len(adapter_modules(spec, choices)) == 6


def test_full_trains_everything_and_carries_no_adapter() -> None:
    spec = load_model("gpt2")
    assert trainable_parameters(spec, plan(method="full")) == spec.parameters
    assert adapter_modules(spec, plan(method="full")) == ()


def test_single_layers_are_kept_apart() -> None:
    spec = spec_of("llama")
    (module,) = resolve_targets(spec, ("layers.2.self_attn.q_proj",))
    assert module.layers == (2,)


@pytest.mark.parametrize(
    ("name", "choices", "text"),
    [
        ("llama", {"lora_targets": ("q_porj",)}, r"'q_porj' fits no module of llama \(near: q_proj\).*down_proj"),
        ("llama", {"lora_targets": ()}, "empty"),
        ("llama", {"lora_targets": ("input_layernorm",)}, "a norm"),
        ("llama", {"lora_targets": ("q_proj", "nothing")}, "'nothing' fits no module"),
        ("llama", {"lora_targets": ("q_proj",), "modules_to_save": ("hed",)}, "--modules-to-save 'hed'"),
        ("llama", {"lora_targets": ("q_proj",), "modules_to_save": ("proj",)}, "carries an adapter"),
        ("llama", {"lora_targets": ("q_proj",), "modules_to_save": ("q_proj",)}, "--modules-to-save already"),
        ("mixtral", {"lora_targets": ("all-linear",), "lora_dropout": 0.05}, "--lora-dropout"),
        ("mixtral", {"lora_targets": ("q_proj", "w1")}, "needs w3 too"),
    ],
)
def test_wrong_targets_are_named(name: str, choices: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        trainable_parameters(spec_of(name), plan(**choices))
