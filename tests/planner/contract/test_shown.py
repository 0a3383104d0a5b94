"""What others said, as part of our sentences: whole words, and marked where it is cut."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from planner.contract.shown import clause

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("short", "short"),
        ("two\n  lines", "two lines"),
        ("exactly ten", "exactly …"),
        ("x" * 40, "x" * 10 + " …"),
        ("", ""),
        (ValueError("failed to open"), "failed to …"),
        ("0123456789 then", "0123456789 …"),
        ("type: \x0f", "type: \\x0f"),
        ("a\u202e", "a\\u202e"),
    ],
)
def test_a_clause_ends_at_a_word(reason: object, expected: str) -> None:
    """GIVEN a reason THEN it is one line of whole words, with an ellipsis where something is left out."""
    assert clause(reason, 10) == expected


def test_no_message_is_cut_in_the_middle_of_a_word() -> None:
    """GIVEN every f-string of both packages THEN none cuts a sentence by a precision of 100 characters and more."""
    found = []
    for path in [*(ROOT / "planner").rglob("*.py"), *(ROOT / "trainer").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FormattedValue) and node.format_spec is not None:
                spec = ast.unparse(node.format_spec)
                if re.search(r"\.\d{3,}['\"]", spec):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not found
