"""Signals that end a command: SIGTERM and a closed terminal are taken as Ctrl-C is, so that no child is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from planner.contract.process import held as held  # beside `passed_on`, which it is used with

Handler = Callable[[int, FrameType | None], object]
SIGHUP = getattr(signal, "SIGHUP", None)
"""None on Windows."""


@contextlib.contextmanager
def handling(handler: Handler, *, terminal: bool) -> Iterator[None]:
    """SIGINT and SIGTERM, and with `terminal` its end (SIGHUP unless `nohup` has it ignored), go to `handler`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    if terminal and SIGHUP is not None and signal.getsignal(SIGHUP) is not signal.SIG_IGN:
        numbers.append(SIGHUP)
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous if previous is not None else signal.SIG_DFL)


@contextlib.contextmanager
def hanging_up(let_go: Callable[[], None]) -> Iterator[None]:
    """A terminal that is closed ends this process at once, and not a training that it follows: `let_go` tells that."""
    main = threading.current_thread() is threading.main_thread()
    if not main or SIGHUP is None or signal.getsignal(SIGHUP) is signal.SIG_IGN:
        yield
        return

    def hand(number: int, frame: FrameType | None) -> None:
        let_go()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(SIGHUP, hand)
    try:
        yield
    finally:
        signal.signal(SIGHUP, before)


@contextlib.contextmanager
def as_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does."""
    with handling(signal.default_int_handler, terminal=True):
        yield


@contextlib.contextmanager
def passed_on(child: subprocess.Popen[str] | subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Signals go to a child that leads its own session: the first as SIGINT to its whole group, a second kills it.

    In its own session a Ctrl-C of the terminal reaches the child once, by this process, and not twice. Yields the
    list of the signals that came.
    """
    seen: list[int] = []

    def hand(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        to_group(child, signal.SIGINT if len(seen) == 1 else signal.SIGKILL)

    with handling(hand, terminal=True):
        yield seen


def to_group(child: subprocess.Popen[str] | subprocess.Popen[bytes], number: int) -> None:
    """Sends a signal to a child that leads its own session, and to its children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if child.poll() is None:
            os.killpg(child.pid, number) if hasattr(os, "killpg") else child.send_signal(number)


def signal_name(number: int) -> str:
    """`SIGKILL` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
