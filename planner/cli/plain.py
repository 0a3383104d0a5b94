"""`plan ui --plain`: the wizard's questions line by line, for screen readers and terminals that can't place text."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TextIO, TypeVar

from planner.cli import resolve
from planner.cli.asked import Aim, Source, Target, TimeLimit
from planner.cli.learning import learned
from planner.contract.errors import InvalidInput, TuneplanError
from planner.contract.settings import parse_duration
from planner.contract.words import one_line, shown
from planner.decide.question import Question

Answer = TypeVar("Answer")


class Ended(InvalidInput):
    """Nobody answers any more."""


def seconds_of(limit: TimeLimit) -> float | None:
    """The time that the whole run may take."""
    return None if limit.time is None else parse_duration(limit.time, option="--time")


def run(target: Target, source: Source, aim: Aim, lines: TextIO | None = None, *, seconds: float | None = None) -> int:
    """Asks for what wasn't given, prints the plan as `plan` does, and trains it where that is wanted.

    A wrong answer is said in one line and asked again. Questions go to stderr; `lines` answers them (default stdin).
    """
    ask = Asker(lines or sys.stdin)
    target = _device(ask, target)
    target = _model(ask, target)
    source, question = _data(ask, target, source, aim)
    from planner.cli.recommend import run as recommended
    from planner.report.plan_view import Shown

    save, train = None, False
    if source.data is not None:
        train = ask.line("Train it now, if it fits? yes or no [no]").lower() in ("y", "yes")
    if not train:
        save = ask.line("Write the plan into which file? [none]") or None
    return recommended(question, as_json=False, save=save, shown=Shown(decision=True, memory=False, advice=False),
                       seconds=seconds, train=train)  # fmt: skip


class Asker:
    """One question after another."""

    def __init__(self, lines: TextIO) -> None:
        self.lines = lines

    def line(self, question: str) -> str:
        """The answer without blanks around it; empty takes the default. Raises `Ended`."""
        print(f"{shown(question)}: ", end="", file=sys.stderr, flush=True)
        answer = self.lines.readline()
        if not answer:
            print(file=sys.stderr)
            raise Ended(f"the answers ended at the question “{question}”; plan --gpu … --model … --data … asks none")
        return answer.strip()

    def until(self, question: str, taken: Callable[[str], Answer]) -> Answer:
        """Asks until the answer can be taken."""
        while True:
            answer = self.line(question)
            try:
                return taken(answer)
            except TuneplanError as error:
                print(f"  {one_line(error)}", file=sys.stderr)


def _device(ask: Asker, target: Target) -> Target:
    if target.gpu is not None:
        return target
    from planner.calibration import attach

    def taken(answer: str) -> Target:
        attach.find(answer or "auto")
        return replace(target, gpu=answer or "auto")

    return ask.until("1 of 3, device: a name such as a10g, 4090 or m3-max-36gb [this machine's]", taken)


def _model(ask: Asker, target: Target) -> Target:
    if target.model is not None:
        return target
    from planner.models.sources import load_model

    def taken(answer: str) -> Target:
        name = answer or resolve.DEFAULT_MODEL
        learned(lambda: load_model(name))
        return replace(target, model=name)

    return ask.until(f"2 of 3, model: a name, a hub id or a folder [{resolve.DEFAULT_MODEL}]", taken)


def _data(ask: Asker, target: Target, source: Source, aim: Aim) -> tuple[Source, Question]:
    """The data with the question that they make; columns are asked for where nobody knows which is what."""
    from planner.contract.data.columns import Undecided

    def asked(found: Source) -> tuple[Source, Question]:
        return found, learned(lambda: resolve.resolve(target, found, aim))

    def taken(answer: str) -> tuple[Source, Question]:
        found = replace(source, data=answer or None)
        try:
            return asked(found)
        except Undecided as error:
            print(f"  {one_line(error)}", file=sys.stderr)
            print(f"  columns: {one_line(', '.join(error.names))}", file=sys.stderr)

        def mapped(columns: str) -> tuple[Source, Question]:
            return asked(replace(found, columns=columns.replace(",", " ").split()))

        return ask.until("columns, as prompt=question completion=answer (or text=…, label=…)", mapped)

    if source.data is not None:
        return asked(source)
    return ask.until("3 of 3, data: a file of examples [none: the plan is for typical lengths]", taken)
