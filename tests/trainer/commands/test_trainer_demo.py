"""The embedded demonstration, for real: the model is made from nothing, LoRA learns a rule that it never saw."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.contract.records import Plan
from planner.contract.run_settings import DataSettings, Hyperparameters
from tests.support.trainer_support import of_kind, train
from trainer.commands.demo import language


def test_the_language() -> None:
    assert language.velsh("tomika") == "tumokesh"
    assert language.velsh("dalino") == "delonunk"
    pairs = language.rule_pairs(1300)
    assert len(pairs) == len({prompt for prompt, _ in pairs}) == 1300
    assert all(completion == language.velsh(prompt.removeprefix("velsh ")) for prompt, completion in pairs)
    shown = language.pretraining_pairs(2000)
    assert shown == language.pretraining_pairs(2000)
    assert not any("velsh" in prompt or completion.endswith(("sh", "nk")) for prompt, completion in shown)


@pytest.mark.nightly
def test_lora_learns_the_rule_and_the_adapter_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from trainer.commands.demo import assets
    from trainer.commands.demo.score import exact_match

    # The pre-trained model is the one in the user's data folder where it has been made before.
    made = assets.make()
    again = assets.make(tmp_path / "copy")
    assert again["seconds"] < 2
    assert Path(again["model"], "model.safetensors").exists()
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path / "home"))
    plan = Plan(
        model=made["model"],
        gpu="cpu",
        settings={
            "method": "lora", "precision": "fp32", "batch_size": 16, "gradient_accumulation_steps": 2, "max_length": 32,
            "gradient_checkpointing": False, "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0,
        },
        hyperparameters=Hyperparameters(learning_rate=5e-3, epochs=5, report_to=()),
        data=DataSettings(path=made["train"]),
    )  # fmt: skip
    (tmp_path / "plan.json").write_text(plan.model_dump_json(by_alias=True))
    events, failure = train(tmp_path / "plan.json", tmp_path / "run")
    assert failure is None, failure
    (end,) = of_kind(events, "finished")
    assert end["eval_loss"] < 0.1 < 2 < end["eval_loss_before"]
    device = torch.device("cpu")
    before = exact_match(Path(made["model"]), Path(made["held_out"]), device, limit=50)
    after = exact_match(tmp_path / "run", Path(made["held_out"]), device, limit=50)
    print(f"exact match on held-out words: {before:.0%} before, {after:.0%} after")
    assert before == 0
    assert after >= 0.9
    trained_on = {json.loads(line)["prompt"] for line in Path(made["train"]).read_text().splitlines()}
    assert not any(json.loads(line)["prompt"] in trained_on for line in Path(made["held_out"]).read_text().splitlines())
