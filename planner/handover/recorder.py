"""A child process that answers, one JSON line each: it traces (`python -m trainer record`)."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from typing import IO, Any

from planner.contract import process
from planner.contract.errors import InvalidInput, RunFailed


def installed() -> bool:
    """Whether torch, transformers and peft are there; imports nothing."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers", "peft"))


class Recorder:
    """Started at the first request; `close` ends it."""

    NAME = "recorder"

    def __init__(self) -> None:
        self.words: tuple[str, ...] = ("record",)
        """The trainer's command that answers."""
        self._child: subprocess.Popen[str] | None = None

    def ask(self, **request: object) -> dict[str, Any]:
        """The answer to one request. Raises InvalidInput with the child's own words, RunFailed where it is gone."""
        child = self._child or self._start()
        try:
            assert child.stdin is not None
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
            assert child.stdout is not None
            answer = json.loads(_line(child.stdout))
        except (OSError, ValueError):
            self.close()
            raise RunFailed(f"the {self.NAME} ended without an answer") from None
        if "error" in answer:
            if answer.get("code") == 2:
                raise InvalidInput(str(answer["error"]))
            raise RunFailed(str(answer["error"]))
        return dict(answer)

    def close(self) -> None:
        """Ends the child; it has nothing to keep."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.communicate()

    def _start(self) -> subprocess.Popen[str]:
        self._child = process.talking(process.command("trainer", *self.words), self.NAME, stderr=subprocess.DEVNULL)
        return self._child


def _line(stream: IO[str]) -> str:
    line = stream.readline()
    if not line:
        raise ValueError
    return line
