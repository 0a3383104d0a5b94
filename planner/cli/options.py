"""Records of options as parameters of a command, every training choice as an option, and the settings file for them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, Optional, get_type_hints

import typer

from planner.contract.errors import InvalidInput, TuneplanError
from planner.contract.sentence import Sentence, flag
from planner.contract.settings import BY_NAME, SETTINGS, Setting, near
from planner.contract.shown import shown
from planner.contract.truth import truth


def hyphens(name: str) -> str:
    """`--max_length` is `--max-length`; given to the parser, it makes both spellings the same everywhere."""
    return name.replace("_", "-")


def leave_unset(command: Any) -> None:
    """Options that nobody gave stay None without a converter: the parser builds one for each, 50 times at a start."""
    for parameter in command.params:
        parameter.process_value = partial(_converted, parameter, parameter.process_value)


def _converted(parameter: Any, convert: Callable[[object, object], object], context: object, value: object) -> object:
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


@dataclass(frozen=True, slots=True)
class _SettingsFile:
    """The file that options were taken from, with the command that takes them."""

    path: str
    context: typer.Context

    def gave(self, name: str) -> bool:
        """Whether the option's value is the file's, and not the command line's."""
        source = self.context.get_parameter_source(name)
        return source is not None and source.name == "DEFAULT_MAP"


def _load_config(context: typer.Context, path: str | None) -> _SettingsFile | None:
    """Fills the command's options from a YAML file; what stands on the command line wins."""
    if path is None or context.resilient_parsing:
        return None
    known = {parameter.name: parameter for parameter in context.command.params if parameter.name}
    context.default_map = dict(read_config(Path(path), known))
    return _SettingsFile(path, context)


def read_config(path: Path, known: Iterable[str]) -> dict[str, object]:
    """Options from a YAML file by parameter name; an unknown key or a nested value is refused with its line."""
    from planner.contract import yaml_text

    names = set(known) - {"config", "help"}
    document = yaml_text.read(path, f"--config {path}")
    if document.value is None:
        return {}
    if not isinstance(document.value, dict):
        raise InvalidInput(f"--config {path}: must hold one option per line, like max-length: 2048")
    values: dict[str, object] = {}
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


def _as_given(said: Sentence, config: _SettingsFile | None) -> Sentence:
    """The sentence with the fields that stand in the settings file called by their keys there, behind the file."""
    there = {name for name in said.fields if config is not None and config.gave(name)}
    if config is None or not there:
        return said
    return Sentence(
        f"--config {config.path}: {said.in_words(lambda name: hyphens(name) if name in there else flag(name))}"
    )


def _config_value(name: str, value: object, place: str) -> object:
    """A YAML value as the parser takes it: lists as comma-separated names, mappings as key=value."""
    if isinstance(value, dict):
        if name != "columns":
            raise InvalidInput(f"{place}: {name!r} takes one value, not a mapping")
        return [f"{key}={_word(item, name, place)}" for key, item in value.items()]
    if isinstance(value, list):
        words = [_word(item, name, place) for item in value]
        return words if name == "columns" else ",".join(words)
    setting = BY_NAME.get(name)
    switch = setting is not None and setting.kind is bool
    if switch and (said := truth(value)) is not None:
        return said
    if setting is not None and switch != isinstance(value, bool):
        raise InvalidInput(f"{place}: {name!r} must be {'true or false' if switch else 'a value'}, not {shown(value)}")
    return value if isinstance(value, bool | int | float) else str(value)


def _word(value: object, name: str, place: str) -> str:
    if isinstance(value, bool | dict | list) or value is None:
        raise InvalidInput(f"{place}: {name!r} holds {shown(value)}, where a word is needed")
    return str(value)


def _option(setting: Setting) -> inspect.Parameter:
    """One settings field as a keyword parameter that typer understands; None means not given."""
    if setting.kind is bool:
        kind: object = Optional[bool]  # noqa: UP045
        name = f"{setting.flag}/--no-{setting.flag[2:]}"
    else:
        kind = Optional[int if setting.kind is int else float if setting.kind is float else str]  # noqa: UP045
        name = setting.flag
    about = setting.about
    text, words = about.help, about.allowed if setting.kind is str else ()
    if words:
        text = f"{text} One of {', '.join(words)}."
    option = typer.Option(name, help=text, autocompletion=complete_values(words) if words else None)
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


@dataclass(frozen=True, slots=True)
class _Option:
    """How a field of a record of options is given on the command line."""

    words: tuple[str, ...]
    """Its spellings; none is the field's name with hyphens."""
    help: str
    metavar: str | None
    complete: Callable[[str], list[str]] | None


def option(
    help: str,
    *words: str,
    default: object = None,
    metavar: str | None = None,
    complete: Callable[[str], list[str]] | None = None,
) -> Any:
    """A field of a record whose options commands share; its annotation is the value's type."""
    return field(default=default, metadata={"option": _Option(words, help, metavar, complete)})


def _parameters(record: Any) -> list[inspect.Parameter]:
    """The fields of a record as keyword parameters that typer understands."""
    kinds = get_type_hints(record)
    found = []
    for entry in fields(record):
        given: _Option | None = entry.metadata.get("option")
        if given is None:
            continue
        words = given.words or ("--" + hyphens(entry.name),)
        text = typer.Option(*words, help=given.help, metavar=given.metavar, autocompletion=given.complete)
        kind: object = kinds[entry.name]
        annotation: object = Annotated[kind, text]
        found.append(
            inspect.Parameter(entry.name, inspect.Parameter.KEYWORD_ONLY, default=entry.default, annotation=annotation)
        )
    return found


def with_records(command: Callable[..., int]) -> Callable[..., int]:
    """A command whose parameters are records of options, as typer takes it: an option for each field of each.

    A record with a field `settings` also brings every training choice and `--config`; those that nobody gave are None.
    A choice whose name another option of the command has is that option, and no setting.
    """
    signature = inspect.signature(command, eval_str=True)
    records: dict[str, Any] = {
        p.name: p.annotation for p in signature.parameters.values() if is_dataclass(p.annotation)
    }
    own = [p for p in signature.parameters.values() if p.name not in records]
    parts = {name: _parameters(record) for name, record in records.items()}
    taken = {p.name for p in own} | {p.name for part in parts.values() for p in part}
    choices = [setting for setting in SETTINGS if setting.name not in taken]
    choosing = [name for name, record in records.items() if any(entry.name == "settings" for entry in fields(record))]

    @wraps(command)
    def called(**given: object) -> int:
        values = {p.name: given[p.name] for p in own}
        for name, record in records.items():
            content = {p.name: given[p.name] for p in parts[name]}
            if name in choosing:
                content["settings"] = {setting.name: given[setting.name] for setting in choices}
            values[name] = record(**content)
        try:
            return command(**values)
        except TuneplanError as error:
            config = given.get("config")
            error.sentence = _as_given(error.sentence, config if isinstance(config, _SettingsFile) else None)
            raise

    added = [parameter for part in parts.values() for parameter in part]
    if choosing:
        added += [*(_option(setting) for setting in choices), CONFIG]
    before = [p for p in own if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    after = [p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY]
    called.__signature__ = signature.replace(parameters=[*before, *after, *added])  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in [*own, *added]} | {"return": int}
    return called
