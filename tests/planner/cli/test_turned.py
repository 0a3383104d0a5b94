"""`plan max` and `plan compare`: every limit holds by `check` and is one, every price has its provider and day."""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from planner.cli import main
from planner.contract.choices import TrainingChoices
from planner.contract.settings import choices_from
from planner.decide import limits
from planner.decide.check import check
from planner.decide.prices import SNAPSHOT
from planner.decide.question import Question
from planner.devices import hardware, profiles
from planner.models import sources


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    assert main([*words, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def asked(gpu: str, model: str, **settings: Any) -> Question:
    return Question(
        model=sources.load_model(model),
        hardware=hardware.find(gpu),
        choices=TrainingChoices(**settings),
        fixed=frozenset(settings),
    )


def fits(question: Question, **changes: Any) -> bool:
    """Whether the changed choices fit by the exact check, with everything recomputed."""
    changed = replace(question.choices, gradient_checkpointing=True, checkpoint_layers=None, **changes)
    return check(question.having(changed), with_remedies=False).verdict == "fits"


# ---- max -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "model"), [("a10g", "llama-3.1-8b"), ("rtx3060", "phi-2"), ("m3-18gb", "llama-3.2-1b")]
)
def test_the_longest_length_fits_and_a_tenth_more_does_not(gpu: str, model: str) -> None:
    question = asked(gpu, model)
    found = limits.longest(question, exactly=True)
    assert found is not None
    settings = found.report.settings
    again = check(question.having(settings), with_remedies=False)
    assert again.verdict == "fits"
    assert again.memory == found.report.memory
    assert (settings.batch_size, settings.max_length) == (1, found.value)
    longer = int(1.1 * int(found.value)) // 64 * 64 + 64
    last = question.model.max_positions
    if last is not None and longer > last:
        assert found.bound
    else:
        assert not fits(question.having(settings), max_length=longer)


def test_the_largest_batch_fits_and_a_tenth_more_does_not() -> None:
    question = asked("rtx3060", "llama-3.2-1b", max_length=1024)
    found = limits.largest_batch(question)
    assert found is not None
    assert check(question.having(found.report.settings), with_remedies=False).verdict == "fits"
    assert found.report.settings.batch_size == found.value
    assert not fits(question.having(found.report.settings), batch_size=int(1.15 * int(found.value)) + 1)


def test_the_largest_rank_is_the_last_of_its_kind_that_fits() -> None:
    question = asked("rtx3060", "phi-2", max_length=1024, batch_size=1)
    found = limits.largest_rank(question)
    assert found is not None
    assert found.report.settings.lora_r == found.value
    above = [rank for rank in limits.RANKS if rank > int(found.value) and rank <= question.model.hidden_size]
    assert all(not fits(question, lora_r=rank) for rank in above[-1:])


@pytest.mark.parametrize(
    "what", ["rank", *(pytest.param(what, marks=pytest.mark.nightly) for what in ("length", "batch"))]
)
def test_quantised_weights_stand_beside_where_no_method_is_asked_for(
    what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """GIVEN no method THEN the largest with LoRA and the larger one with QLoRA; GIVEN one, or a Mac, THEN one line."""
    words = ("max", "--what", what, "--model", "llama-3.2-1b", "--max-length", "1024")
    both = run(capsys, *words, "--gpu", "rtx3060")["limits"]
    assert [limit["report"]["settings"]["method"] for limit in both] == ["lora", "qlora"]
    assert both[1]["value"] >= both[0]["value"]
    for more in (("--gpu", "rtx3060", "--method", "lora"), ("--gpu", "m3-16gb")):
        (one,) = run(capsys, *words, *more)["limits"]
        assert one["report"]["settings"]["method"] == "lora"


def test_of_models_of_one_size_the_most_used_is_named() -> None:
    """GIVEN many networks of 8.2e9 parameters THEN the family's newest stands for them, no model tuned from it."""
    first = next(limits.largest_models(asked("rtx3090", "phi-2"), most=1, room=8.25e9))
    assert first.value == "qwen3-8b"


@pytest.mark.nightly
def test_largest_models_fit_and_stand_from_large_to_small(capsys: pytest.CaptureFixture[str]) -> None:
    found = run(capsys, "max", "--what", "model", "--gpu", "t4", "--max-length", "512", "--precision", "fp16")
    for method in ("lora", "qlora"):
        of_it = [limit for limit in found["limits"] if limit["report"]["settings"]["method"] == method]
        sizes = [limit["report"]["model"]["parameters"] for limit in of_it]
        assert sizes
        assert sizes == sorted(sizes, reverse=True)
    for limit in found["limits"][:2]:
        question = asked("t4", limit["value"])
        given = {name: value for name, value in limit["report"]["settings"].items() if value is not None}
        report = check(question.having(choices_from(given)), with_remedies=False)
        assert report.verdict == "fits"
        assert report.memory.device_peak_bytes == limit["report"]["memory"]["device_peak_bytes"]


def test_data_does_not_make_the_longest_length_longer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """GIVEN short examples THEN the longest length is that of full rows, not of theirs."""
    path = tmp_path / "short.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": f"q {n}", "completion": f"an answer {n}."}) + "\n" for n in range(50))
    )
    words = ("max", "--what", "length", "--gpu", "rtx3060", "--model", "phi-2")
    full = run(capsys, *words, "--effective-batch-size", "4")
    with_data = run(capsys, *words, "--data", str(path), "--effective-batch-size", "4")
    assert with_data["limits"][0]["value"] == pytest.approx(full["limits"][0]["value"], rel=0.1)


def test_what_can_not_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["max", "--what", "lenght", "--gpu", "t4"]) == 2
    assert "length" in capsys.readouterr().err
    assert main(["compare", "--gpu", "a10g,warpdrive"]) == 2
    assert "warpdrive" in capsys.readouterr().err
    assert main(["compare", "--gpu", "a10g", "--num-gpus", "0"]) == 2
    assert "--num-gpus" in capsys.readouterr().err


# ---- compare -------------------------------------------------------------------------------------------------------


def test_each_compared_row_holds_and_money_is_hours_by_price(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", "--gpu", "rtx4090,l40s,gtx-1050-ti", "--model", "llama-3.1-8b", "--max-length", "1024")
    rows = run(capsys, *words)["rows"]
    assert [row["gpu"] for row in rows] == ["rtx-4090", "l40s", "gtx-1050-ti"]
    assert rows[2]["report"] is None
    assert rows[2]["why_not"]
    for row in rows[:2]:
        question = asked(row["gpu"], "llama-3.1-8b")
        given = {name: value for name, value in row["report"]["settings"].items() if value is not None}
        report = check(question.having(choices_from(given)), with_remedies=False)
        assert report.verdict in ("fits", "tight")
        assert report.memory.device_peak_bytes == row["report"]["memory"]["device_peak_bytes"]
        price = row["price_per_hour"]
        assert row["cost"] == pytest.approx(row["hours"] * price["amount"] * row["num_gpus"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", price["date"])
        assert price["provider"]
        assert row["energy_kwh"] == pytest.approx(row["hours"] * row["board_watts"] / 1000)
    capsys.readouterr()
    assert main([*words]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert rows[0]["price_per_hour"]["date"] in out
    assert rows[0]["price_per_hour"]["provider"] in out


def test_a_narrow_terminal_loses_columns_by_importance(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN 100, 80 and 60 columns THEN device, batch, peak, time and money stay and no line is longer."""
    words = (
        "compare",
        "--gpu",
        "l40s,gtx-1050-ti",
        "--num-gpus",
        "1,4",
        "--model",
        "mistral-7b",
        "--max-length",
        "512",
    )
    shown = {}
    for columns in (100, 80, 60):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main([*words]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= columns
        head = next(line for line in lines if line.startswith("device"))
        assert all(title in head for title in ("batch", "peak", "time", "money")), head
        assert any("none fits" in line for line in lines)
        shown[columns] = ("kWh" in head, "length" in head)
        assert ("kWh: at most" in " ".join(lines)) == shown[columns][0]
    assert shown[100] == (True, True)
    assert not shown[60][1]


def test_several_devices_cost_as_many_times_the_price(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("compare", "--gpu", "a100-80gb", "--num-gpus", "1,2", "--model", "llama-3.2-1b", "--max-length", "1024")
    one, two = run(capsys, *words)["rows"]
    assert (one["num_gpus"], two["num_gpus"]) == (1, 2)
    assert two["hours"] < one["hours"]
    assert two["cost"] == pytest.approx(two["hours"] * 2 * two["price_per_hour"]["amount"])


def test_own_prices_replace_the_snapshot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """GIVEN a price file THEN it alone counts; GIVEN one that lacks its day or is below 0 THEN one line says so."""
    path = tmp_path / "prices.toml"
    good = '[a10g]\namount = 2.5\nprovider = "us"\nsource = "invoice"\ndate = "2026-11-01"\n'
    path.write_text(good)
    words = (
        "compare",
        "--gpu",
        "a10g,rtx4090",
        "--model",
        "llama-3.2-1b",
        "--max-length",
        "512",
        "--prices",
        str(path),
    )
    own, other = run(capsys, *words)["rows"]
    assert own["price_per_hour"]["amount"] == 2.5
    assert other["price_per_hour"] is None
    assert other["cost"] is None
    for text in (
        good.replace("2.5", "-1"),
        good.replace('date = "2026-11-01"\n', ""),
        "[a10g",
        "[warpdrive]\namount = 1\n",
    ):
        path.write_text(text)
        assert main([*words]) == 2
        assert str(path) in capsys.readouterr().err


def test_the_snapshot_is_dated_and_of_devices_that_are_known() -> None:
    for gpu, price in SNAPSHOT.items():
        assert profiles.resolve(gpu) == gpu
        assert datetime.date.fromisoformat(price.date) <= datetime.date(2026, 12, 31)
        assert price.source.startswith("https://")
        assert price.amount > 0
