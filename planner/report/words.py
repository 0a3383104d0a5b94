"""Pieces that the renderers share: the console, bars, short names of settings and sources."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from planner.contract.choices import TrainingChoices
from planner.contract.records import MemoryReport
from planner.contract.words import LAYOUT, STEERING, shown, visible

VERDICT_STYLE = {"fits": "green", "tight": "yellow", "does_not_fit": "red"}
VERDICT_TEXT = {"fits": "fits", "tight": "fits tightly", "does_not_fit": "does not fit"}

NARROWEST = 40
"""Columns under which nothing is laid out."""
COLUMNS = 80
"""Width that every report is laid out for, and the width where there is no terminal."""


class PlainConsole(Console):
    """A console that takes text as it stands: no markup, no emoji codes, and nothing in it steers the terminal."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Strings that are printed, and those in tables."""
        return super().render_str(shown(text, keep=LAYOUT), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The same for text that was assembled elsewhere."""
        for segment in super().render(renderable, options):
            if segment.control or not STEERING.search(segment.text):
                yield segment
            else:
                yield segment._replace(text=visible(segment.text, keep=LAYOUT))


def make_console(file: IO[str] | None = None) -> Console:
    """A console for `file` (stdout): colour only in a terminal without NO_COLOR, 80 columns where there is none.

    The variable COLUMNS, where it is a number, is the width in both cases.
    """
    stream = sys.stdout if file is None else file
    said = os.environ.get("COLUMNS", "")
    wide = int(said) if said.isascii() and said.isdigit() and len(said) <= 4 else 0
    width = max(wide, NARROWEST) if wide else None if stream.isatty() else COLUMNS
    return PlainConsole(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def blocks(console: Console) -> tuple[str, str]:
    """(filled, empty) characters of a bar that the output's encoding has."""
    try:
        "█░".encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return "#", "."
    return "█", "░"


def bar(console: Console, share: float, width: int, style: str) -> Text:
    """A bar of `width` cells filled by `share`; beyond 1 it is full and ends in an arrow."""
    full, empty = blocks(console)
    filled = max(0, min(width, round(share * width)))
    if share > 1:
        return Text(full * (width - 1) + ">", style=style)
    return Text.assemble((full * filled, style), (empty * (width - filled), "dim"))


def memory_style(memory: MemoryReport) -> str:
    """Colour of a peak against its budget."""
    if memory.device_peak_bytes > memory.budget_bytes:
        return "red"
    return "yellow" if memory.interval_bytes[1] > memory.budget_bytes else "green"


def batch_text(settings: TrainingChoices) -> str:
    """Micro-batch × accumulation, and × devices where there are several."""
    text = f"{settings.batch_size}×{settings.gradient_accumulation_steps}"
    return text if settings.num_gpus == 1 else f"{text}×{settings.num_gpus}"


PIECES = {"mlp": "MLP", "norms": "norms"}
"""What stack `builtin` makes again without checkpointing, in a table's few columns."""


def checkpoint_text(settings: TrainingChoices) -> str:
    """What is recomputed in backward: all layers, a number of them, an MLP's and the norms' values only, or nothing."""
    if not settings.gradient_checkpointing:
        return " ".join(word for piece, word in PIECES.items() if settings.makes_again(piece)) or "off"
    layers = settings.checkpoint_layers
    return "all" if layers is None else f"{layers} lay."


def method_text(settings: TrainingChoices) -> str:
    """What is trained, in one phrase."""
    if settings.method == "full":
        return "full fine-tuning"
    name = "QLoRA" if settings.method == "qlora" else "LoRA"
    targets = ", ".join(settings.lora_targets)
    scale = f"alpha {settings.lora_alpha:g} dropout {settings.lora_dropout:g}"
    return f"{name} r{settings.lora_r} {scale} on {targets}"


def value_text(value: object) -> str:
    """A setting's value as a person types it."""
    if value is None:
        return "per epoch"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    return str(value)


_GUIDE = re.compile(r"training (guide \d)")
_PAPER = re.compile(r"^(.+?)(?: et al\.)? (\d{4}), ")


def short_source(source: str) -> str:
    """`guide 1, Dettmers 2023`: enough to recognise; addresses are in `--json` and docs/advice.md."""
    names = []
    for part in source.split("; "):
        guide, paper = _GUIDE.match(part), _PAPER.match(part)
        names.append(guide[1] if guide else f"{paper[1]} {paper[2]}" if paper else part)
    return ", ".join(names)


def change_text(change: Mapping[str, object]) -> str:
    """A remedy's change as options of the command line."""
    words = []
    for name, value in change.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            words.append(f"--{flag} {value_text(value)}")
    return " ".join(words)
