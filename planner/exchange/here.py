"""What of another trainer's file is taken otherwise here: a mirror's model, targets' names, kernels without a model."""

from __future__ import annotations

import re
from dataclasses import replace

from planner.contract.errors import NotModelled
from planner.decide.question import Question
from planner.exchange import targets
from planner.exchange.foreign import Foreign, Note

MIRRORS = ("nousresearch", "unsloth", "mlx-community", "casperhansen", "alpindale")
"""Accounts of the hub that republish others' models under the same name, with or without a quantisation in it."""
_QUANTISED = re.compile(r"(-unsloth)?(-bnb)?-(4bit|8bit|bf16|fp16)(-mlx)?$", re.IGNORECASE)


def mirrored(model: str) -> str | None:
    """The hub id of the original that a well-known mirror republishes, where the catalogue has it."""
    from planner.models import catalogue

    account, _, name = model.partition("/")
    if account.lower() not in MIRRORS or catalogue.look_up(model) is not None:
        return None
    found = catalogue.look_up(_QUANTISED.sub("", name))
    return None if found is None else found.hub_id


def without_unmodelled_kernels(question: Question, foreign: Foreign) -> tuple[Question, Foreign]:
    """The question with plain code in place of Liger's where the file asks for that and it has no model; said so."""
    from planner.memory.network import liger

    choices = question.choices
    if not (choices.liger and foreign.values.get("liger")):
        return question, foreign
    try:
        liger.check(question.model, choices)
    except NotModelled as error:
        fused = "fused_linear_cross_entropy" in choices.liger_kernels
        plain = replace(choices, liger=False, loss="chunked" if fused else choices.loss)
        text = f"plain code, which keeps no less, so the figure is an upper bound: {error}"
        note = Note(key="liger", how="assumed", text=text)
        return question.having(plain), replace(foreign, notes=(*foreign.notes, note))
    return question, foreign


def in_model_words(question: Question, foreign: Foreign) -> Question:
    """The question with the file's targets as the model calls them."""
    choices = question.choices
    if choices.lora_targets != foreign.values.get("lora_targets"):
        return question
    return question.having(replace(choices, lora_targets=targets.in_words_of(question.model, choices.lora_targets)))
