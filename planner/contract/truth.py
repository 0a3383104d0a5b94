"""True and false as people write them."""

from __future__ import annotations

YES = frozenset({"yes", "on", "true"})
NO = frozenset({"no", "off", "false"})
"""Texts that a field which holds true or false takes as such, in any case."""


def truth(value: object) -> bool | None:
    """True or false where a value says so (`yes`, `no`, `on`, `off` too); None where it doesn't."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    return True if word in YES else False if word in NO else None
