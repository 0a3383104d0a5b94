"""A model's config.json from the local Hugging Face cache or from the hub, without the hub's client library.

Layout of the cache: `<cache>/models--<owner>--<name>/refs/main` names a revision, whose files stand under
`snapshots/<revision>/` (huggingface_hub's documentation, "Understand caching"). Environment variables as there:
`HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from planner.contract import json_text, text_file
from planner.contract.errors import InvalidInput

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
        return Path(os.environ["HF_HUB_CACHE"]).expanduser()
    if os.environ.get("HF_HOME"):
        return Path(os.environ["HF_HOME"]).expanduser() / "hub"
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
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


def fetch_config(hub_id: str, timeout_seconds: float = TIMEOUT_SECONDS) -> dict[str, Any]:
    """The config.json of a model from the hub (`HF_ENDPOINT`); raises `Unreachable` where that fails."""
    from urllib.error import HTTPError, URLError
    from urllib.request import Request, urlopen

    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        raise Unreachable("the hub is not asked (HF_HUB_OFFLINE is set)")
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        raise InvalidInput(f"HF_ENDPOINT {endpoint!r} is not an http or https address")
    request = Request(f"{endpoint}/{hub_id}/resolve/main/config.json", headers={"User-Agent": "tuneplan"})
    token = os.environ.get("HF_TOKEN")
    if token:
        # Unredirected: the token goes to the endpoint only, not to the store that it may redirect to.
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        with urlopen(request, timeout=timeout_seconds) as answer:
            body = answer.read(MAX_BYTES + 1)
    except HTTPError as error:
        raise Unreachable(f"{endpoint} answers {_reason(error.code)} for its config.json") from None
    except (URLError, OSError, ValueError) as error:
        raise Unreachable(f"{endpoint} cannot be reached ({getattr(error, 'reason', None) or error})") from None
    if len(body) > MAX_BYTES:
        raise InvalidInput(f"{hub_id}/config.json at {endpoint} is larger than {MAX_BYTES} bytes")
    origin = f"{hub_id}/config.json at {endpoint}"
    return parse_config(text_file.decode(body, origin), origin)


def _reason(code: int) -> str:
    if code in (401, 403):
        return f"{code} (the model is gated or private: set HF_TOKEN, or it doesn't exist)"
    return "404 (no such model, or it has no config.json)" if code == 404 else str(code)


def parse_config(text: str, origin: str) -> dict[str, Any]:
    """JSON text to a config; what is wrong ends in one line with file and place."""
    data = json_text.parse(text, origin, max_bytes=MAX_BYTES)
    if not isinstance(data, dict):
        raise InvalidInput(f"{origin}: holds a JSON {type(data).__name__}, but a config.json holds an object")
    return data
