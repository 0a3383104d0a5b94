"""`plan max` and `plan compare`: the question turned round, and the same question on several devices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from planner.cli.recommend import EXIT_DOES_NOT_FIT, EXIT_FITS
from planner.cli.talk import print_json
from planner.contract.errors import InvalidInput
from planner.contract.settings import near
from planner.decide.question import Question

if TYPE_CHECKING:
    from planner.decide.compare import ComparedRow
    from planner.decide.limits import Limit

WHAT = ("length", "batch", "rank", "model")


def run_max(question: Question, *, what: str, as_json: bool) -> int:
    """Prints the largest of one thing that fits; exit code 3 where nothing does."""
    from planner.report.turned_view import limits_view
    from planner.report.words import make_console

    if what not in WHAT:
        raise InvalidInput(f"--what {what!r} is unknown; choose one of {', '.join(WHAT)}{near(what, WHAT)}")
    found = _limits(question, what)
    if as_json:
        print_json({"schema": "tuneplan.max/1", "what": what, "limits": [_limit_record(limit) for limit in found]})
    else:
        limits_view(make_console(), question, what, found)
    return EXIT_FITS if found else EXIT_DOES_NOT_FIT


def _limits(question: Question, what: str) -> list[Limit]:
    """The limit of the method that is advised, and of quantised weights beside it where no method was asked for."""
    from planner.decide import limits, search

    try:
        base = search.recommend(question).recommended.settings
        base = replace(base, made_again=question.choices.made_again)  # what is kept for speed gives way
    except search.NothingFits:
        base = question.choices
    bases = [base]
    if base.method == "lora" and "method" not in question.fixed and question.hardware.kind == "cuda":
        bases.append(replace(base, method="qlora"))
    find: dict[str, Callable[[Question], Limit | None]] = {
        "length": partial(limits.longest, exactly=True),
        "batch": limits.largest_batch,
        "rank": limits.largest_rank,
    }
    found: list[Limit] = []
    for one in bases:
        here = replace(question.having(one), notes=())
        if what == "model":
            found += limits.largest_models(here)
        elif (limit := find[what](here)) is not None:
            found.append(limit)
    return found


def _limit_record(limit: Limit) -> dict[str, object]:
    report = limit.report.model_dump(mode="json", by_alias=True)
    return {"what": limit.what, "value": limit.value, "bound": limit.bound or None, "report": report}


def run_compare(question: Question, *, gpus: str, num_gpus: str | None, prices: str | None, as_json: bool) -> int:
    """Prints the same question on several devices; exit code 3 where it fits none."""
    from planner.calibration import attach
    from planner.decide.compare import compare
    from planner.decide.prices import read_prices
    from planner.report.turned_view import compare_view
    from planner.report.words import make_console

    names = [name.strip() for name in gpus.split(",") if name.strip()]
    if not names:
        raise InvalidInput("--gpu is empty; name devices, like --gpu a10g,rtx4090,h100 (plan gpus lists all)")
    devices = [attach.find(name) for name in names]
    found = compare(question, devices, _counts(num_gpus), read_prices(prices))
    if as_json:
        print_json({"schema": "tuneplan.compare/1", "rows": [_row_record(row) for row in found]})
    else:
        compare_view(make_console(), question, found)
    return EXIT_FITS if any(row.report is not None for row in found) else EXIT_DOES_NOT_FIT


def _counts(text: str | None) -> list[int]:
    if text is None:
        return [1]
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if not counts or min(counts) < 1:
        raise InvalidInput(f"--num-gpus {text!r} must be whole numbers of at least 1, like 1,2,4")
    return counts


def _row_record(row: ComparedRow) -> dict[str, object]:
    return {
        "gpu": row.gpu,
        "num_gpus": row.num_gpus,
        "why_not": row.why_not or None,
        "hours": row.hours,
        "price_per_hour": None if row.price is None else row.price.record(),
        "cost": row.cost,
        "board_watts": row.board_watts,
        "energy_kwh": row.energy_kwh,
        "report": None if row.report is None else row.report.model_dump(mode="json", by_alias=True),
        "changed": [item.model_dump(mode="json") for item in row.changed],
    }
