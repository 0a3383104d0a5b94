"""Ctrl-C and SIGTERM in the commands beside `run`, which has its own way to stop (`trainer.wire.control`)."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from planner.contract import process
from planner.contract.errors import Interrupted

WATCH_SECONDS = 0.5


@contextlib.contextmanager
def as_one_line() -> Iterator[None]:
    """The first SIGINT or SIGTERM raises KeyboardInterrupt, which ends as `Interrupted`; a second one ends at once.

    What a command writes takes its name when it is whole, so neither leaves half a result.
    """
    came: list[int] = []

    def hand(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            os._exit(Interrupted.exit_code)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, hand) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        try:
            let_in()
            yield
        except KeyboardInterrupt:
            raise Interrupted("interrupted; nothing was written, start it again") from None
    finally:
        for number, previous in before.items():
            signal.signal(number, previous if previous is not None else signal.SIG_DFL)


def end_with_starter() -> None:
    """Takes the end of the process that waits for this one as a Ctrl-C, for all that this one started too: killed, it
    can't pass one on.
    """
    starter = os.environ.get(process.STARTER)
    if not starter or not hasattr(os, "killpg"):
        return

    def watch() -> None:
        while os.getppid() == int(starter):
            time.sleep(WATCH_SECONDS)
        os.killpg(0, signal.SIGINT)

    threading.Thread(target=watch, name="starter", daemon=True).start()


def hold() -> None:
    """Signals wait until this process can handle them (`let_in`)."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


def let_in() -> None:
    """Signals that the starting side held back until there was somebody to handle them."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
