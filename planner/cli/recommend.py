"""`plan` and `plan check`: the question asked, the answer printed or saved."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING

from planner.cli.learning import learned
from planner.cli.talk import print_json, say
from planner.contract.records import Advice, CheckReport
from planner.contract.words import LAYOUT, shown
from planner.decide.check import check
from planner.decide.question import Question

if TYPE_CHECKING:
    from planner.decide.search import Recommendation
    from planner.exchange.foreign import Foreign
    from planner.memory.explain import Explanation
    from planner.report.plan_view import Shown

EXIT_FITS, EXIT_DOES_NOT_FIT = 0, 3


def run(
    question: Question,
    *,
    as_json: bool,
    save: str | None,
    shown: Shown,
    seconds: float | None = None,
    train: bool = False,
) -> int:
    """Recommends; exit code 3 with the smallest candidate's judgement when nothing fits however it is changed.

    `seconds`: the time that the whole run may take; `train`: goes on with the training, whose exit code it is then.
    """
    from planner.decide import deadline, faster, search, spare

    def answered() -> search.Recommendation:
        return search.recommend(question) if seconds is None else deadline.recommend_in(question, seconds)

    try:
        answer = learned(answered)
    except search.NothingFits as error:
        say(error)
        for note in question.notes:  # which device was meant, and what else was taken for granted
            say(note)
        _print_check(error.report, as_json)
        return EXIT_DOES_NOT_FIT
    if train and save is None:
        from planner.cli import going_on

        save = going_on.plan_file(question.model_name)
    if save is not None:
        _save(question, answer.recommended, list(answer.advice), save)
    if as_json:
        print_json(answer.model_dump(mode="json", by_alias=True))
        return EXIT_FITS
    from planner.report.plan_view import plan_view
    from planner.report.words import make_console

    free = shorter = None
    if shown.decision:
        best = answer.recommended
        answer = _with_guides(question, answer)
        free, shorter = spare.line(question, best), faster.line(question, best, answer.time)
    if free is not None:
        answer = answer.model_copy(update={"why": [*answer.why, free]})
    data = None if question.data is None else question.data.settings.path
    plan_view(make_console(), answer, [] if train else _start_lines(save, data), shown=shown, faster=shorter)
    if train and save is not None:
        from planner.cli import going_on

        return going_on.run(save, answer.changed)
    return EXIT_FITS


def _with_guides(question: Question, answer: Recommendation) -> Recommendation:
    """The answer with the guides' setting for the tier that was named, where they have one for the device."""
    if question.tier is None:
        return answer
    from planner.decide import guides

    found = guides.of_tier(question)
    if found is None:
        return answer
    # Theirs and ours at one batch and length say more than the line on a micro-batch of 8.
    return answer.model_copy(update={"why": [*guides.sentences(found)]})


def run_check(
    question: Question,
    *,
    as_json: bool,
    save: str | None,
    explain: str | None = None,
    foreign: Foreign | None = None,
) -> int:
    """Judges one configuration; `explain` adds the terms of the `binding` instant, or of `all`.

    `foreign`: the other trainer's file that the settings come from.
    """
    from dataclasses import replace

    from planner.decide.candidates import with_effective_batch
    from planner.decide.search import data_notes

    if foreign is not None:
        from planner.cli.foreign import order_notes
        from planner.exchange.here import in_model_words, without_unmodelled_kernels

        question, foreign = without_unmodelled_kernels(in_model_words(question, foreign), foreign)
        question = replace(question, notes=(*question.notes, *order_notes(question)))
    question = with_effective_batch(question)
    noted = replace(question, notes=(*question.notes, *data_notes(question)))
    report = learned(lambda: check(noted))
    if save is not None:
        from planner.decide.advice import advise

        seconds = None if report.speed is None else report.speed.step_seconds
        overrides = {} if foreign is None else dict(foreign.hyperparameters)
        _save(question, report, advise(question, step_seconds=seconds), save, **overrides)
    _print_check(report, as_json, _explained(question, explain), foreign)
    return EXIT_DOES_NOT_FIT if report.verdict == "does_not_fit" else EXIT_FITS


def _save(question: Question, report: CheckReport, advice: list[Advice], path: str, **overrides: object) -> None:
    """Writes the plan of a judged question, its hyperparameters as advised but for the `overrides`."""
    from planner.decide.advice import hyperparameters
    from planner.decide.planning import make_plan
    from planner.handover import plans

    plan = make_plan(question, report, hyperparameters=hyperparameters(advice, **overrides), advice=advice)
    say(f"wrote {plans.save(plan, path)}")


def _explained(question: Question, wanted: str | None) -> tuple[Explanation, ...]:
    if wanted is None:
        return ()
    from planner.memory.explain import explain

    fitted, _ = question.fitted()
    return explain(question.model, question.hardware, fitted, every_instant=wanted == "all", lengths=question.lengths)


def _print_check(
    report: CheckReport,
    as_json: bool,
    explained: tuple[Explanation, ...] = (),
    foreign: Foreign | None = None,
) -> None:
    if as_json:
        content = report.model_dump(mode="json", by_alias=True)
        if foreign is not None:
            content["from"] = foreign.record()
        if explained:
            content["explanation"] = [item.record() for item in explained]
        print_json(content)
        return
    from planner.report.memory_view import check_view
    from planner.report.words import make_console

    check_view(make_console(), report)
    if foreign is not None:
        from planner.report.foreign_view import foreign_view

        foreign_view(make_console(), foreign)
    if explained:
        from planner.memory.explain import lines

        print(shown("\n".join(lines(explained)), keep=LAYOUT))


def _start_lines(save: str | None, data: str | None) -> list[str]:
    """Commands that begin the run from where the user is now."""
    plan_file = save or "plan.yaml"
    source = shlex.quote(data) if data else "train.jsonl"
    lines = [] if save else [f"plan {shlex.join(_own_words())} --save {plan_file}".replace("  ", " ")]
    with_data = "" if data and save else f" --data {source}"
    return [*lines, f"plan train {shlex.quote(plan_file)}{with_data}"]


def _own_words() -> list[str]:
    """The command line that the user wrote."""
    return [word for word in sys.argv[1:] if word not in ("--json", "--brief", "--advice", "--memory", "--explain")]
