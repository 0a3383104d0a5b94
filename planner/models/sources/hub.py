"""A model's config.json from the local Hugging Face cache or from the hub, without the hub's client library.

Layout of the cache: `<cache>/models--<owner>--<name>/refs/main` names a revision, whose files stand under
`snapshots/<revision>/` (huggingface_hub's documentation, "Understand caching"). Environment variables as there:
`HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from planner.contract import json_text, text_file
from planner.contract.errors import InvalidInput
from planner.contract.files import expanded

TIMEOUT_SECONDS = 10.0
MAX_BYTES = 4 * 1024**2
"""A config.json is some kilobytes; whatever is larger is something else."""

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_HUB_ID = re.compile(rf"{_PART}/{_PART}")
_TRUE = frozenset({"1", "true", "yes", "on"})


class Unreachable(Exception):
    """The hub can't be asked or has no such model; the text says why, in one line."""


def is_hub_id(name: str) -> bool:
    """Whether a name has the form owner/model."""
    return _HUB_ID.fullmatch(name) is not None


def cache_folder() -> Path:
    """Where the hub's client library keeps what it downloaded."""
    if os.environ.get("HF_HUB_CACHE"):
        return expanded(os.environ["HF_HUB_CACHE"])
    if os.environ.get("HF_HOME"):
        return expanded(os.environ["HF_HOME"]) / "hub"
    base = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return base / "huggingface" / "hub"


def cached_config(hub_id: str) -> Path | None:
    """The config.json of a model in the local cache: of revision `main`, else of the newest snapshot."""
    folder = cache_folder() / f"models--{hub_id.replace('/', '--')}"
    try:
        revision = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        revision = ""
    if revision and re.fullmatch(r"[0-9A-Za-z._-]+", revision):
        file = folder / "snapshots" / revision / "config.json"
        if file.is_file():
            return file
    files = [path for path in folder.glob("snapshots/*/config.json") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_mtime, default=None)


def endpoint() -> str:
    """The hub's address (`HF_ENDPOINT`)."""
    from urllib.parse import urlsplit

    address = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    try:
        right = address.startswith(("http://", "https://")) and bool(urlsplit(address).netloc)
    except ValueError:
        right = False
    if not right:
        raise InvalidInput(f"HF_ENDPOINT {address!r} is not an http or https address")
    return address


def token() -> str | None:
    """The person's token: `HF_TOKEN`, else what `hf auth login` kept; None for neither."""
    given = (os.environ.get("HF_TOKEN") or "").strip()
    if given:
        return given
    home = Path(os.environ.get("HF_HOME") or cache_folder().parent)
    file = expanded(os.environ.get("HF_TOKEN_PATH") or home / "token")
    try:
        return file.read_text(encoding="utf-8").strip()[:1000] or None
    except (OSError, UnicodeDecodeError):
        return None


def fetch_config(hub_id: str, timeout_seconds: float = TIMEOUT_SECONDS) -> dict[str, object]:
    """The config.json of a model from the hub; raises `Unreachable` where that fails or takes too long in all."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        raise Unreachable("the hub is not asked (HF_HUB_OFFLINE is set)")
    address, end = endpoint(), time.monotonic() + timeout_seconds
    request = Request(f"{address}/{hub_id}/resolve/main/config.json", headers={"User-Agent": "tuneplan"})
    known = token()
    if known:
        # Unredirected: the token goes to the endpoint only, not to the store that it may redirect to.
        request.add_unredirected_header("Authorization", f"Bearer {known}")
    body = b""
    try:
        with urlopen(request, timeout=timeout_seconds) as answer:
            while len(body) <= MAX_BYTES and (part := answer.read1(2**16)):
                body += part
                if time.monotonic() > end:
                    raise Unreachable(f"{address} is too slow: no whole config.json in {timeout_seconds:.0f} s")
            promised = int(answer.headers.get("Content-Length") or len(body))
    except HTTPError as error:
        raise Unreachable(_reason(error.code, error.headers.get("X-Error-Code"), hub_id, address)) from None
    except (URLError, OSError, ValueError, HTTPException) as error:
        raise Unreachable(f"{address} cannot be reached ({getattr(error, 'reason', None) or error})") from None
    if len(body) > MAX_BYTES:
        raise InvalidInput(f"{hub_id}/config.json at {address} is larger than {MAX_BYTES} bytes")
    if len(body) < promised:
        raise Unreachable(f"{address} broke off after {len(body)} of the {promised} bytes of its config.json")
    origin = f"{hub_id}/config.json at {address}"
    return parse_config(text_file.decode(body, origin), origin)


def _reason(code: int, kind: str | None, hub_id: str, address: str) -> str:
    """Why the hub hands nothing out, and what to do about it."""
    if kind == "GatedRepo":
        return (
            f"{address} answers {code} for its config.json: it is gated; accept its licence at {address}/{hub_id} and "
            "give your token in HF_TOKEN"
        )
    if code in (401, 403):
        text = f"{code} (the model is gated or private: set HF_TOKEN, or it doesn't exist)"
    else:
        text = "404 (no such model, or it has no config.json)" if code == 404 else str(code)
    return f"{address} answers {text} for its config.json"


def parse_config(text: str, origin: str) -> dict[str, object]:
    """JSON text to a config; what is wrong ends in one line with file and place."""
    data = json_text.parse(text, origin, max_bytes=MAX_BYTES)
    if not isinstance(data, dict):
        raise InvalidInput(f"{origin}: holds a JSON {type(data).__name__}, but a config.json holds an object")
    return data
