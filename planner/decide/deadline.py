"""What can be done in a given time: the fastest option, then fewer epochs, rows, sequences a step, tokens a row.

Nothing is cut before it must be, and each cut is said. Times are the expected ones; a tenth of what is given is left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from planner.contract.records import Advice, CheckReport
from planner.contract.units import counted
from planner.decide.advice import advise
from planner.decide.advice_case import FEW_STEPS
from planner.decide.candidates import rounded
from planner.decide.question import Question
from planner.decide.run_time import RunTime, run_time
from planner.decide.search import Deadline, Recommendation, recommend

USED = 0.9
"""Share of the time that is planned with."""
SMALLER = (8, 4)
"""Sequences a step that are tried where there would be too few steps."""
SHORTER = (0.95, 0.9, 0.75, 0.5)
"""Shares of the examples that stay whole at the shorter lengths that are tried last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """One way to use the time."""

    question: Question
    answer: Recommendation
    report: CheckReport
    advice: list[Advice]
    time: RunTime
    cut: tuple[str, ...]

    @property
    def enough(self) -> bool:
        """Whether it is long enough to learn from."""
        return self.time.steps >= FEW_STEPS


def recommend_in(question: Question, seconds: float) -> Recommendation:
    """The recommendation whose whole run is expected to take `seconds` at most, with what was cut for it.

    Where not even one step can be done in it, the answer is the fastest there is, marked as not done in time.
    """
    first = recommend(question)
    if first.time is None or first.recommended.speed is None:
        return first.model_copy(
            update={"notes": [*first.notes, "No speed is modelled here, so nothing can be promised of the time."]}
        )
    if first.time.total <= seconds * USED:
        return _told(first, seconds, ())
    tried = [_cut(question, first, seconds, ())]
    if not tried[0].enough:
        tried += [_cut(there, recommend(there), seconds, said) for there, said in _lighter(question, first)]
    best = next((way for way in tried if way.enough), max(tried, key=lambda way: way.time.steps))
    kept = best.answer.model_copy(update={"recommended": best.report, "advice": best.advice, "time": best.time})
    if best.report.tier != best.answer.recommended.tier:
        kept = kept.model_copy(update={"why": []})
    return _told(kept, seconds, best.cut)


def _lighter(question: Question, first: Recommendation) -> list[tuple[Question, tuple[str, ...]]]:
    """Smaller batches, then shorter lengths with the smallest of them, as far as the person left them open."""
    found: list[tuple[Question, tuple[str, ...]]] = []
    light, said = question, tuple[str, ...]()
    batch, length = first.effective_batch_size, first.recommended.settings.max_length
    if question.effective_batch_size is None and not {"batch_size", "gradient_accumulation_steps"} & question.fixed:
        devices = question.choices.num_gpus
        for size in (size for size in SMALLER if size < batch and size % devices == 0):
            light = replace(question, effective_batch_size=size)
            said = (f"{size} instead of {batch} sequences a step",)
            found.append((light, said))
    if question.data is None or "max_length" in question.fixed:
        return found
    profile = question.data.profile
    for share in SHORTER:
        shorter = rounded(profile.percentile(share))
        if shorter < length:
            there = replace(
                light,
                choices=replace(light.choices, max_length=shorter),
                fixed=light.fixed | {"max_length"},
            )
            lost = profile.share_tokens_lost(shorter)
            found.append((there, (*said, f"length {shorter} instead of {length} ({lost:.0%} of the tokens cut)")))
    return found


def _cut(question: Question, answer: Recommendation, seconds: float, said: tuple[str, ...]) -> _Way:
    """The fastest option of an answer, with as many steps as the time has room for."""
    fastest = min(answer.options, key=lambda option: option.speed.step_seconds if option.speed else float("inf"))
    cut = list(said)
    if fastest.tier != answer.recommended.tier:
        cut.insert(0, f"tier {fastest.tier} instead of {answer.recommended.tier}")
    assert fastest.speed is not None
    here = question.having(fastest.settings)
    step = fastest.speed.step_seconds
    whole = run_time(here, fastest, answer.advice)
    assert whole is not None
    if whole.total <= seconds * USED:
        return _Way(question=here, answer=answer, report=fastest, advice=answer.advice, time=whole, cut=tuple(cut))
    most = _room(here, fastest, answer.advice, whole, seconds * USED)
    time = run_time(here, fastest, advise(here, step_seconds=step, max_steps=most), max_steps=most)
    assert time is not None
    if time.epochs >= 1 and question.data is not None:  # whole passes, so that every example counts alike
        most = round(whole.steps / whole.epochs * int(time.epochs))
    advice = advise(here, step_seconds=step, max_steps=most)
    time = run_time(here, fastest, advice, max_steps=most)
    assert time is not None
    cut.append(_less(whole, time, fastest.settings.effective_batch_size, known=question.data is not None))
    return _Way(question=here, answer=answer, report=fastest, advice=advice, time=time, cut=tuple(cut))


def _room(question: Question, report: CheckReport, advice: list[Advice], whole: RunTime, seconds: float) -> int:
    """The most steps that are done in so many seconds, at least 1."""
    low, high = 1, whole.steps
    while low < high:
        middle = (low + high + 1) // 2
        time = run_time(question, report, advice, max_steps=middle)
        if time is not None and time.total <= seconds:
            low = middle
        else:
            high = middle - 1
    return low


def _less(whole: RunTime, time: RunTime, batch: int, *, known: bool) -> str:
    """What of the run is left, in words."""
    epochs = f"{time.epochs:g} of {whole.epochs:g} epochs"
    if not known:
        return f"{counted(time.steps, 'step')}, {time.steps * batch:,} sequences of full length"
    if time.epochs >= 1:
        return f"{epochs} ({time.steps:,} steps)"
    return f"one pass over {time.examples:,} of the {whole.examples:,} examples ({counted(time.steps, 'step')})"


def _told(answer: Recommendation, seconds: float, cut: tuple[str, ...]) -> Recommendation:
    assert answer.time is not None
    total = answer.time.total
    deadline = Deadline(seconds=seconds, cut=list(cut), kept=total <= seconds, enough=answer.time.steps >= FEW_STEPS)
    return answer.model_copy(update={"deadline": deadline})
