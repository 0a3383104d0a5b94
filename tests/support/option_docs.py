"""docs/options.md from the commands themselves, for the site; `make docs` writes it, and no copy is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typer.main import get_command

from planner.cli.app import app

PAGE = Path(__file__).parents[2] / "docs" / "options.md"
_HEAD = """# Every option

Made from the commands themselves. What they answer, print and end with is in
[Command line](cli.md). The options under *Training choices* are those of `plan` and of every command that asks about a
training; each is also a key of a settings file (`--config`) and of a plan file.
"""


def render() -> str:
    """The page as it must be."""
    from planner.contract.settings import SETTINGS

    group: Any = get_command(app)
    context: Any = group.make_context("plan", [], resilient_parsing=True)
    shared = {setting.name for setting in SETTINGS}
    parts = [_HEAD, "## plan\n", _table(p for p in group.get_params(context) if p.name not in shared)]
    parts += ["## Training choices\n", _table(p for p in group.get_params(context) if p.name in shared)]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        parts.append(f"## plan {name}\n\n{_line(command.help or '')}\n")
        parameters = command.get_params(context)
        if shared & {parameter.name for parameter in parameters}:
            parts.append("Takes the training choices too.\n")
        parts.append(_table(p for p in parameters if p.name not in shared and p.name != "help"))
    return "\n".join(part for part in parts if part)


def _table(parameters: Any) -> str:
    rows = []
    for parameter in parameters:
        told = _line(getattr(parameter, "help", None) or "")
        if parameter.param_type_name == "argument":
            rows.append(f"| `{parameter.name.upper()}` | {told} |")
        elif not parameter.hidden:
            names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
            rows.append(f"| {names} | {told} |")
    return "\n".join(["| option | what |", "|---|---|", *rows]) + "\n" if rows else ""


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
