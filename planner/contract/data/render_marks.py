"""Words that occur nowhere else: they say which message what is rendered stands for."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from planner.contract.data.render_engine import Span


@dataclass(frozen=True, slots=True)
class Word:
    start: int
    end: int
    owner: int
    """Number of the message that it stands in; -1 for a tool's."""


class Marker:
    """Makes and finds texts that say which message they stand for."""

    def __init__(self, source: str) -> None:
        self._stem = next(f"zq{number}w" for number in range(10**6) if f"zq{number}w" not in source.lower())
        self._pattern = re.compile(rf"{self._stem}[a-z](\d+)(?:x\d+)?k", re.IGNORECASE)

    def word(self, kind: str, number: int, part: int | None = None) -> str:
        return f"{self._stem}{kind}{number}{'' if part is None else f'x{part}'}k"

    def unlike(self, content: str) -> str | None:
        """A word whose ends don't occur in the text."""
        for edge in ("z", "\u2021", "\u203b", "\u2042"):
            if edge not in content:
                return f"{edge}{self._stem}{edge}"
        return None

    def found(self, text: str, span: Span) -> list[Word]:
        """The words in a stretch, in order."""
        return [
            Word(match.start(), match.end(), -1 if match[0][len(self._stem)].lower() == "t" else int(match[1]))
            for match in self._pattern.finditer(text, *span)
        ]

    def message(self, number: int, message: Mapping[str, Any]) -> dict[str, object]:
        """The message with its texts replaced."""
        found = dict(message)
        if isinstance(found["content"], str) and found["content"].strip():
            found["content"] = self.word("c", number)
        if "thinking" in found:
            found |= {"thinking": self.word("r", number), "reasoning_content": self.word("r", number)}
        if "tool_calls" in found:
            found["tool_calls"] = [
                {**call, "function": {**call["function"], **self._function(call["function"], number, place)}}
                for place, call in enumerate(found["tool_calls"])
            ]
        return found

    def _function(self, function: Mapping[str, object], number: int, place: int) -> dict[str, object]:
        arguments = {self.word("a", number, place): self.word("v", number, place)} if function["arguments"] else {}
        return {"name": self.word("n", number, place), "arguments": arguments}

    def shows_call(self, function: Mapping[str, Any], shown: Collection[str], text: str) -> bool:
        """Whether a call's name and arguments stand in the text, the arguments as JSON or apart, not as Python."""
        if function["name"] not in shown:
            return False
        return all(
            key in shown and value in shown and f"{{'{key}'" not in text for key, value in function["arguments"].items()
        )

    def tool_word(self, number: int) -> str:
        return self.word("t", number)

    def tools(self, tools: list[Any] | None) -> list[Any] | None:
        """Descriptions of tools with their names replaced."""
        if not tools:
            return tools
        named = []
        for number, tool in enumerate(tools):
            inner = tool.get("function") if isinstance(tool, Mapping) else None
            if isinstance(inner, Mapping):
                named.append({**tool, "function": {**inner, "name": self.tool_word(number)}})
            else:
                named.append({**tool, "name": self.tool_word(number)} if isinstance(tool, Mapping) else tool)
        return named
