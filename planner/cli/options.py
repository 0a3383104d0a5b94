"""Options that several commands share, built from the settings table, and the settings file that fills them in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Optional, TypeVar

import typer

from planner.contract.errors import InvalidInput
from planner.contract.settings import BY_NAME, SETTINGS, Setting, near
from planner.contract.shown import shown
from planner.contract.yaml_text import truth

Command = TypeVar("Command", bound=Callable[..., Any])


def hyphens(name: str) -> str:
    """`--max_length` is `--max-length`; given to the parser, it makes both spellings the same everywhere."""
    return name.replace("_", "-")


def leave_unset(command: Any) -> None:
    """Options that nobody gave stay None without a converter: the parser builds one for each, 50 times at a start."""
    for parameter in command.params:
        parameter.process_value = partial(_converted, parameter, parameter.process_value)


def _converted(parameter: Any, convert: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    if value is None and not parameter.required and parameter.callback is None:
        return None
    return convert(context, value)


def complete_gpu(incomplete: str) -> list[str]:
    """Profile names for shell completion."""
    from planner.devices import profiles

    return [name for name in ("auto", *sorted(set(profiles.known_names().values()))) if name.startswith(incomplete)]


def complete_model(incomplete: str) -> list[str]:
    """Catalogue names for shell completion."""
    from planner.models import catalogue

    return [name for name in catalogue.names() if name.startswith(incomplete)]


def complete_values(allowed: Iterable[str]) -> Callable[[str], list[str]]:
    """Completion over a fixed set of values."""
    values = tuple(allowed)

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def _load_config(context: typer.Context, path: str | None) -> str | None:
    """Fills the command's options from a YAML file; what stands on the command line wins."""
    if path is None or context.resilient_parsing:
        return path
    known = {parameter.name: parameter for parameter in context.command.params if parameter.name}
    context.default_map = dict(read_config(Path(path), known))
    return path


def read_config(path: Path, known: Iterable[str]) -> dict[str, Any]:
    """Options from a YAML file by parameter name; an unknown key or a nested value is refused with its line."""
    from planner.contract import yaml_text

    names = set(known) - {"config", "help"}
    document = yaml_text.read(path, f"--config {path}")
    if document.value is None:
        return {}
    if not isinstance(document.value, dict):
        raise InvalidInput(f"--config {path}: must hold one option per line, like max-length: 2048")
    values: dict[str, Any] = {}
    for key, value in document.value.items():
        name = key.replace("-", "_")
        place = document.place((key,))
        if name not in names:
            raise InvalidInput(f"{place}: unknown option {shown(key)}{near(name, names)}")
        if name in values:
            raise InvalidInput(f"{place}: {name!r} stands twice, once with hyphens")
        if value is not None:
            values[name] = _config_value(name, value, place)
    return values


def _config_value(name: str, value: Any, place: str) -> Any:
    """A YAML value as the parser takes it: lists as comma-separated names, mappings as key=value."""
    if isinstance(value, dict):
        if name != "columns":
            raise InvalidInput(f"{place}: {name!r} takes one value, not a mapping")
        return [f"{key}={_word(item, name, place)}" for key, item in value.items()]
    if isinstance(value, list):
        words = [_word(item, name, place) for item in value]
        return words if name == "columns" else ",".join(words)
    setting = BY_NAME.get(name)
    flag = setting is not None and setting.kind is bool
    if flag and (said := truth(value)) is not None:
        return said
    if setting is not None and flag != isinstance(value, bool):
        raise InvalidInput(f"{place}: {name!r} must be {'true or false' if flag else 'a value'}, not {shown(value)}")
    return value if isinstance(value, bool | int | float) else str(value)


def _word(value: Any, name: str, place: str) -> str:
    if isinstance(value, bool | dict | list) or value is None:
        raise InvalidInput(f"{place}: {name!r} holds {shown(value)}, where a word is needed")
    return str(value)


def _option(setting: Setting) -> inspect.Parameter:
    """One settings field as a keyword parameter that typer understands; None means not given."""
    if setting.kind is bool:
        kind: Any = Optional[bool]  # noqa: UP045
        name = f"{setting.flag}/--no-{setting.flag[2:]}"
    else:
        kind = Optional[int if setting.kind is int else float if setting.kind is float else str]  # noqa: UP045
        name = setting.flag
    text = setting.help
    if setting.allowed:
        text = f"{text} One of {', '.join(setting.allowed)}."
    option = typer.Option(name, help=text, autocompletion=complete_values(setting.allowed) if setting.allowed else None)
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
    )


CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--config",
            is_eager=True,
            callback=_load_config,
            metavar="FILE",
            help="YAML file of these options; options on the command line win.",
        ),
    ],
)


def with_settings(command: Command) -> Command:
    """Adds every training choice and `--config` to a command that ends in `**settings`; absent ones arrive as None."""
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    added = [*(_option(setting) for setting in SETTINGS), CONFIG]
    command.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in [*own, *added]} | {"return": int}
    return command
