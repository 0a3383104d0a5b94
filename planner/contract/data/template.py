"""The chat template of a tokenizer's folder, found where transformers finds it. Templates are never run here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.contract.errors import InvalidInput
from planner.contract.files import read_plain

MAX_TEMPLATE = 2**20
"""Characters; the longest in use have some 20,000."""
MAX_CONFIG = 2**26
"""Bytes of a tokenizer_config.json; those that list added tokens have a few million."""

TOKEN_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Special tokens that templates may name (transformers' `SPECIAL_TOKENS_ATTRIBUTES`)."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """Jinja source and what it is given."""

    source: str
    tool_source: str | None
    """The source for conversations with tools, where there are two."""
    tokens: Mapping[str, str]
    """Special tokens by their name."""
    place: str
    """The file or model that it stems from, for sentences about it."""

    def __post_init__(self) -> None:
        if max(len(self.source), len(self.tool_source or "")) > MAX_TEMPLATE:
            raise InvalidInput(f"{self.place}: a chat template of more than {MAX_TEMPLATE:,} characters is not one")

    @classmethod
    def choose(cls, templates: object, tokens: Mapping[str, object], place: str) -> ChatTemplate | None:
        """From one source, or several by name (`default`, `tool_use`); None where there is none to use by default."""
        if isinstance(templates, str):
            templates = {"default": templates}
        if not isinstance(templates, Mapping):
            return None
        source, tool_source = templates.get("default"), templates.get("tool_use")
        if not isinstance(source, str):
            # Only named ones: transformers asks which; the one for tools serves where it is the only one.
            source = tool_source if len(templates) == 1 else None
        if not isinstance(source, str):
            return None
        return cls(
            source=source,
            tool_source=tool_source if isinstance(tool_source, str) else None,
            tokens={name: str(tokens[name]) for name in TOKEN_NAMES if tokens.get(name) is not None},
            place=place,
        )


def read_template(folder: Path) -> ChatTemplate | None:
    """The template of a tokenizer's folder; None where it has none. Raises `InvalidInput` for damaged files."""
    config = read_config(folder)
    templates, place = _from_files(folder)
    if templates is None:
        templates, place = _from_config(config.get("chat_template")), folder / "tokenizer_config.json"
    return ChatTemplate.choose(templates, special_tokens(folder, config), str(place))


def read_config(folder: Path) -> dict[str, object]:
    """Content of tokenizer_config.json; empty where there is none."""
    return _object(folder / "tokenizer_config.json")


def special_tokens(folder: Path, config: Mapping[str, object]) -> dict[str, str]:
    """The special tokens that the tokenizer would have, the padding that training falls back to among them."""
    tokens: dict[str, str] = {}
    # As transformers does: the older file counts where the newer one doesn't list its tokens.
    sources = [config] if "added_tokens_decoder" in config else [config, _object(folder / "special_tokens_map.json")]
    for source in sources:
        for name in TOKEN_NAMES:
            value = source.get(name)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                tokens[name] = value
    if "pad_token" not in tokens:
        padding = tokens.get("eos_token", tokens.get("unk_token"))
        if padding is not None:
            tokens["pad_token"] = padding
    return tokens


def _from_files(folder: Path) -> tuple[dict[str, str] | None, Path]:
    """(templates by name, the first one's file) of chat_template.jinja and the folder additional_chat_templates."""
    files = {"default": folder / "chat_template.jinja"}
    more = folder / "additional_chat_templates"
    if more.is_dir():
        files |= {file.stem: file for file in sorted(more.glob("*.jinja"))}
    found = {name: _text(file) for name, file in files.items() if file.exists()}
    if not found:
        return None, folder
    return found, files[next(iter(found))]


def _from_config(value: object) -> Any:
    if isinstance(value, list):
        return {str(entry.get("name")): entry.get("template") for entry in value if isinstance(entry, dict)}
    return value


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > 4 * MAX_TEMPLATE:
            raise InvalidInput(f"{file}: a chat template of more than {MAX_TEMPLATE:,} characters is not one")
        return read_plain(file, links=True).decode("utf-8")
    except OSError as error:
        raise InvalidInput(f"{file}: can't be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{file}: the chat template is not UTF-8 text") from None


def _object(file: Path) -> dict[str, object]:
    try:
        if file.stat().st_size > MAX_CONFIG:
            raise InvalidInput(f"{file}: larger than {MAX_CONFIG:,} bytes")
        content = json.loads(read_plain(file, links=True))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InvalidInput(f"{file}: can't be read: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise InvalidInput(f"{file}: not valid JSON; get the tokenizer's files anew") from None
    if not isinstance(content, dict):
        raise InvalidInput(f"{file}: holds a JSON {type(content).__name__} where an object belongs")
    return content
