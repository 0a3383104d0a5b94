"""Speed against what others published: mean error, coverage, and what 4-bit weights cost."""

from __future__ import annotations

import json
import statistics
from functools import cache

import pytest

from benchmarks.accuracy import throughput
from benchmarks.accuracy.throughput import Paced
from planner import speed
from planner.contract.choices import TrainingChoices
from planner.devices import profiles
from planner.models import sources


@cache
def rows() -> tuple[Paced, ...]:
    return tuple(throughput.rows())


def mean_error(found: list[Paced]) -> float:
    return statistics.fmean(abs(row.error) for row in found)


def test_rows_whose_settings_are_known_are_predicted() -> None:
    """GIVEN 113 published runs on 13 devices THEN they are 12 % off on average at most, nine in ten in the interval."""
    exact = [row for row in rows() if row.exact]
    assert len(exact) >= 113
    assert len({row.gpu for row in exact}) >= 13
    assert mean_error(exact) <= 0.12
    assert sum(row.inside for row in exact) >= 0.9 * len(exact)
    assert abs(statistics.fmean(row.error for row in exact)) <= 0.05, "neither too fast nor too slow"


@pytest.mark.parametrize("later", [False, True])
def test_rows_looked_up_later_are_predicted_too(later: bool) -> None:
    found = [row for row in rows() if row.exact and row.later == later]
    assert len(found) >= 44
    assert mean_error(found) <= 0.12


@pytest.mark.parametrize(
    ("gpus", "limit"), [(("a100", "h100", "l40s"), 0.08), (("a100-80gb",), 0.06), (("l40",), 0.06), (("t4",), 0.12)]
)
def test_by_device(gpus: tuple[str, ...], limit: float) -> None:
    assert mean_error([row for row in rows() if row.exact and row.gpu.startswith(gpus)]) <= limit


@pytest.mark.parametrize(("gpu", "limit"), [("a100-80gb", 0.08), ("l40", 0.08), ("l40s", 0.08), ("h100-80gb", 0.08)])
def test_by_device_after_runs_of_ones_own(gpu: str, limit: float) -> None:
    """GIVEN the other rows of a device as its own runs THEN each row is less than 8 % off on average."""
    found = throughput.with_own_runs([row for row in rows() if row.exact and row.gpu == gpu])
    assert mean_error(found) <= limit


def test_every_row_has_a_source_with_its_commit_and_none_stands_twice() -> None:
    content = json.loads(throughput.ROWS.read_text())
    assert all(" at " in row["source"] and row["tokens_per_second"] > 0 for row in content["rows"])
    assert len({row["id"] for row in content["rows"]}) == len(content["rows"])


def test_the_page_has_these_figures() -> None:
    """`python -m benchmarks.accuracy.throughput` writes them anew."""
    page = throughput.PAGE.read_text(encoding="utf-8")
    assert "\n".join(throughput.section(rows())) in page


def test_the_part_is_replaced_where_it_stands() -> None:
    page = f"# A\n\ntext\n\n{throughput.HEADING}\n\nold\n\n## B\n\nmore\n"
    assert throughput.replaced(page, [throughput.HEADING, "", "new"]) == (
        f"# A\n\ntext\n\n{throughput.HEADING}\n\nnew\n\n## B\n\nmore\n"
    )
    assert throughput.replaced("# A\n", [throughput.HEADING, "", "new"]) == f"# A\n\n{throughput.HEADING}\n\nnew\n"


@pytest.mark.parametrize("stack", ["peft", "builtin"])
@pytest.mark.parametrize("card", ["t4", "a100-80gb", "rtx-4090"])
def test_unpacking_costs_time(card: str, stack: str) -> None:
    """GIVEN the same step over 4-bit and 16-bit weights THEN 4 bits are slower, less so with more tokens."""
    model = sources.load_model("llama-3.2-1b")
    precision = "fp16" if card == "t4" else "bf16"

    def slower(batch: int) -> float:
        taken = [
            speed.predict(
                model,
                profiles.load(card),
                TrainingChoices(
                    method=method,
                    batch_size=batch,
                    gradient_accumulation_steps=1,
                    max_length=1024,
                    precision=precision,
                    stack=stack,
                    kbit_preparation="none" if stack == "peft" and method == "qlora" else None,
                ),
            ).step_seconds
            for method in ("qlora", "lora")
        ]
        return taken[0] / taken[1]

    assert slower(1) > slower(16) > 1.0


def test_fp32_between_the_layers_costs_more_than_unpacking() -> None:
    """GIVEN PEFT's k-bit preparation without autocast on a T4 THEN attention and head in fp32 dominate."""
    model, card = sources.load_model("llama-3.2-1b"), profiles.load("t4")
    base = TrainingChoices(method="qlora", batch_size=4, max_length=2048, precision="fp16", stack="peft")
    taken = {
        kind: speed.predict(model, card, choices).step_seconds
        for kind, choices in {
            "stock": base,
            "none": TrainingChoices(
                method="qlora", batch_size=4, max_length=2048, precision="fp16", stack="peft", kbit_preparation="none"
            ),
            "lora": TrainingChoices(batch_size=4, max_length=2048, precision="fp16", stack="peft"),
        }.items()
    }
    assert taken["stock"] - taken["none"] > taken["none"] - taken["lora"] > 0
