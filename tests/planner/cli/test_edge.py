"""What nobody foresaw: one line, the right exit code, and the traceback in a file that the line names."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from planner.cli import main
from planner.contract import edge
from trainer.__main__ import main as trainer
from trainer.trace import cli as trace_cli


def named_file(line: str) -> str:
    """The content of the file that a line names."""
    found = re.search(r"\(details in (.+)\)$", line.strip())
    assert found is not None, line
    return Path(found[1]).read_text()


def too_long() -> BaseException:
    try:
        return ValueError(str(10**5000))
    except ValueError as error:
        return error


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


FORESEEN_KINDS = [
    (KeyError("x"), 4, "this is a bug in tuneplan: KeyError: 'x'"),
    (ValueError("one\ntwo\x1b[2J"), 4, r"ValueError: one two\x1b[2J"),
    (too_long(), 4, "ValueError: Exceeds the limit"),
    (Mute(), 4, "Mute: its message can't be shown"),
    (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), 4, "UnicodeEncodeError"),
    (MemoryError(), 4, "the memory of this machine"),
    (RecursionError("maximum recursion depth exceeded"), 2, "nested too deep"),
    (OSError(errno.ENOSPC, "No space left on device", "/x/y"), 4, "/x/y: No space left on device"),
    (OSError(errno.EMFILE, "Too many open files"), 4, "the system refuses: Too many open files"),
    (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 2, "/x/y: Permission denied"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory", b"/x/\xff"), 2, r"/x/\udcff: Not a directory"),
    (ModuleNotFoundError("No module named 'nump'"), 4, "a library of this environment can't be loaded"),
]


@pytest.mark.parametrize(("error", "code", "said"), FORESEEN_KINDS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("front", ["plan", "trainer", "trace"])
def test_every_kind_ends_as_one_line(
    front: str,
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """GIVEN an error deep inside THEN each front door says it in a line and keeps the traceback."""

    def fail(*_: object, **__: object) -> None:
        raise error

    if front == "plan":
        monkeypatch.setattr("planner.calibration.attach.find", fail)
        assert main(["gpus", "a10g"]) == code
    elif front == "trainer":
        monkeypatch.setattr("trainer.__main__._other", fail)
        ending = trainer(["doctor"])
        if isinstance(error, (MemoryError, OSError)) and code == 4:  # these have words of their own there
            assert ending == 4
            assert capsys.readouterr().err.count("\n") == 1
            return
        assert ending == code
    else:
        monkeypatch.setattr(trace_cli, "read_config", fail)
        assert trace_cli.main(["--config", "x"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert said in err
    assert "Traceback" not in err
    assert "Traceback" in named_file(err)
    assert "in fail" in named_file(err)


def test_the_account_tells_no_secret_and_is_its_users_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-token-of-mine")
    try:
        raise KeyError("https://anna:geheim@hub.example a-token-of-mine \ud800")
    except KeyError as error:
        line, _ = edge.account(error)
    content = named_file(line)
    for text in (line, content):
        assert "geheim" not in text
        assert "a-token-of-mine" not in text
    (file,) = (home / "errors").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    for _ in range(edge.FILES_KEPT + 5):
        edge.keep(KeyError("again"))
    assert len(list((home / "errors").iterdir())) == edge.FILES_KEPT


def test_where_the_data_folder_cannot_be_written_another_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN a file in the way THEN the folder for temporary files; GIVEN none THEN the line alone."""
    (tmp_path / "file").write_text("")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    place = edge.keep(KeyError("x"))
    assert place is not None
    assert place.parent == tmp_path / "temporary"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    assert edge.account(KeyError("x")) == ("this is a bug in tuneplan: KeyError: 'x'", 4)


def test_threads_and_destructors_say_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late:
        def __del__(self) -> None:
            raise ValueError("late")

    lines: list[str] = []
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    edge.watch_threads(lines.append)
    thread = threading.Thread(target=lambda: {}["x"])
    thread.start()
    thread.join()
    Late()
    assert ["KeyError: 'x'" in lines[0], "ValueError: late" in lines[1]] == [True, True]


def test_a_folder_that_is_gone_is_no_bug(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    script = f"cd {folder} && rmdir {folder} && {sys.executable} -P -m planner.cli doctor"
    child = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert child.returncode == 2
    assert "doesn't exist any more" in child.stderr


def test_a_thin_memory_limit_is_a_line(tmp_path: Path) -> None:
    """GIVEN a real limit that ends in MemoryError while a plan file is read THEN one line and 4."""
    resource = pytest.importorskip("resource")
    script = (
        "import resource, sys\n"
        "import planner.cli, planner.cli.app, planner.handover.plans, planner.contract.settings, yaml\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 24 * 2**20,) * 2)\n"
        "sys.exit(planner.cli.main(['check', '--gpu', 'a10g', '--config', sys.argv[1]]))\n"
    )
    if not os.path.exists("/proc/self/statm") or resource is None:
        pytest.skip("needs Linux")
    settings = tmp_path / "settings.yaml"
    settings.write_text("max-length: 2048  # " + "x" * (64 * 2**20))
    child = subprocess.run([sys.executable, "-c", script, str(settings)], capture_output=True, text=True, check=False)
    assert child.returncode in (2, 4), child.stderr
    assert "Traceback" not in child.stderr
    assert child.stderr.count("\n") == 1


def test_every_command_is_listed_and_built() -> None:
    """GIVEN the names that help lists THEN each is a command, and no module holds one that isn't listed."""
    import importlib

    import typer

    from planner.cli.app import COMMANDS, app

    root = typer.main.get_command(app)
    assert isinstance(root, typer.core.TyperGroup)
    for module, names in COMMANDS.items():
        registered = importlib.import_module(module).commands.registered_commands
        assert len(registered) == len(names)
        for name in names:
            found = root.get_command(None, name)  # type: ignore[arg-type]
            assert found is not None
            assert found.name == name
