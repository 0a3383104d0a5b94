"""Starts probes (`python -m trainer probe`) and reads their observations; no step runs in this process."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import tempfile
import threading
from typing import IO

from pydantic import ValidationError

from planner.contract import process
from planner.contract.errors import InvalidInput, NotModelled, RunFailed, TuneplanError
from planner.contract.records import Observation, ProbeRequest


def _environment() -> dict[str, str]:
    """The child's: it never asks the network."""
    usual = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**usual, **process.environment(PYTHONUNBUFFERED="1")}


def probe(request: ProbeRequest, *, timeout: float | None = None) -> Observation:
    """One observation from a process of its own; raises RunFailed when that dies or takes over `timeout` seconds."""
    try:
        child = subprocess.run(
            process.command("trainer", "probe", "-"),
            input=request.model_dump_json(by_alias=True),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=_environment(),
            check=False,
            start_new_session=True,  # a Ctrl-C is the parent's to answer, which ends the probe
        )
    except subprocess.TimeoutExpired:
        raise RunFailed(
            f"the probe {request.label or request.model.get('id')} took longer than {timeout:.0f} s"
        ) from None
    if child.returncode != 0:
        words = child.stderr.strip().splitlines()[-1:] or [f"exit code {child.returncode}"]
        said = words[0].removeprefix("error: ")
        raise process.failure(child.returncode, f"{request.label or request.model.get('id')}: {said}")
    return read(child.stdout)


def read(line: str) -> Observation:
    """The observation in a probe's answer; raises what the probe says it met."""
    try:
        content = json.loads(line)
        if "error" in content:
            raise process.failure(int(content.get("exit_code") or 0), str(content["error"]))
        return Observation.model_validate(content)
    except (ValueError, ValidationError):
        raise RunFailed(f"the probe answered with no observation: {line[:200]!r}") from None


class Worker:
    """A probe process that answers one request after another, and a new one when it has died, retired or hung."""

    def __init__(self) -> None:
        self.starts = 0
        """How many processes have been started."""
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[str | None] = queue.Queue()
        self._errors: IO[str] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Starts the process where none runs, so that its imports overlap with other work."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._answers = queue.Queue()
        self._process = subprocess.Popen(
            process.command("trainer", "probe", "--serve"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=_environment(),
        )
        self.starts += 1
        threading.Thread(target=self._read, args=(self._process, self._answers), daemon=True).start()

    @staticmethod
    def _read(process: subprocess.Popen[str], answers: queue.Queue[str | None]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(line)
        answers.put(None)

    def ask(self, request: ProbeRequest, *, timeout: float) -> Observation:
        """The observation; raises RunFailed when the process died or hung, and what the probe refuses by name."""
        for attempt in (1, 2):
            self.start()
            assert self._process is not None
            assert self._process.stdin is not None
            try:
                self._process.stdin.write(request.model_dump_json(by_alias=True) + "\n")
                self._process.stdin.flush()
            except OSError:  # retired after the last answer
                self.close()
                continue
            try:
                line = self._answers.get(timeout=timeout)
            except queue.Empty:
                self.close()
                raise RunFailed(f"{request.label}: no answer within {timeout:.0f} s") from None
            if line is not None:
                return read(line)
            words = self._last_words()
            code = self._process.wait()
            self.close()
            if attempt == 1 and code == 0:  # it retired just as it was asked
                continue
            raise process.failure(code, f"{request.label}: the probe died with exit code {code}: {words}")
        raise RunFailed(f"{request.label}: no probe could be started")

    def _last_words(self) -> str:
        if self._errors is None:
            return ""
        with contextlib.suppress(OSError, ValueError):
            self._errors.seek(0)
            lines = self._errors.read().strip().splitlines()
            return lines[-1][:300] if lines else ""
        return ""

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        if self._errors is not None:
            self._errors.close()
            self._errors = None


def refused(error: TuneplanError) -> bool:
    """Whether the error says that this machine cannot run the shape at all, rather than that a run went wrong."""
    return isinstance(error, (InvalidInput, NotModelled))
