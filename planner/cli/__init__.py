"""The command `plan`. stdout is data, stderr is talk; this is the one place that maps errors to exit codes."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from planner.cli.talk import say
from planner.contract import edge, process
from planner.contract.errors import Interrupted, RunFailed, TuneplanError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and returns the process exit code (see docs/cli.md)."""
    # Start-up makes many small objects that all stay: looking for cycles among them is a tenth of a short command.
    gc.set_threshold(50_000, 20, 20)
    # pydantic would look through every installed distribution for plugins; nobody's is wanted here.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    words = list(sys.argv[1:] if arguments is None else arguments)
    _open_streams()
    try:
        if arguments is None:
            process.shut_out_working_folder()
            with contextlib.suppress(AttributeError, ValueError, OSError):
                sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
            edge.watch_threads(say)
            if not sys.warnoptions:
                warnings.simplefilter("ignore")  # of libraries, with lines of their source; stderr is ours
        if not words and sys.stdin.isatty() and sys.stdout.isatty():
            return _wizard()
        code = _run(words)
        sys.stdout.flush()
        return code
    except TuneplanError as error:
        return _complain(error, error.exit_code)
    except KeyboardInterrupt:  # a second one, while the first was being answered
        return Interrupted.exit_code
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted.
        _drop_stdout()
        return 0
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            _drop_stdout()
            return _complain(f"the output can't be written: {error.strerror}", RunFailed.exit_code)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        return _complain(*edge.account(error))


_FULL = (errno.ENOSPC, errno.EIO, errno.EDQUOT)
"""What ends in stdout where it leads to a file."""


def _drop_stdout() -> None:
    """What is left in the buffer must not raise again at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_streams() -> None:
    """Streams that the starting side closed (`>&-`) lead nowhere, instead of to the next file that is opened."""
    if sys.stdin is not None and sys.stdout is not None and sys.stderr is not None:
        return
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    sys.stdin = sys.stdin or open(0)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115


def _complain(message: object, code: int) -> int:
    if str(message).strip():
        say(message)
    return code


def _wizard() -> int:
    from planner.tui import app

    return int(app.run() or 0)


def _run(words: list[str]) -> int:
    import typer

    from planner.cli.app import app
    from planner.cli.options import leave_unset
    from planner.cli.signals import as_interrupts

    command: Any = typer.main.get_command(app)
    leave_unset(command)
    invoke = command.invoke

    def guarded(context: object) -> object:
        # The parser would turn the interrupt into its exit code without a word.
        try:
            return invoke(context)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; nothing was written") from None

    command.invoke = guarded
    try:
        with as_interrupts():
            return int(command.main(args=words, prog_name="plan", standalone_mode=False) or 0)
    except SystemExit as leave:
        # The parser turns a reader that went away into exit code 1; `main` knows better.
        if isinstance(leave.__context__, BrokenPipeError):
            raise leave.__context__ from None
        raise
    except typer.Abort:
        return _complain("interrupted", Interrupted.exit_code)
    except Exception as error:
        # The parser's own complaints (unknown option, not a number); anything else is a bug and keeps its traceback.
        if not hasattr(error, "format_message"):
            raise
        return _complain(f"{error.format_message()} (`plan --help` lists the options)", 2)
