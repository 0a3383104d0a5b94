"""A fingerprint of the code that a trace runs: of what it says, not of how it is written.

Reached, by name, from `trainer.trace.run`: every function, class and constant of the trainer's modules that something
reached mentions, docstrings and comments left out. A name that stands in several of the modules reaches all of them,
and what a module does when it is imported belongs to it, so nothing that a trace can run is left out; the trainer's
reading of files, say, is.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

START = "trainer.trace.run"
ENTRIES = ("trace", "Setup")


def fingerprint(root: Path) -> str:
    """Twelve hexadecimal digits for the code below `root` that `trainer.trace.run.trace` can reach."""
    modules = _imported(root)
    defined: dict[str, list[tuple[str, ast.stmt]]] = {}
    always: list[tuple[str, ast.stmt]] = []
    for module, tree in modules.items():
        for statement in tree.body:
            names = _names(statement)
            for name in names:
                defined.setdefault(name, []).append((module, statement))
            if not names and not isinstance(statement, ast.Import | ast.ImportFrom):
                always.append((module, statement))
    reached: dict[tuple[str, str], None] = {}
    wanted = [*ENTRIES, *(name for _, statement in always for name in _mentioned(statement))]
    seen: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        for module, statement in defined.get(name, ()):
            reached[(module, ast.dump(statement))] = None
            wanted += _mentioned(statement)
    content = sorted([*reached, *((module, ast.dump(statement)) for module, statement in always)])
    return hashlib.sha256(repr(content).encode()).hexdigest()[:12]


def _imported(root: Path) -> dict[str, ast.Module]:
    """The trainer's modules that `START` imports, lazily or not, with what those import; docstrings taken out."""
    found: dict[str, ast.Module] = {}
    waiting = [START]
    while waiting:
        name = waiting.pop()
        path = root.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name in found or not path.exists():
            continue
        found[name] = tree = _plain(ast.parse(path.read_text()))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names if alias.name.startswith("trainer.")]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "trainer":
                waiting += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _plain(tree: ast.Module) -> ast.Module:
    """The tree without strings that stand by themselves."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [one for one in body if not _is_text(one)]  # type: ignore[attr-defined]
    return tree


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _names(statement: ast.stmt) -> list[str]:
    """What a statement of a module defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        return [node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return []


def _mentioned(statement: ast.stmt) -> Iterator[str]:
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name.split(".")[-1]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
