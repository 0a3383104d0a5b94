"""Ten cards, models from 0.5 B to 70 B, with and without data: every option holds, none twice, all on the front."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.contract.choices import DEFAULTS
from planner.data import dataset
from planner.data.use import DataUse
from planner.decide import search
from planner.decide.candidates import Space, batch_pairs, evaluate, layer_counts, may_keep
from planner.decide.check import check
from planner.decide.question import Question
from planner.decide.tiers import inside
from planner.decide.ways import YIELDING
from planner.devices import hardware
from planner.models import sources

CARDS = ("gtx-1050-ti", "rtx-3060", "t4", "rtx-4090", "a10g", "l40s", "a100-80gb", "h100", "m3-max-64gb", "cpu")
MODELS = ("qwen2.5-0.5b", "phi-2", "llama-3.1-8b", "llama-3.3-70b")
QUESTIONS = [
    (card, model, (row + column) % 2 == 1)
    for (row, card), (column, model) in itertools.product(enumerate(CARDS), enumerate(MODELS))
]
"""(card, model, with data)"""
HOPELESS = {
    ("gtx-1050-ti", "llama-3.1-8b"),
    *((card, "llama-3.3-70b") for card in CARDS if card not in ("l40s", "a100-80gb", "h100")),
}
"""Where not even one short quantised sequence fits; quantised weights run on CUDA only."""
TOLERANCE = 0.01
"""The search's figures and the exact ones differ by less."""


def asked(card: str, model: str, data: DataUse | None) -> Question:
    return Question(model=sources.load_model(model), hardware=hardware.find(card), data=data)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataUse:
    path: Path = tmp_path_factory.mktemp("data") / "train.jsonl"
    rows = [{"prompt": "q" * (40 + 7 * n % 900), "completion": "a" * (80 + 31 * n % 2000)} for n in range(1_200)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return DataUse(profile=dataset.profile(path))


def marked() -> list[object]:
    """Each card and each model by day, every pair of them by night."""
    by_day = {(CARDS[n], MODELS[n % len(MODELS)]) for n in range(len(CARDS))}
    return [
        pytest.param(*question, marks=() if question[:2] in by_day else pytest.mark.nightly, id="-".join(question[:2]))
        for question in QUESTIONS
    ]


@pytest.mark.parametrize(("card", "model", "with_data"), marked())
def test_every_option_holds(card: str, model: str, with_data: bool, data: DataUse) -> None:
    """GIVEN a question THEN each option is what check says, no two are one, and nothing smaller is as fast."""
    question = asked(card, model, data if with_data else None)
    if (card, model) in HOPELESS:
        with pytest.raises(search.NothingFits) as refusal:
            search.recommend(question)
        assert refusal.value.exit_code == 3
        return
    answer = search.recommend(question)
    assert 1 <= len(answer.options) <= 4
    shapes = [json.dumps(option.settings, sort_keys=True, default=str) for option in answer.options]
    assert len(set(shapes)) == len(shapes)
    for option in answer.options:
        again = check(question.having(option.settings), with_remedies=False)
        assert again.memory == option.memory
        assert again.verdict in ("fits", "tight")
        assert again.verdict == option.verdict
    assert_on_the_front(question, answer)


def assert_on_the_front(question: Question, answer: search.Recommendation) -> None:
    """No candidate of the whole space that fits is as fast as an option and smaller, or as small and faster."""
    base = answer.recommended.settings
    given_up = {item.name for item in answer.changed if item.named}
    last = max((place for place, names in enumerate(YIELDING) if given_up & set(names)), default=-1)
    kept = question.fixed - {name for names in YIELDING[: last + 1] for name in names}
    pairs, _, _ = batch_pairs(base, kept, answer.effective_batch_size)
    layers = layer_counts(question.model, base, kept)
    base = base if "made_again" in question.fixed else replace(base, made_again=DEFAULTS.made_again)
    space = Space(
        bases=(base,), pairs=pairs, lengths=[base.max_length], layers=layers, keeping=may_keep(question, base)
    )
    every = evaluate(question, space)
    fits = inside(every, question.budget_bytes)
    for option in answer.options:
        settings = option.settings
        mine = np.flatnonzero(
            (every.batch_size == settings.batch_size)
            & (every.keeps == (settings.made_again != base.made_again))
            & (every.checkpointed_layers == settings.checkpointed_layers(question.model.total_layers))
        )[0]
        smaller = fits & (every.device < (1 - TOLERANCE) * every.device[mine])
        if smaller.any():
            assert every.seconds[smaller].min() > (1 - TOLERANCE) * every.seconds[mine] * 1.0001
        faster = fits & (every.seconds < (1 - 2 * TOLERANCE) * every.seconds[mine])
        if faster.any():
            assert every.device[faster].min() > (1 - TOLERANCE) * every.device[mine]
