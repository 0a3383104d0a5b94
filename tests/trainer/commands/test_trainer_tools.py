"""Range test, grid, merge, dry run and presets: on real runs of tiny models, through their command lines."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import pytest

from planner.contract.errors import InvalidInput
from planner.contract.records import Plan
from tests.support.trainer_support import make_plan, of_kind, train
from trainer.__main__ import main

# ---- learning-rate range test --------------------------------------------------------------------------------------


def test_the_suggestion_lies_where_the_loss_falls_fastest() -> None:
    """A curve made by hand: flat, steepest at 1e-3, lowest at 1e-2, then away."""
    from trainer.commands.finder import judge

    rates = [10 ** (-6 + 6 * step / 99) for step in range(100)]
    losses = [4 - 2 / (1 + math.exp(-4 * (math.log10(rate) + 3))) for rate in rates]
    losses = [loss if rate < 3e-2 else loss + 50 * rate for rate, loss in zip(rates, losses, strict=True)]
    found = judge(rates, losses, diverged=True)
    assert found.suggested is not None
    assert 3e-4 < found.suggested < 6e-3
    assert found.suggested <= found.upper < 2e-2
    assert "weak evidence" in found.note
    flat = judge(rates, [4.0] * 100, diverged=False)
    assert flat.suggested is None
    assert "no rate is suggested" in flat.note


def test_a_curve_that_never_breaks_away_has_no_end_and_says_so() -> None:
    from trainer.commands.finder import OPEN_END, has_diverged, judge

    rates = [10 ** (-6 + 6 * step / 99) for step in range(100)]
    falls = [4 - 2 / (1 + math.exp(-4 * (math.log10(rate) + 3))) for rate in rates]
    assert not any(has_diverged(falls[:n]) for n in range(1, 100))
    open_end = judge(rates, falls, diverged=False)
    assert open_end.diverged_at is None
    assert OPEN_END in open_end.note
    # On the plateau the lowest value is chance; the upper end doesn't follow it.
    for place in (75, 85, 95):
        dipped = [loss - 0.01 * (number == place) for number, loss in enumerate(falls)]
        assert judge(rates, dipped, diverged=False).upper == pytest.approx(open_end.upper, rel=0.2)
    # Smoothing would need five more steps to see this.
    assert has_diverged([*[2.0] * 40, *[4.0] * 3])
    assert not has_diverged([*[2.0] * 40, 4.0, 2.0, 4.0])
    assert has_diverged([*[2.0] * 40, math.inf])


@pytest.fixture(scope="module")
def able(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt its data, and so has something to lose: its loss fell from 5.6 to about 0.7."""
    folder = tmp_path_factory.mktemp("able")
    plan = make_plan(
        folder / "plan.json", model, data, settings={"method": "full"}, data_settings={"validation_split": 0.0},
        max_steps=14, epochs=9.0, scheduler="constant", warmup_ratio=0.0,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEPLAN_HOME", str(folder / "home"))
        assert train(plan, folder / "run")[1] is None
    return folder / "run/model"


def test_find_lr_runs_until_the_loss_breaks_away(
    able: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Past --max if need be: this model holds at 0.03 and is ruined, to many times its loss, before 10. Which rate is
    suggested hangs on the noise of a few steps and isn't asked here."""
    pytest.importorskip("matplotlib")
    plan = make_plan(tmp_path / "plan.json", able, data)
    picture, record = tmp_path / "lr.png", tmp_path / "lr.json"
    arguments = ["find-lr", str(plan), "--min", "1e-4", "--max", "0.03", "--steps", "12"]
    assert main([*arguments, "--plot", str(picture), "--output", str(record)]) == 0
    shown = capsys.readouterr().out
    assert "the loss broke away at" in shown
    assert "*" in shown
    found = json.loads(record.read_text())
    assert 0.03 < found["diverged_at"] < 10
    assert found["diverged_at"] == found["rates"][-1]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["find-lr", str(plan), "--min", "1", "--max", "0.1"]) == 2


# ---- grid ----------------------------------------------------------------------------------------------------------


def in_process(plan: Path, output: Path) -> Any:
    """The same run without a process of its own (start-up would be most of the test)."""
    events, _ = train(plan, output)
    return events


def test_a_grid_compares_rates_ranks_and_batches(model: Path, data: Path, tmp_path: Path) -> None:
    from trainer.commands.gridsearch import cell_plan, cells, search, table
    from trainer.wire.request import Request, read_plan

    plan = read_plan(Request(plan=make_plan(tmp_path / "plan.json", model, data)))
    wanted = cells([1e-4, 3e-2], [2, 4], [4])
    assert len(wanted) == 4
    second = cell_plan(plan, cells([1e-3], [8], [12])[0])
    assert second.settings.batch_size * second.settings.gradient_accumulation_steps == 12
    assert second.settings.batch_size == 4
    assert second.settings.lora_alpha / second.settings.lora_r == 2.0
    ran: list[str] = []
    found = search(
        plan, wanted, tmp_path / "grid", runner=in_process, max_steps=4, on_outcome=lambda o: ran.append(o.cell.name)
    )
    assert len(ran) == 4
    assert found[0].cell.learning_rate == 3e-2
    assert found == sorted(found, key=lambda outcome: outcome.score)
    shown = table(found)
    assert shown.count("\n") == 5
    assert (tmp_path / "grid/grid.md").read_text().strip() == shown
    # A second search finds all four done; another plan's folder is refused.
    again = search(
        plan, wanted, tmp_path / "grid", runner=in_process, max_steps=4, on_outcome=lambda o: ran.append("x")
    )
    assert [o.cell for o in again] == [o.cell for o in found]
    assert "x" not in ran
    with pytest.raises(InvalidInput, match=r"another plan .other length of the runs."):
        search(plan, wanted, tmp_path / "grid", runner=in_process, max_steps=5)


def test_a_failed_cell_is_shown_and_the_rest_goes_on(model: Path, data: Path, tmp_path: Path) -> None:
    from trainer.commands.gridsearch import cells, search, table
    from trainer.wire.request import Request, read_plan

    plan = read_plan(Request(plan=make_plan(tmp_path / "plan.json", model, data)))
    found = search(plan, cells([1e-3, 1e38], [2], [4]), tmp_path / "grid", runner=in_process, max_steps=3)
    assert found[0].failure is None
    assert found[1].failure is not None
    assert "failed: " in table(found)


def test_optuna_proposes_within_the_ranges(model: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from trainer.commands.gridsearch import cells, search
    from trainer.wire.request import Request, read_plan

    plan = read_plan(Request(plan=make_plan(tmp_path / "plan.json", model, data)))
    found = search(plan, cells([1e-4, 1e-2], [2, 4], [4]), tmp_path / "o", trials=2, runner=in_process, max_steps=2)
    assert len(found) == 2
    assert all(1e-4 <= outcome.cell.learning_rate <= 1e-2 for outcome in found)


def test_the_grid_command_starts_a_process_for_each_run(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(tmp_path / "plan.json", model, data)
    arguments = ["grid", str(plan), "--learning-rates", "0.01", "--max-steps", "2", "--output", str(tmp_path / "grid")]
    assert main(arguments) == 0
    assert "| 0.01 | 4 | 8 |" in capsys.readouterr().out
    assert main(["grid", str(plan), "--ranks", "0", "--output", str(tmp_path / "other")]) == 2


# ---- dry run -------------------------------------------------------------------------------------------------------


def test_dry_run_measures_the_longest_batch(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from planner import memory
    from planner.devices.hardware import find
    from planner.models.sources import load_model
    from trainer.wire.request import Request, read_plan

    file = make_plan(tmp_path / "plan.json", model, data, settings={"stack": "peft", "max_length": 64})
    plan: Plan = read_plan(Request(plan=file))
    choices = plan.settings
    predicted = memory.predict(load_model(str(model)), find("cpu"), choices)
    file.write_text(plan.model_copy(update={"predicted": predicted}).model_dump_json(by_alias=True))
    assert main(["dry-run", str(file), "--full-length", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["length"], found["planned_length"]) == (4, 64, 64)
    assert {"forward", "loss", "backward", "optimizer"} <= set(found["instants"])
    assert found["measured_bytes"] == max(found["instants"].values())
    assert abs(found["difference"]) < 0.05
    assert main(["dry-run", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "planned were 64 tokens" in shown
    assert "predicted peak" in shown
    assert not (tmp_path / "runs").exists()


# ---- merge ---------------------------------------------------------------------------------------------------------


def test_a_merged_model_says_what_the_adapter_said(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plan = make_plan(tmp_path / "plan.json", model, data, max_steps=6)
    events, failure = train(plan, tmp_path / "run")
    assert failure is None
    adapter = of_kind(events, "finished")[0]["adapter_path"]
    assert main(["merge", str(tmp_path / "run"), "--output", str(tmp_path / "merged")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["logit_difference"] < 1e-4
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with contextlib.chdir(model.parent):
        adapted = AutoPeftModelForCausalLM.from_pretrained(adapter).eval()
    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "merged")("<|user|>say abab<|end|>")["input_ids"]])
    options: Any = {"max_new_tokens": 12, "do_sample": False, "attention_mask": torch.ones_like(ids), "pad_token_id": 0}
    assert plain.generate(ids, **options).tolist() == adapted.generate(ids, **options).tolist()
    assert not hasattr(plain, "peft_config")
    assert main(["merge", str(tmp_path / "run"), "--output", str(tmp_path / "merged")]) == 2
    assert main(["merge", str(tmp_path / "merged"), "--output", str(tmp_path / "twice")]) == 2
    assert main(["generate", str(tmp_path / "merged"), "--prompt", "say ab", "--max-new-tokens", "2"]) == 0


# ---- from scratch --------------------------------------------------------------------------------------------------


def test_presets_have_the_guides_sizes() -> None:
    from trainer.commands import presets
    from trainer.commands.scratch import parameters

    made = {name: presets.config(name, vocab_size=261) for name in ("small", "medium", "large")}
    assert [
        (c["hidden_size"], c["num_attention_heads"], c["num_hidden_layers"], c["intermediate_size"])
        for c in made.values()
    ] == [
        (128, 4, 2, 512),
        (512, 8, 6, 2048),
        (768, 12, 12, 3072),
    ]
    assert 400_000 < parameters(made["small"]) < 700_000


@pytest.mark.parametrize("vocabulary", [0, 320])
def test_a_preset_is_trained_on_a_persons_own_text(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], vocabulary: int
) -> None:
    from transformers import AutoModelForCausalLM

    from trainer.commands.scratch import parameters

    text = tmp_path / "mine.txt"
    text.write_text("\n\n".join(f"the cat {n % 7} sat on the mat {n % 5} and slept." for n in range(300)))
    folder = tmp_path / "out"
    arguments = [
        "presets",
        "small",
        "--data",
        str(text),
        "--output",
        str(folder),
        "--epochs",
        "1",
        "--max-length",
        "64",
    ]
    assert main([*arguments, "--vocab-size", str(vocabulary), "--no-train"]) == 0
    made = json.loads(capfd.readouterr().out)
    assert {file.name for file in folder.iterdir()} == {"model", "plan.yaml"}
    assert made["vocab_size"] == 261 if vocabulary == 0 else 261 < made["vocab_size"] <= 320
    events, failure = train(folder / "plan.yaml", folder / "run")
    assert failure is None, failure
    evaluations = of_kind(events, "eval")
    assert evaluations[-1]["loss"] < 0.9 * evaluations[0]["loss"]
    trained = AutoModelForCausalLM.from_pretrained(folder / "run/model")
    assert sum(p.numel() for p in trained.parameters()) == made["parameters"] == parameters(trained.config.to_dict())


def test_presets_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"small", "medium", "large"}
    for arguments, says in (
        (["presets", "huge", "--data", "x", "--output", "y"], "choose one of small, medium, large"),
        (["presets", "small"], "needs --data TEXT and --output FOLDER"),
        (["presets", "small", "--data", str(tmp_path / "no.txt"), "--output", "y"], "no text file there"),
    ):
        assert main(arguments) == 2
        assert says in capsys.readouterr().err


def test_wrong_words_of_a_command_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """GIVEN an option that is no number THEN one line names it, without the usage of everything."""
    from trainer.__main__ import parser

    with pytest.raises(SystemExit) as ended:
        parser().parse_args(["grid", "plan.yaml", "--ranks", "a,b"])
    caught = capsys.readouterr().err
    assert ended.value.code == 2
    assert len(caught.splitlines()) == 1
    assert "--ranks" in caught


def test_a_device_that_is_unknown_is_refused_though_the_plan_is_for_a_cpu() -> None:
    from planner.contract.choices import TrainingChoices
    from planner.contract.errors import InvalidInput
    from planner.contract.records import Plan
    from trainer.loop.prepare import choose_device

    plan = Plan(model="any", gpu="cpu", settings={})
    with pytest.raises(InvalidInput, match="tpu"):
        choose_device(plan, TrainingChoices(precision="fp32"), "tpu")
    assert choose_device(plan, TrainingChoices(precision="fp32"), "auto").type == "cpu"
