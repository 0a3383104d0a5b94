"""What the wizard's guide says of its files holds."""

from __future__ import annotations

import re
from pathlib import Path

from planner.tui import app

GUIDE = Path(__file__).parents[3] / "docs" / "wizard.md"


def test_the_guide_names_every_module() -> None:
    table = GUIDE.read_text(encoding="utf-8").partition("| module | holds |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+\.py)`", table))
    assert named == {path.name for path in Path(app.__file__).parent.glob("*.py")} - {"__init__.py"}
