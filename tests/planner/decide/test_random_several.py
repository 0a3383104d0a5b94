"""Questions about several cards drawn at random: every option is what check says, weights divided or not."""

from __future__ import annotations

import random
from typing import Any

import pytest

from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from planner.contract.settings import fit_to_hardware
from planner.decide import search
from planner.decide.check import check
from planner.decide.question import Question
from planner.devices import hardware
from planner.models import sources
from tests.planner.decide.test_forty_questions import assert_on_the_front

CARDS = ("gtx-1050-ti", "rtx-3060", "t4", "rtx-4090", "a10g", "l40s", "a100-40gb", "h100")
MODELS = ("tinyllama-1.1b", "gemma-2b", "mistral-7b-v0.1", "codellama-13b", "llama-3.3-70b", "qwen2.5-32b")
FURTHER: dict[str, tuple[Any, ...]] = {
    "stack": ("builtin", "peft"),
    "method": ("lora", "qlora", "full"),
    "max_length": (256, 777, 2048),
    "optimizer": ("adamw", "adamw-8bit"),
    "gradient_checkpointing": (True, False),
    "batch_size": (1, 2),
    "strategy": ("ddp", "fsdp"),
}
DAY = (919, 921)


def drawn(seed: int) -> Question:
    """A question about two, four or eight cards of a kind."""
    rng = random.Random(seed)
    device, model = hardware.find(rng.choice(CARDS)), sources.load_model(rng.choice(MODELS))
    fixed = {name: rng.choice(values) for name, values in FURTHER.items() if rng.random() < 0.2}
    choices, _ = fit_to_hardware(TrainingChoices(num_gpus=rng.choice((2, 4, 8)), **fixed), device)
    return Question(model=model, hardware=device, choices=choices, fixed=frozenset({"num_gpus", *fixed}))


@pytest.mark.parametrize(
    "seed", [pytest.param(n, marks=() if n in DAY else pytest.mark.nightly) for n in range(900, 928)]
)
def test_what_is_recommended_holds(seed: int) -> None:
    question = drawn(seed)
    try:
        answer = search.recommend(question)
    except (NotModelled, search.NothingFits):
        return
    changed = {item.name for item in answer.changed}
    for option in answer.options:
        again = check(question.having(option.settings), with_remedies=False)
        assert (again.memory, again.verdict) == (option.memory, option.verdict)
        assert option.settings.num_gpus == question.choices.num_gpus
        divided = option.settings.strategy != question.choices.strategy
        assert not divided or "strategy" in changed
    assert_on_the_front(question, answer)
