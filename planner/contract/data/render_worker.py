"""`python -m planner.contract.data.render_worker`: runs a chat template for a parent that may end it at any time.

Lines of JSON in, lines of JSON out. The first line in holds the template; each further one a batch of requests, which
is read whole before the first answer is written. Every answer is written at once, so that the parent knows which
request a process that died or hangs was at. Memory and processor time are limited here where the system can
(`resource`); the clock on the wall is the parent's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

MEMORY_BYTES = 2**30
MEMORY_PER_BYTE = 64
"""Address space of the process, and what a batch of requests adds to it: far more than any conversation needs."""
CPU_SECONDS = 4
"""Processor time that one request may take, besides what its size earns it."""

sys.setrecursionlimit(2000)


def main() -> int:
    """Answers requests until the input ends."""
    with contextlib.suppress(ValueError, OSError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends this process
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever prints, it never gets between the answers

    def answer(content: dict[str, object]) -> None:
        data = (json.dumps(content) + "\n").encode()
        while data:
            data = data[os.write(answers, data) :]

    from planner.contract.data.render_engine import Template, TooMuch
    from planner.contract.data.render_messages import Refused
    from planner.contract.data.render_turns import TurnFinder

    allow = _limits()
    answer({"ready": True})
    lines = iter(sys.stdin.buffer.readline, b"")
    given = json.loads(next(lines))
    allow(CPU_SECONDS, 0)

    def guarded(work: Callable[[], dict[str, object]]) -> None:
        try:
            content = work()
        except (TooMuch, MemoryError) as error:
            content = {"error": f"it asks for {error}" if str(error) else "it asks for more memory than it may have"}
            content["kind"] = "limit"
        except Refused as error:
            content = {"error": str(error), "kind": "refused"}
        except Exception as error:  # a template may raise what it likes, while it is compiled too
            content = {"error": (str(error).strip().splitlines() or [type(error).__name__])[0], "kind": "refused"}
        answer(content)

    turns: dict[str, TurnFinder] = {}

    def compile_all() -> dict[str, object]:
        for name in ("source", "tool_source"):
            if given[name] is not None:
                turns[name] = TurnFinder(Template(given[name], given["tokens"]), given[name])
        return {"compiled": True}

    guarded(compile_all)
    for line in lines:
        allow(CPU_SECONDS + len(line) / 2**20, len(line))
        for request in json.loads(line):
            allow(CPU_SECONDS + request["size"] / 2**20, len(line))
            name = "tool_source" if request["tools"] and "tool_source" in turns else "source"
            guarded(lambda request=request, name=name: _one(turns[name], request))  # type: ignore[misc]
    return 0


def _one(turns: Any, request: dict[str, object]) -> dict[str, object]:
    tools = request["tools"] or None
    if request["prompt"]:
        return {"text": turns.prompt(request["messages"], tools)}
    found = turns.find(request["messages"], request["learned"], tools)
    return {"text": found.text, "spans": found.spans, "counts": found.counts}


def _limits() -> Callable[[float, int], None]:
    """What bounds, from now on, the processor time in seconds and the memory beyond the least in bytes of a batch."""
    try:
        import resource
    except ImportError:  # Windows: the parent's clock alone
        return lambda seconds, size: None

    def bound(name: str, value: int) -> None:
        with contextlib.suppress(ValueError, OSError, AttributeError):
            kind = getattr(resource, name)
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))

    def allow(seconds: float, size: int) -> None:
        bound("RLIMIT_CPU", int(time.process_time() + seconds) + 1)
        bound("RLIMIT_AS", MEMORY_BYTES + MEMORY_PER_BYTE * size)

    bound("RLIMIT_CORE", 0)
    return allow


if __name__ == "__main__":
    sys.exit(main())
