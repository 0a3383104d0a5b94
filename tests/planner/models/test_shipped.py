"""Recordings that come with tuneplan: packed and unpacked again, and answered from without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planner.contract.towers import text_part
from planner.memory.recorded.log import SCHEMA, Log
from planner.models import catalogue, recorded, shipped

PROGRAM: dict[str, Any] = {
    "schema": SCHEMA,
    "parts": [
        ["forward", None, [[0, 0, 0], [1, 1, 0], [0, -1, 0]]],
        ["backward", 3, [[2, 0, 1], [1, -1, 0], [2, -2, 0], [2, -1, 0]]],
    ],
    "sizes": [[[2, 4]], [[0, 1], [2, 8]]],
    "components": ["attention", "gradients"],
    "windows": [],
    "versions": {"transformers": "5.23.0"},
}
REFUSED = {"schema": recorded.REFUSED, "reason": "no", "versions": {}}


def test_what_is_packed_is_unpacked() -> None:
    programs = {"b": PROGRAM, "a": REFUSED}
    assert shipped.unpack(shipped.pack(programs)) == programs
    assert shipped.pack(programs) == shipped.pack(dict(reversed(programs.items())))


def test_keys_that_do_not_count_up_are_not_packed() -> None:
    skipping = {**PROGRAM, "parts": [["forward", None, [[1, 0, 0]]]]}
    with pytest.raises(ValueError, match="allocation 1 comes as number 0"):
        shipped.pack({"a": skipping})


def test_every_shipped_program_is_one_of_a_described_network() -> None:
    assert shipped.networks()
    for network in shipped.networks():
        assert (shipped.FOLDER / network / "spec.json.gz").is_file(), network
        found = shipped.programs(network)
        proven = [content for content in found.values() if content["schema"] == SCHEMA]
        assert proven, network
        for content in proven[:2]:
            Log.read(content, network)
            assert content["versions"]["transformers"]


def test_recordings_stay_small() -> None:
    """The wheel carries all of them."""
    assert sum(file.stat().st_size for file in shipped.FOLDER.rglob("*.gz")) < 3 * 2**20


ANSWER = """
import sys
from planner.cli import main
code = main(["--gpu", "rtx4090", "--model", sys.argv[1], "--json"])
print(code, sorted({"torch", "transformers"} & set(sys.modules)), file=sys.stderr)
"""


def test_a_shipped_model_answers_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most asked for of them, in a process of its own."""
    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path))
    name = next(
        entry.name
        for entry in catalogue.entries()
        if recorded.folder(text_part(entry.config)).name in set(shipped.networks())
    )
    ran = subprocess.run([sys.executable, "-c", ANSWER, name], capture_output=True, text=True, check=False)
    assert ran.stderr.strip().splitlines()[-1] == "0 []"
    assert json.loads(ran.stdout)
