"""docs/events.md from the records of events: `python -m tests.support.event_docs` writes it anew."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from planner.contract import events

PAGE = Path(__file__).parents[2] / "docs" / "events.md"
_TYPES = {"Count": "whole number", "Amount": "number", "Figure": "number", "Words": "text", "Table": "object",
          "bool | None": "true or false"}  # fmt: skip
_HEAD = """# Events

What the trainer writes to stdout and into a run's `events.jsonl`, one JSON object a line:
`{"schema": "tuneplan.event/1", "kind": "step", "time": 1795761578.2, "data": {…}}`, `time` in seconds since the epoch.
`kind` says which fields `data` has. A field that isn't known is null; readers live without any of them, and pass over
kinds and fields that they don't know. Made from `planner/contract/events.py` by `python -m tests.support.event_docs`.
"""


def render() -> str:
    """The page as it must be."""
    classes = {node.name: node for node in ast.parse(inspect.getsource(events)).body if isinstance(node, ast.ClassDef)}
    parts = [_HEAD]
    for record in events.RECORDS:
        node = classes[record.__name__]
        parts.append(f"## {record.event_kind}\n\n{_line(ast.get_docstring(node) or '')}\n")
        rows = ["| field | type | what |", "|---|---|---|"]
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                told = (
                    after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
                )
                rows.append(f"| `{field.target.id}` | {_TYPES[ast.unparse(field.annotation)]} | {_line(str(told))} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def _line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
