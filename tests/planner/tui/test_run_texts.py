"""What is said of a run beside its curves: another run, samples, numbers in little room, text that hangs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from textual.content import Content

from planner.tui import figures, live, run_texts
from planner.tui.live import AskedSample, RunSnapshot
from planner.tui.screens.live import log_line, numbers_text, samples_text
from planner.tui.widgets.hanging import MARK, hung


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ((3.0, 2.0, 1.5, 1.6, 1.9), "best at step 20"),
        ((3.0, 2.0, 1.5, 1.2), "still fell"),
        ((3.0, 2.0, 1.5, 1.499), ""),
        ((3.0, 2.0, 1.0), ""),
    ],
    ids=["it rose", "it fell on", "it stands", "too few"],
)
def test_the_evaluations_say_what_to_do_next(losses: tuple[float, ...], says: str) -> None:
    run = RunSnapshot(evals=tuple((10.0 * place, loss) for place, loss in enumerate(losses)))
    said = run_texts.again(run)
    assert says in said
    assert bool(said) == bool(says)


def test_samples_name_what_was_asked_once_and_the_newest_answer_first() -> None:
    samples, asked = ((5, "no"), (10, "this ")), 2 * (AskedSample("what?", "this"),)
    text = samples_text(RunSnapshot(samples=samples, asked=asked, evals=((5.0, 2.0), (10.0, 1.0)))).plain
    assert text.count("what?") == 1
    assert text.index("step 10") < text.index("step 5")
    assert text.count("✓ right") == 1
    assert "eval loss 1.0000" in text
    old = samples_text(RunSnapshot(samples=((5, "written"),), asked=(AskedSample(),))).plain
    assert "prompt" not in old, "an earlier version's run tells no prompt"
    assert "written" in old


def test_memory_keeps_its_room_where_a_card_tells_much() -> None:
    run = replace(RunSnapshot(), device_load=0.9, device_watts=300.0, predicted_bytes=2**30, measured_bytes=2**30)
    lines = numbers_text(run, 11).plain.splitlines()
    assert len(lines) <= 11
    assert lines[-1].startswith("device ")
    assert any(line.startswith("power") for line in lines)
    assert len(numbers_text(run, 20).plain.splitlines()) == 13


def test_a_warning_stands_out_in_the_log() -> None:
    assert log_line("warning: it diverges").spans
    assert not log_line("loading the model").spans


def test_text_behind_a_mark_is_wrapped_under_itself() -> None:
    text = hung(Content(f"name  {MARK}one two three four\nplain"), 18)
    assert [line.rstrip() for line in text.plain.split("\n")] == ["name  one two", "      three four", "plain"]
    assert hung(Content(f"a very long name  {MARK}text"), 20).plain == "a very long name  text", "no room to hang"


def test_a_sample_is_taken_with_its_prompt_and_without() -> None:
    told = {"step": 4, "loss": 1.0, "sample": "x\x1b[2J", "sample_prompt": "p", "sample_expected": None}
    run = live.reduce(RunSnapshot(), live.Event(kind="eval", time=1.0, data=told))
    assert run.samples == ((4, "x\\x1b[2J"),)
    assert run.asked == (AskedSample("p"),)


def test_what_was_pasted_leaves_room_for_the_way_out() -> None:
    said = figures.clipped(f"unknown GPU '{'x' * 10_000}' (`plan gpus` lists all)", 480)
    assert len(said) == 480
    assert said.startswith("unknown GPU 'xx")
    assert said.endswith("(`plan gpus` lists all)")
    assert figures.clipped("short", 480) == "short"
