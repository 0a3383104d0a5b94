"""What the evaluations' sample asks and what its example answers, as a person reads it."""

from __future__ import annotations

from typing import NamedTuple

from planner.contract.data.examples import Example

LONGEST = 2000
"""Characters of each that are told: every evaluation tells them anew."""


class SamplePrompt(NamedTuple):
    """What a sample asks."""

    rendered: str
    """What the model goes on with."""
    prompt: str
    """The same without a chat template."""
    expected: str | None = None
    """The answer that its example holds."""


def asked(example: Example, rendered: str, given: str | None) -> SamplePrompt:
    """What is asked of the model; `rendered` is the prompt that it continues, `given` the plan's own."""
    if given is not None:
        return SamplePrompt(rendered, given[:LONGEST])
    if example.messages is None:
        text = example.text or ""
        rest = text.removeprefix(rendered).lstrip() if text.startswith(rendered) else None
        return SamplePrompt(rendered, rendered[:LONGEST], rest[:LONGEST] if rest else None)
    messages = example.messages
    last = max((number for number, message in enumerate(messages) if message.learned), default=len(messages) - 1)
    before = [message.content for message in messages[:last] if message.role != "system"] or [rendered]
    return SamplePrompt(rendered, before[-1][:LONGEST], messages[last].content[:LONGEST])
