"""What the evaluations' sample is told to have asked and expected."""

from __future__ import annotations

from planner.contract.data.examples import Example, Message
from trainer.data.samples import LONGEST, SamplePrompt, asked


def chat(*turns: tuple[str, str]) -> Example:
    messages = tuple(Message(role, text, role == "assistant") for role, text in turns)
    return Example(messages=messages, text=None, where="a:1", shape="messages")


def test_a_chat_asks_its_last_question() -> None:
    example = chat(("system", "be kind"), ("user", "a?"), ("assistant", "b"), ("user", "c?"), ("assistant", "d"))
    assert asked(example, "<rendered>", None) == SamplePrompt("<rendered>", "c?", "d")


def test_a_chat_without_a_question_shows_what_the_model_sees() -> None:
    assert asked(chat(("system", "s"), ("assistant", "d")), "<rendered>", None) == SamplePrompt(
        "<rendered>", "<rendered>", "d"
    )


def test_a_text_expects_its_rest() -> None:
    example = Example(messages=None, text="once upon a time", where="a:1", shape="text")
    assert asked(example, "once upon", None) == SamplePrompt("once upon", "once upon", "a time")


def test_the_plans_own_prompt_expects_nothing_and_long_ones_are_cut() -> None:
    example = chat(("user", "a" * 5000), ("assistant", "b" * 5000))
    assert asked(example, "r", "say something") == SamplePrompt("r", "say something")
    assert asked(example, "r", None) == SamplePrompt("r", "a" * LONGEST, "b" * LONGEST)
