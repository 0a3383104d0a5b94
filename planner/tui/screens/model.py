"""Step 2: the base model, from the catalogue, a path or the hub."""

from __future__ import annotations

import os
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.widgets import Static

from planner.contract.records import Plan
from planner.contract.spec import ModelSpec
from planner.contract.units import format_bytes, format_count
from planner.contract.words import one_line
from planner.exchange.foreign import Foreign, How
from planner.models import catalogue
from planner.tui import figures, importing
from planner.tui.fields import BY_KEY
from planner.tui.hints import leaf_names
from planner.tui.importing import FileFound
from planner.tui.makers import first_model
from planner.tui.reading import ModelFound
from planner.tui.screens.base import VAST, ListScreen, facts_of
from planner.tui.theme import fit_mark
from planner.tui.widgets.filter_list import FilterList
from planner.tui.widgets.hanging import MARK


class ModelScreen(ListScreen):
    """A filterable catalogue; whatever else is typed is read as a path or hub id."""

    PLACE = 1
    LIST = ("models", "type to filter, path or hub id")
    HELP_TEXT = (
        "The base model. Type to narrow the catalogue, or type a folder, a config.json or a hub id (owner/name): Enter "
        "reads it and shows what it is, Enter again takes it. Tab goes to the details, where ↑ ↓ scroll.\n\nOnly the "
        "config is read here, never the weights.\n\nA plan, or another trainer's file (Axolotl, LLaMA-Factory, TRL, "
        "Unsloth, LitGPT, torchtune, mlx-lm), is read in the same way: model and settings are then taken from it."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", "Choose", key_display="⏎", id="model.choose", tooltip="Take this model")
    ]

    def on_mount(self) -> None:
        self.name_panes("Model: what to start from?", "Details")
        self._typed: ModelFound | None = None
        self._file: str | None = None
        """The file of settings that is shown."""
        self._wide = False
        """Whether the list shows what only a wide one has room for."""
        listing = self.query_one(FilterList)
        listing.focus_filter()
        self._fill()

    def on_screen_resume(self) -> None:
        """The model that is chosen is under the cursor, whether the catalogue knows it or not."""
        self.wizard_app.look_what_fits()
        self._fill()

    def _fill(self) -> None:
        name = self.wizard_app.wizard.model_name
        listing = self.query_one(FilterList)
        if name and listing.text == name:
            listing.clear()
        start = first_model(self.wizard_app.wizard.hardware) if not listing.current else None
        self._wide = self.size.width >= VAST
        listing.fill(self.wizard_app.model_entries(self._wide), select=name or start)

    def on_resize(self) -> None:
        """Where there is room, names are whole and the hub's stand beside them."""
        super().on_resize()
        if self._wide != (self.size.width >= VAST):
            self._fill()

    def mark(self, fits: dict[str, str]) -> None:
        """Marks what of some models fits the device."""
        listing = self.query_one(FilterList)
        for name, fit in fits.items():
            character, style = fit_mark(fit)
            listing.mark(name, f"{character} ", style)
        seen = self._typed
        if seen is not None and seen.model is not None and seen.name in fits:
            self.query_one("#facts-text", Static).update(details_text(seen.model, *self._fit(seen.name)))
        if self.wizard_app.wizard.hardware is not None:
            listing.border_subtitle = "✓ fits ! tight q QLoRA ✗ no ? unknown"

    @on(FilterList.Highlighted)
    def _highlighted(self, event: FilterList.Highlighted) -> None:
        self.say()
        if event.key is None:
            typed = self.query_one(FilterList).text
            hint = f"Enter reads “{typed}” as a path or hub id" if typed else "the catalogue is empty"
            self.query_one("#facts-text", Static).update(Content.styled(hint, "dim"))
        elif not is_path(self.query_one(FilterList).text):
            self.wizard_app.read_model(event.key, final=False)

    @on(FilterList.Chosen)
    def _chosen(self, event: FilterList.Chosen) -> None:
        typed = event.key is None or is_path(event.text)
        name = event.text if typed else event.key
        if not name:
            return
        if typed and importing.may_be(name):
            self.say(f"reading {name} …")
            self.wizard_app.read_file(name, final=name == self._file)
            return
        if typed and (self._typed is None or self._typed.name != name):
            self.say(f"reading {name} …")
            self.wizard_app.read_model(name, final=False)
            return
        self.say(f"reading {name} …")
        self.wizard_app.read_model(name, final=True)

    def show(self, found: ModelFound) -> None:
        """A model was read: its details, or what was wrong with it."""
        listing = self.query_one(FilterList)
        typed = listing.text if listing.current is None or is_path(listing.text) else listing.current
        if found.name not in (typed, self.wizard_app.wizard.model_name):
            return
        if found.model is None:
            self._typed = None
            self.say(found.error or "this model can't be read", error=True)
            return
        self._typed = found
        self.say("Enter takes this model" if found.name == listing.text else "")
        self.show_facts(details_text(found.model, *self._fit(found.name)))

    def show_file(self, found: FileFound) -> None:
        """A plan or another trainer's file was read: what it says, or what was wrong with it."""
        if found.path != self.query_one(FilterList).text:
            return
        self._file = found.path if found.state is not None else None
        if found.source is None or found.state is None:
            self.say(found.error or "this file can't be read", error=True)
            return
        self.say("Enter takes what this file says; every setting can be changed in the plan")
        self.show_facts(file_text(found.source))

    def _fit(self, name: str) -> tuple[str, str]:
        """The chosen device and whether the model fits it; empty while nobody knows."""
        device, fit = self.wizard_app.wizard.hardware, self.wizard_app.fits.get(name, "")
        return (device.name, FITS[fit]) if device is not None and fit in FITS else ("", "")


def is_path(text: str) -> bool:
    """Whether a typed text means a path, whatever the catalogue holds."""
    return text.startswith((".", "/", "~", "$")) or text.endswith(importing.ENDINGS)


def _licence_rows(name: str | None) -> list[tuple[str, str]]:
    """Licence and gate of a model of the catalogue, as far as they are known."""
    found = next((entry for entry in catalogue.entries() if entry.name == name), None)
    if found is None or found.licence == catalogue.UNKNOWN:
        return []
    gate = ", gated: the hub hands it to accounts that were granted it" if found.gated == "yes" else ""
    return [("licence", f"{found.licence}{gate}")]


def weights_text(model: ModelSpec) -> str:
    """How large the weights are at 16 bits a number, and whether they are to be fetched."""
    here = is_path(model.id) or os.path.isdir(model.id)
    how = "at 16 bits a number" if here else "to fetch at 16 bits a number, as most are published"
    return f"{format_bytes(2 * model.parameters) if here else f'{2 * model.parameters / 1e9:.1f} GB'} {how}"


FITS = {
    "fits": "fits, with LoRA",
    "tight": "fits tightly, with LoRA",
    "qlora": "fits as QLoRA only",
    "no": "does not fit, not even as QLoRA",
    "unknown": "no program is written for it yet",
}
"""What the list's marks mean."""


def details_text(model: ModelSpec, device: str = "", fit: str = "") -> Content:
    """What a model is made of, and whether it fits a device."""
    attention = f"{model.num_heads} heads of {model.head_dim}"
    if model.num_kv_heads != model.num_heads:
        attention += f", {model.num_kv_heads} for keys and values"
    found = catalogue.look_up(model.id)
    rows = [
        *([(f"on {device}"[:13], f"{fit} (one sequence of 512 tokens, recomputed)")] if device else []),
        *([("on the hub", found.hub_id)] if found is not None else []),
        ("parameters", f"{format_count(model.parameters)} ({model.parameters:,})"),
        ("weights", weights_text(model)),
        *_licence_rows(found.name if found is not None else None),
        ("architecture", f"{model.architecture}, {model.task}"),
        ("layers", f"{model.num_layers}" + (f" + {model.num_decoder_layers}" if model.num_decoder_layers else "")),
        ("positions", f"{model.max_positions:,}" if model.max_positions else "unlimited"),
        ("width", f"{model.hidden_size:,} (MLP {model.intermediate_size:,})"),
        ("attention", attention),
        ("vocabulary", f"{model.vocab_size:,}" + (", head tied" if model.tie_embeddings else "")),
    ]
    if model.num_experts:
        rows.append(("experts", f"{model.num_experts}, {model.experts_per_token} per token"))
    if model.sliding_window:
        rows.append(("window", f"{model.sliding_window:,} tokens in {len(model.sliding_layers)} layers"))
    rows.append(("LoRA targets", " ".join(leaf_names(model))))
    return Content.assemble(*facts_of(model.id, rows, width=14))


READ: tuple[tuple[How, str], ...] = (("read", "Read"), ("assumed", "Assumed"))
NAMED: tuple[tuple[How, str], ...] = (("ignored", "Moves no memory"), ("unknown", "Not known, not used"))


KEYS = 20
"""Columns of a file's keys; a longer one has a line of its own."""


def in_row_words(text: str) -> str:
    """`batch_size 2` as the plan's rows call it: `Batch size 2`."""
    name, space, rest = one_line(text).partition(" ")
    return f"{figures.label(name)}{space}{rest}" if name in BY_KEY else one_line(text)


def file_text(source: Plan | Foreign) -> Content:
    """What of a file is taken, key by key, and what is not."""
    if isinstance(source, Plan):
        chosen = source.settings
        rows = [
            ("model", one_line(source.model)),
            ("made for", one_line(source.gpu)),
            ("data", one_line(source.data.path or "none")),
            ("method", chosen.method),
            ("batch", f"{chosen.batch_size} × {chosen.gradient_accumulation_steps}"),
            ("max length", f"{chosen.max_length:,}"),
        ]
        return Content.assemble(*facts_of("A plan of tuneplan", rows, width=14))
    rows = [("model", one_line(source.model or "none is named"))]
    if source.data is not None:
        rows.append(("data", f"{one_line(source.data)} (is chosen in the next step)"))
    rows.append(("planned as", source.stack))
    parts = facts_of(f"{one_line(source.where)} ({source.tool})", rows, width=14)
    for how, title in READ:
        if notes := source.of(how):
            parts += ["\n", (f"{title}\n", "bold underline")]
            for note in notes:
                key = one_line(note.key)
                beside = f"{key:<{KEYS}} " if len(key) <= KEYS else f"{key}\n{' ' * (KEYS + 1)}"
                parts += [(beside, "dim"), f"{MARK}{in_row_words(note.text)}\n"]
    for how, title in NAMED:
        if notes := source.of(how):
            names = ", ".join(dict.fromkeys(one_line(note.key) for note in notes))
            parts += ["\n", (f"{title}\n", "bold underline"), (names, "dim"), "\n"]
    return Content.assemble(*parts)
