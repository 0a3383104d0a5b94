"""Questions drawn at random, each held by check and by all candidates of its space: few by day, many by night."""

from __future__ import annotations

import json
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
from tests.planner.decide.test_forty_questions import CARDS, assert_on_the_front

MODELS = ("qwen2.5-0.5b", "tinyllama-1.1b", "llama-3.2-1b", "gemma-2b", "phi-2", "mistral-7b-v0.1", "bert-base-cased")
FURTHER: dict[str, tuple[Any, ...]] = {
    "stack": ("builtin", "peft"),
    "method": ("lora", "qlora", "full"),
    "max_length": (64, 256, 777, 2048),
    "lora_r": (4, 64),
    "loss": ("full", "chunked"),
    "optimizer": ("adamw", "adamw-8bit"),
    "precision": ("fp32", "bf16"),
    "gradient_checkpointing": (True, False),
    "batch_size": (1, 3, 8),
}
"""What a person may have fixed."""
DAY, NIGHT = 4, 60


def drawn(seed: int) -> Question:
    """A question about what a card and a model can do, with some things fixed."""
    rng = random.Random(seed)
    device = hardware.find(rng.choice(CARDS))
    model = sources.load_model(rng.choice(MODELS))
    fixed = {name: rng.choice(values) for name, values in FURTHER.items() if rng.random() < 0.25}
    fixed["max_length"] = min(fixed.get("max_length", 1024), model.max_positions or 1024)
    choices = TrainingChoices(**fixed)
    if "precision" not in fixed:
        choices, _ = fit_to_hardware(choices, device)
    return Question(
        model=model,
        hardware=device,
        choices=choices,
        fixed=frozenset(fixed),
        goal=rng.choice((None, None, *search.GOALS)),
        effective_batch_size=rng.choice((None, None, 6, 24, 48)),
    )


@pytest.mark.parametrize(
    "seed", [pytest.param(n, marks=() if n < DAY else pytest.mark.nightly) for n in range(DAY + NIGHT)]
)
def test_what_is_recommended_holds(seed: int) -> None:
    """GIVEN a question THEN each option is what check says and keeps what was fixed, no two are one, and each is on the
    front of all candidates; where nothing is recommended, the least that the person allows doesn't fit either."""
    question = drawn(seed)
    try:
        answer = search.recommend(question)
    except NotModelled:  # as it is for check
        with pytest.raises(NotModelled):
            check(question, with_remedies=False)
        return
    except search.NothingFits:
        least = {"batch_size": 1, "gradient_checkpointing": True, "checkpoint_layers": None}
        kept = {name: value for name, value in least.items() if name not in question.fixed}
        assert check(question.having(search.replace(question.choices, **kept)), with_remedies=False).verdict != "fits"
        return
    shapes = [json.dumps(option.settings, sort_keys=True, default=str) for option in answer.options]
    assert len(set(shapes)) == len(shapes)
    changed = {item.name for item in answer.changed}
    said = " ".join(str(note) for note in answer.notes)
    for option in answer.options:
        again = check(question.having(option.settings), with_remedies=False)
        assert (again.memory, again.verdict) == (option.memory, option.verdict)
        assert option.verdict in ("fits", "tight")
        for name in question.fixed - changed:
            kept = getattr(option.settings, name) == getattr(question.choices, name)
            assert kept or f"Tier {option.tier}: " in said, name
    assert_on_the_front(question, answer)
