"""Good JSON values made bad, a little at a time: wrong types, ranges, sizes, shapes, and damaged text.

Written against `random.Random`, so that a case is known by its seed, and hypothesis can shrink what it draws.
"""

from __future__ import annotations

import copy
import json
import math
import re
from random import Random
from typing import Any

RAW = "\ue000RAW:"
"""A text that begins so is written into the file without quotes: numbers that Python itself won't write."""

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 64, 4096, 10_000, 65_536, 2**24, 10**8, 10**9, 2**31, 2**53, 2**63, 10**19),
    *(-(2**63), 10**300, f"{RAW}{'9' * 400}", f"{RAW}{'9' * 5000}", f"{RAW}-{'1' * 5000}", f"{RAW}1e999", f"{RAW}-0"),
    *(0.0, -0.0, 0.5, 0.999999, 1.0, 1.5, 3.0, -1e9, 1e9, 1e308, 1e-320, -1e-320, math.nan, math.inf, -math.inf),
    *("", " ", "abc", "12", "1e5", "0x10", "010", "-1", "nan", "inf", "null", "true", "no", "yes", "1:30", "fa<se"),
    *("2026-01-01", "99999-99-99", "2026-02-30T25:61:61Z", "/etc", "../../x", "~", ".", "a/b", "a\\b", "a b", "a=b"),
    *(
        "\x1b[31mred",
        "a\0b",
        "\ud800",
        "é😀",
        "\u202e",
        "\u2028",
        "a\nb",
        "[bold]x[/]",
        "{}",
        "%s%n",
        "${HOME}",
        "x" * 5000,
    ),
    *("<<", "*a", "&a", "!!python/name:os.system", "=", "- a", "# a", "١٢", "1_000", "９", "all-linear", "auto"),
    *(
        [],
        {},
        [1],
        ["a"],
        [None],
        {"a": 1},
        [[]],
        {"": ""},
        [1] * 200,
        ["full_attention"],
        {"type": "yarn"},
        {"a": [{}]},
    ),
)


def value(random: Random) -> Any:
    """Any value at all."""
    if random.random() < 0.02:
        deep: Any = 1
        for _ in range(random.choice((10, 70, 900))):
            deep = [deep] if random.random() < 0.5 else {"a": deep}
        return deep
    if random.random() < 0.15:
        return random.randint(-5, 300)
    return copy.deepcopy(random.choice(VALUES))


def near(found: Any, random: Random) -> Any:
    """A value like this one, and wrong."""
    if isinstance(found, bool):
        return random.choice((not found, int(found), str(found).lower(), None, [found]))
    if isinstance(found, int | float) and math.isfinite(found):
        changes = (found + 1, found - 1, -found, found * 2, found * 10, found * 1000, found / 2, found / 3, found * 1e6)
        return random.choice((*changes, str(found), float(found), [found], {"a": found}, bool(found), int(found) // 2))
    if isinstance(found, str):
        cut = random.randint(0, len(found))
        return random.choice(
            (found[:cut], found + "x", found.upper(), found * 50, [found], {found: found}, found[::-1])
        )
    if isinstance(found, list):
        return random.choice(
            (found[:-1], found + found, found * 100, found[::-1], [found], dict.fromkeys(map(str, found)))
        )
    return value(random)


def mutate(found: Any, random: Random, keys: tuple[str, ...] = (), times: int | None = None) -> Any:
    """A copy with some places changed; `keys` are names that may be added to the top."""
    root = [copy.deepcopy(found)]
    for _ in range(times or random.choice((1, 1, 1, 2, 3, 6))):
        _change(root, random, keys)
    return root[0]


def _change(root: list[Any], random: Random, keys: tuple[str, ...]) -> None:
    holder: Any = root
    place: Any = 0
    while isinstance(holder[place], dict | list) and holder[place] and random.random() < 0.9:
        holder = holder[place]
        place = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    kind = random.random()
    if kind < 0.4:
        holder[place] = value(random)
    elif kind < 0.7:
        holder[place] = near(holder[place], random)
    elif kind < 0.8 and holder is not root:
        del holder[place]
    elif kind < 0.95 and keys and isinstance(root[0], dict):
        root[0][random.choice(keys)] = value(random)
    elif isinstance(holder, dict):
        other = random.choice(list(holder))
        holder[place], holder[other] = holder[other], holder[place]
    else:
        holder[place] = value(random)


def text(content: Any, random: Random) -> bytes:
    """The value as JSON, sometimes damaged."""
    written = json.dumps(content, ensure_ascii=random.random() < 0.5, indent=random.choice((None, None, 1)))
    written = re.sub(rf'"(?:{RAW}|{json.dumps(RAW)[1:-1].replace(chr(92), chr(92) * 2)})([^"]*)"', r"\1", written)
    raw = written.encode("utf-8", errors="surrogatepass")
    return damage(raw, random) if random.random() < 0.15 else raw


def damage(raw: bytes, random: Random) -> bytes:
    """Bytes cut, doubled, exchanged or put in."""
    cut, length = random.randint(0, len(raw)), random.randint(0, 20)
    kind = random.randint(0, 7)
    if kind == 0:
        return raw[:cut]
    if kind == 1:
        return raw[:cut] + raw[cut + length :]
    if kind == 2:
        return raw[:cut] + raw[max(0, cut - length) :]
    if kind == 3:
        return b"\xef\xbb\xbf" + raw
    if kind == 4:
        return raw.decode("utf-8", errors="replace").encode("utf-16")
    if kind == 5:
        return raw + raw
    part = random.choice(
        (b"\0", b"\xff", b"\x1b[0m", b"\r\n", b"\t", b"[" * 3000, b'{"a":' * 3000, b"&a ", b"*a", b"!!x ")
    )
    return raw[:cut] + part + raw[cut:]
