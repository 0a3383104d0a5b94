"""Every turn of the assistant is learned, and nothing else, whatever a chat template does."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from planner.contract.data.render_engine import Template
from planner.contract.data.render_messages import Refused
from planner.contract.data.render_turns import Marked, TurnFinder
from tests.support.clock import takes_at_most
from tests.support.template_kinds import (
    ALTERNATING,
    CHANNELS,
    CHATML,
    DATED,
    DROPS_THOUGHTS,
    EXPECTED,
    MARKED,
    THINKING_LAST,
)

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def turns(source: str) -> TurnFinder:
    return TurnFinder(Template(source, TOKENS), source)


def said(*texts: str, system: str | None = None, **last: Any) -> list[dict[str, Any]]:
    """Question, answer, question, answer …; `last` goes into the last message."""
    messages: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)
    ]
    messages[-1] |= last
    return [{"role": "system", "content": system}] * (system is not None) + messages


def find(source: str, messages: list[dict[str, Any]], tools: Any = None, learned: list[bool] | None = None) -> Marked:
    return turns(source).find(messages, learned or [message["role"] == "assistant" for message in messages], tools)


def learned_of(found: Marked) -> list[str]:
    return [found.text[begin:end] for begin, end in found.spans]


@pytest.mark.parametrize("kind", EXPECTED)
def test_every_turn_is_learned_without_its_header_and_with_its_end(kind: str) -> None:
    source, expected = EXPECTED[kind]
    found = find(source, said("Q1", "A1", "Q2", "A2", "Q3", "A3"))
    assert learned_of(found) == expected
    assert not set(found.counts) - {"endless"}
    # Turns that the data says are context only are not learned, and the others are as before.
    some = find(source, said("Q1", "A1", "Q2", "A2", "Q3", "A3"), learned=[False, True, False, False, False, True])
    assert some.text == found.text
    assert learned_of(some) == [expected[0], expected[2]]


@pytest.mark.parametrize("kind", EXPECTED)
def test_nothing_but_the_assistants_words_is_learned(kind: str) -> None:
    """Texts are hostile: parts of the template's own markup, equal texts in many turns, blanks at the ends."""
    source, _ = EXPECTED[kind]
    rng = random.Random(kind)
    bits = ["<|im_end|>\n", "<|im_start|>assistant\n", "<A>", "<end>", " ", "\n", "<b>", "A: ", "</s>", "<think>", "x"]
    template = turns(source)
    for _ in range(60):
        texts = []
        for place in range(2 * rng.randint(1, 4)):
            own = "é" if place % 2 else "ø"  # letters that only the one or the other says
            texts.append("".join(rng.choice([*bits, own]) for _ in range(rng.randint(0, 6))) + own)
        messages = said(*texts)
        found = template.find(messages, [message["role"] == "assistant" for message in messages], None)
        learned = "".join(learned_of(found))
        assert "ø" not in learned
        if "unfound" not in found.counts:
            assert learned.count("é") == found.text.count("é")


def test_a_text_that_stands_twice_is_learned_once() -> None:
    found = find(CHATML, said("yes<|im_end|>\n<|im_start|>assistant\nyes", "yes", "yes", "yes"))
    assert learned_of(found) == ["yes<|im_end|>\n"] * 2
    first, second = found.spans
    assert found.text[: first[0]].endswith("<|im_start|>assistant\n")
    assert found.text[first[1] : second[0]] == "<|im_start|>user\nyes<|im_end|>\n<|im_start|>assistant\n"


def test_thoughts_are_learned_where_the_template_shows_them_and_missed_by_count_where_not() -> None:
    thinking = said("Q1", "<think>\nT1\n</think>\n\nA1", "Q2", "<think>\nT2\n</think>\n\nA2")
    found = find(THINKING_LAST, thinking)
    assert learned_of(found) == ["A1<|im_end|>\n", "T2\n</think>\n\nA2<|im_end|>\n"]
    assert found.counts == {"thoughts": 1}
    apart = find(THINKING_LAST, said("Q1", "A1", reasoning_content="T1"))
    assert learned_of(apart) == ["T1\n</think>\n\nA1<|im_end|>\n"]
    assert not apart.counts
    # The same under the name that other templates read, and under one that none does.
    for name in ("reasoning_content", "thinking", "reasoning"):
        other = find(CHANNELS, said("Q1", "A1", **{name: "T1"}))
        assert learned_of(other) == [
            "<|channel|>analysis<|message|>T1<|end|><|start|>assistant<|channel|>final<|message|>A1<|return|>"
        ]
    assert find(CHATML, said("Q1", "A1", reasoning_content="T1")).counts == {"thoughts": 1}
    assert find(DROPS_THOUGHTS, thinking).counts == {"thoughts": 2}


def test_messages_that_the_template_leaves_out_are_counted() -> None:
    silent = CHATML.replace("{{ '<|im_start|>'", "{% if m.role != 'system' %}{{ '<|im_start|>'").replace(
        "'<|im_end|>\\n' }}", "'<|im_end|>\\n' }}{% endif %}"
    )
    found = find(silent, said("Q1", "A1", system="S"))
    assert (learned_of(found), found.counts) == (["A1<|im_end|>\n"], {"lost system": 1})
    merged = find(ALTERNATING, said("Q1", " A1 ", system="S"))
    assert merged.text == "<s><start_of_turn>user\nS\n\nQ1<end_of_turn>\n<start_of_turn>model\nA1<end_of_turn>\n"
    assert (learned_of(merged), merged.counts) == (["A1<end_of_turn>\n"], {})


CALL = {"id": "c1", "type": "function", "function": {"name": "find_room", "arguments": {"floor": 3}}}
TOOLS = [{"type": "function", "function": {"name": "find_room", "description": "d", "parameters": {}}}]


def calling(given: Any = None, /, **call: Any) -> list[dict[str, Any]]:
    function = {"name": "find_room", "arguments": {"floor": 3} if given is None else given}
    return [
        {"role": "user", "content": "Q1"},
        {"role": "assistant", "content": "", "tool_calls": [call or {**CALL, "function": function}]},
        {"role": "tool", "content": "12", "tool_call_id": "c1"},
        {"role": "assistant", "content": "A1"},
    ]


@pytest.mark.parametrize("arguments", [{"floor": 3}, '{"floor": 3}'])
def test_tool_calls_are_learned(arguments: Any) -> None:
    found = find(THINKING_LAST, calling(arguments), TOOLS)
    assert learned_of(found) == [
        '\n</think>\n\n<tool_call>{"name": "find_room", "arguments": {"floor": 3}}</tool_call><|im_end|>\n',
        "\n</think>\n\nA1<|im_end|>\n",
    ]
    assert json.dumps(TOOLS, ensure_ascii=False) in found.text
    assert not found.counts
    flat = find(THINKING_LAST, calling(name="find_room", arguments=arguments), TOOLS)
    assert learned_of(flat) == learned_of(found)


CALLS_AS_TEXT = (
    "{% for m in messages %}{% if m['content'] is none %}"
    "{% for c in m['tool_calls'] %}{{ '<A>' + c['function']['name'] + ':' + c['function']['arguments'] + '<end>' }}"
    "{% endfor %}{% else %}{{ {'assistant': '<A>', 'user': '<U>', 'tool': '<T>'}[m['role']] + m['content'] + '<end>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<A>' }}{% endif %}"
)


def test_calls_are_written_as_the_template_takes_them() -> None:
    """Some want arguments as text and `none` where nothing is said; others would print them as Python."""
    found = find(CALLS_AS_TEXT, calling())
    assert learned_of(found) == ['find_room:{"floor": 3}<end>', "A1<end>"]
    python = CALLS_AS_TEXT.replace("':' + c", "':' ~ c")
    assert learned_of(find(python, calling())) == ['find_room:{"floor": 3}<end>', "A1<end>"]


def test_calls_that_the_template_does_not_show_are_refused() -> None:
    with pytest.raises(Refused, match="doesn't render tool calls"):
        find(CHATML, calling())
    with pytest.raises(Refused, match="no name"):
        find(THINKING_LAST, calling(function={"arguments": {}}))
    named_only = THINKING_LAST.replace("(call.function | tojson)", "call.function.name")
    with pytest.raises(Refused, match="doesn't render tool calls"):
        find(named_only, calling())
    assert find(CHATML, said("Q1", "A1"), TOOLS).counts == {"tools": 1}


def test_order_that_the_template_refuses() -> None:
    with pytest.raises(Refused, match="must alternate"):
        find(ALTERNATING, [{"role": "assistant", "content": "A"}])
    first = find(CHATML, [{"role": "assistant", "content": "A0"}, *said("Q1", "A1")])
    assert learned_of(first) == ["A0<|im_end|>\n", "A1<|im_end|>\n"]
    twice = find(CHATML, [*said("Q1", "A1"), {"role": "assistant", "content": "A2"}])
    assert learned_of(twice) == ["A1<|im_end|>\n", "A2<|im_end|>\n"]


def test_marks_of_the_template_are_its_word() -> None:
    only_last = MARKED.replace("{% if m['role'] == 'assistant' %}", "{% if m['role'] == 'assistant' and loop.last %}")
    found = find(only_last, said("Q1", "A1", "Q2", "A2"))
    assert (learned_of(found), found.counts) == (["A2<end>"], {"unmarked": 1})


def test_the_day_does_not_change_what_is_trained() -> None:
    assert find(DATED, said("Q1", "A1")).text.startswith("01 Jan 2026\n")
    chance = "{{ [1, 2, 3, 4, 5, 6, 7, 8, 9] | random }}{{ [1, 2, 3, 4, 5, 6, 7, 8, 9] | random }}" + CHATML
    assert len({find(chance, said("Q1", "A1")).text for _ in range(8)}) == 1


def test_the_environment_is_that_of_transformers() -> None:
    """The same text as the library makes, for a template that uses what it offers beyond plain Jinja."""
    from transformers.utils.chat_template_utils import render_jinja_template

    source = (
        "{%- set ns = namespace(n=0) -%}\n{% for m in messages %}\n  {% if loop.index > 3 %}{% break %}{% endif %}\n"
        "{{ m | tojson }}{{ m.content | tojson(indent=2) }}{% set ns.n = ns.n + 1 %}\n{% endfor %}\n"
        "{{ dict(a=1).items() | list }}{{ '<&>' }}{{ missing }}{{ bos_token }}{{ 3 * 'ab' }}{{ ns.n ** 2 }}\n"
        "{%- if tools is none %}none{% endif %}{{ documents is none }}"
    )
    messages = said("é<&\"'>", "A1", "Q2", "A2")
    (expected,), _ = render_jinja_template(conversations=[messages], chat_template=source, **TOKENS)
    assert Template(source, TOKENS).trace(messages, None).text == expected


def test_long_conversations_take_time_by_their_length() -> None:
    template = turns(THINKING_LAST)
    messages = said(*("words " * 20 for _ in range(3000)))
    with takes_at_most(10):
        found = template.find(messages, [message["role"] == "assistant" for message in messages], None)
    assert len(found.spans) == 1500
