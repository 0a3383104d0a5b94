"""`plan` itself: the recommendation, and where its commands stand."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command_from_info

from planner.cli import options
from planner.cli.asked import JSON_HELP, Aim, Source, Target, TimeLimit
from planner.cli.options import option
from planner.contract.errors import InvalidInput

COMMANDS = {
    "planner.cli.commands": (
        *(
            "check",
            "max",
            "compare",
            "trace",
            "learn",
            "gpus",
            "models",
            "demo",
            "ui",
            "wizard",
            "calibrate",
            "report",
            "share",
            "mcp",
            "doctor",
        ),
    ),
    "planner.cli.handing": ("train", "export", "publish", "find-lr", "grid", "merge", "generate"),
}
"""Where each command stands, in the order in which help lists them."""
GROUPED = ("check", "max", "compare")
"""Commands with every choice as an option, whose help is in groups."""


class LazyCommands(TyperGroup):
    """Commands that are imported and built when they are called: a recommendation needs none of them."""

    def list_commands(self, context: object) -> list[str]:
        """All names."""
        return [name for names in COMMANDS.values() for name in names]

    def get_command(self, context: object, name: str) -> Any:
        """The command of that name; None where there is none."""
        module = next((module for module, names in COMMANDS.items() if name in names), None)
        if module is None:
            return None
        for found in importlib.import_module(module).commands.registered_commands:
            if name in (found.name, found.callback.__name__.replace("_", "-")):
                command = get_command_from_info(found, pretty_exceptions_short=False, rich_markup_mode=None)
                if name in GROUPED:
                    command.format_options = partial(_format_options, command)  # type: ignore[method-assign]
                return command
        return None

    def format_options(self, context: Any, formatter: Any) -> None:
        """Examples, options by group, then the commands."""
        _format_options(self, context, formatter)
        self.format_commands(context, formatter)


def _format_options(command: Any, context: Any, formatter: Any) -> None:
    from planner.cli.help import write_options

    write_options(command, context, formatter)


app = typer.Typer(
    name="plan",
    cls=LazyCommands,
    help="Says what fits on a GPU before you fine-tune on it, and then trains what it promised.",
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "token_normalize_func": options.hyphens},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """How the answer comes out."""

    as_json: bool = option(JSON_HELP, "--json", default=False)
    save: str | None = option("Write the recommended configuration as a plan file.", metavar="FILE")
    brief: bool = option("Only the table and the command that starts the run.", "--brief", default=False)
    advice: bool = option("Every advised value with its rule, spread and source.", "--advice", default=False)
    memory: bool = option("The recommended tier's memory, part by part.", "--memory", default=False)
    explain: bool = option("Both, and every note.", "--explain", default=False)
    train: bool = option("Train it at once, where it fits as it was asked.", "--train", default=False)
    ui: bool = option("Open the wizard with what was said.", "--ui", default=False)
    version: bool = option("Print the version.", "--version", default=False)


@app.callback(invoke_without_command=True)
@options.with_records
def recommend(
    context: typer.Context, target: Target, source: Source, aim: Aim, limit: TimeLimit, output: Output
) -> int:
    """Says what fits on a GPU before you fine-tune on it, and then trains what it promised.

    With options and no command it recommends; alone in a terminal it opens the wizard.
    """
    if output.version:
        from planner.cli.doctor import version_line

        print(version_line())
        return 0
    if context.invoked_subcommand is not None:
        _refuse_stray_options(context)
        return 0
    if output.ui:
        from planner.cli import opening

        _refuse_answers(context)
        return opening.run(target, source, aim, limit)
    from planner.cli.learning import learned
    from planner.cli.recommend import run

    if output.train:
        from planner.cli import going_on

        going_on.require(source.data, as_json=output.as_json)
    from planner.cli.resolve import resolve
    from planner.contract.settings import parse_duration
    from planner.report.plan_view import Shown

    seconds = None if limit.time is None else parse_duration(limit.time, option="--time")
    question = learned(lambda: resolve(target, source, aim))
    shown = Shown(
        decision=not output.brief,
        memory=output.memory or output.explain,
        advice=output.advice or output.explain,
    )
    return run(question, as_json=output.as_json, save=output.save, shown=shown, seconds=seconds, train=output.train)


def _refuse_answers(context: typer.Context) -> None:
    """Options that say how the answer comes out, which the wizard would drop in silence."""
    for field in fields(Output):
        source = context.get_parameter_source(field.name)
        if field.name != "ui" and source is not None and source.name == "COMMANDLINE":
            flag = f"--{field.name.removeprefix('as_')}"
            raise InvalidInput(f"--ui opens the wizard, where {flag} means nothing; leave it out (s saves, t trains)")


def _refuse_stray_options(context: typer.Context) -> None:
    """Options before a command would be dropped in silence."""
    command = context.invoked_subcommand
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE" and context.params.get(name) is not None:
            flag = max(parameter.opts, key=len)
            raise InvalidInput(f"{flag} stands before {command}; write it after: plan {command} {flag} …")
