"""`python -m benchmarks.accuracy.throughput`: predicted beside published tokens per second, a part of docs/accuracy.md.

Rows of throughput.json: source with commit, device, model (of the catalogue, or dimensions beside the rows), choices
and the published figure; `exact` rows ran transformers' own code, or its like, with settings that are all known. The
rows of tests/cases/measured_t4.json bring their seconds a step. Predictions are bare: no calibration, no own runs.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.accuracy.measured import CASES, question_of
from benchmarks.accuracy.metrics import table
from planner import speed
from planner.contract.choices import TrainingChoices
from planner.contract.errors import NotModelled
from planner.contract.own_runs import OwnRun
from planner.contract.settings import choices_from
from planner.contract.spec import ModelSpec
from planner.devices import profiles
from planner.models import sources

ROWS = Path(__file__).with_name("throughput.json")
PAGE = Path(__file__).parents[2] / "docs" / "accuracy.md"
HEADING = "## Published throughputs"


@dataclass(frozen=True, kw_only=True, slots=True)
class Paced:
    """One published figure beside its prediction, in tokens per second."""

    id: str
    source: str
    gpu: str
    method: str
    exact: bool
    note: str
    later: bool
    """Looked up after the rules had been made."""
    measured: float
    predicted: float
    interval: tuple[float, float]
    model: ModelSpec
    choices: TrainingChoices

    @property
    def error(self) -> float:
        """Signed, as a share of the published figure."""
        return self.predicted / self.measured - 1

    @property
    def inside(self) -> bool:
        """Whether the interval holds the published figure."""
        return self.interval[0] <= self.measured <= self.interval[1]


def rows() -> list[Paced]:
    """All of them."""
    content = json.loads(ROWS.read_text(encoding="utf-8"))
    found = []
    for row in content["rows"]:
        model = _model(row["model"], content["models"])
        choices = choices_from(row["choices"])
        report = speed.predict(model, profiles.load(row["gpu"]), choices)
        found.append(
            Paced(
                id=row["id"],
                source=row["source"],
                gpu=row["gpu"],
                method=choices.method,
                exact=row["exact"],
                note=row["note"],
                later=row.get("later", False),
                measured=row["tokens_per_second"],
                predicted=report.tokens_per_second,
                interval=report.interval_tokens_per_second,
                model=model,
                choices=choices,
            )
        )
    return [*found, *_of_the_t4()]


def _model(name: str, given: dict[str, dict[str, object]]) -> ModelSpec:
    return sources.from_config(given[name], name) if name in given else sources.load_model(name)


def _of_the_t4() -> list[Paced]:
    found = []
    for row in json.loads(CASES.read_text(encoding="utf-8")):
        question = question_of(row["args"])
        choices = question.choices
        try:
            report = speed.predict(question.model, profiles.load("t4"), choices)
        except NotModelled:
            continue
        tokens = choices.batch_size * choices.max_length
        found.append(
            Paced(
                id=row["id"],
                source=row["source"],
                gpu="t4",
                method=choices.method,
                exact=True,
                note="",
                later=False,
                measured=tokens / row["step_seconds"],
                predicted=report.tokens_per_second,
                interval=report.interval_tokens_per_second,
                model=question.model,
                choices=choices,
            )
        )
    return found


def with_own_runs(found: Sequence[Paced]) -> list[Paced]:
    """Each row predicted anew with the other rows of its device as runs of one's own, by the rule that counts those."""
    runs = [
        OwnRun(
            name=row.id,
            stack=row.choices.stack,
            method=row.method,
            predicted_seconds=speed.rule_seconds(row.model, profiles.load(row.gpu), row.choices),
            pace=math.log(row.predicted / row.measured),
        )
        for row in found
    ]
    again = []
    for place, row in enumerate(found):
        others = tuple(run for number, run in enumerate(runs) if found[number].gpu == row.gpu and number != place)
        report = speed.predict(row.model, replace(profiles.load(row.gpu), own_runs=others), row.choices)
        again.append(replace(row, predicted=report.tokens_per_second, interval=report.interval_tokens_per_second))
    return again


def section(found: Sequence[Paced] | None = None) -> list[str]:
    """The part of docs/accuracy.md: mean error, worst and coverage, of all, by device and method, other code apart."""
    found = rows() if found is None else found
    exact = [row for row in found if row.exact]
    return [
        HEADING,
        "",
        f"{len(found)} published throughputs on {len({row.gpu for row in found})} devices, {len(exact)} of them with "
        "transformers' model code or its like and settings that are all known. Uncalibrated. What a kernel costs the "
        "host, what 4-bit weights cost to unpack and how much of its data sheet a T4 holds were fitted with some of "
        "these rows in view (planner/speed/roofline.py, hardware_profiles/t4.toml). "
        f"{sum(row.later for row in exact)} rows were looked up after the rules had been made. At the first look they "
        "were 14.1 % off on average, 43 of 44 inside the interval; what they showed to be missing was counted then: a "
        "network's own dropout, sums of bias gradients, heads laid beside each other, and what an H100 sustains by "
        "others' measurements. No figure was fitted to them. Rows and sources: "
        "benchmarks/accuracy/throughput.json, tests/cases/measured_t4.json; "
        "`python -m benchmarks.accuracy.throughput --rows` shows each.",
        "",
        *_grouped(exact, "", lambda row: "all of them"),
        "",
        *_grouped(exact, "", lambda row: "looked up later" if row.later else "in view while the rules were made"),
        "",
        *_grouped(
            [row for row in exact if row.gpu.startswith(("a100", "h100", "l40s"))], "", lambda row: "A100, H100, L40S"
        ),
        "",
        *_grouped(exact, "device and method", lambda row: f"{row.gpu}, {row.method}"),
        "",
        "The same rows after runs of one's own: each is predicted with the others of its device counted as such.",
        "",
        *_grouped(learnt := with_own_runs(exact), "device", lambda row: row.gpu),
        "",
        *_grouped(learnt, "device and method", lambda row: f"{row.gpu}, {row.method}"),
        "",
        "Other model code or kernels, which no rule here describes, and settings that are not all known:",
        "",
        *_grouped(
            [row for row in found if not row.exact],
            "device and kind",
            lambda row: f"{row.gpu}, {row.method}: {row.note}",
        ),
    ]


def _grouped(found: Sequence[Paced], title: str, key: Callable[[Paced], str]) -> list[str]:
    groups: dict[str, list[Paced]] = {}
    for row in found:
        groups.setdefault(key(row), []).append(row)
    cells = [
        [
            name,
            str(len(group)),
            f"{statistics.fmean(abs(row.error) for row in group):.1%}",
            f"{statistics.fmean(row.error for row in group):+.1%}",
            f"{max((row.error for row in group), key=abs):+.1%}",
            f"{sum(row.inside for row in group)} of {len(group)}",
        ]
        for name, group in groups.items()
    ]
    return table([title, "n", "mean error", "bias", "worst", "inside the interval"], cells)


def replaced(page: str, lines: Sequence[str]) -> str:
    """The page with this part in the place of the one that it has, or at its end."""
    before, heading, rest = page.partition(HEADING + "\n")
    after = rest.partition("\n## ") if heading else ("", "", "")
    tail = f"\n## {after[2]}" if after[1] else ""
    return before.rstrip("\n") + "\n\n" + "\n".join(lines).rstrip("\n") + "\n" + tail


def main() -> None:
    """Writes the part of the page; with --rows prints every row instead."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", action="store_true", help="print each row and write nothing")
    asked = parser.parse_args()
    found = rows()
    if asked.rows:
        for row in found:
            inside = "in " if row.inside else "out"
            print(f"{row.error:+7.1%} {inside} {row.measured:9,.0f} {row.predicted:9,.0f}  {row.id}")
        return
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), section(found)), encoding="utf-8")


if __name__ == "__main__":
    main()
