"""The trainer attaches adapters where the planner counted them and where plain PEFT would put them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.models.lora import trainable_parameters
from planner.models.sources import from_config
from tests.planner.models.test_lora_spec import TASK_TYPES, peft_trainable
from tests.support.sources_cases import CASES, build_on_meta, case_task

CONFIGS = dict(CASES)


def attached(config: dict[str, Any], task: str, choices: TrainingChoices) -> Any:
    from trainer import modeling

    return modeling.attach_adapters(build_on_meta(config, task), choices, low_cpu_mem_usage=True)


def trained(model: Any) -> int:
    return sum(value.numel() for value in model.parameters() if value.requires_grad)


def lora(*targets: str, **keys: Any) -> TrainingChoices:
    return TrainingChoices(**({"lora_targets": targets, "lora_r": 4, "lora_dropout": 0.0, "stack": "peft"} | keys))


@pytest.mark.parametrize("targets", ["all-linear", "attention"])
@pytest.mark.parametrize("name", CONFIGS)
def test_the_trainer_trains_as_many_parameters_as_the_planner_counted(name: str, targets: str) -> None:
    config, task = CONFIGS[name], case_task(CONFIGS[name])
    spec = from_config(copy.deepcopy(config), name)
    here = trained(attached(config, task, lora(targets)))
    assert here == trainable_parameters(spec, lora(targets))
    if targets == "all-linear":
        assert here == peft_trainable(config, task, "all-linear")


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "t5", "llama", "gpt2"])
@pytest.mark.parametrize("targets", ["all-linear", "attention"])
def test_classifiers_too(name: str, targets: str) -> None:
    """`attention` on T5 and RoBERTa once caught the classification head's out_proj."""
    config = CONFIGS[name]
    spec = from_config(copy.deepcopy(config), name, task="classification")
    if (name, targets) == ("distilbert", "all-linear"):  # PEFT takes pre_classifier for the classifier it must copy
        for count in (
            lambda: trainable_parameters(spec, lora(targets)),
            lambda: attached(config, "classification", lora(targets)),
        ):
            with pytest.raises(InvalidInput, match="classifier"):
                count()
        return
    model = attached(config, "classification", lora(targets))
    assert trained(model) == trainable_parameters(spec, lora(targets))
    if targets == "attention":
        adapted = [n for n, _ in model.named_modules() if n.endswith("lora_A")]
        assert adapted
        assert not any("classif" in name or "score" in name for name in adapted)


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe", "qwen3-moe-sparse-step", "qwen2-moe"])
def test_expert_tensors_carry_the_same_adapters_as_with_plain_peft(name: str) -> None:
    """Same keys and shapes as `target_modules="all-linear"`, which alone makes PEFT look at the experts."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict

    config = CONFIGS[name]
    plain = get_peft_model(
        build_on_meta(config, "causal"),
        LoraConfig(r=4, lora_alpha=32, target_modules="all-linear", task_type=TASK_TYPES["causal"]),
        low_cpu_mem_usage=True,
    )
    ours = attached(config, "causal", lora("all-linear"))
    left, right = get_peft_model_state_dict(plain), get_peft_model_state_dict(ours)
    assert {key: value.shape for key, value in left.items()} == {key: value.shape for key, value in right.items()}
    scales = [
        {n: m.scaling["default"] for n, m in model.named_modules() if isinstance(getattr(m, "scaling", None), dict)}
        for model in (plain, ours)
    ]
    assert scales[0] == scales[1]


def test_experts_refuse_what_peft_cannot_do() -> None:
    with pytest.raises(InvalidInput, match="--lora-dropout above 0 cannot be used on the fused expert tensors"):
        attached(CONFIGS["mixtral"], "causal", lora("all-linear", lora_dropout=0.05))


def test_a_t5_without_a_start_token_can_be_traced() -> None:
    """The decoder's input begins with the padding token, as every published T5 says itself."""
    from trainer.trace import Setup, trace

    config = {key: value for key, value in CONFIGS["t5"].items() if key != "decoder_start_token_id"}
    choices = TrainingChoices(batch_size=2, max_length=16, precision="fp32", lora_targets=("attention",), stack="peft")
    assert trace(config, choices, Setup(target="cpu")).allocated_peak_bytes > 0
    assert torch.is_grad_enabled()
