"""Step 3: the data set, picked from the tree or typed; may be skipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Input, Static

from planner.contract.words import LAYOUT, one_line, shown
from planner.data.dataset import DatasetProfile
from planner.tui import figures
from planner.tui.reading import DataFound
from planner.tui.samples import SampleText
from planner.tui.screens.base import VAST, WizardScreen
from planner.tui.widgets.data_tree import DataTree
from planner.tui.widgets.filter_list import LineInput
from planner.tui.widgets.hanging import MARK, Hanging
from planner.tui.widgets.ways import Ways

EMPTY = Content("")
NO_DATA = (
    "No data yet. Pick a file of examples in the tree (⏎), or type its path.\n\n"
    "One example a line, for instance:\n"
    '{"prompt": "2 + 2 =", "completion": "4"}\n'
    'or chats ({"messages": […]}), or plain {"text": …}; CSV and parquet too.\n\n'
    "^n goes on without: the plan is for typical lengths then, and can't say how long the training takes."
)


class DataScreen(WizardScreen):
    """Directory tree and path line at the left, what the file holds at the right."""

    PLACE = 2
    HELP_TEXT = (
        "The examples to learn from: JSONL, JSON, CSV, TSV or parquet, in the shapes messages, prompt + completion, "
        "instruction/input/output, ShareGPT conversations or text; the shape is found by itself. Enter on a file reads "
        "it, Enter again takes it. Where its columns are not known, or it can be read in several ways, you are asked. "
        "Tab moves between the path line, the tree and the details.\n\nWithout data a plan "
        "still stands, but says nothing of the length of an epoch, and nothing can be trained."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", id="wizard.back", tooltip="Out of a question, to the step before"),
        Binding("ctrl+n", "next", "Next", key_display="^n", id="data.next", tooltip="Go on, even without data"),
        Binding("ctrl+t", "columns", "Columns", key_display="^t", id="data.columns",
                tooltip="Choose what is learned, and of which columns"),
        Binding("ctrl+r", "drop", "Remove", key_display="^r", id="data.drop", tooltip="Plan without data"),
    ]  # fmt: skip

    def body(self) -> ComposeResult:
        with Horizontal(classes="panes"):
            with Vertical(id="files", classes="pane"):
                yield LineInput(
                    placeholder="type a path, or pick below", compact=True, id="path", select_on_focus=False
                )
                yield DataTree(self.wizard_app.start_folder, id="tree")
            with VerticalScroll(id="facts", classes="pane"):
                yield Hanging("", id="facts-text", markup=False)
                yield Hanging("", id="examples-text", markup=False)
                yield Static("", id="lengths-text", markup=False)
                yield Ways(id="ways")

    def on_mount(self) -> None:
        self._found: DataFound | None = None
        self._refused = ""
        """What was typed or picked last and can't be read."""
        self.query_one("#files").border_title = "Data: learn from what?"
        self.query_one("#facts").border_title = "What it holds"

    def on_screen_resume(self) -> None:
        """A chosen data set is shown, and Enter goes on with it; else the tree waits for a choice."""
        chosen = self.wizard_app.wizard.dataset is not None
        self.set_focus(self.query_one("#path" if chosen else "#tree"))
        self.refresh_bindings()
        self.refresh_choice()

    def refresh_choice(self) -> None:
        """Shows the data set that is chosen, if any."""
        wizard = self.wizard_app.wizard
        if wizard.dataset is not None:
            found = self._found
            if found is None or found.dataset is not wizard.dataset:
                samples = found.samples if found is not None and found.path == wizard.dataset.path else ()
                found = DataFound(
                    path=wizard.dataset.path, dataset=wizard.dataset, settings=wizard.data, samples=samples
                )
            self.show(found)
            with self.prevent(Input.Changed):
                self.query_one("#path", Input).value = wizard.data.path or ""
            if not found.samples:
                self.wizard_app.read_samples()  # it was named on the command line, or stands in a plan
        else:
            self._found = None
            self._write(Content.styled(NO_DATA, "dim"))

    def show_samples(self, path: str, samples: tuple[SampleText, ...]) -> None:
        """The first examples arrived."""
        if samples and self._found is not None and self._found.path == path and not self._found.samples:
            self.show(replace(self._found, samples=samples))

    @on(DataTree.FileSelected)
    def _picked(self, event: DataTree.FileSelected) -> None:
        event.stop()
        with self.prevent(Input.Changed):
            self.query_one("#path", Input).value = str(event.path)
        self._read_or_take(str(event.path))

    @on(DataTree.Looked)
    def _looked(self, event: DataTree.Looked) -> None:
        event.stop()
        if self._found is None or self._found.path != str(event.path):
            with self.prevent(Input.Changed):
                self.query_one("#path", Input).value = str(event.path)
            self._read(str(event.path))

    @on(Input.Submitted, "#path")
    def _typed(self, event: Input.Submitted) -> None:
        event.stop()
        if not event.value.strip():
            self.action_next()
            return
        self._read_or_take(event.value.strip())

    def _read_or_take(self, path: str) -> None:
        if self._found is not None and self._found.dataset is not None and self._found.path == path:
            self._take()
            return
        self._read(path)

    def _read(self, path: str) -> None:
        self.say(f"reading {Path(path).name} …")
        self.wizard_app.read_data(path)

    def _take(self) -> None:
        assert self._found is not None
        assert self._found.dataset is not None
        self.say()
        self.wizard_app.choose_data(self._found.dataset, self._found.settings, self._found.model)
        self.wizard_app.go("plan")

    def show(self, found: DataFound) -> None:
        """A data set was read: its figures, or what was wrong with it."""
        if found.dataset is None:
            self._found, self._refused = None, found.path
            asks = bool(found.ways or found.names)
            self.say(found.error or "this file can't be read", error=not asks)
            self._write(Content("") if asks else Content.styled(NO_DATA, "dim"))
            self.query_one(Ways).offer(found)
            self.refresh_bindings()
            return
        self._found = found
        self.refresh_bindings()
        self.query_one(Ways).close()
        chosen = self.wizard_app.wizard.dataset is found.dataset
        self.say("Enter goes on with this data set" if chosen else "Enter takes this data set")
        self._refused = ""
        length = self.wizard_app.wizard.choices.max_length
        self._write(data_text(found.dataset, length), samples_text(found.samples), lengths_text(found.dataset))
        self.query_one("#facts").scroll_home(animate=False)

    def _write(self, facts: Content, examples: Content = EMPTY, lengths: Content = EMPTY) -> None:
        """Fills the right pane; what is empty takes no room."""
        for name, text in (("facts", facts), ("examples", examples), ("lengths", lengths)):
            widget = self.query_one(f"#{name}-text", Static)
            widget.update(text.rstrip())
            widget.display = bool(text.plain)

    def on_resize(self) -> None:
        """In a low pane the lengths stand before the examples, which may be long."""
        super().on_resize()
        examples, lengths = self.query_one("#examples-text"), self.query_one("#lengths-text")
        pane = self.query_one("#facts")
        if self.size.height < TALL and self.size.width < VAST:
            pane.move_child(lengths, before=examples)
        else:
            pane.move_child(examples, before=lengths)

    @on(Ways.Chosen)
    def _chosen(self, event: Ways.Chosen) -> None:
        event.stop()
        self.say(f"reading {Path(event.path).name} …")
        self.set_focus(self.query_one("#path"))  # where Enter takes what was read, or reads it again
        self.wizard_app.read_data(event.path, event.changes)

    def action_next(self) -> None:
        """Goes on: with the data set shown, or without one."""
        typed = self.query_one("#path", Input).value.strip()
        if self._found is not None:
            self._take()
        elif typed and typed != self._refused:
            self._read_or_take(typed)
        else:
            self.say()
            self.wizard_app.go("plan")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """There is something to remove once a data set is chosen, and columns once one is read."""
        if action == "columns":
            return self._found is not None
        return action != "drop" or self.wizard_app.wizard.dataset is not None

    def action_columns(self) -> None:
        """Asks what is to be learned, and of which columns."""
        if self._found is not None:
            self.wizard_app.read_columns(self._found.path)

    def ask(self, path: str, columns: tuple[str, ...], classifies: bool) -> None:
        """The columns arrived."""
        if self._found is None or self._found.path != path:
            return
        if not columns:
            self.say("this file has no columns to choose from: it is read as it stands")
            return
        self.say()
        self._write(EMPTY)
        self.query_one(Ways).ask(path, columns, classifies)

    def action_back(self) -> None:
        """Leaves the question about the columns, else a step back."""
        if self._found is not None and self.query_one(Ways).display:
            self.show(self._found)
            self.set_focus(self.query_one("#path"))
        else:
            self.wizard_app.go("model")

    def action_drop(self) -> None:
        """Forgets the data set."""
        self.wizard_app.choose_data(None)
        self.query_one("#path", Input).value = ""
        self._refused = ""
        self.say()
        self.refresh_choice()
        self.refresh_bindings()


TALL = 34
"""Rows of the screen from which examples stand before the histogram."""


def data_text(data: DatasetProfile, max_length: int) -> Content:
    """Format, size, lengths, what the current length cuts, and what is not used as it stands."""
    exact = "" if data.exact else "about "
    cut, lost = data.share_truncated(max_length), data.share_tokens_lost(max_length)
    rows = [
        ("format", data.format),
        ("examples", f"{data.examples:,}"),
        ("tokens", f"{exact}{data.tokens:,}"),
        ("half up to", f"{exact}{data.percentile(0.5):,} tokens"),
        ("95 % up to", f"{exact}{data.percentile(0.95):,} tokens"),
        ("longest", f"{exact}{data.longest:,} tokens"),
        (f"cut at {max_length:,}", f"{cut:.1%} of the examples, {lost:.1%} of tokens" if cut else "nothing"),
    ]
    parts: list[Content | str | tuple[str, str]] = [(Path(data.path).name, "bold"), "\n"]
    for name, text in rows:
        parts += [(f"{name:<14}{MARK}", "dim"), text, "\n"]
    parts += [(f"! {MARK}{figures.in_labels(sentence)}\n", "$text-warning") for sentence in data.said]
    return Content.assemble(*parts)


def lengths_text(data: DatasetProfile, bins: int = 8) -> Content:
    """The histogram of lengths, and where the counts come from."""
    parts: list[Content | str | tuple[str, str]] = [("Lengths in tokens\n", "bold underline")]
    for label, count, cells in figures.histogram(data.spread(bins), 18):
        parts += [(f"{label:>13} ", "dim"), ("█" * cells or ("▏" if count else ""), "$primary"), f" {count:,}\n"]
    parts += [(data.basis, "dim")]
    return Content.assemble(*parts)


def samples_text(samples: Sequence[SampleText]) -> Content:
    """The first examples as the model sees them, what is learned in colour."""
    if not samples:
        return Content("")
    how = "as the model's chat template writes them" if samples[0].templated else "as the model sees them"
    parts: list[Content | str | tuple[str, str]] = [
        (f"First examples, {how}\n", "bold underline"),
        ("what is learned: ", "dim"),
        ("▸ and what follows in this colour" if not samples[0].label else "the label", "bold $success"),
        "\n",
    ]
    for number, sample in enumerate(samples, start=1):
        parts.append((f"{number} ", "dim"))
        for text, learned in sample.pieces:
            parts += [("▸", "bold $success")] if learned and not sample.label else []
            parts.append((shown(text, keep=LAYOUT), "$success" if learned else ""))
        if sample.cut:
            parts.append((f" … {sample.cut:,} characters more", "dim"))
        if sample.label:
            parts += [" → ", (one_line(sample.label), "bold $success")]
        parts.append("\n")
    return Content.assemble(*parts)
