"""One atomic write for all: the user's permissions, no link followed, nothing waited for."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from planner.contract.errors import InvalidInput
from planner.contract.files import (
    MARK,
    NotAPlainFile,
    append_to,
    open_plain,
    read_plain,
    write_json,
    write_named,
    write_whole,
)
from planner.handover import plans


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_new_files_get_the_umask_and_old_ones_keep_theirs(tmp_path: Path, umask: int) -> None:
    new, old = tmp_path / "new.json", tmp_path / "old.json"
    write_json(new, {"a": 1})
    assert mode(new) == 0o666 & ~umask
    old.write_text("x")
    old.chmod(0o640)
    for write in (write_whole, write_named):
        write(old, b"y")
        assert mode(old) == 0o640
    with append_to(tmp_path / "log.txt"):
        assert mode(tmp_path / "log.txt") == 0o666 & ~umask
    assert sorted(os.listdir(tmp_path)) == ["log.txt", "new.json", "old.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_file_that_may_not_be_written_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("mine")
    path.chmod(0o444)
    with pytest.raises(PermissionError):
        write_named(path, b"yours")
    assert path.read_text() == "mine"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, b"new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.fixture(params=["link", "dangling", "circle", "folder", "pipe", "socket", "device"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Everything that may stand where a file belongs, but a file."""
    path = tmp_path / "odd"
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    listener: socket.socket | None = None
    if request.param == "link":
        path.symlink_to(victim)
    elif request.param == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif request.param == "circle":
        path.symlink_to(path)
    elif request.param == "folder":
        path.mkdir()
    elif request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "socket":
        listener = socket.socket(socket.AF_UNIX)
        before = os.getcwd()
        os.chdir(tmp_path)  # the name of a socket may not be long
        listener.bind("odd")
        os.chdir(before)
    else:
        path = Path("/dev/zero")
    yield path
    assert victim.read_text() == "untouched"
    assert not (tmp_path / "nowhere").exists()
    if listener is not None:
        listener.close()


def test_only_plain_files_are_opened(odd: Path) -> None:
    """THEN one line names the file and says what it is; nothing waits, nothing is followed."""
    for access in (
        read_plain,
        append_to,
        lambda path: write_whole(path, b"x"),
        lambda path: open_plain(path, os.O_RDWR),
    ):
        with pytest.raises(NotAPlainFile) as caught:
            access(odd)
        assert isinstance(caught.value, InvalidInput)
        assert str(caught.value).startswith(f"{odd}: a ")
        assert "\n" not in str(caught.value)


def test_a_pipe_without_a_reader_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotAPlainFile, match="nobody reads"):
        write_named(tmp_path / "pipe", b"x")
    with pytest.raises(InvalidInput, match="named pipe"):
        plans.load(tmp_path / "pipe")


def test_a_link_in_a_run_folder_is_not_the_users(tmp_path: Path) -> None:
    """GIVEN an unpacked run whose plan.yaml points elsewhere WHEN a plan is saved there THEN it is refused."""
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.write_text("untouched")
    run.mkdir()
    (run / MARK).write_text("{}")
    (run / "plan.yaml").symlink_to(victim)
    with pytest.raises(NotAPlainFile, match="links are not followed here"):
        write_named(run / "plan.yaml", b"x")
    with pytest.raises(InvalidInput, match="links are not followed here"):
        plans.load(run / "plan.yaml", links=False)
    assert victim.read_text() == "untouched"


def test_links_in_a_circle_and_null_bytes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for path in (tmp_path / "a", tmp_path / "n\0ul"):
        for access in (lambda path: write_named(path, b"x"), lambda path: read_plain(path, links=True)):
            with pytest.raises(NotAPlainFile) as caught:
                access(path)
            assert "\0" not in str(caught.value)


def test_appending_leaves_a_second_name_of_the_file_alone(tmp_path: Path) -> None:
    """GIVEN events.jsonl is a hard link to another file WHEN lines are appended THEN the other one stays as it was."""
    other, log = tmp_path / "bashrc", tmp_path / "events.jsonl"
    other.write_text("alias\n")
    other.chmod(0o600)
    os.link(other, log)
    with append_to(log) as stream:
        stream.write("event\n")
    assert other.read_text() == "alias\n"
    assert log.read_text() == "alias\nevent\n"
    assert mode(log) == 0o600
