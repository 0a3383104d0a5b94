"""What must hold whatever goes in: an answer with sane numbers, or one plain line; no traceback, no hang."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import re
import signal
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any
from unittest.mock import patch

from planner.contract import edge, words
from planner.contract.errors import TuneplanError

SECONDS = 10.0
"""A case that takes longer hangs: of this process's own time, whatever else the machine does."""
PATIENCE = 12
"""As many times longer by the clock, for one that waits."""
LINE = 420
"""Characters of a complaint, the paths in it counted as one each."""
_PATH = re.compile(r"/[^\s:']*")


class Broken(AssertionError):
    """Something that must hold did not."""


class Hang(BaseException):
    """A case took too long; no library may catch it."""


@contextlib.contextmanager
def limited(seconds: float = SECONDS) -> Iterator[None]:
    """Raises `Hang` in the body once it has computed for so many seconds, or waited for long."""

    def ring(number: int, frame: Any) -> None:
        raise Hang(f"over {seconds:.0f} s")

    clocks = (
        (signal.ITIMER_PROF, signal.SIGPROF, seconds),
        (signal.ITIMER_REAL, signal.SIGALRM, PATIENCE * seconds),
    )
    before = [signal.signal(number, ring) for _, number, _ in clocks]
    for clock, _, after in clocks:
        signal.setitimer(clock, after)
    try:
        yield
    finally:
        for (clock, number, _), handler in zip(clocks, before, strict=True):
            signal.setitimer(clock, 0)
            signal.signal(number, handler)


def complaint(message: str, longest: int = LINE) -> None:
    """One short line without control characters."""
    short = _PATH.sub("/", message)
    if "\n" in message or not message.isprintable():
        raise Broken(f"not one plain line: {message!r:.300}")
    if not message.strip() or len(short) > longest:
        raise Broken(f"a line of {len(short)} characters: {message[:300]!r}")


def asked(question: Callable[[], Any]) -> tuple[Any, str | None]:
    """The answer, or the line of the refusal; anything else that is raised is a traceback and goes through."""
    try:
        return question(), None
    except TuneplanError as error:
        complaint(str(error))
        return None, str(error)


@cache
def parser() -> Any:
    """The parser of the command `plan`: made once, as no input has a part in it."""
    import typer

    from planner.cli.app import app

    return typer.main.get_command(app)


def _fresh(app: Any) -> Any:
    """The parser as a start makes it: what a start puts on it stays its own."""
    made = copy.copy(parser())
    made.params = [copy.copy(parameter) for parameter in made.params]
    return made


def command(arguments: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command `plan`, in this process."""
    from planner.cli import main

    def caught(error: BaseException) -> tuple[str, int]:
        raise error

    parser()
    out, err = io.StringIO(), io.StringIO()
    # What the edge would catch is what is looked for here.
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        patch.object(edge, "account", caught),
        patch("typer.main.get_command", _fresh),
        # No network is traced on the way: that takes a process with torch, and has tests of its own.
        patch("planner.cli.learning.installed", lambda: False),
    ):
        try:
            code = main(arguments)
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else 1
    said = err.getvalue()
    if "Traceback" in said:
        raise Broken(f"a traceback behind: {said[:300]!r}")
    if code not in (0, 2, 3):
        raise Broken(f"exit code {code}: {said[:300]!r}")
    lines = said.splitlines()
    if code == 2:
        if out.getvalue():
            raise Broken(f"refused, and an answer: {out.getvalue()[:100]!r}")
        if not lines or not lines[-1].startswith("plan: "):
            raise Broken(f"refused without a line: {said[:300]!r}")
    for line in lines:
        complaint(line, words.LINE + 100)  # what was typed may be long
    return code, out.getvalue(), said


def answer(out: str) -> Any:
    """The JSON on stdout, which holds no NaN."""

    def refuse(word: str) -> Any:
        raise Broken(f"{word} on stdout")

    return json.loads(out, parse_constant=refuse)


def report(content: dict[str, Any]) -> None:
    """The numbers of one checked configuration."""
    memory = content["memory"]
    low, high = memory["interval_bytes"]
    device = memory["device_peak_bytes"]
    for name, holds in (
        ("0 < allocated <= device", 0 < memory["allocated_peak_bytes"] <= device),
        ("reserved <= device", 0 < memory["reserved_peak_bytes"] <= device),
        ("low <= device <= high", 0 <= low <= device <= high),
        ("budget > 0", memory["budget_bytes"] > 0),
        ("components sum to the peak", sum(memory["components"].values()) == device),
        ("no component below 0", min(memory["components"].values()) >= 0),
        ("instants within the peak", max(memory["instants"].values()) <= memory["allocated_peak_bytes"]),
        ("parameters > 0", content["model"]["parameters"] > 0),
    ):
        if not holds:
            raise Broken(f"{name}: {json.dumps(memory)[:600]}")
    speed = content["speed"]
    if speed is not None and not all(
        math.isfinite(speed[name]) and speed[name] > 0 for name in ("tokens_per_second", "step_seconds")
    ):
        raise Broken(f"speed: {speed}")
    errors = ((content.get("calibration") or {}).get("errors") or {}).values()
    if not all(math.isfinite(value) for value in errors):
        raise Broken(f"errors: {errors}")
