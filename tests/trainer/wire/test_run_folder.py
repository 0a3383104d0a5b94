"""A run's folder is looked at before anything in it is touched: nothing of the user's is removed, followed or mixed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from planner.contract import run_folder
from planner.contract.errors import InvalidInput
from planner.contract.files import MARK
from planner.contract.records import Plan
from planner.contract.run_settings import DataSettings
from planner.tui import history
from trainer.recovery import checkpoints
from trainer.wire import folder
from trainer.wire.request import Request, resumes_in, write_plan

PLAN = Plan(model="phi-2", gpu="cpu", settings={}, data=DataSettings(path="/x.jsonl"))


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    path.write_text(PLAN.model_dump_json(by_alias=True))
    return path


def claim(where: Path, plan_file: Path, *, resumes: bool = False, plan: Plan = PLAN) -> folder.FolderLock:
    return folder.claim(where, resumes=resumes, plan_file=plan_file, plan=plan)


def marked(where: Path) -> Path:
    """A folder in which a run began."""
    where.mkdir(parents=True)
    (where / MARK).write_text(json.dumps({"schema": run_folder.SCHEMA}))
    return where


def everything(where: Path) -> dict[str, str]:
    """All that lies there, with contents and links."""
    found = {}
    for path in sorted(where.rglob("*")):
        kind = f"-> {os.readlink(path)}" if path.is_symlink() else path.read_text() if path.is_file() else "other"
        found[str(path.relative_to(where))] = kind
    return found


def test_a_folder_with_other_things_is_refused_untouched(tmp_path: Path, plan_file: Path) -> None:
    """GIVEN somebody's home as --output WHEN a run starts there THEN it is refused and no file changed or came."""
    home = tmp_path / "home"
    (home / ".config.old").mkdir(parents=True)
    for name in (".bashrc.old", ".notes.tmp", "log.txt", "lock", "events.jsonl", ".config.old/a"):
        (home / name).write_text("mine")
    before = everything(home)
    for resumes in (False, True):
        with pytest.raises(InvalidInput) as caught:
            claim(home, plan_file, resumes=resumes)
        assert str(home) in str(caught.value)
        assert everything(home) == before


@pytest.mark.parametrize("name", ["log.txt", "lock", "train.jsonl", ".git", "observation.json", "tensorboard", "x"])
def test_any_one_thing_of_a_users_is_enough(tmp_path: Path, plan_file: Path, name: str) -> None:
    where = tmp_path / "out"
    where.mkdir()
    (where / name).write_text("mine") if "." in name[1:] or name in ("lock", "x") else (where / name).mkdir()
    with pytest.raises(InvalidInput):
        claim(where, plan_file)
    assert os.listdir(where) == [name]


def test_names_in_a_refusal_are_printable(tmp_path: Path, plan_file: Path) -> None:
    for number, name in enumerate((b"\xff\xfe", b"a\x1b[2Jb", "\u202ea".encode())):
        where = tmp_path / str(number)
        where.mkdir()
        (where / os.fsdecode(name)).write_text("mine")
        with pytest.raises(InvalidInput) as caught:
            claim(where, plan_file)
        assert str(caught.value).encode().isascii()


def test_new_empty_and_as_good_as_empty_folders_are_taken(tmp_path: Path, plan_file: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "own").mkdir()
    for name in ("README.md", ".gitignore", ".DS_Store"):
        (tmp_path / "own" / name).write_text("mine")
    for name in ("deep/er", "empty", "own"):
        lock = claim(tmp_path / name, plan_file)
        assert run_folder.has_mark(tmp_path / name)
        assert run_folder.holder(tmp_path / name) == os.getpid()
        lock.release()
        assert run_folder.holder(tmp_path / name) is None
        claim(tmp_path / name, plan_file).release()  # a run that failed before its first checkpoint starts again
    assert (tmp_path / "own" / "README.md").read_text() == "mine"


def test_files_of_a_user_in_a_run_folder_stay(tmp_path: Path, plan_file: Path) -> None:
    from trainer.wire import files

    where = marked(tmp_path / "run")
    for name in (".bashrc.old", ".notes.tmp", "notes.md"):
        (where / name).write_text("mine")
    claim(where, plan_file).release()
    files.tidy(where)
    assert {".bashrc.old", ".notes.tmp", "notes.md"} <= set(os.listdir(where))


def test_a_mark_is_no_link_and_no_word(tmp_path: Path) -> None:
    marked(tmp_path / "real")
    for name, make in (
        ("link", lambda path: path.symlink_to(tmp_path / "real" / MARK)),
        ("pipe", os.mkfifo),
        ("empty", lambda path: path.write_text("")),
        ("list", lambda path: path.write_text("[]")),
        ("other", lambda path: path.write_text('{"schema": "x"}')),
        ("deep", lambda path: path.write_text("[" * 100_000)),
    ):
        (tmp_path / name).mkdir()
        make(tmp_path / name / MARK)
        assert not run_folder.has_mark(tmp_path / name), name
    assert run_folder.has_mark(tmp_path / "real")


# ---- plan files ------------------------------------------------------------------------------------------------------


def test_a_users_plan_keeps_its_comments(tmp_path: Path) -> None:
    """GIVEN a commented plan.yaml in the folder WHEN it is what is run THEN it stays to the byte."""
    where = tmp_path / "exp"
    where.mkdir()
    own = where / "plan.yaml"
    own.write_text("# my plan\n" + PLAN.model_dump_json(by_alias=True))
    before = own.read_text()
    claim(where, own).release()
    write_plan(PLAN, where)
    assert own.read_text() == before


def test_another_plan_of_a_user_is_not_overwritten(tmp_path: Path, plan_file: Path) -> None:
    where = tmp_path / "exp"
    where.mkdir()
    own = where / "plan.yaml"
    own.write_text(PLAN.model_copy(update={"gpu": "t4"}).model_dump_json(by_alias=True))
    before = everything(where)
    with pytest.raises(InvalidInput, match="another plan"):
        claim(where, plan_file)
    assert everything(where) == before


def test_a_plan_that_was_changed_on_the_command_line_leaves_the_file_behind(tmp_path: Path) -> None:
    where = tmp_path / "exp"
    where.mkdir()
    own = where / "plan.yaml"
    own.write_text("# my plan\n" + PLAN.model_dump_json(by_alias=True))
    before = own.read_text()
    changed = PLAN.model_copy(update={"model": "other"})
    claim(where, own, plan=changed).release()
    write_plan(changed, where)
    assert (where / "plan-1.yaml").read_text() == before
    assert folder.earlier_plan(where) == changed
    write_plan(changed, where)
    assert not (where / "plan-2.yaml").exists()


# ---- links and the like ----------------------------------------------------------------------------------------------


def link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def dangling(path: Path, victim: Path) -> None:
    path.symlink_to(victim.parent / "nowhere")


def pipe(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def a_folder(path: Path, victim: Path) -> None:
    path.mkdir()


def a_file(path: Path, victim: Path) -> None:
    path.write_text("a file")


FILES = (
    "events.jsonl",
    "plan.yaml",
    "log.txt",
    "log-rank1.txt",
    "lock",
    "observation.json",
    "observation-oom-3-eval-2.json",
)
FOLDERS = ("checkpoint-5", "adapter", "model", "tensorboard", ".tuneplan-tmp-checkpoint-6", ".tuneplan-old-adapter")


@pytest.mark.parametrize("make", [link, dangling, pipe, a_folder, a_file])
@pytest.mark.parametrize("resumes", [False, True])
def test_nothing_odd_is_written_through(
    tmp_path: Path, plan_file: Path, make: Callable[[Path, Path], None], resumes: bool
) -> None:
    """GIVEN an unpacked run with a link, pipe, folder or file in the way THEN it is refused by name, all stays."""
    inside = tuple(f"{name}/inner" for name in FOLDERS[:4]) if make in (link, dangling, pipe) else ()
    names = FILES if make is a_folder else FOLDERS[:4] if make is a_file else (*FILES, *FOLDERS, *inside)
    for number, name in enumerate(names):
        where = marked(tmp_path / f"run{number}")
        victim = tmp_path / "bashrc"
        victim.write_text("alias\n")
        (where / name).parent.mkdir(exist_ok=True)
        make(where / name, victim)
        before = everything(where)
        with pytest.raises(InvalidInput) as caught:
            claim(where, plan_file, resumes=resumes)
        assert f"{where / name}: " in str(caught.value), (name, str(caught.value))
        assert "\n" not in str(caught.value)
        assert everything(where) == before
        assert victim.read_text() == "alias\n"
        assert not (tmp_path / "nowhere").exists()


def test_links_of_the_user_beside_ours_and_above_are_theirs(tmp_path: Path, plan_file: Path) -> None:
    where = marked(tmp_path / "real" / "run")
    (where / "data").symlink_to(tmp_path)
    (tmp_path / "runs").symlink_to(tmp_path / "real")
    claim(tmp_path / "runs" / "run", plan_file).release()
    (tmp_path / "direct").symlink_to(where)
    claim(tmp_path / "direct", plan_file).release()


def test_a_hard_link_as_lock_file_loses_nothing(tmp_path: Path, plan_file: Path) -> None:
    where = marked(tmp_path / "run")
    victim = tmp_path / "bashrc"
    victim.write_text("alias\n")
    os.link(victim, where / "lock")
    claim(where, plan_file).release()
    assert victim.read_text() == "alias\n"
    assert run_folder.owner(where) == os.getpid()


def test_the_wizard_reads_no_links_and_waits_for_no_pipe(tmp_path: Path) -> None:
    good = {"events.jsonl": '{"schema": "tuneplan.event/1", "kind": "step", "time": 0.0, "data": {"step": 3}}\n',
            "plan.yaml": PLAN.model_dump_json(by_alias=True), "lock": "1\n"}  # fmt: skip
    for number, name in enumerate([*good, "none"]):
        for make in (link, pipe):
            where = tmp_path / f"{number}-{make.__name__}"
            (where / "checkpoint-3").mkdir(parents=True)
            for each, text in good.items():
                (where / each).write_text(text)
            if name in good:
                (where / name).unlink()
                (tmp_path / "target").write_text(good[name])
                make(where / name, tmp_path / "target")
    found = {run.folder.name for run in history.unfinished(tmp_path)}
    assert found == {"2-link", "2-pipe", "3-link", "3-pipe"}  # a lock that says nothing holds nothing


# ---- the lock --------------------------------------------------------------------------------------------------------


def test_a_lock_removed_by_hand_lets_nobody_in(tmp_path: Path, plan_file: Path) -> None:
    """GIVEN a run that goes on and somebody who removes its lock file WHEN a second run starts THEN it is refused."""
    where = tmp_path / "run"
    lock = claim(where, plan_file)
    (where / "lock").unlink()
    for resumes in (False, True):
        with pytest.raises(InvalidInput, match="in use by another run"):
            claim(where, plan_file, resumes=resumes)
    (where / "lock").write_text("99\n")
    with pytest.raises(InvalidInput, match=r"in use by another run \(process 99\)"):
        claim(where, plan_file)
    lock.release()
    claim(where, plan_file).release()


def test_a_look_at_the_lock_is_waited_for(tmp_path: Path, plan_file: Path) -> None:
    """GIVEN a wizard that just looks whether the folder is free WHEN a run starts THEN it isn't refused for that."""
    import threading

    fcntl = pytest.importorskip("fcntl")
    where = tmp_path / "run"
    where.mkdir()
    handle = run_folder.open_folder(where)
    fcntl.flock(handle, fcntl.LOCK_SH)
    timer = threading.Timer(0.1, os.close, [handle])
    timer.start()
    claim(where, plan_file).release()
    timer.join()


# ---- resuming --------------------------------------------------------------------------------------------------------


def test_a_resume_elsewhere_is_a_new_run_there(tmp_path: Path, plan_file: Path) -> None:
    """GIVEN a finished run in --output WHEN another run's checkpoint is resumed into it THEN it is refused."""
    first, second = marked(tmp_path / "a"), marked(tmp_path / "b")
    for where in (first, second):
        (where / "checkpoint-4").mkdir()
        checkpoints.write_identity(where / "checkpoint-4", {})
    request = Request(plan=plan_file, output=second, resume=str(first / "checkpoint-4"))
    assert not resumes_in(request, second)
    assert resumes_in(request, first)
    assert resumes_in(Request(plan=plan_file, resume="auto"), second)
    with pytest.raises(InvalidInput, match="already holds a run"):
        claim(second, plan_file, resumes=resumes_in(request, second))


def test_runs_of_older_releases_go_on(tmp_path: Path, plan_file: Path) -> None:
    """They have no mark: their checkpoints, or their events and lock, say whose they are."""
    old, failed = tmp_path / "old", tmp_path / "failed"
    for where in (old, failed):
        where.mkdir()
        (where / "log.txt").write_text("x")
    (old / "checkpoint-4").mkdir()
    checkpoints.write_identity(old / "checkpoint-4", {})
    (failed / "events.jsonl").write_text('{"schema": "tuneplan.event/1", "kind": "failed", "time": 0, "data": {}}\n')
    (failed / "lock").write_text("12\n")
    claim(old, plan_file, resumes=True).release()
    claim(failed, plan_file).release()
    assert run_folder.has_mark(old)
    assert run_folder.has_mark(failed)


def test_a_resume_makes_no_folder(tmp_path: Path, plan_file: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "empty"):
        with pytest.raises(InvalidInput, match="--resume"):
            claim(tmp_path / name, plan_file, resumes=True)
    assert not (tmp_path / "nowhere").exists()
    assert os.listdir(tmp_path / "empty") == []
