"""`python -m trainer probe`: one request in, one observation out; or a worker that answers line by line."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from planner.contract import allocator_conf, edge, json_text, text_file
from planner.contract.errors import InvalidInput, RunFailed, TuneplanError
from planner.contract.records import Observation, ProbeRequest, parse_record
from planner.contract.settings import ALLOCATOR, plan_choices
from planner.contract.shown import clause
from trainer.measure import allocator

LEAK_BYTES = 1 << 20
"""Bytes of tensors that a finished probe may leave on the device before its worker retires."""


def read_request(text: str, where: str) -> ProbeRequest:
    """A request from JSON; raises InvalidInput naming the key."""
    try:
        content = json_text.parse(text, where)
    except json_text.NotJson as error:
        raise InvalidInput(f"{where}: not JSON ({str(error).removeprefix(f'{where}: ')})") from None
    return parse_record(ProbeRequest, content, where)


@contextlib.contextmanager
def data_stream() -> Iterator[TextIO]:
    """The real stdout; meanwhile everything else that prints goes to stderr."""
    sys.stdout.flush()
    handle = os.dup(1)
    os.dup2(2, 1)
    before, sys.stdout = sys.stdout, sys.stderr
    stream = os.fdopen(handle, "w", encoding="utf-8", buffering=1)
    try:
        yield stream
    finally:
        stream.flush()
        os.dup2(handle, 1)
        stream.close()
        sys.stdout = before


def run(settings: str) -> int:
    """Measures the request in the file `settings` (`-`: stdin) and prints the observation."""
    named = settings != "-"
    text = text_file.read(Path(settings), settings, max_bytes=json_text.MAX_BYTES) if named else sys.stdin.read()
    request = read_request(text, settings)
    allocator_conf.configure(plan_choices(request.settings, "probe"), os.environ)
    allocator.stay_within_working_set()
    with data_stream() as out:
        out.write(answer(request) + "\n")
    return 0


def answer(request: ProbeRequest, footprint: Any = None, *, fresh: bool = True) -> str:
    """The observation as one line of JSON; whatever a library raises becomes RunFailed with its last line."""
    from trainer.commands.probe.measure import measure
    from trainer.wire.events import quiet

    quiet()
    try:
        observation = measure(request, footprint, fresh=fresh)
    except TuneplanError:
        raise
    except Exception as error:
        place = edge.keep(error)
        details = "" if place is None else f" (details in {place})"
        raise RunFailed(f"{type(error).__name__}: {clause(error, 300)}{details}") from error
    return observation.model_dump_json(by_alias=True)


def serve() -> int:
    """Answers requests, one JSON line each, until stdin ends or a probe left tensors behind (then it retires).

    A request that fails is answered with {"error": ..., "exit_code": ...}.
    """
    from trainer.commands.probe.footprint import Footprint
    from trainer.commands.probe.measure import release
    from trainer.measure import devices

    footprints: dict[str, Footprint] = {}
    fresh = True
    with data_stream() as out:
        for line in sys.stdin:
            if not line.strip():
                continue
            failed: TuneplanError | None = None
            text = ""
            try:
                request = read_request(line, "stdin")
                for name in ALLOCATOR:
                    if request.settings.get(name):
                        raise InvalidInput(f"stdin: {name} holds for a whole process; probe it by a file")
                device = devices.choose(request.device)
                footprint = footprints.setdefault(device.type, Footprint(device))
                text = answer(request, footprint, fresh=fresh)
                fresh = False
            except TuneplanError as error:
                # Only its words are kept: the traceback would hold the failed step's tensors.
                failed = type(error)(str(error))
            if failed is not None:
                text = json.dumps({"error": str(failed), "exit_code": failed.exit_code})
            out.write(text + "\n")
            out.flush()
            device = devices.choose("auto")
            if release(device) > LEAK_BYTES or isinstance(failed, RunFailed):
                return 0
    return 0


def parse(text: str) -> Observation:
    """An observation from one line of a probe's stdout."""
    return Observation.model_validate_json(text)
