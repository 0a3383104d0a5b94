"""A hub on this machine: what huggingface_hub, transformers, datasets and the planner's own client ask of the real one.

Serves folders as repositories. The interface is that of the hub's documentation (huggingface.co/docs/hub/api) and of
its client (huggingface_hub/utils/_http.py, file_download.py): `/api/<kind>/<id>[/revision/<rev>|/tree/<rev>]`, HEAD and
GET of `/<id>/resolve/<rev>/<file>` with ETag, X-Repo-Commit, X-Linked-Size and ranges, and X-Error-Code for refusals.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_StandInTokenOfNobody"

_API = re.compile(r"^/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?$")
_FILE = re.compile(r"^(?:/(datasets))?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)$")


@dataclass
class Repository:
    """One repository: its files, and what stands in the way of them."""

    folder: Path
    gated: bool = False
    """Files only for who accepted the licence, that is, who brings `TOKEN`."""
    cut_after: int | None = None
    """The connection ends after so many bytes of a file."""
    drip_seconds: float = 0.0
    """Wait before each byte of a file."""


@dataclass
class Hub:
    """The server's repositories, and every request that it saw as (method, path, token)."""

    models: dict[str, Repository] = field(default_factory=dict)
    datasets: dict[str, Repository] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    address: str = ""
    written: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Repositories that clients made, with the files that they committed."""
    private: dict[str, bool] = field(default_factory=dict)

    def asked(self, name: str) -> bool:
        """Whether anyone asked for a file of this name."""
        return any(path.endswith(name) for _, path, _ in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        """Nothing: the tests look at `Hub.requests`."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._posted = self.rfile.read(length)
        path = unquote(urlsplit(self.path).path)
        if path == "/api/repos/create" or re.search(r"/(preupload|commit)/|validate-yaml$", path):
            self._write(path)
        else:
            self._answer(body=True)

    def _write(self, path: str) -> None:
        """Making a repository and committing to it: huggingface_hub `hf_api.py` and `_commit_api.py` (1.x)."""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.requests.append(("POST", path, token))
        if token != TOKEN:
            return self._refuse(401, "Unauthorized", "Invalid credentials in Authorization header")
        if path == "/api/repos/create":
            asked = json.loads(self._posted)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            self.hub.written.setdefault(name, {})
            self.hub.private[name] = bool(asked.get("private") or asked.get("visibility") == "private")
            return self._json({"url": f"{self.hub.address}/{name}", "id": name}, True)
        if path.endswith("validate-yaml"):
            return self._json({"errors": [], "warnings": []}, True)
        name = path.split("/api/models/")[1].split("/preupload/")[0].split("/commit/")[0]
        if "/preupload/" in path:
            files = json.loads(self._posted)["files"]
            ways = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files]
            return self._json({"files": ways}, True)
        for line in self._posted.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.hub.written[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        return self._json(
            {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.hub.address}/{name}/commit/{COMMIT}"}, True
        )

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.requests.append((self.command, path, token))
        if found := _API.match(path):
            self._api(*found.groups(), token=token, body=body)  # type: ignore[misc]
        elif found := _FILE.match(path):
            kind, name, _, file = found.groups()
            self._file(self._of(kind or "models", name), name, file, token, body)
        else:
            self._refuse(404, "RepoNotFound", "Not Found")

    def _of(self, kind: str, name: str) -> Repository | None:
        return (self.hub.datasets if kind == "datasets" else self.hub.models).get(name)

    def _api(
        self, kind: str, name: str, view: str | None, _: str | None, rest: str | None, *, token: str | None, body: bool
    ) -> None:
        repository = self._of(kind, name)
        if repository is None:
            return self._refuse(401, "RepoNotFound", "Repository Not Found")
        files = sorted(path for path in repository.folder.rglob("*") if path.is_file())
        names = [str(path.relative_to(repository.folder)) for path in files]
        if view in ("tree", "paths-info"):
            if repository.gated and token != TOKEN:
                return self._gated(name)
            wanted = names
            if view == "paths-info":
                wanted = [name for name in names if name in self._posted.decode()]
            return self._json(
                [
                    {"type": "file", "path": each, "size": size, "oid": "0" * 40}
                    for each, size in zip(names, (path.stat().st_size for path in files), strict=True)
                    if each in wanted and each.startswith(rest or "")
                ],
                body,
            )
        return self._json(
            {
                "_id": "0" * 24,
                "id": name,
                "modelId": name,
                "sha": COMMIT,
                "private": False,
                "disabled": False,
                "gated": "manual" if repository.gated else False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": [{"rfilename": each} for each in names],
            },
            body,
        )

    def _file(self, repository: Repository | None, name: str, file: str, token: str | None, body: bool) -> None:
        if repository is None:
            return self._refuse(401, "RepoNotFound", "Repository Not Found")
        if repository.gated and token != TOKEN:
            return self._gated(name)
        path = repository.folder / file
        if not path.is_file():
            return self._refuse(404, "EntryNotFound", "Entry not found")
        content = path.read_bytes()
        first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0] or 0)
        self.send_response(206 if first else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        if not body:
            return None
        self._send(repository, content[first:])
        return None

    def _send(self, repository: Repository, content: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            if repository.drip_seconds:
                for place in range(len(content)):
                    time.sleep(repository.drip_seconds)
                    self.wfile.write(content[place : place + 1])
                    self.wfile.flush()
            elif repository.cut_after is not None:
                self.wfile.write(content[: repository.cut_after])
                self.wfile.flush()
                self.close_connection = True
            else:
                self.wfile.write(content)

    def _gated(self, name: str) -> None:
        message = f"Access to model {name} is restricted. You must be authenticated to access it."
        self._refuse(401, "GatedRepo", message)

    def _refuse(self, code: int, error: str, message: str) -> None:
        self.send_response(code)
        self.send_header("X-Error-Code", error)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, content: Any, body: bool) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if body:
            self.wfile.write(text)


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    """A hub on a free port of this machine, for as long as the context lasts."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
