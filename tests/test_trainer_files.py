"""Folders and files that are whole or not there, whenever the process dies."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from trainer import checkpoints, files


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
    (tmp_path / ".checkpoint-1.old").mkdir()
    fill(tmp_path / ".checkpoint-1.old", "one")
    (tmp_path / ".checkpoint-1.tmp").mkdir()
    (tmp_path / ".checkpoint-2.old").mkdir()  # half of a removal: no manifest
    (tmp_path / ".plan.yaml.x.tmp").write_text("")
    files.tidy(tmp_path)
    assert os.listdir(tmp_path) == ["checkpoint-1"]
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


def test_rotation_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    checkpoints.rotate(tmp_path, 2, str(tmp_path / "checkpoint-5"))
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-20", "checkpoint-5"]
    checkpoints.rotate(tmp_path, 1, None)
    assert os.listdir(tmp_path) == ["checkpoint-20"]
