"""Tokens that a model's own chat template puts around messages, measured by rendering two short conversations.

Needs the tokenizer's folder and `jinja2`, which comes with torch; without either the estimate of `planner.dataset`
stands.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_EXCHANGE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]


@dataclass(frozen=True, slots=True)
class TemplateTokens:
    """What a template adds: once for a conversation, and for each message in it."""

    fixed: float
    per_message: float


def measure(folder: Path, count: Callable[[str], int]) -> TemplateTokens | None:
    """The template of a tokenizer's folder, its tokens counted by `count`; None where there is none to render."""
    source, names = _template(folder)
    if source is None:
        return None
    try:
        from jinja2 import sandbox
    except ImportError:
        return None
    try:
        environment = sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals.update(raise_exception=_refuse, strftime_now=lambda form: "2026-01-01")
        template = environment.from_string(source)
        extra = []
        for times in (1, 2):
            messages = _EXCHANGE * times
            whole = template.render(messages=messages, add_generation_prompt=False, **names)
            extra.append(count(whole) - sum(count(message["content"]) for message in messages))
    except Exception:  # a template may raise what it likes; the estimate stands then
        return None
    per_message = (extra[1] - extra[0]) / 2
    return TemplateTokens(fixed=extra[0] - 2 * per_message, per_message=per_message)


def _template(folder: Path) -> tuple[str | None, dict[str, str]]:
    """The template's source and the special tokens that it may name."""
    try:
        config: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    names = {}
    for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
        value = config.get(name)
        names[name] = str(value.get("content", "") if isinstance(value, dict) else value or "")
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8"), names
    except (OSError, ValueError):
        pass
    source = config.get("chat_template")
    if isinstance(source, list):
        source = next((entry.get("template") for entry in source if entry.get("name") == "default"), None)
    return source if isinstance(source, str) else None, names


def _refuse(message: str) -> None:
    raise ValueError(message)


__all__ = ["TemplateTokens", "measure"]
