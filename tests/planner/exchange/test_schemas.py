"""Exports held by the seven tools' own schemas, where their packages are; by key lists in test_write.py everywhere."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from planner.contract import process
from planner.exchange import write
from tests.planner.exchange.test_write import PLANS, REFUSED, plan
from tests.support.tool_schemas import PACKAGES

FOLDER = os.environ.get("TOOL_PACKAGES", "-")
"""Folder of packages (tests/support/tool_schemas.py says how it is made); `-` for what is installed."""


def here(tool: str) -> bool:
    """Whether the tool's package is in the folder, or installed."""
    name = PACKAGES[tool]
    return Path(FOLDER, name).is_dir() if FOLDER != "-" else importlib.util.find_spec(name) is not None


@pytest.mark.nightly
@pytest.mark.parametrize("tool", PACKAGES)
def test_the_tools_own_schema_takes_what_is_written(tool: str) -> None:
    """GIVEN eight plans THEN the tool's schema takes each file whole, and refuses it with one key more."""
    if not here(tool):
        pytest.skip(
            f"{PACKAGES[tool]} isn't here: TOOL_PACKAGES=FOLDER, which tests/support/tool_schemas.py says how to make"
        )
    made = {name: write.export(plan(name), tool) for name in PLANS if (tool, name) not in REFUSED}
    files = {name: export.files[export.main] for name, export in made.items()}
    one = next(iter(files.values()))
    more = one.replace("from_pretrained(\n", "from_pretrained(\n    no_such_key=1,\n")
    files["one key more"] = more if tool == "unsloth" else one + "\nno_such_key: 1\n"
    child = subprocess.run(
        process.command("tests.support.tool_schemas", FOLDER),
        input=json.dumps({tool: files}),
        env={**process.environment(), "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(child.stdout)[tool]
    assert "no_such_key" in found.pop("one key more")
    assert found == dict.fromkeys(found, "")
