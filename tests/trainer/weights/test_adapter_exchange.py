"""Adapters written here load in plain PEFT and say the same; adapters written by PEFT go on here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.sources_cases import CASES
from tests.support.trainer_support import make_plan, of_kind, train


def says(model: Any, ids: torch.Tensor) -> list[int]:
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, pad_token_id=0, eos_token_id=1
    )
    return made[0].tolist()


@pytest.mark.parametrize("stack", ["builtin", "peft"])
@pytest.mark.parametrize("variant", ["lora", "rslora", "dora"])
def test_ours_in_plain_peft(model: Path, data: Path, tmp_path: Path, variant: str, stack: str) -> None:
    """GIVEN a short run WHEN plain PEFT loads its adapter THEN it generates the trainer's own tokens."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from trainer import modeling
    from trainer.loop.loading import read_config
    from trainer.weights.adapter_files import load as load_adapter
    from trainer.wire.request import Request, read_plan

    file = make_plan(
        tmp_path / "plan.json", model, data, settings={"lora_variant": variant, "stack": stack}, max_steps=5
    )
    events, failure = train(file, tmp_path / "run")
    assert failure is None, failure
    adapter = Path(of_kind(events, "finished")[0]["adapter_path"])
    base = AutoModelForCausalLM.from_pretrained(model)
    ids = torch.tensor([AutoTokenizer.from_pretrained(model)("<|user|>say abab<|end|><|assistant|>")["input_ids"]])
    before = says(base.eval(), ids)
    plain = PeftModel.from_pretrained(base, str(adapter)).eval()
    choices = read_plan(Request(plan=file)).settings
    own = modeling.build(read_config(str(model)), dtype=torch.float32, weights=str(model))
    own = modeling.attach_adapters(own, choices)
    load_adapter(own, adapter, choices)
    own.eval()
    with torch.no_grad():
        torch.testing.assert_close(own(ids).logits, plain(ids).logits, rtol=1e-4, atol=1e-4)
    assert says(own, ids) == says(plain, ids) != before


def test_one_written_by_peft_goes_on_here(model: Path, data: Path, tmp_path: Path) -> None:
    """GIVEN an adapter that plain PEFT trained and saved WHEN a run starts from it THEN it goes on there."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(model)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    theirs = get_peft_model(base, config)
    tokenizer = AutoTokenizer.from_pretrained(model)
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=2e-2)
    batch = tokenizer(["<|user|>say ab<|end|><|assistant|>abab<|end|>"], return_tensors="pt")
    for _ in range(15):
        loss = theirs(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    theirs.eval().save_pretrained(tmp_path / "theirs")
    settings = {"lora_targets": ["q_proj", "v_proj"], "lora_dropout": 0.0}
    plan = make_plan(tmp_path / "plan.json", model, data, settings=settings, max_steps=1, learning_rate=1e-12)
    fresh, failure = train(plan, tmp_path / "fresh")
    assert failure is None, failure
    events, failure = train(plan, tmp_path / "run", adapter=str(tmp_path / "theirs"))
    assert failure is None, failure
    assert of_kind(events, "eval")[0]["loss"] < of_kind(fresh, "eval")[0]["loss"] - 0.05
    from safetensors.torch import load_file

    left = load_file(tmp_path / "theirs/adapter_model.safetensors")
    right = load_file(tmp_path / "run/adapter/adapter_model.safetensors")
    assert left.keys() == right.keys()
    for name in left:  # a rate of 1e-12 leaves the weights where they were
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=1e-6)
    other = make_plan(tmp_path / "other.json", model, data, settings={**settings, "lora_r": 8}, max_steps=1)
    _, failure = train(other, tmp_path / "other", adapter=str(tmp_path / "theirs"))
    assert "its r is 4, the plan's 8; set --lora-r" in str(failure)
    other = make_plan(tmp_path / "more.json", model, data, settings={**settings, "lora_targets": ["all-linear"]})
    _, failure = train(other, tmp_path / "more", adapter=str(tmp_path / "theirs"))
    assert "sits on other modules than the plan's --lora-targets" in str(failure)
    _, failure = train(plan, tmp_path / "none", adapter=str(tmp_path / "nothing"))
    assert "no adapter_model.safetensors in it" in str(failure)


@pytest.mark.parametrize("name", ["mixtral", "qwen3-moe"])
def test_adapters_on_fused_experts_are_exchanged_too(name: str, tmp_path: Path) -> None:
    """Trained a step here, saved, loaded by plain PEFT: the same logits."""
    from peft import PeftModel

    from planner.contract.choices import TrainingChoices
    from trainer import modeling

    config = dict(CASES)[name]
    choices = TrainingChoices(lora_r=2, lora_dropout=0.0, precision="fp32", stack="builtin")
    base = modeling.build(config, dtype=torch.float32, seed=1)
    base.save_pretrained(tmp_path / "base")
    ours = modeling.attach_adapters(base, choices)
    optimizer = torch.optim.SGD([p for p in ours.parameters() if p.requires_grad], lr=1.0)
    ids = torch.arange(3, 15).view(1, -1)
    for _ in range(2):
        loss, _ = modeling.compute_loss(ours, {"input_ids": ids, "labels": ids}, choices)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    ours.eval().save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    again = modeling.build(config, dtype=torch.float32, weights=str(tmp_path / "base")).eval()
    with torch.no_grad():
        plain_logits = again(ids).logits
        theirs = PeftModel.from_pretrained(again, str(tmp_path / "adapter")).eval()
        torch.testing.assert_close(theirs(ids).logits, ours(ids).logits, rtol=1e-4, atol=1e-5)
    assert (plain_logits - ours(ids).logits).abs().max() > 1e-4
