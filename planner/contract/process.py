"""How every child process is started: it runs our packages, and nothing that lies in the working folder.

`python -m trainer` puts the working folder first on the module path, where a `trainer.py` or `yaml.py` of the user
would be run in place of ours. `-P` keeps it off (Python's documentation, "safe path"), `PYTHONSAFEPATH` keeps it off
for what the child starts in turn.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from planner.contract.errors import Infeasible, InvalidInput, RunFailed, TuneplanError

if TYPE_CHECKING:
    import subprocess

PACKAGES = ("planner", "trainer", "hardware_profiles")
"""Top-level names that are ours."""

HOME = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
"""Folder that our packages stand in."""

STARTER = "TUNEPLAN_STARTER"
"""Environment variable: process id of who started a child that leads its own session and waits for it."""


def command(module: str, *words: str) -> list[str]:
    """The command line that runs one of our modules (`trainer`, `trainer.trace`) in a process of its own."""
    return [sys.executable, "-P", "-m", module, *words]


def environment(**more: str) -> dict[str, str]:
    """The environment of such a child: this one's and `more`, with a module path that never means the working folder.

    Folders that the user names in PYTHONPATH with their whole path stay; entries that are empty or relative go.
    """
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    path = _named()
    if not _finds_us([*path, *_installed()]):
        path = [HOME, *path]
    if path:
        kept["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path))
    return {**kept, "PYTHONSAFEPATH": "1", **more}


def talking(command: list[str], name: str, *, stderr: int) -> subprocess.Popen[str]:
    """A child that is told and answers in lines, in a session of its own: a Ctrl-C is answered here.

    `stderr`: `subprocess.PIPE` or `DEVNULL`. Raises `RunFailed`, which calls it by `name`, where it can't be started.
    """
    import subprocess

    try:
        return subprocess.Popen(
            command,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            encoding="utf-8",
            errors="replace",
            bufsize=1,
            start_new_session=True,
        )
    except OSError as error:
        raise RunFailed(f"the {name} could not be started: {error.strerror or error}") from None


def shut_out_working_folder() -> None:
    """Takes the working folder off this process's module path, for `python -m …` typed without `-P`, and for a
    PYTHONPATH with an empty or relative entry. It stays where PYTHONPATH names it with its whole path, or where our own
    packages stand in it.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    os.environ["PYTHONPATH"] = os.pathsep.join(_named())
    if not os.environ["PYTHONPATH"]:
        del os.environ["PYTHONPATH"]
    wanted = {os.path.realpath(entry) for entry in (HOME, *_named())}
    relative = [os.path.abspath(entry) for entry in ("", *_entries()) if not os.path.isabs(entry)]
    unwanted = {os.path.realpath(entry) for entry in relative} - wanted
    sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) not in unwanted]


def others() -> dict[str, str]:
    """Our package names that this process would load from somewhere else: name -> file or folder."""
    found = {}
    for name in PACKAGES:
        place = next((path for entry in sys.path if (path := _holds(entry, name))), None)
        if place is not None and os.path.realpath(os.path.dirname(place)) != os.path.realpath(HOME):
            found[name] = place
    return found


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Starts a child of `python -m trainer` whose SIGINT and SIGTERM wait until it can handle them
    (`trainer.wire.interrupts.let_in`): one that comes while it is still importing is neither lost nor its end.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def exit_code(code: int) -> int:
    """A child's exit code as ours: what it says on purpose comes through, all else (a signal, a crash) is a failure."""
    return code if code in (0, 2, 3, 4, 130) else RunFailed.exit_code


def failure(code: int, message: str) -> TuneplanError:
    """The error that a child's exit code stands for: what was invalid there is invalid here."""
    return {2: InvalidInput, 3: Infeasible}.get(code, RunFailed)(message)


def _entries() -> list[str]:
    value = os.environ.get("PYTHONPATH")
    return value.split(os.pathsep) if value else []


def _named() -> list[str]:
    """Folders that PYTHONPATH names with their whole path."""
    return [entry for entry in _entries() if os.path.isabs(entry)]


def _installed() -> list[str]:
    """What every interpreter of this installation searches after PYTHONPATH: the standard library and what follows."""
    library = os.path.dirname(os.__file__)
    return sys.path[sys.path.index(library) :] if library in sys.path else []


def _finds_us(path: list[str]) -> bool:
    """Whether each of our packages is found along the path, and is ours."""
    for name in PACKAGES:
        place = next((found for entry in path if (found := _holds(entry, name))), None)
        if place is None or os.path.realpath(os.path.dirname(place)) != os.path.realpath(HOME):
            return False
    return True


def _holds(folder: str, name: str) -> str | None:
    """The package or module of this name in a folder of the module path."""
    package = os.path.join(folder, name)
    if os.path.isfile(os.path.join(package, "__init__.py")):
        return package
    return f"{package}.py" if os.path.isfile(f"{package}.py") else None
