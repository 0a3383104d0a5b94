"""What pydantic found wrong with a record, in one plain line: the key, what it must be, what it is."""

from __future__ import annotations

from pydantic import ValidationError

from planner.contract.shown import clause, shown

Path = tuple[str | int, ...]

_RANGES = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def path(error: ValidationError) -> Path:
    """Keys that lead to the first value that is wrong."""
    return error.errors(include_url=False, include_context=False, include_input=False)[0]["loc"]


def name(keys: Path) -> str:
    """The keys as one word: `hyperparameters.epochs`."""
    return ".".join(_plain(str(part)) for part in keys) or "top level"


def _plain(key: str) -> str:
    return key[:40] if key.isprintable() and key else shown(key, 40)


def problem(error: ValidationError) -> str:
    """What follows the key's name: ` must be above 0, not -1`, `: this key is unknown`."""
    first = error.errors(include_url=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if kind in _RANGES:
        word, bound = _RANGES[kind]
        return f" must be {word} {_number(context[bound])}, not {shown(first['input'])}{more}"
    if kind == "finite_number":
        return f" must be a number, not {shown(first['input'])}{more}"
    if kind in ("extra_forbidden", "missing"):
        return f": this key is {'unknown' if kind == 'extra_forbidden' else 'missing'}{more}"
    message = first["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return f" {clause(message)}{more}"
    return f": {message[:1].lower()}{clause(message[1:])}, not {shown(first['input'])}{more}"


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
