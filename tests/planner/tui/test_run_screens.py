"""The run's screens at three sizes, before the first step, under way and after a failure, beside how they looked.

After a change that is meant: `python -m tests.support.run_screens`, and a look at the difference.
"""

from __future__ import annotations

import pytest

from tests.support.run_screens import RUNS, SIZES, path_of, screens


@pytest.mark.parametrize("name", RUNS)
async def test_a_run_looks_as_it_did(name: str) -> None:
    shown = await screens(name)
    for size in SIZES:
        assert shown[size] == path_of(name, size).read_text(encoding="utf-8"), f"{name} at {size}"
