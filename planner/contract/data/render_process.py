"""A chat template's process, seen from the side that uses it: limits of time, one plain line when one is broken."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from planner.contract.data.template import ChatTemplate
from planner.contract.errors import InvalidInput
from planner.contract.process import command, environment

SECONDS = 6.0
"""On the wall, for one conversation; each MiB of it earns two more."""
START_SECONDS = 60.0
"""Until Python has started, on a busy machine."""
BATCH = 256
BATCH_BYTES = 2**19
"""Requests, and characters of them, that are sent at once."""


_kept: dict[str, Renderer] = {}
KEPT = 2
"""Processes that wait for further requests."""


def renderer(template: ChatTemplate) -> Renderer:
    """The process for a template, one however often it is asked for; `close_all` or the program's end ends it."""
    key = repr((template.source, template.tool_source, sorted(template.tokens.items()), template.place, os.getpid()))
    found = _kept.pop(key, None) or Renderer(template)
    _kept[key] = found
    while len(_kept) > KEPT:
        _kept.pop(next(iter(_kept))).close()
    return found


@atexit.register
def close_all() -> None:
    """Ends every process that waits."""
    while _kept:
        _kept.popitem()[1].close()


class Renderer:
    """Runs one template in a process of its own, which starts with the first request."""

    def __init__(self, template: ChatTemplate) -> None:
        self.template = template
        self._process: subprocess.Popen[bytes] | None = None
        self._deadline = 0.0
        self._waiting = threading.Event()
        self._over = False

    def answers(self, requests: Sequence[dict[str, object]], wheres: Sequence[str]) -> Iterator[dict[str, object]]:
        """What the template made of each request, in order. `InvalidInput` names the template and the example."""
        try:
            yield from self._answers(requests, wheres)
        except BaseException:  # also where the reader stops early: answers may still be on their way
            self.close()
            raise

    def _answers(self, requests: Sequence[dict[str, Any]], wheres: Sequence[str]) -> Iterator[dict[str, object]]:
        for batch in _batches(requests):
            self._send(json.dumps([requests[number] for number in batch]).encode(), wheres[batch[0]])
            for number in batch:
                answer = self._receive(SECONDS + 2 * requests[number]["size"] / 2**20, wheres[number])
                if "error" in answer:
                    raise InvalidInput(self._sentence(answer, wheres[number]))
                yield answer

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        process.wait()

    # ---- the process

    def _start(self, where: str) -> subprocess.Popen[bytes]:
        if self._process is not None:
            return self._process
        self._process = subprocess.Popen(
            command("planner.contract.data.render_worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(),
        )
        threading.Thread(target=self._watch, args=(self._process,), daemon=True).start()
        ready = self._receive(START_SECONDS, where)
        if "ready" not in ready:
            raise InvalidInput(self._sentence(ready, where))
        template = self.template
        content = {"source": template.source, "tool_source": template.tool_source, "tokens": dict(template.tokens)}
        self._send(json.dumps(content).encode(), where)
        compiled = self._receive(SECONDS, where)
        if "error" in compiled:
            self.close()
            raise InvalidInput(f"{template.place}: the chat template can't be used: {_plain(compiled['error'])}")
        return self._process

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Kills the process when an answer is overdue; a read that waits for it then ends."""
        while self._process is process:
            if self._waiting.wait(1.0) and time.monotonic() > self._deadline:
                self._over = True
                process.kill()
                return
            time.sleep(0.05)

    def _send(self, line: bytes, where: str) -> None:
        process = self._start(where)
        assert process.stdin is not None
        try:
            process.stdin.write(line + b"\n")
            process.stdin.flush()
        except OSError:  # it has died; the answer that doesn't come says so
            pass

    def _receive(self, seconds: float, where: str) -> dict[str, object]:
        process = self._process
        assert process is not None
        assert process.stdout is not None
        self._over = False
        self._deadline = time.monotonic() + seconds
        self._waiting.set()
        try:
            line = process.stdout.readline()
        finally:
            self._waiting.clear()
        if line.endswith(b"\n"):
            answer: dict[str, object] = json.loads(line)
            return answer
        process.wait()
        answer = self._why_it_died(process.returncode, seconds)
        self.close()
        return answer

    def _why_it_died(self, code: int, seconds: float) -> dict[str, object]:
        late = code == -getattr(signal, "SIGXCPU", 0) != 0
        if self._over or late:
            return {"error": f"it takes more than {min(seconds, SECONDS):.0f} seconds", "kind": "limit"}
        return {"error": f"its process ended (code {code})", "kind": "limit"}

    def _sentence(self, answer: dict[str, object], where: str) -> str:
        if answer.get("kind") == "limit":
            return (
                f"{where}: the chat template of {self.template.place} was stopped: {_plain(answer['error'])}; "
                "look into the template, or take the tokenizer's files from the model's author"
            )
        return f"{where}: the chat template refuses these messages: {_plain(answer['error'])} ({self.template.place})"


def _batches(requests: Sequence[dict[str, Any]]) -> Iterator[list[int]]:
    batch: list[int] = []
    size = 0
    for number, request in enumerate(requests):
        batch.append(number)
        size += request["size"]
        if len(batch) >= BATCH or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _plain(text: object) -> str:
    """A template's words: one line, no control characters, not endless."""
    return "".join(char if char.isprintable() else " " for char in str(text))[:160].strip()
