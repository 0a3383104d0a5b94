"""A list of messages, in the notations that people have, as `Message`s: roles, parts, tool calls, thoughts, weights."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from planner.contract.data.account import Account
from planner.contract.data.examples import NOTHING_MORE, Message
from planner.contract.data.literals import Malformed, parse_cell, parse_json, shown
from planner.contract.data.streams import Invalid

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "customer": "user",
    "client": "user",
    "question": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "chatbot": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "claude": "assistant",
    "answer": "assistant",
    "agent": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "tool_output": "tool",
    "function_response": "tool",
    "function_result": "tool",
    "ipython": "tool",
    "function_call": "call",
    "tool_call": "call",
    "tool_calls": "call",
}
"""What people call a speaker -> the role that chat templates know; `call` is the assistant's call of a function."""

KEPT = ("tool_calls", "tool_call_id", "name", "reasoning_content", "thinking", "reasoning")
"""Keys that the chat template is given."""
THOUGHTS = ("reasoning_content", "thinking", "reasoning")
LEARN = ("weight", "train", "training", "trainable", "loss")
"""Keys that say whether a turn is learned."""
_WHO, _WHAT = ("role", "from", "speaker"), ("content", "value", "text")

PLACEHOLDER = re.compile(
    r"<(?:image|video|audio|speech)>|<image_\d+>|<\|(?:image|video|audio)(?:_pad|_\d+)?\|>|<image_soft_token>"
)
"""What stands in a text for a picture, a film or a sound that is given beside it."""


def text_of(value: object, name: str, where: str) -> str:
    """A text, or a number as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise Invalid(f"{where}: {shown(name)!r} is {value}, which is no text; leave the example out")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if value is None:
        raise Invalid(f"{where}: {shown(name)!r} is missing")
    raise Invalid(f"{where}: {shown(name)!r} must be text, not {_kind(value)}")


def _kind(value: object) -> str:
    return {"dict": "an object", "list": "a list", "bool": "true or false"}.get(
        type(value).__name__, type(value).__name__
    )


def holds_media(text: str, has_media: bool) -> bool:
    """Whether a text speaks of a picture or sound that a text model is not given."""
    if "<" not in text or PLACEHOLDER.search(text) is None:
        return False
    bare = text.strip()
    at_edge = any(match.start() == 0 or match.end() == len(bare) for match in PLACEHOLDER.finditer(bare))
    return has_media or at_edge


def refuse_media(text: str, has_media: bool, where: str, account: Account) -> None:
    """A placeholder for a picture or sound is no word to learn; one in the middle of a text may be markup."""
    if "<" not in text:
        return
    if holds_media(text, has_media):
        found = PLACEHOLDER.search(text)
        raise Invalid(
            f"{where}: {found[0] if found else ''} stands for a picture or sound, which a text model is not given"
        )
    for match in PLACEHOLDER.finditer(text):
        account.done[f"{match[0]} inside a text is read as text"] += 1


class Turns:
    """Reads the lists of messages of one data set, and notes in its account what it does not use."""

    def __init__(self, account: Account) -> None:
        self.account = account

    def read(self, value: object, column: str, where: str, *, learn: bool = True, media: bool = False) -> list[Message]:
        """The messages of a conversation. `learn`: whether those of the assistant are learned."""
        if isinstance(value, str):
            try:
                value = parse_cell(value)
            except Malformed as error:
                raise Invalid(f"{where}: {shown(column)!r} must be a list of messages: {error}") from None
        if isinstance(value, dict) and len(value) == 1:
            value = next(iter(value.values()))
        if not isinstance(value, list | tuple) or not value:
            raise Invalid(f"{where}: {shown(column)!r} must be a list of at least one message")
        messages: list[Message] = []
        for number, item in enumerate(value, 1):
            place = (where, number, column)
            if not isinstance(item, dict):
                raise Invalid(f"{_at(place)} must be an object with role and content, not {_kind(item)}")
            speakers = _named_speakers(item)
            if speakers:
                for role, said in speakers:
                    messages.append(self._message({"role": role, "content": said}, place, learn, media))
            else:
                messages.append(self._message(item, place, learn, media))
        return messages

    def _message(self, item: Mapping[str, object], place: tuple[str, int, str], learn: bool, media: bool) -> Message:
        who = next((key for key in _WHO if key in item), None)
        what = next((key for key in _WHAT if key in item), None)
        name = item[who] if who else None
        if not isinstance(name, str):
            raise Invalid(f"{_at(place)} needs a `role` and a `content`")
        role = ROLES.get(name) or ROLES.get(name.strip().lower().replace("-", "_").replace(" ", "_"))
        if role is None:
            raise Invalid(
                f"{_at(place)} is from {shown(name)!r}, a role that is not known: neither system, user (human), "
                "assistant (gpt) nor tool"
            )
        content = item[what] if what else None
        if role != name and name == "developer":
            self.account.done["developer turns are given to the template as system turns"] += 1
        if len(item) == 2 and type(content) is str and role != "call":
            if role == "assistant":
                if not content:
                    self.account.done["empty answer of the assistant"] += 1
                return Message(role, content, learn)
            if role == "user":
                self._media(content, media, place)
            return Message(role, content, False)
        return self._full(item, role, content, (who, what), place, learn, media)

    def _full(
        self,
        item: Mapping[str, object],
        role: str,
        content: object,
        used: tuple[str | None, str | None],
        place: tuple[str, int, str],
        learn: bool,
        media: bool,
    ) -> Message:
        """A message with more than a role and a text."""
        extras = {key: item[key] for key in KEPT if item.get(key) not in (None, "", [], {})}
        if item.get("function_call") and "tool_calls" not in extras:
            extras["tool_calls"] = [item["function_call"]]
        if role == "call":
            role = "assistant"
            calls = _calls_in_text(content)
            if calls is not None:
                extras["tool_calls"], content = calls, ""
        if "tool_calls" in extras:
            extras["tool_calls"] = _tool_calls(extras["tool_calls"], place)
        for key in THOUGHTS:
            if key in extras and not isinstance(extras[key], str):
                raise Invalid(f"{_at(place)}: {key!r} must be text, not {_kind(extras[key])}")
        text = self._content(content, role, extras, place)
        if role == "user":
            self._media(text, media, place)
        learned = self._is_learned(item, role, place) and learn
        if role == "assistant" and not text and not extras:
            self.account.done["empty answer of the assistant"] += 1
        for key, value in item.items():
            if key in used or key in KEPT or key in LEARN or key == "function_call" or value in (None, "", [], {}):
                continue
            self.account.unused["key of messages", str(key)] += 1
        return Message(role, text, learned, extras or NOTHING_MORE)

    def _media(self, text: str, media: bool, place: tuple[str, int, str]) -> None:
        if "<" in text:
            refuse_media(text, media, place[0], self.account)

    def _content(self, content: object, role: str, extras: Mapping[str, object], place: tuple[str, int, str]) -> str:
        if isinstance(content, str):
            return content
        if content is None and extras:
            return ""
        if isinstance(content, list) and all(isinstance(part, dict | str) for part in content):
            return self._parts(content, role, place)
        if role == "tool" and isinstance(content, dict | list | int | float):
            return _json_text(content, place)
        if content is None:
            raise Invalid(f"{_at(place)} has no content")
        try:
            return text_of(content, "content", place[0])
        except Invalid:
            raise Invalid(f"{_at(place)} needs a `content` that is text, not {_kind(content)}") from None

    def _parts(self, parts: list[Any], role: str, place: tuple[str, int, str]) -> str:
        texts = []
        for part in parts:
            if isinstance(part, str):
                texts.append(part)
                continue
            kind = part.get("type", "text")
            said = part.get("text", part.get("content") if kind in ("text", None) else None)
            if isinstance(said, str) and (kind is None or str(kind).endswith("text")):
                texts.append(said)
            elif role == "tool" and "type" not in part:
                texts.append(_json_text(part, place))
            else:
                raise Invalid(f"{_at(place)} holds a part of the type {shown(kind)!r}, which a text model is not given")
        return "".join(texts)

    def _is_learned(self, item: Mapping[str, object], role: str, place: tuple[str, int, str]) -> bool:
        learned = role == "assistant"
        for key in LEARN:
            value = item.get(key)
            if value is None:
                continue
            if isinstance(value, str) and value.strip().lower() in ("true", "false", "0", "1"):
                value = value.strip().lower() in ("true", "1")
            if value not in (0, 1) or isinstance(value, str):
                raise Invalid(
                    f"{_at(place)} has {key!r} {shown(value)}: a turn is learned (1) or not (0), nothing between"
                )
            if not value:
                if learned:
                    self.account.done[f"turns of the assistant with {key} 0 are not learned"] += 1
                learned = False
            elif role != "assistant":
                self.account.unused[f"key of {role} turns, as only the assistant's are learned", key] += 1
        return learned


def _at(place: tuple[str, int, str]) -> str:
    where, number, column = place
    return f"{where}: message {number} of {shown(column)!r}"


def _named_speakers(item: Mapping[str, object]) -> list[tuple[str, object]]:
    """`{"human": …, "assistant": …}`: the speakers as keys."""
    if any(key in item for key in (*_WHO, *_WHAT)):
        return []
    found = [(key, value) for key, value in item.items() if isinstance(key, str) and key.lower() in ROLES]
    return found if len(found) == len(item) and all(isinstance(value, str) for _, value in found) else []


def _json_text(value: object, place: tuple[str, int, str]) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise Invalid(f"{_at(place)}: the content is {value}, which is no text; leave the example out")
    return json.dumps(value, ensure_ascii=False)


def _calls_in_text(content: object) -> list[object] | None:
    """The calls that the text of a `function_call` turn describes; None where it is not JSON, but words."""
    if isinstance(content, str):
        try:
            content = parse_json(content)
        except Malformed:
            return None
    calls = content if isinstance(content, list) else [content]
    return (
        calls
        if calls and all(isinstance(call, dict) and ("name" in call or "function" in call) for call in calls)
        else None
    )


def _tool_calls(value: Any, place: tuple[str, int, str]) -> list[dict[str, Any]]:
    """Calls as chat templates want them: `{"type": "function", "function": {"name", "arguments": {…}}}`."""
    if isinstance(value, str):
        try:
            value = parse_cell(value)
        except Malformed as error:
            raise Invalid(f"{_at(place)}: 'tool_calls' is no list: {error}") from None
    calls = []
    for call in value if isinstance(value, list) else [value]:
        inner = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise Invalid(f"{_at(place)}: each of 'tool_calls' needs a function with a name")
        function = {**inner, "arguments": _arguments(inner)}
        function.pop("parameters", None) if "parameters" in inner and "arguments" not in inner else None
        if inner is call:
            calls.append({"type": "function", "function": function})
        else:
            calls.append({"type": "function", **call, "function": function})
    return calls


def _arguments(function: Mapping[str, Any]) -> object:
    """OpenAI writes the arguments as JSON text, templates take them as an object."""
    value = function.get("arguments", function.get("parameters", {}))
    if isinstance(value, str):
        try:
            parsed = parse_json(value)
        except Malformed:
            return value
        return parsed if isinstance(parsed, dict) else value
    return {} if value is None else value


def read_tools(value: object, column: str, where: str) -> tuple[Mapping[str, object], ...]:
    """Descriptions of functions: a list, one, or either as text."""
    if value in (None, "", [], {}):
        return ()
    if isinstance(value, str):
        try:
            value = parse_cell(value)
        except Malformed as error:
            raise Invalid(f"{where}: {shown(column)!r} must be a list of functions: {error}") from None
    found = []
    for tool in value if isinstance(value, list) else [value]:
        if isinstance(tool, str):
            try:
                tool = parse_json(tool)
            except Malformed:
                tool = None
        if not isinstance(tool, dict):
            raise Invalid(f"{where}: {shown(column)!r} must be a list of functions, each an object")
        bare = "function" not in tool and isinstance(tool.get("name"), str)
        found.append({"type": "function", "function": tool} if bare else tool)
    return tuple(found)
