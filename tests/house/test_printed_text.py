"""Text of others reaches a terminal only through what writes its control characters out."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAFE = {"one_line", "shown", "visible", "json_text", "json_safe", "json_rows", "dumps", "len", "version_line"}
"""Functions that leave nothing that steers a terminal, or return numbers; `format_…` of `contract/units` too."""
OWN = {
    ("planner/cli/sharing.py", "text"): "json_rows made it",
    ("trainer/__main__.py", "text"): "to a file or pipe as the model wrote it, which stands beside the line",
    ("trainer/commands/scratch.py", "total"): "a count",
    ("trainer/commands/scratch.py", "TINY_CHARACTERS"): "a constant",
    ("trainer/commands/dryrun.py", "off"): "a share or words of its own",
    ("trainer/commands/finder.py", "given.steps"): "a count",
    ("trainer/commands/finder.py", "step"): "a count",
    ("trainer/commands/finder.py", "total"): "a count",
    ("trainer/commands/finder.py", "finding.note"): "a sentence of the finder's",
    ("trainer/commands/finder.py", "text_plot(finding)"): "a plot of numbers",
    ("trainer/commands/gridsearch.py", "given.trials or len(wanted)"): "a count",
    ("trainer/commands/demo/assets.py", "data['step']"): "of the demo's own run",
    ("trainer/commands/demo/assets.py", "data['total_steps']"): "of the demo's own run",
}
"""What is printed as it stands, and why nobody else wrote it."""


def unsafe(node: ast.expr) -> list[str]:
    """The parts of an argument that are printed as they are, but for constants and numbers in a number's format."""
    if isinstance(node, ast.Constant):
        return []
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in SAFE or name.startswith("format_"):
            return []
    if isinstance(node, ast.JoinedStr):
        return [part for value in node.values for part in unsafe(value)]
    if isinstance(node, ast.FormattedValue):
        number = node.format_spec is not None and set(ast.unparse(node.format_spec)) & set("defg%,")
        return [] if number or node.conversion == ord("r") else unsafe(node.value)
    if isinstance(node, ast.IfExp):
        return unsafe(node.body) + unsafe(node.orelse)
    if isinstance(node, ast.BinOp):
        return unsafe(node.left) + unsafe(node.right)
    return [ast.unparse(node)]


def printed(tree: ast.AST) -> list[tuple[int, str]]:
    """Line and text of what `print` and the standard streams' `write` get unsafely."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name == "print" or name in ("sys.stdout.write", "sys.stderr.write"):
            found += [(node.lineno, part) for argument in node.args for part in unsafe(argument)]
    return found


def test_nothing_is_printed_as_others_wrote_it() -> None:
    """GIVEN every call of print in planner and trainer THEN what isn't a constant or a number went through a function
    that writes control characters out, or stands in `OWN` with the reason."""
    found, used = [], set()
    for root in ("planner", "trainer"):
        for path in sorted((ROOT / root).rglob("*.py")):
            where = str(path.relative_to(ROOT))
            for line, part in printed(ast.parse(path.read_text(encoding="utf-8"))):
                if (where, part) in OWN:
                    used.add((where, part))
                else:
                    found.append(f"{where}:{line}: {part}")
    assert not found
    assert used == set(OWN)


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("print(name)", ["name"]),
        ("print(f'wrote {path}')", ["path"]),
        ("print('a' + name, file=sys.stderr)", ["name"]),
        ("sys.stdout.write(', '.join(names))", ["', '.join(names)"]),
        ("print(one_line(name), f'{size:.1f} {shown(name)} {name!r}', 'x' if here else 'y')", []),
    ],
)
def test_the_rule_sees_what_it_is_for(code: str, parts: list[str]) -> None:
    assert [part for _, part in printed(ast.parse(code))] == parts
