"""What the evaluations' sample asks and what its example answers, as a person reads it."""

from __future__ import annotations

from typing import NamedTuple

from planner.contract.data.examples import Example

LONGEST = 2000
"""Characters of each that are told: every evaluation tells them anew."""


class Asked(NamedTuple):
    """A sample's prompt without a chat template, and the answer that its example holds."""

    prompt: str
    expected: str | None = None


def asked(example: Example, rendered: str, given: str | None) -> Asked:
    """What is asked of the model; `rendered` is the prompt that it continues, `given` the plan's own."""
    if given is not None:
        return Asked(given[:LONGEST])
    if example.messages is None:
        text = example.text or ""
        rest = text.removeprefix(rendered).lstrip() if text.startswith(rendered) else None
        return Asked(rendered[:LONGEST], rest[:LONGEST] if rest else None)
    messages = example.messages
    last = max((number for number, message in enumerate(messages) if message.learned), default=len(messages) - 1)
    before = [message.content for message in messages[:last] if message.role != "system"] or [rendered]
    return Asked(before[-1][:LONGEST], messages[last].content[:LONGEST])
