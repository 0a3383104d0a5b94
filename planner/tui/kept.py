"""What the wizard keeps between two starts: the theme that was chosen, and the person's own keys. UI-free."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.contract.errors import InvalidInput
from planner.contract.files import user_data_dir, write_whole

KEYS, THEME = "wizard-keys.toml", "wizard-theme.txt"
MODIFIERS = ("ctrl", "alt", "shift")
NAMED = (
    *("enter", "escape", "tab", "space", "backspace", "delete", "insert", "home", "end", "pageup", "pagedown"),
    *("up", "down", "left", "right", *(f"f{number}" for number in range(1, 13))),
)
SIGNS = {
    "+": "plus", "-": "minus", ".": "full_stop", ",": "comma", "/": "slash", "?": "question_mark", "=": "equals_sign",
    "_": "underscore", ":": "colon", ";": "semicolon", "!": "exclamation_mark", "#": "number_sign", " ": "space",
    "*": "asterisk", "<": "less_than_sign", ">": "greater_than_sign", "[": "left_square_bracket",
    "]": "right_square_bracket", "'": "apostrophe", "@": "at", "&": "ampersand", "%": "percent_sign",
}  # fmt: skip
"""Signs by the name that the terminal's driver gives them."""


def kept_theme() -> str | None:
    """The theme that was chosen last; None where none was, or it can't be read."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return (user_data_dir() / THEME).read_text(encoding="utf-8")[:100].strip() or None
    return None


def keep_theme(name: str) -> None:
    """Remembers a theme; where nothing can be written it is forgotten at the end."""
    if name == kept_theme():
        return
    with contextlib.suppress(OSError):
        write_whole(user_data_dir() / THEME, f"{name}\n".encode())


def own_keys(known: Mapping[str, str], path: Path | None = None) -> dict[str, str]:
    """The person's keys by what they do, as Textual takes them; empty without a file.

    `known`: by name of everything that a key can do its usual keys, with commas between. The file is TOML:
    `plan.train = "T"`, or `["T", "ctrl+t"]` for several. Raises `InvalidInput` with file, name and way out.
    """
    import tomllib

    path = path or user_data_dir() / KEYS
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{path}: can't be read: {error}") from None
    found: dict[str, str] = {}
    for name, value in _flat(content).items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            way = f"did you mean {near[0]}?" if near else "docs/wizard.md lists what there is"
            raise InvalidInput(f"{path}: {name} is nothing that a key does; {way}")
        keys = value if isinstance(value, list) else [value]
        if not keys:
            raise InvalidInput(f"{path}: {name} has no key left; name one, or leave the line out")
        found[name] = ",".join(_key(path, name, key) for key in keys)
    _refuse_doubles(path, found, known)
    return found


def _flat(content: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, dict) else {f"{before}{name}": value}
    return flat


def _key(path: Path, name: str, key: object) -> str:
    """One key as the driver names it."""
    text = key if isinstance(key, str) else ""
    *modifiers, last = text.split("+") if len(text) > 1 else [text]
    plain = (len(last) == 1 and last.isprintable()) or last in NAMED or last in SIGNS.values()
    if not plain or any(each not in MODIFIERS for each in modifiers):
        raise InvalidInput(f"{path}: {name} = {key!r} is no key; write t, T, f5, enter or ctrl+t")
    return "+".join([*modifiers, SIGNS.get(last, last)])


def _refuse_doubles(path: Path, own: Mapping[str, str], known: Mapping[str, str]) -> None:
    """Two things on one screen can't have one key; what is everywhere is on each."""
    everywhere = ("app", "wizard", "step")
    taken = {**known, **own}
    for name, keys in own.items():
        room = name.split(".")[0]
        for other, others in taken.items():
            near = other.split(".")[0]
            if other == name or not (near == room or near in everywhere or room in everywhere):
                continue
            for key in {*keys.split(",")} & {*others.split(",")}:
                raise InvalidInput(f"{path}: {key} is {name} and {other}; give one of them another key")
