"""Messages as templates are given them: what may be missing, and the ways of writing a conversation down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names that thoughts are given under; templates read the first or the second (transformers' `_REASONING_FIELDS`)."""

Chat = list[dict[str, Any]]
Build = tuple[object, ...]
"""What a template can tell of a message without reading its text."""


class Refused(Exception):
    """The template doesn't take this conversation; the text says why."""


@dataclass(frozen=True, slots=True)
class Form:
    """How messages are written down: templates differ in what they take."""

    parts: bool = False
    """Contents as lists of parts, for templates of models that also see images."""
    arguments_as_text: bool = False
    """Arguments of tool calls as JSON text instead of an object."""
    blank: str = "text"
    """What stands for the content of a turn that only calls tools: "text" (empty), "none", or "absent"."""


def normal(message: Mapping[str, Any]) -> dict[str, object]:
    """Without keys that hold nothing; thoughts under both names that templates read; calls in their usual form."""
    found = {key: value for key, value in message.items() if value is not None}
    found.setdefault("content", "")
    thoughts = next((found[name] for name in REASONING if found.get(name)), None)
    for name in REASONING:
        found.pop(name, None)
    if thoughts is not None:
        found |= {"thinking": thoughts, "reasoning_content": thoughts}
    if found.get("tool_calls"):
        found["tool_calls"] = [_call(call) for call in found["tool_calls"]]
    else:
        found.pop("tool_calls", None)
    return found


def _call(call: object) -> dict[str, object]:
    if not isinstance(call, Mapping):
        raise Refused("a tool call is not an object with `function`")
    inner = call.get("function")
    function = dict(inner) if isinstance(inner, Mapping) else {k: call[k] for k in ("name", "arguments") if k in call}
    if not isinstance(function.get("name"), str):
        raise Refused("a tool call has no name")
    outer = {key: value for key, value in call.items() if key not in ("function", "name", "arguments")}
    return {"type": "function", **outer, "function": {**function, "arguments": function.get("arguments", {})}}


def build(message: Mapping[str, Any]) -> Build:
    content = message.get("content")
    said = content if isinstance(content, str) else ""
    return (
        message["role"],
        bool(said.strip()),
        "</think>" in said,
        tuple(sorted(message)),
        tuple(bool(call["function"]["arguments"]) for call in message.get("tool_calls") or ()),
    )


def forms(chat: Chat) -> list[Form]:
    """Ways of writing the conversation down, the usual first."""
    if not any(message.get("tool_calls") for message in chat):
        return [Form(), Form(parts=True)]
    plain = [Form(False, text, blank) for text in (False, True) for blank in ("text", "none", "absent")]
    return [*plain, *(Form(True, text) for text in (False, True))]


def written(chat: Chat, form: Form) -> Chat:
    return [_in_form(message, form) for message in chat]


def _in_form(message: Mapping[str, Any], form: Form) -> dict[str, object]:
    found = dict(message)
    calls = found.get("tool_calls")
    if calls:
        found["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _arguments(call["function"]["arguments"], form)}}
            for call in calls
        ]
        if not found["content"] and form.blank == "absent":
            del found["content"]
        elif not found["content"] and form.blank == "none":
            found["content"] = None
    if form.parts and isinstance(found.get("content"), str):
        found["content"] = [{"type": "text", "text": found["content"]}]
    return found


def _arguments(value: object, form: Form) -> object:
    if form.arguments_as_text:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return parsed if isinstance(parsed, dict) else value
    return value
