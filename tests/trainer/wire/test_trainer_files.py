"""Folders and files that are whole or not there, whenever the process dies."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from planner.contract.errors import InvalidInput
from trainer.recovery import checkpoints
from trainer.wire import files


def fill(folder: Path, text: str) -> None:
    (folder / "a.txt").write_text(text)
    files.write_manifest(folder)


def test_a_folder_is_replaced_only_by_a_complete_one(tmp_path: Path) -> None:
    final = tmp_path / "checkpoint-1"
    with files.whole_folder(final) as folder:
        fill(folder, "one")

    def cut_short() -> None:
        with files.whole_folder(final) as folder:
            (folder / "a.txt").write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        cut_short()
    assert (final / "a.txt").read_text() == "one"
    with files.whole_folder(final) as folder:
        fill(folder, "two")
    assert (final / "a.txt").read_text() == "two"
    assert os.listdir(tmp_path) == ["checkpoint-1"]


def test_what_a_kill_left_is_cleared_and_the_old_content_kept(tmp_path: Path) -> None:
    (tmp_path / ".tuneplan-old-checkpoint-1").mkdir()
    fill(tmp_path / ".tuneplan-old-checkpoint-1", "one")
    (tmp_path / ".tuneplan-old-adapter").mkdir()
    (tmp_path / ".tuneplan-tmp-checkpoint-1").mkdir()
    (tmp_path / ".tuneplan-old-checkpoint-2").mkdir()  # half of a removal: no manifest
    (tmp_path / ".tuneplan-tmp-0123456789ab").write_text("")
    assert files.tidy(tmp_path) == ["checkpoint-1"]
    assert sorted(os.listdir(tmp_path)) == ["adapter", "checkpoint-1"]
    assert checkpoints.last_good(tmp_path) == tmp_path / "checkpoint-1"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "a.txt").unlink(), "a.txt is missing"),
        (lambda folder: (folder / "a.txt").write_text("on"), "a.txt has 2 bytes instead of 3"),
        (lambda folder: (folder / "a.txt").write_text("onf"), "a.txt differs from what was written"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json is damaged"),
    ],
)
def test_every_damage_is_noticed(tmp_path: Path, damage: object, says: str) -> None:
    fill(tmp_path, "one")
    assert files.manifest_problem(tmp_path) is None
    damage(tmp_path)  # type: ignore[operator]
    assert files.manifest_problem(tmp_path) == says


def test_only_names_of_ours_are_cleared(tmp_path: Path) -> None:
    """GIVEN files and folders of a person that look temporary THEN none goes, nor does what a link points to."""
    for name in (".config.old", ".cache.tmp", ".checkpoint-7.tmp"):
        (tmp_path / name).mkdir()
    for name in (".bashrc.old", ".notes.tmp", "checkpoint-3.tmp", "adapter.old", ".tuneplan-notes"):
        (tmp_path / name).write_text("mine")
    before = sorted(os.listdir(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "work").write_text("mine")
    (tmp_path / ".tuneplan-old-x").symlink_to("elsewhere")
    files.tidy(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "elsewhere"])
    assert (tmp_path / "elsewhere" / "work").read_text() == "mine"


def test_a_folder_takes_no_name_of_a_link_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "a.txt").write_text("mine")
    (tmp_path / "checkpoint-1").symlink_to("work")
    (tmp_path / "checkpoint-2").write_text("a file")

    def write(name: str) -> None:
        with files.whole_folder(tmp_path / name) as folder:
            fill(folder, "one")

    for name, says in (("checkpoint-1", "a link"), ("checkpoint-2", "a file where a folder belongs")):
        with pytest.raises(InvalidInput, match=says):
            write(name)
    assert (tmp_path / "work" / "a.txt").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-1", "checkpoint-2", "work"]


def test_links_and_pipes_in_a_checkpoint_are_damage(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    fill(folder, "one")
    (tmp_path / "copy").write_text("one")
    (folder / "a.txt").unlink()
    (folder / "a.txt").symlink_to(tmp_path / "copy")
    assert "a link" in str(files.manifest_problem(folder))
    (folder / "a.txt").unlink()
    os.mkfifo(folder / "a.txt")
    assert "named pipe" in str(files.manifest_problem(folder))
    (folder / "a.txt").unlink()
    entries = {"../copy": {"bytes": 3, "sha256": "x"}}
    (folder / "manifest.json").write_text(json.dumps({"files": entries}))
    assert files.manifest_problem(folder) == "../copy is missing"
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    assert "named pipe" in str(files.manifest_problem(folder))


def checkpoint(run: Path, step: int) -> Path:
    folder = run / f"checkpoint-{step}"
    folder.mkdir()
    checkpoints.write_identity(folder, {})
    return folder


def test_rotation_leaves_what_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "thesis.txt").write_text("mine")
    (tmp_path / "checkpoint-4").symlink_to("mine")
    (tmp_path / "checkpoint-²").mkdir()
    for step in (5, 10, 15):
        checkpoint(tmp_path, step)
    checkpoints.rotate(tmp_path, 1, None)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-15", "checkpoint-3", "checkpoint-4", "checkpoint-²", "mine"]


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        checkpoint(tmp_path, step)
    checkpoints.rotate(tmp_path, 2, str(tmp_path / "checkpoint-5"))
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-20", "checkpoint-5"]
    checkpoints.rotate(tmp_path, 1, None)
    assert os.listdir(tmp_path) == ["checkpoint-20"]
