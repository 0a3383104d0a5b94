"""Options of the command line, keys of a settings file and fields of `TrainingChoices`: the fields say all three.

The command line, the settings file, the plan file and the wizard name a choice alike; hyphens and underscores are the
same everywhere. Nothing here looks at a model or a device except `fit_to_hardware`, which settles the number format.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from planner.contract.about import About
from planner.contract.choices import CHOICES, DEFAULTS, LARGEST_TOKENS, TrainingChoices
from planner.contract.errors import InvalidInput, NotModelled
from planner.contract.sentence import flag, named
from planner.contract.shown import shown
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.contract.truth import truth
from planner.contract.units import GIB, KIB, MIB


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One field of `TrainingChoices` as an option of the command line."""

    name: str
    """Field name; the option is the same with hyphens."""
    kind: type
    """int, float, str, bool (a pair of --x/--no-x) or tuple (comma-separated names)."""
    about: About

    @property
    def flag(self) -> str:
        """The option: `--max-length`."""
        return flag(self.name)


SETTINGS = tuple(Setting(name=name, kind=kind, about=about) for name, (kind, about) in CHOICES.items())
BY_NAME: dict[str, Setting] = {setting.name: setting for setting in SETTINGS}


def near(name: str, known: Iterable[str]) -> str:
    """` (did you mean a, b?)`, or nothing where no known name is near."""
    matches = difflib.get_close_matches(name[:80].lower(), list(known), n=3, cutoff=0.5)
    return f" (did you mean {', '.join(matches)}?)" if matches else ""


def convert(name: str, value: object) -> Any:
    """A value from a command line, YAML or JSON as the field's type."""
    setting = BY_NAME[name]
    if value is None:
        return None
    if setting.kind is tuple and isinstance(value, str) and setting.about.none == value.strip() != "":
        return ()
    try:
        return _CONVERTERS[setting.kind](value)
    except (ValueError, TypeError, OverflowError):
        if setting.kind is tuple and value in ("", [], ()):
            raise InvalidInput(named(name), " is empty; name modules, or 'attention', or 'all-linear'") from None
        wanted = {int: "a whole number", float: "a number", bool: "true or false", tuple: "a list of names"}
        raise InvalidInput(named(name), f" must be {wanted.get(setting.kind, 'text')}, not {shown(value)}") from None


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError
    return float(value)


def _flag(value: object) -> bool:
    found = truth(value)
    if found is None:
        raise ValueError
    return found


def _text(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError
    return str(value)


def _names(value: object) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError
    return tuple(part.strip() for part in parts if part.strip())


_CONVERTERS: dict[type, Callable[[object], object]] = {
    int: _whole,
    float: _number,
    bool: _flag,
    str: _text,
    tuple: _names,
}


def choices_from(
    values: Mapping[str, object], *, base: TrainingChoices = DEFAULTS, place: str = "", under: str = ""
) -> TrainingChoices:
    """Choices from named values over `base`; None means not given. An unknown name or a wrong value is `InvalidInput`.

    `place` is the file in which they stand, `under` the keys above them (`settings.`): a line then names a field as its
    key there.
    """
    where = f"{place}: " if place else ""
    given: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in BY_NAME:
            raise InvalidInput(f"{where}unknown setting {shown(key)}{near(name, BY_NAME)}")
        if value is not None:
            given[name] = value
    try:
        return replace(base, **{name: convert(name, value) for name, value in given.items()})
    except InvalidInput as error:
        said = error.sentence.in_words(lambda name: f"{under}{name}") if place else error.sentence
        raise InvalidInput(where, said) from None


def plan_choices(settings: Mapping[str, object], where: str) -> TrainingChoices:
    """The settings of a plan file or a probe's request as choices; `where` names it in the line of `InvalidInput`.

    Planner and trainer both read them here, so that neither takes what the other refuses.
    """
    for key in settings:
        if key not in BY_NAME:
            from planner.contract import complaints  # pydantic stands behind it

            raise InvalidInput(
                f"{where}: settings.{complaints.name((key,))}: this key is unknown{near(str(key), BY_NAME)}"
            )
    return choices_from(settings, place=where, under="settings.")


def to_settings(choices: TrainingChoices) -> dict[str, object]:
    """The fields of `choices` as JSON-ready values (tuples become lists)."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(choices).items()}


def to_flags(choices: TrainingChoices, *, base: TrainingChoices = DEFAULTS) -> list[str]:
    """Command-line words that turn `base` into `choices`."""
    words: list[str] = []
    for setting in SETTINGS:
        value = getattr(choices, setting.name)
        if value == getattr(base, setting.name) or value is None:
            continue
        if setting.kind is bool:
            words.append(setting.flag if value else "--no-" + setting.flag[2:])
        elif setting.kind is tuple:
            words += [setting.flag, ",".join(value) or setting.about.none]
        else:
            words += [setting.flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return words


_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(b|kib|mib|gib|kb|mb|gb)?\s*$", re.IGNORECASE)
LARGEST_SIZE = 2**60
"""Bytes; beyond it a size is a slip of the keyboard."""
_SIZE_UNITS = {"b": 1, "kib": KIB, "mib": MIB, "gib": GIB, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def parse_size(text: str, *, option: str) -> int:
    """Bytes from `2`, `1.5GiB`, `512 MiB` or `4GB`; a bare number is GiB."""
    match = _SIZE.match(text)
    if match is None:
        raise InvalidInput(f"{option} {shown(text)} is not a size; write 2, 1.5GiB or 512MiB (a bare number is GiB)")
    size = float(match[1]) * _SIZE_UNITS[(match[2] or "gib").lower()]
    if size > LARGEST_SIZE:
        raise InvalidInput(f"{option} {shown(text)} is beyond {LARGEST_SIZE // GIB} GiB, more than any device has")
    return int(size)


_DURATION = re.compile(r"(?:\d+(?:\.\d+)?\s*(?:d|h|min|m|s)\s*)+", re.IGNORECASE)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)", re.IGNORECASE)
_DURATION_UNITS = {"d": 86_400.0, "h": 3_600.0, "min": 60.0, "m": 60.0, "s": 1.0}
LONGEST_SECONDS = 366 * 86_400.0


def parse_duration(text: str, *, option: str) -> float:
    """Seconds from `30m`, `2h`, `1h30m`, `90 s` or `3d`; a number without a unit is refused."""
    stripped = text.strip()
    if not stripped.isascii() or _DURATION.fullmatch(stripped) is None:
        raise InvalidInput(f"{option} {shown(text)} is not a time; write 30m, 2h, 1h30m, 90s or 3d")
    seconds = sum(float(number) * _DURATION_UNITS[unit.lower()] for number, unit in _DURATION_PART.findall(stripped))
    if not 1 <= seconds <= LONGEST_SECONDS:
        raise InvalidInput(f"{option} {shown(text)} must lie between a second and a year")
    return seconds


ALLOCATOR = ("expandable_segments", "garbage_collection_threshold")
"""Choices that tell CUDA's caching allocator how to go about its segments."""


def fit_to_hardware(
    choices: TrainingChoices, hardware: HardwareProfile, *, fixed: Iterable[str] = ()
) -> tuple[TrainingChoices, list[str]]:
    """The choices in a number format the device has, with a sentence for each change.

    A precision that was asked for by name (`precision` in `fixed`) is never replaced: it is refused instead.
    """
    for name in ALLOCATOR:
        if getattr(choices, name) and hardware.kind != "cuda":
            raise NotModelled(
                named(name),
                f" is a setting of CUDA's caching allocator, which {hardware.title} does not use; leave it out",
            )
    if choices.expandable_segments and choices.garbage_collection_threshold is not None:
        raise InvalidInput(
            named("garbage_collection_threshold"),
            " does nothing where segments expand: PyTorch collects only others; leave it out, or ",
            named("expandable_segments"),
        )
    if choices.attention == "flash" and hardware.kind in ("cuda", "rocm") and not hardware.has_flash_attention:
        major, minor = hardware.compute_capability or (0, 0)
        raise NotModelled(
            named("attention"),
            f" flash does not run on {hardware.title}: FlashAttention needs compute capability 8, this card has "
            f"{major}.{minor}; use ",
            named("attention"),
            " sdpa",
        )
    storage = choices.precision.removesuffix("-mixed").removesuffix("-amp")
    if storage in hardware.dtypes:
        return choices, []
    instead = _supported_precision(choices, hardware)
    has = " and ".join(hardware.dtypes)
    if "precision" in set(fixed):
        raise NotModelled(
            named("precision"),
            f" {choices.precision} does not run natively on {hardware.title} (it has {has}; PyTorch would "
            f"emulate {storage} with other attention kernels, slowly, which is not modelled); use ",
            named("precision"),
            f" {instead}",
        )
    why = {
        "fp16": "fp16 weights under fp32 adapters, with loss scaling",
        "fp16-mixed": "fp32 weights with fp16 autocast and loss scaling",
        "fp32": "the one format left",
    }.get(instead, "the format it has")
    note = f"precision {instead} instead of {choices.precision}: {hardware.title} has {has} only ({why})."
    return replace(choices, precision=instead), [note]


def _supported_precision(choices: TrainingChoices, hardware: HardwareProfile) -> str:
    """The best format the device has: bf16, else fp16 (never pure fp16 where the fp16 weights themselves train)."""
    mixed = choices.precision.endswith("-mixed")
    if "bf16" in hardware.dtypes:
        return "bf16-mixed" if mixed else "bf16"
    if "fp16" in hardware.dtypes:
        # AdamW on fp16 weights loses updates and overflows; a frozen fp16 base under fp32 adapters does not.
        return "fp16-mixed" if mixed or choices.method == "full" else "fp16"
    return "fp32"


def check_length(model: ModelSpec, choices: TrainingChoices) -> None:
    """Refuses a length beyond the positions that the model has, and a micro-batch beyond anything that runs."""
    if choices.batch_size * choices.max_length > LARGEST_TOKENS:
        raise InvalidInput(
            named("batch_size"),
            f" {choices.batch_size} × ",
            named("max_length"),
            f" {choices.max_length} is beyond the {LARGEST_TOKENS} tokens a micro-batch that are modelled",
        )
    if choices.max_target_length is not None and model.task != "seq2seq":
        raise InvalidInput(
            named("max_target_length"),
            f" is for an encoder-decoder: {model.id} reads and answers in one sequence, of ",
            named("max_length"),
        )
    if 0 < model.max_positions < choices.max_length:
        raise InvalidInput(
            named("max_length"),
            f" {choices.max_length} is beyond the {model.max_positions} positions of {model.id}; "
            f"use {model.max_positions} or less",
        )
