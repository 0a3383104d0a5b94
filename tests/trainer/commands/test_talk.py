"""Requests of `talk`: what is one, and the word about what is none."""

from __future__ import annotations

import pytest

from planner.contract.errors import InvalidInput
from trainer.commands.talk import _request


def test_a_request_has_a_prompt_and_may_say_how_long_the_answer_may_be() -> None:
    assert _request('{"prompt": "hi"}') == ("hi", 128)
    assert _request('{"prompt": "", "max_new_tokens": 4}') == ("", 4)


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        "{}",
        '{"prompt": 1}',
        '{"prompt": "a", "max_new_tokens": 0}',
        '{"prompt": "a", "max_new_tokens": 1e9}',
    ],
)
def test_what_is_none_is_refused(line: str) -> None:
    with pytest.raises(InvalidInput):
        _request(line)
