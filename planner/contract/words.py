"""Text of others made fit to be shown: nothing in it steers the terminal, turns the writing round, or gives away a
password. File names, column names, model ids, chat templates, plan files and events of other runs are such text.
"""

from __future__ import annotations

import functools
import json
import os
import re
from urllib.parse import unquote

STEERING = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # C0, DEL, C1: escape sequences begin here
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction of writing
    "\u2028\u2029"  # line and paragraph separators
    "\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # unseen: byte-order mark, annotations, tags
    "\ue000-\uf8ff\U000f0000-\U0010ffff"  # for private use: what they look like is up to the terminal's font
    "\ud800-\udfff]"  # halves of characters, which no output can encode
)
"""Characters that do something to a terminal or a reader instead of being seen."""
LAYOUT = "\n\t"
"""What stays in text that is shown over several lines."""


def visible(text: str, *, keep: str = "") -> str:
    """The text with every character that would steer a terminal written out (`\\x1b`, `\\u202e`), but for those in
    `keep` (`LAYOUT`).
    """

    def written_out(found: re.Match[str]) -> str:
        character = found[0]
        return character if character in keep else character.encode("unicode_escape", "surrogatepass").decode("ascii")

    return STEERING.sub(written_out, text)


LINE = 2000
"""Characters of a line that is said; of a longer one the middle goes, since its end holds the way out."""


def one_line(text: object) -> str:
    """Anything as one line for a person to read: white space is one blank, the rest `visible`, no secret in it."""
    return _cut(visible(_cut(without_secrets(" ".join(str(text).split())))))


def _cut(line: str) -> str:
    return line if len(line) <= LINE else f"{line[: LINE * 3 // 4]} … {line[-LINE // 4 :]}"


def shown(text: object, *, keep: str = "") -> str:
    """Text for a person as it stands: `visible`, without secrets."""
    return visible(without_secrets(str(text)), keep=keep)


def json_text(content: object, *, indent: int | None = None) -> str:
    """JSON in which the characters of `visible` stand as `\\u` escapes: it reads back the same, and can neither steer
    a terminal nor break a line. Takes what `json.dumps` takes.
    """
    return json_safe(json.dumps(content, ensure_ascii=False, indent=indent))


def json_rows(content: dict[str, object]) -> str:
    """The same with a line for each key, for what a person reads before it goes out."""
    return "{\n" + ",\n".join(f" {json_text(key)}: {json_text(value)}" for key, value in content.items()) + "\n}"


def json_safe(text: str) -> str:
    """The same for what is JSON already."""

    def escaped(found: re.Match[str]) -> str:
        character = found[0]
        # Outside strings JSON has line feeds only; inside they are escaped already.
        return character if character in LAYOUT else json.dumps(character)[1:-1]

    return STEERING.sub(escaped, text)


_USER = re.compile(r"(?<=://)[^\s/@\"'\\<>]+(?=@)")
_QUERY = re.compile(
    r"(?i)([?&;](?:[\w.%-]{0,40}(?:token|password|passwd|secret|signature|api_?key|credential)[\w.%-]{0,40}|key|auth|sig|pwd)=)"
    r"[^\s&;#\"'\\<>]+"
)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}|(?i:(?<=bearer ))[\w.~+/=-]{8,}")
_HIDDEN = "***"
_SHORTEST = 6
"""Shorter values of the environment are left alone: they are also ordinary words."""


def without_secrets(text: str) -> str:
    """The text without user names and passwords in addresses, tokens in their queries, hub tokens, and the values of
    the environment that are meant to be kept (`HF_TOKEN`, what stands in `HF_ENDPOINT` and in the proxies' addresses).
    """
    if "://" in text:
        text = _USER.sub(_HIDDEN, text)
    if "=" in text:
        text = _QUERY.sub(rf"\1{_HIDDEN}", text)
    text = _TOKEN.sub(_HIDDEN, text)
    values, addresses = (tuple(os.environ.get(name, "") for name in names) for names in (_TOKENS, _ADDRESSES))
    for secret in _secrets(values, addresses):
        if secret in text:
            text = text.replace(secret, _HIDDEN)
    return text


_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "WANDB_API_KEY")
_ADDRESSES = (
    "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy",
)  # fmt: skip


@functools.lru_cache(maxsize=4)
def _secrets(values: tuple[str, ...], addresses: tuple[str, ...]) -> tuple[str, ...]:
    """What of these variables must not be shown; the longest first."""
    found = {value.strip() for value in values}
    for address in addresses:
        rest = address.strip().rpartition("://")[2]
        before, _, query = rest.partition("?")
        user = before.rpartition("@")[0]
        if not user and "@" in query:  # a question mark in the password
            user, _, host = rest.rpartition("@")
            query = host.partition("?")[2]
        password = user.partition(":")[2] or user  # a token may stand alone before the @
        fields = query.split("&")
        found |= {user, password, unquote(password), *fields, *(field.partition("=")[2] for field in fields)}
    return tuple(sorted((secret for secret in found if len(secret) >= _SHORTEST), key=len, reverse=True))
