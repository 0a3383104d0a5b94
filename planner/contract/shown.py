"""A value that someone else wrote, as a message may quote it: short, on one line, whatever it holds."""

from __future__ import annotations

from itertools import islice

LENGTH = 60
"""Characters of a quoted value."""
_ITEMS = 8
_MOST_BITS = 10_000


def shown(value: object, length: int = LENGTH) -> str:
    """`repr` of a value in at most `length` characters; long containers and numbers are never written out whole."""
    text = _begun(value, length)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _begun(value: object, length: int, depth: int = 0) -> str:
    """The beginning of the `repr`: enough to cut from, made without walking through all of the value."""
    if isinstance(value, str):
        return repr(value[: length + 1])
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:  # `repr` refuses integers over 4,300 digits
        return f"a number of {value.bit_length()} bits"
    if depth > 1 and isinstance(value, dict | list | tuple):
        return "{…}" if isinstance(value, dict) else "[…]"
    if isinstance(value, dict):
        some = islice(value.items(), _ITEMS)
        return "{" + ", ".join(f"{_begun(k, length, 2)}: {_begun(v, length, depth + 1)}" for k, v in some) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_begun(item, length, depth + 1) for item in value[:_ITEMS]) + "]"
    return repr(value)


def clause(reason: object, length: int = 200) -> str:
    """What another library said, as part of a sentence: on one line, cut between words and marked where it is cut.
    What can't be printed stands as its escape.
    """
    text = " ".join(str(reason).split())
    if not text.isprintable():
        text = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
    if len(text) <= length:
        return text
    begun = text[:length]
    whole = begun.rpartition(" ")[0] if not text[length].isspace() else begun
    return f"{(whole if len(whole) > length // 2 else begun).rstrip(',;:. ')} …"
