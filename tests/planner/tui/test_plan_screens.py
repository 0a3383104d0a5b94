"""The plan's screens at three sizes, where it fits, where it doesn't and with an error, beside how they looked.

After a change that is meant: `python -m tests.support.plan_screens`, and a look at the difference.
"""

from __future__ import annotations

import pytest

from tests.support.plan_screens import SIZES, STATES, path_of, screens


@pytest.mark.parametrize("state", STATES)
async def test_a_plan_looks_as_it_did(state: str) -> None:
    shown = await screens(state)
    for size in SIZES:
        assert shown[size] == path_of(state, size).read_text(encoding="utf-8"), f"{state} at {size}"
