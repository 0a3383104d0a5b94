"""What a plan with room keeps in place of making it again, and that a tight one makes it again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.contract.choices import MADE_AGAIN, TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.records import Plan
from planner.contract.settings import choices_from, to_flags
from planner.decide import search
from planner.decide.check import check
from planner.decide.question import Question
from planner.devices import hardware
from planner.handover import plans
from planner.models import sources

LLAMA = sources.load_model("llama-3.2-1b")
A10G = hardware.find("a10g")


def ask(gpu: str = "a10g", choices: TrainingChoices | None = None, **more: Any) -> Question:
    """A question about Llama 1B on a device."""
    return Question(model=LLAMA, hardware=hardware.find(gpu), choices=choices or TrainingChoices(), **more)


def test_a_roomy_plan_makes_nothing_again_and_says_what_that_takes() -> None:
    answer = search.recommend(ask("h100-80gb"))
    assert answer.recommended.settings.made_again == ()
    assert any("Room is used to keep MLP activations and norms: " in line for line in answer.why)
    thrifty = check(ask("h100-80gb", replace(answer.recommended.settings, made_again=MADE_AGAIN)))
    assert thrifty.memory.device_peak_bytes < answer.recommended.memory.device_peak_bytes
    assert thrifty.speed is not None
    assert answer.recommended.speed is not None
    assert thrifty.speed.step_seconds > answer.recommended.speed.step_seconds


def test_a_tight_plan_makes_all_of_it_again() -> None:
    eight = sources.load_model("llama-3.1-8b")
    answer = search.recommend(replace(ask("rtx-4090"), model=eight))
    assert answer.options[0].settings.made_again == MADE_AGAIN
    assert not any("Room is used" in line for line in answer.why)


def test_as_the_budget_shrinks_the_pieces_come_back_before_a_layer_is_recomputed() -> None:
    seen = []
    for gib in (21, 16, 12, 10, 8, 7, 6):
        chosen = search.recommend(ask(budget=gib << 30, tier="high", fixed=frozenset({"batch_size"}))).recommended
        seen.append((chosen.settings.made_again == (), chosen.settings.checkpointed_layers(LLAMA.total_layers)))
        assert chosen.memory.interval_bytes[1] <= gib << 30
    assert seen[0] == (True, 0)
    assert (False, 0) in seen
    assert seen[-1][1] > 0
    assert seen == sorted(seen, key=lambda entry: (not entry[0], entry[1]))


@pytest.mark.parametrize("made_again", [MADE_AGAIN, ("norms",)])
def test_what_was_named_stays(made_again: tuple[str, ...]) -> None:
    named = ask("h100-80gb", TrainingChoices(made_again=made_again), fixed=frozenset({"made_again"}))
    assert search.recommend(named).recommended.settings.made_again == made_again


@pytest.mark.parametrize(("gpu", "stack"), [("cpu", "builtin"), ("h100-80gb", "peft")])
def test_nothing_is_kept_where_it_brings_nothing(gpu: str, stack: str) -> None:
    question = ask(gpu, TrainingChoices(stack=stack, max_length=256), fixed=frozenset({"stack", "max_length"}))
    assert search.recommend(question).recommended.settings.made_again == MADE_AGAIN


def test_too_large_a_plan_is_told_to_make_it_again() -> None:
    choices = TrainingChoices(
        made_again=(), gradient_checkpointing=False, loss="chunked", batch_size=4, gradient_accumulation_steps=1
    )
    needed = check(ask(choices=choices), with_remedies=False).memory.device_peak_bytes
    report = check(ask(choices=choices, budget=int(needed * 0.9)))
    assert list(MADE_AGAIN) in [remedy.change.get("made_again") for remedy in report.remedies if remedy.fits]


def test_a_plan_file_of_before_makes_again_what_it_did(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan = Plan(model="llama-3.2-1b", gpu="a10g", settings=TrainingChoices())
    content = json.loads(plan.model_dump_json(by_alias=True))
    del content["settings"]["made_again"]
    path.write_text(json.dumps(content))
    assert plans.load(path).settings.made_again == MADE_AGAIN


def test_none_is_said_in_a_word_and_read_back() -> None:
    chosen = choices_from({"made_again": "none", "modules_to_save": "none"})
    assert chosen.made_again == chosen.modules_to_save == ()
    words = to_flags(chosen)
    assert words == ["--made-again", "none"]
    assert choices_from({words[0].lstrip("-"): words[1]}) == chosen


def test_a_piece_that_is_unknown_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match=r"attention.*mlp, norms"):
        TrainingChoices(made_again=("attention",))
