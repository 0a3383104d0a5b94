"""One training example as both sides know it: plain text, or messages of which some are learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

Shape = Literal["messages", "prompt-completion", "alpaca", "sharegpt", "text", "classification"]

NOTHING_MORE: Mapping[str, object] = MappingProxyType({})
"""The extras of a message that has none; one for all, as there are millions of them."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """As chat templates name it: system, user, assistant, tool."""
    content: str
    learned: bool
    """Whether the loss counts on it: what the assistant says, unless the data gives it weight 0."""
    extras: Mapping[str, object] = field(default_factory=lambda: NOTHING_MORE)
    """Further keys that the chat template is given: tool_calls, tool_call_id, name, reasoning_content."""

    def as_template_input(self) -> dict[str, object]:
        """The message as a chat template takes it."""
        return {"role": self.role, "content": self.content, **self.extras}


@dataclass(frozen=True, slots=True)
class Example:
    """Either `text`, or `messages`."""

    messages: tuple[Message, ...] | None
    text: str | None
    where: str
    """`file:line` or `file, row n`, for sentences about it."""
    shape: Shape
    label: str | int | None = None
    """What a classifier learns of `text`."""
    tools: tuple[Mapping[str, object], ...] = ()
    """Descriptions of functions that the chat template is given as `tools`."""
