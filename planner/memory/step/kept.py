"""What a run of the step's program found, kept on disk from one start to the next.

The same case gives the same figures as long as the code is the same, and most starts ask for cases that were asked for
before. A file's name is the hash of everything that its content depends on: the case, the model's config, and the size
and date of every source file of the memory model; its first line is the hash of the rest. What can't be read, or
isn't what it should be, is computed anew.
`TUNEPLAN_CACHE=off` keeps nothing on disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.contract.files import expanded, open_plain

if TYPE_CHECKING:
    from planner.contract.spec import ModelSpec
    from planner.memory.step.case import Case

PLANNER = Path(__file__).parents[2]
_RECORDS = ("contract/architecture.py", "contract/architectures.py")
SOURCES = ("memory", "speed", "models/lora.py", "contract/spec.py", "contract/choices.py", *_RECORDS)
"""Files and folders of the planner on which figures depend."""
LARGEST_FILE = 8 * 2**20
MOST_FILES = 4096
"""Beyond it the older half goes."""
MOST_VALUES = 512
"""Values that a process keeps at hand."""
_LATELY: OrderedDict[str, Any] = OrderedDict()
_OWN = re.compile(r"[0-9a-f]{40}\.(json|[0-9]+\.tmp)")
"""Names that are made here; nothing else in the folder is removed."""


def recall(kind: str, case: Case, further: object, make: Callable[[], object], right: Callable[[object], bool]) -> Any:
    """The JSON value of `make()`, from this process or from disk where it was kept; nobody changes it.

    `kind` names the computation, `further` what it depends on beside the case; `right` says whether a value that was
    read has the right form.
    """
    return remembered(lambda: repr((kind, code(), _named(case), further)), make, right)


def remembered(name: Callable[[], str], make: Callable[[], Any], right: Callable[[Any], bool]) -> Any:
    """As `recall`, for anything that the text `name()` says whole; `code()` is part of it where the code matters."""
    key = hashlib.sha256(name().encode()).hexdigest()[:40]
    if key in _LATELY:
        _LATELY.move_to_end(key)
        return _LATELY[key]
    folder = _folder()
    path = None if folder is None else folder / f"{key}.json"
    found = None if path is None else _read(path)
    if found is None or not right(found):
        found = make()
        if path is not None:
            _write(path, found)
    _LATELY[key] = found
    if len(_LATELY) > MOST_VALUES:
        _LATELY.popitem(last=False)
    return found


def _named(case: Case) -> str:
    """All that the case says; the config, which a spec's text leaves out, by its hash."""
    return f"{case!r}{config_hash(case.spec)}"


_HASHES: dict[int, tuple[object, str]] = {}


def config_hash(spec: ModelSpec) -> str:
    """Of all that its config says."""
    known = _HASHES.get(id(spec))
    if known is None or known[0] is not spec:
        text = json.dumps(spec.config, sort_keys=True, default=repr)
        known = _HASHES[id(spec)] = (spec, hashlib.sha256(text.encode()).hexdigest())
    return known[1]


@cache
def code() -> str:
    """A fingerprint of the memory model's source files."""
    entries: list[tuple[str, int, int]] = []
    for name in SOURCES:
        _collect(PLANNER / name, entries)
    return hashlib.sha256(repr(sorted(entries)).encode()).hexdigest()


def _collect(path: Path, entries: list[tuple[str, int, int]]) -> None:
    if path.suffix == ".py":
        found = path.stat()
        entries.append((str(path), found.st_size, found.st_mtime_ns))
        return
    with os.scandir(path) as inside:
        for entry in inside:
            if entry.name.endswith(".py") or (entry.is_dir() and entry.name != "__pycache__"):
                _collect(Path(entry.path), entries)


@cache
def _folder() -> Path | None:
    """The folder that files are kept in; None where nothing is kept."""
    if os.environ.get("TUNEPLAN_CACHE") == "off":
        return None
    override = os.environ.get("TUNEPLAN_HOME")
    if override:
        base = expanded(override) / "cache"
    else:
        import platformdirs

        base = Path(platformdirs.user_cache_dir("tuneplan", appauthor=False))
    folder = base / "steps"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder


def _read(path: Path) -> object:
    try:
        with os.fdopen(open_plain(path), "rb") as stream:
            content = stream.read(LARGEST_FILE + 1)
        digest, _, text = content.partition(b"\n")
        return json.loads(text) if len(content) <= LARGEST_FILE and digest == _digest(text) else None
    except (OSError, ValueError, RecursionError):
        return None


def _digest(text: bytes) -> bytes:
    """First line of a file, by which a damaged one is known."""
    return hashlib.sha256(text).hexdigest().encode()


def _write(path: Path, value: object) -> None:
    """Under a name of its own first; not synced, since a lost file costs a few milliseconds."""
    text = json.dumps(value, separators=(",", ":")).encode()
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        _make_room(path.parent)
        handle = open_plain(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with os.fdopen(handle, "wb") as stream:
            stream.write(_digest(text) + b"\n" + text)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@cache
def _make_room(folder: Path) -> None:
    """Once a process: where too many files are kept, those that were written first go."""
    names = [entry for entry in os.scandir(folder) if _OWN.fullmatch(entry.name)]
    if len(names) > MOST_FILES:
        for entry in sorted(names, key=lambda found: found.stat().st_mtime_ns)[: len(names) // 2]:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
