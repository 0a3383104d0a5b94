"""The first examples of a data set as the model will see them: rendered, what is learned marked. UI-free."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from planner.contract.run_settings import DataSettings

COUNT = 3
"""Examples that are shown."""
MOST = 500
"""Characters of one that are shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleText:
    """One example as text in pieces: (text, whether it is learned)."""

    pieces: tuple[tuple[str, bool], ...]
    templated: bool
    """Whether the model's chat template wrote it."""
    label: str = ""
    """What a classifier learns of it; empty elsewhere."""
    cut: int = 0
    """Characters that are not shown."""


def first_samples(
    settings: DataSettings, tokenizer: str | Path | None, *, all_learned: bool = False
) -> tuple[SampleText, ...]:
    """The first examples of a data set; `tokenizer`: the model's folder, whose chat template is applied.

    `all_learned`: the loss counts on the prompt too.
    Raises `InvalidInput` for what can't be read.
    """
    from planner.contract.data.reader import open_data
    from planner.contract.data.rendering import Rendered, Rendering
    from planner.contract.data.template import read_template

    examples = list(islice(open_data(settings).training(), COUNT))
    folder = None if tokenizer is None else Path(tokenizer)
    if folder is not None and not folder.is_dir():
        folder = folder.parent
    template = None if folder is None else read_template(folder)
    found = []
    for example in examples:
        if example.label is not None:
            rendered = Rendered(example.text or "", (), templated=False)
        else:
            (rendered,) = Rendering(template).render([example])
        label = "" if example.label is None else str(example.label)
        found.append(_pieces(rendered.text, rendered.spans, rendered.templated, label, all_learned))
    return tuple(found)


def _pieces(
    text: str, spans: tuple[tuple[int, int], ...], templated: bool, label: str, all_learned: bool
) -> SampleText:
    shown = text[:MOST]
    if all_learned and not label:
        spans = ((0, len(text)),)
    pieces: list[tuple[str, bool]] = []
    place = 0
    for begin, end in spans:
        if begin > place:
            pieces.append((shown[place:begin], False))
        pieces.append((shown[begin:end], True))
        place = end
    pieces.append((shown[place:], False))
    return SampleText(
        pieces=tuple((part, learned) for part, learned in pieces if part),
        templated=templated,
        label=label,
        cut=len(text) - len(shown),
    )
