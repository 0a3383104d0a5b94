"""The wizard's UI-free half: fields, state changes, figures and the snapshot of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from planner.contract.choices import TrainingChoices
from planner.contract.errors import InvalidInput
from planner.contract.events import Event, FinishedEvent
from planner.contract.records import MemoryReport
from planner.contract.run_settings import DataSettings, Hyperparameters
from planner.decide.reasons import COMPONENT_TEXT, component_text
from planner.devices.profiles import load
from planner.handover import plans
from planner.models.sources import load_model
from planner.tui import doubts, figures, hints, live, reading, run_texts, state, work
from planner.tui.fields import BY_KEY, FIELDS
from planner.tui.state import WizardState
from tests.support.tui_support import write_pairs


@pytest.fixture(scope="module")
def start() -> WizardState:
    wizard = state.with_hardware(WizardState(), load("a10g"))
    return state.with_model(wizard, load_model("phi-2"), "phi-2")


@pytest.mark.parametrize("edited", [False, True])
def test_what_an_earlier_answer_kept_is_open_again_unless_it_was_set(start: WizardState, edited: bool) -> None:
    kept = replace(start, choices=replace(start.choices, made_again=()))
    asked = work.asked(state.change(kept, "made_again", ()) if edited else kept)
    assert asked is not None
    assert asked.question.choices.made_again == (() if edited else TrainingChoices().made_again)
    assert ("made_again" in asked.question.fixed) is edited


def test_ui_free_modules_import_no_textual() -> None:
    names = [
        "state",
        "field",
        "fields",
        "hints",
        "doubts",
        "work",
        "reading",
        "around",
        "rooms",
        "picture",
        "live",
        "history",
        "figures",
        "opening",
        "importing",
        "visible",
    ]
    code = (
        f"import sys, {', '.join(f'planner.tui.{name}' for name in names)};"
        "sys.exit(any(name.split('.')[0] in ('textual', 'torch', 'transformers') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("entry", FIELDS, ids=lambda entry: entry.key)
def test_every_field_reads_what_it_writes(entry, start) -> None:
    now = state.value(start, entry.key)
    assert entry.parse(entry.format(now)) == now
    for direction in (1, -1):
        moved = entry.neighbour(now, direction)
        assert entry.parse(entry.format(moved)) == moved
        assert entry.label in entry.help or len(entry.help) > 10


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("batch_size", "0", "at least 1"),
        ("batch_size", "x", "whole number"),
        ("batch_size", "1.5", "whole number"),
        ("lora_dropout", "1", "below 1"),
        ("learning_rate", "nan", "a number"),
        ("lora_targets", " ", "name at least one"),
        ("precision", "int4", "choose one of"),
        ("gradient_checkpointing", "perhaps", "on or off"),
        ("max_length", "4096", "2048 positions"),
        ("checkpoint_layers", "33", "32 layers"),
        ("effective_batch_size", "30", "no multiple"),
    ],
)
def test_wrong_values_are_refused_in_one_line(start, key: str, text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        state.type_text(start, key, text)
    assert "\n" not in str(caught.value)
    assert BY_KEY[key].label in str(caught.value)


def test_effective_batch_changes_the_accumulation(start) -> None:
    changed = state.type_text(start, "effective_batch_size", "64")
    assert changed.choices.batch_size == start.choices.batch_size
    assert changed.choices.gradient_accumulation_steps == 64 // start.choices.batch_size


def test_another_batch_keeps_the_effective_one(start) -> None:
    """GIVEN an effective batch of 24 WHEN the batch is stepped up and down THEN it goes through its divisors alone,
    the accumulation makes up for it, and beyond the last one it stays."""
    wizard = state.change(state.change(start, "batch_size", 8), "effective_batch_size", 24)
    seen = []
    for direction in (1, 1, 1, -1, -1, -1, -1, -1, -1, -1):
        wizard = state.step(wizard, "batch_size", direction)
        seen.append((wizard.choices.batch_size, wizard.choices.gradient_accumulation_steps))
    assert seen == [(12, 2), (24, 1), (24, 1), (12, 2), (8, 3), (6, 4), (4, 6), (3, 8), (2, 12), (1, 24)]
    wizard = state.change(wizard, "batch_size", 4)
    pair = state.change(wizard, "num_gpus", 2)
    assert pair.choices.effective_batch_size == 48
    assert state.step(state.step(pair, "batch_size", 1), "batch_size", 1).choices.batch_size == 8
    typed = state.change(wizard, "batch_size", 9)
    assert state.step(typed, "batch_size", 1).choices.batch_size == 12
    fixed = state.change(wizard, "gradient_accumulation_steps", 3)
    assert state.change(fixed, "batch_size", 2).choices.effective_batch_size == 6


def test_steps_stay_within_the_model(start) -> None:
    wizard = start
    for _ in range(30):
        wizard = state.step(wizard, "max_length", 1)
    assert wizard.choices.max_length == 2048
    wizard = state.step(wizard, "checkpoint_layers", -1)
    assert wizard.choices.checkpoint_layers == 31
    assert state.step(wizard, "checkpoint_layers", 1).choices.checkpoint_layers is None


def test_rows_follow_the_method(start) -> None:
    def keys(wizard: WizardState) -> set[str]:
        return {entry.key for entry in state.visible_fields(wizard)}

    assert "lora_r" in keys(start)
    assert "lora_r" not in keys(state.change(start, "method", "full"))
    assert "quantization" in keys(state.change(start, "method", "qlora"))


def test_hardware_decides_the_precision(start) -> None:
    assert state.with_hardware(start, load("v100-16gb")).choices.precision == "fp16"
    chosen = state.change(start, "precision", "fp32")
    assert state.with_hardware(chosen, load("v100-16gb")).choices.precision == "fp32"


def test_evaluation_equals_check(start) -> None:
    from planner.decide.check import check
    from planner.decide.question import Question

    report = work.evaluate(start).report
    assert report is not None
    question = Question(model=start.model, hardware=start.hardware, choices=start.choices, budget=start.budget_bytes)
    direct = check(question)
    assert report.memory == direct.memory


def test_adopted_values_leave_the_persons_own(start, tmp_path: Path) -> None:
    found = reading.read_data(str(write_pairs(tmp_path / "pairs.jsonl")), start, final=True)
    assert found.dataset is not None
    wizard = state.with_dataset(state.type_text(start, "lora_r", "64"), found.dataset)
    recommendation = work.recommend(wizard)
    assert recommendation.error is None
    assert recommendation.recommended in [tier.tier for tier in recommendation.tiers]
    adopted = work.adopt(wizard, recommendation)
    assert adopted.choices.lora_r == 64
    assert adopted.choices.max_length < 1024, "the data is short"
    assert adopted.edited == wizard.edited
    assert work.adopt(adopted, recommendation) is adopted


def ragged_pairs(path: Path) -> Path:
    """A few examples of all lengths."""
    lines = [json.dumps({"prompt": "word " * (3 + 9 * number), "completion": "yes " * 9}) for number in range(60)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, []),
        ({"method": "qlora"}, ["--method", "qlora"]),
        ({"method": "full"}, ["--method", "full"]),
        ({"lora_r": 64}, ["--lora-r", "64"]),
        ({"batch_size": 2}, ["--batch-size", "2"]),
    ],
    ids=["plain", "qlora", "full", "rank", "batch"],
)
def test_the_same_answers_give_the_command_lines_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict, options: list[str]
) -> None:
    """GIVEN ragged data WHEN planned here and by `plan --save` THEN the plans agree."""
    from planner.cli import main

    monkeypatch.setenv("TUNEPLAN_HOME", str(tmp_path))
    data = ragged_pairs(tmp_path / "ragged.jsonl")
    file = tmp_path / "plan.yaml"
    assert (
        main(["--gpu", "h100-80gb", "--model", "pythia-410m", "--data", str(data), "--save", str(file), *options]) == 0
    )
    wanted = plans.load(file)

    wizard = state.with_hardware(state.preset(settings, {}, None), load("h100-80gb"))
    model = reading.read_model("pythia-410m", final=True).model
    assert model is not None
    wizard = state.with_model(wizard, model, "pythia-410m")
    wizard = state.with_dataset(wizard, reading.read_data(str(data), wizard, final=True).dataset)
    found = work.recommend(wizard)
    wizard = work.adopt(wizard, found)
    made = work.plan_of(wizard, work.evaluate(wizard))
    assert made.model == "EleutherAI/pythia-410m"
    assert made.model_dump(exclude={"created"}) == wanted.model_dump(exclude={"created"})


def test_learning_follows_a_change_of_method_and_leaves_the_shape(start) -> None:
    """GIVEN an adopted plan WHEN full training is chosen THEN the rate is full training's, as the command line says."""
    wizard = work.adopt(start, work.recommend(start))
    full = state.change(wizard, "method", "full")
    followed = work.adopt(full, work.recommend(full))
    assert followed.hyperparameters.learning_rate < wizard.hyperparameters.learning_rate / 2
    assert followed.choices.batch_size == full.choices.batch_size
    mine = state.change(full, "learning_rate", 0.5)
    assert work.adopt(mine, work.recommend(mine)).hyperparameters.learning_rate == 0.5


def test_what_does_not_fit_with_lora_starts_quantised_and_goes_back_on_a_larger_card() -> None:
    """GIVEN 8 B parameters for a 12 GB card THEN a QLoRA plan is taken; on a larger card it is LoRA again."""
    model = reading.read_model("llama-3.1-8b", final=True).model
    assert model is not None
    wizard = state.with_model(state.with_hardware(WizardState(), load("rtx-3060-12gb")), model, "llama-3.1-8b")
    found = work.recommend(wizard)
    assert found.error is None
    assert found.notes[0] == "Fits only with method qlora instead of lora."
    wizard = work.adopt(wizard, found)
    assert wizard.choices.method == "qlora"
    assert work.evaluate(wizard).report.verdict == "fits"
    larger = state.with_hardware(wizard, load("h100-80gb"))
    assert work.adopt(larger, work.recommend(larger)).choices.method == "lora"


def test_nothing_fits_starts_from_the_least() -> None:
    """GIVEN 70 B parameters for a 24 GB card THEN the smallest of all is shown with what it lacks."""
    model = reading.read_model("llama-3.3-70b", final=True).model
    assert model is not None
    wizard = state.with_model(state.with_hardware(WizardState(), load("a10g")), model, "llama-3.3-70b")
    found = work.recommend(wizard)
    assert found.error is not None
    wizard = work.adopt(wizard, found)
    assert wizard.choices.batch_size == 1
    report = work.evaluate(wizard).report
    assert report is not None
    assert report.verdict == "does_not_fit"
    assert report.memory == found.start.memory


def test_a_persons_own_batch_is_searched_around() -> None:
    """GIVEN a batch size set beforehand WHEN the recommendation is taken THEN the rest is chosen so that it fits."""
    model = reading.read_model("llama-3.1-8b", final=True).model
    assert model is not None
    wizard = state.with_hardware(state.preset({"batch_size": 4, "method": "qlora"}, {}, None), load("rtx-3060-12gb"))
    wizard = state.with_model(wizard, model, "llama-3.1-8b")
    wizard = work.adopt(wizard, work.recommend(wizard))
    assert wizard.choices.batch_size == 4
    assert work.evaluate(wizard).report.verdict == "fits"


def test_reset_forgets_what_was_set(start) -> None:
    wizard = state.change(state.change(start, "lora_r", 64), "epochs", 9)
    fresh = state.reset(wizard)
    assert fresh.choices == start.choices
    assert fresh.hyperparameters == start.hyperparameters
    assert not fresh.edited


def test_long_names_make_short_folders(start, tmp_path: Path) -> None:
    wizard = replace(start, model_name="/x/" + "m" * 300, data=DataSettings(path="/y/" + "a b " * 80 + ".jsonl"))
    folder = work.run_folder(wizard, tmp_path)
    assert len(folder.name) < 110
    assert " " not in folder.name
    folder.mkdir()
    assert work.run_folder(wizard, tmp_path) != folder


def test_tiers_go_round(start) -> None:
    found = work.recommend(start)
    seen = set()
    wizard = start
    for _ in range(4):
        tier = hints.next_tier(wizard, found.tiers, found.recommended)
        wizard = state.take_settings(wizard, tier.settings)
        seen.add(tier.tier)
        assert wizard.choices.effective_batch_size == found.tiers[0].settings.batch_size * (
            found.tiers[0].settings.gradient_accumulation_steps
        )
    assert len(seen) == len(found.tiers) > 1


def test_a_remedy_makes_it_smaller(start) -> None:
    wizard = replace(start, choices=TrainingChoices(batch_size=16, max_length=2048, gradient_checkpointing=False))
    before = work.evaluate(wizard).report
    assert before is not None
    assert before.verdict == "does_not_fit"
    for remedy in before.remedies:
        changed = state.take_remedy(wizard, dict(remedy.change))
        after = work.evaluate(changed).report
        assert after is not None
        if "gpu" in remedy.change:
            assert changed.hardware.name == remedy.change["gpu"]
        else:
            assert before.memory.device_peak_bytes - after.memory.device_peak_bytes == remedy.saves_bytes
        assert len(figures.remedy_line(remedy.change, remedy.saves_bytes, remedy.costs_seconds_per_step)) < 110


def test_worker_errors_are_one_line(start) -> None:
    assert reading.read_model("./no-such-folder", final=True).error
    assert reading.read_data("/no/such/file.jsonl", start, final=False).error
    assert work.evaluate(WizardState()).error
    assert "\n" not in work.error_line(ValueError("one\ntwo"))
    assert "bug in tuneplan" in work.error_line(KeyError("x"))


def test_plan_holds_what_was_chosen(start, tmp_path: Path) -> None:
    from planner.handover import plans

    wizard = state.change(start, "learning_rate", 1e-4)
    plan = work.plan_of(wizard, work.evaluate(wizard))
    path = plans.save(plan, tmp_path / "plan.yaml")
    again = plans.load(path)
    assert again == plan
    assert again.hyperparameters.learning_rate == 1e-4
    assert again.predicted is not None


def test_doubts(start) -> None:
    report = work.evaluate(start).report
    assert doubts.doubt(start, None, "broken").text == "broken"
    assert "no data" in doubts.doubt(start, report, None).text
    with_data = replace(start, data=start.data.model_copy(update={"path": "x.jsonl"}), this_machine="cpu")
    assert "this machine is cpu" in doubts.doubt(with_data, report, None).text
    here = replace(with_data, this_machine="a10g")
    assert doubts.doubt(here, report.model_copy(update={"verdict": "fits"}), None) is None
    assert doubts.doubt(here, report.model_copy(update={"verdict": "does_not_fit"}), None).may_go_on


# ---------------------------------------------------------------------------------------------------------- figures


def memory(device: int, budget: int) -> MemoryReport:
    parts = {"weights": device // 2, "attention": device // 3, "context": device - device // 2 - device // 3}
    return MemoryReport(
        allocated_peak_bytes=device,
        reserved_peak_bytes=device,
        device_peak_bytes=device,
        interval_bytes=(device, device),
        budget_bytes=budget,
        binding_instant="loss",
        instants={"loss": device},
        components=parts,
    )


@pytest.mark.parametrize(("device", "budget"), [(500, 1000), (1000, 1000), (3000, 1000), (3, 10**12)])
@pytest.mark.parametrize("width", [10, 40, 77])
def test_bar_cells_sum(device: int, budget: int, width: int) -> None:
    bar = figures.memory_bar(memory(device, budget), width)
    assert sum(cells for _, cells in bar.segments) == bar.used_cells <= width
    assert (bar.budget_cell < width) == (device > budget)


def test_apportion_by_largest_remainder() -> None:
    assert figures.apportion([1, 1, 1], 10) == [4, 3, 3]
    assert figures.apportion([0, 0], 5) == [0, 0]
    assert sum(figures.apportion([5, 3, 1, 1, 1], 7)) == 7


def test_short_texts() -> None:
    assert max(len(figures.short_name(name)) + len(figures.short_bytes(999.9 * 2**20)) for name in COMPONENT_TEXT) <= 17
    assert component_text("fragmentation") == "fragmentation"
    assert "fragmentation".startswith(figures.short_name("fragmentation")[:8]), "the same word, cut"
    assert figures.short_bytes(15.8 * 2**30) == "15.8GiB"
    assert figures.byte_range(2**30, 2 * 2**30) == "1.0–2.0 GiB"
    assert figures.change_text({"batch_size": 4, "gradient_accumulation_steps": 16}) == "batch 4×16"
    assert (
        figures.change_text({"gradient_checkpointing": True, "checkpoint_layers": None, "loss": "chunked"})
        == "checkpoint all layers, loss chunked"
    )


# -------------------------------------------------------------------------------------------------------------- run


def events(*pairs: tuple[str, dict]) -> live.RunSnapshot:
    run = live.RunSnapshot(predicted_bytes=1000)
    for kind, data in pairs:
        run = live.reduce(run, Event(kind=kind, time=0.0, data=data))
    return run


def step(number: int, **more: object) -> tuple[str, dict]:
    return "step", {"step": number, "total_steps": 10, "loss": 2.0 / number, "learning_rate": 1e-4,
                    "tokens_per_second": 50.0, "allocated_peak_bytes": 1000 + number, **more}  # fmt: skip


def test_a_run_from_start_to_end() -> None:
    run = events(
        ("started", {"run_dir": "runs/x", "device": "cpu", "total_steps": 10}),
        step(1),
        step(2),
        ("eval", {"step": 2, "loss": 1.5, "perplexity": 4.48, "best": True, "sample": "once"}),
        ("checkpoint", {"path": "runs/x/checkpoint-2", "step": 2, "kind": "last"}),
        ("paused", {"step": 2}),
    )
    assert run.phase == "paused"
    assert run.train == ((1, 2.0), (2, 1.0))
    assert run.evals == ((2, 1.5),)
    assert run.sample == "once"
    assert run.measured_bytes == 1002
    assert run_texts.deviation_text(run) == "+0.2 %"
    run = live.reduce(run, Event(kind="resumed", time=0.0, data={"step": 2}))
    assert run.phase == "running"
    done = {"reason": "completed", "adapter_path": "runs/x/adapter", "steps": 10, "seconds": 5.0, "eval_loss": 0.5,
            "eval_loss_before": 2.0, "predicted_bytes": 1000, "measured_bytes": 990}  # fmt: skip
    run = live.reduce(run, Event(kind="finished", time=0.0, data=done))
    assert run.over
    assert dict(run_texts.outcome(run))["adapter"] == "runs/x/adapter"
    assert "-1.0 %" in dict(run_texts.outcome(run))["peak in tensors"]
    assert "" not in dict(run_texts.outcome(run))
    lighter = replace(run, result=FinishedEvent.model_validate({**done, "as_predicted": False}))
    assert "heaviest batch" in dict(run_texts.outcome(lighter))[""]
    assert live.ended(run, 0) is run


def test_a_killed_trainer_is_a_failure() -> None:
    run = live.ended(events(("started", {"total_steps": 10}), step(3)), -9, "Traceback\nMemoryError\n")
    assert run.phase == "failed"
    assert "signal 9" in run.failure
    assert "\n" not in run.failure
    assert live.ended(events(step(1)), 4, "").failure == "the trainer ended with exit code 4 before it finished"


def test_odd_events_do_no_harm() -> None:
    run = events(("step", {"step": 1, "loss": None}), ("news", {"a": 1}), ("eval", {"step": 1, "loss": None}))
    assert run.train == ()
    assert any("news" in line for line in run.log)
    assert run.phase == "running"


def test_what_a_model_writes_does_not_steer_the_terminal() -> None:
    run = events(
        ("eval", {"step": 1, "sample": "ok\x1b[2J\x9b1m\ttab\nnext \u202e"}), ("warning", {"message": "\x1b]0;x\x07"})
    )
    assert run.sample == r"ok\x1b[2J\x9b1m" + "\ttab\nnext " + r"\u202e"
    assert "\x1b" not in "".join(run.log)


def test_curves_are_thinned() -> None:
    run = live.RunSnapshot()
    for number in range(1, 3 * live.CURVE_POINTS):
        run = live.reduce(run, Event(kind="step", time=0.0, data={"step": number, "loss": 1.0}))
    assert len(run.train) <= live.CURVE_POINTS
    assert run.step == 3 * live.CURVE_POINTS - 1


def test_time_of_the_whole_run(start) -> None:
    report = work.evaluate(start).report
    assert report is not None
    assert figures.total_time(report, 3.0, None) is None
    measured = report.model_copy(update={"speed": report.speed.model_copy(update={"epoch_seconds": 1e-3})})
    by_steps = figures.total_time(report, 3.0, 10)
    assert by_steps == figures.total_time(measured, 3.0, 10), "a number of steps goes before epochs, as in the trainer"
    assert by_steps != figures.total_time(measured, 3.0, None)
    assert Hyperparameters().epochs == 3.0


def test_a_remedy_that_takes_more_says_so() -> None:
    assert figures.remedy_line({"batch_size": 2}, 3 << 30, 1.0).split() == ["−3.0GiB", "+1s", "batch", "size", "2"]
    assert figures.remedy_line({"gpu": "l4"}, -(29 << 20), None).split() == ["+29.0MiB", "gpu", "l4"]


def test_what_advice_moves_is_told_from_what_the_person_moves() -> None:
    """Advice follows a change by itself; what waits for figures goes on over it, over the person's changes never."""
    before = state.preset({}, {}, None)
    numbers = before.hyperparameters.model_copy(update={"learning_rate": 1e-5})
    assert state.only_advised(before, replace(before, hyperparameters=numbers))
    first = state.change(before, "learning_rate", 1e-5)
    assert not state.only_advised(before, first)
    assert not state.only_advised(first, state.change(first, "learning_rate", 2e-5))
    assert not state.only_advised(before, state.change(before, "batch_size", before.choices.batch_size * 2))


def test_a_run_keeps_its_samples_its_best_loss_and_its_clock() -> None:
    """GIVEN events of a run WHEN they are taken in THEN samples, best loss and both times stand."""

    def told(kind: str, at: float, **data: object) -> Event:
        return Event(kind=kind, time=at, data=data)

    run = live.RunSnapshot(predicted_bytes=2000)
    for event in (
        told("started", 1000.0, device="cpu", total_steps=20),
        told("step", 1010.0, step=5, loss=2.0, allocated_peak_bytes=1900, grad_norm=1.5, seconds_left=300.0),
        told("eval", 1020.0, step=5, loss=1.5, sample="first"),
        told("step", 1030.0, step=10, loss=1.0, allocated_peak_bytes=1800, grad_norm=0.5, seconds_left=200.0),
        told("eval", 1090.0, step=10, loss=1.75, sample="second"),
    ):
        run = live.reduce(run, event)
    assert run.samples == ((5, "first"), (10, "second"))
    assert run.norms == ((5, 1.5), (10, 0.5))
    assert run.memory == ((5, 1900), (10, 1900)), "the peak so far never falls"
    rows = dict(run_texts.figures(run))
    assert rows["eval loss"] == "1.7500 ▾1.5000"
    assert rows["time left"].startswith("3 min, ")
    assert run_texts.elapsed(run, 1125.0) == "2:05"
    over = live.ended(run, 1)
    assert run_texts.elapsed(over, 9999.0) == "1:30", "the clock stands still once it is over"
    assert run_texts.elapsed(live.RunSnapshot(), 5.0) == ""
