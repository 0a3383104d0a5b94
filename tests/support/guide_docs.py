"""docs/guides-answers.md: the guides' configurations beside ours. `python -m tests.support.guide_docs` writes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from planner.contract.choices import TrainingChoices
from planner.contract.records import CheckReport
from planner.contract.settings import parse_duration
from planner.contract.units import format_bytes, format_duration
from planner.decide import guides
from planner.decide.deadline import recommend_in
from planner.decide.question import Question
from planner.decide.search import NothingFits, recommend
from planner.devices import profiles
from planner.models import sources

PAGE = Path(__file__).parents[2] / "docs" / "guides-answers.md"
HEAD = """# The guides' configurations, and ours

Made by `python -m tests.support.guide_docs`. Model phi-2 with LoRA r8 on all linear layers, the guides' workload.
Theirs is judged as their scripts run it: PEFT in the stock Trainer, dropout 0.05, the whole vocabulary's loss at once.
Ours is what `plan` takes for as many sequences of the same length a step. Peaks are device bytes, speeds are expected
ones; nothing here was measured on these cards.
"""
COLUMNS = ("", "theirs", "takes", "the guide says", "tokens/s", "ours", "takes", "tokens/s", "")
TABLE = f"\n| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"
CHECKLIST = """
## The checklist of guide 4, in commands

| question | answer |
|---|---|
| How much GPU memory do I have? | `plan gpus`, `plan doctor`; `plan --gpu auto` plans with what is free |
| How much time can I spend? | `plan --time 30m` cuts what must be, and says what; `plan compare` names faster devices |
| Do I have multiple GPUs? | `plan --num-gpus 2 --strategy fsdp`; `plan compare --num-gpus 1,2,4` |
| How large is my dataset? | `plan --data FILE`: examples, lengths, steps an epoch, what is odd about it and where |
| Do I expect overfitting? | the advised epochs, dropout and early stopping follow the number of examples (`--advice`) |
| Quick experiment or production model? | `--scenario quick`, `production` |
| How much improvement do I need? | a rate's regret is shown (`--advice`); `plan grid`, `plan find-lr` try it |
| Frequent updates, wandb, several checkpoints? | `--logging-steps`, `--report-to`, `--save-total-limit` |
"""


def question(gpu: str) -> Question:
    """The guides' workload on a device."""
    return Question(model=sources.load_model("phi-2"), hardware=profiles.load(gpu), choices=TrainingChoices())


def row(found: guides.TheirsAndOurs) -> str:
    """One line of a table."""
    s = found.setting
    theirs = f"{s.batch_size} × {s.accumulation} of {s.length:,}, {'all' if s.recomputed else 'nothing'} recomputed"
    taken, pace = ("does not run there", "–") if found.theirs is None else _figures(found.theirs)
    if found.ours is None:
        return f"| {s.name} | {theirs} | {taken} | {s.says or '–'} | {pace} | nothing fits | – | – | |"
    o = found.ours.settings
    layers = o.checkpointed_layers(32) if o.gradient_checkpointing else 0
    how = f"{o.batch_size} × {o.gradient_accumulation_steps}, {layers} of 32 layers recomputed, {o.method}"
    ours, our_pace = _figures(found.ours)
    why = [*guides.sentences(found)][-1].rsplit("tokens/s", 1)[-1].lstrip(":; ").rstrip(".")
    return f"| {s.name} | {theirs} | {taken} | {s.says or '–'} | {pace} | {how} | {ours} | {our_pace} | {why} |"


def _figures(report: CheckReport) -> tuple[str, str]:
    memory = format_bytes(report.memory.device_peak_bytes)
    if report.verdict == "does_not_fit":
        memory += ", does not fit"
    return memory, "–" if report.speed is None else f"{report.speed.tokens_per_second:,.0f}"


def parts() -> Iterator[str]:
    """The page, section by section."""
    yield HEAD
    for gpu, tiers in guides.TIERS_OF.items():
        here = question(gpu)
        title = f"{here.hardware.title}, budget {format_bytes(here.budget_bytes)}"
        yield f"\n## Guide 1's tiers: {title} (`plan --gpu {gpu} --tier high|balanced|low|safe`)\n" + TABLE
        yield from (row(guides.beside(here, s)) + "\n" for s in tiers.values())
    yield "\n## Guide 1's recommended configurations, on the A10G\n" + TABLE
    yield from (row(guides.beside(question("a10g"), setting)) + "\n" for setting in guides.RECOMMENDED)
    yield "\n## Guide 4's five scenarios\n" + TABLE
    for situation in guides.SITUATIONS:
        found = guides.beside(question(situation.gpu), situation.setting)
        name = situation.setting.name
        yield row(found).replace(f"| {name} |", f"| {name}, {situation.gpu} |", 1) + "\n"
    yield "\nWhat our own answer is there:\n\n"
    yield "| | command | answer |\n|---|---|---|\n"
    yield from (_answer(situation) + "\n" for situation in guides.SITUATIONS)
    yield CHECKLIST


def _answer(situation: guides.Situation) -> str:
    here = replace(question(situation.gpu), scenario=situation.scenario, fixed=frozenset({"max_length"}))
    words = f"plan --gpu {situation.gpu} --scenario {situation.scenario} --max-length 1024"
    try:
        if situation.time:
            words += f" --time {situation.time}"
            answer = recommend_in(here, parse_duration(situation.time, option="--time"))
        else:
            answer = recommend(here)
    except NothingFits as error:
        return f"| {situation.setting.name} | `{words}` | {error} |"
    s, time = answer.recommended.settings, answer.time
    assert time is not None
    batch = s.batch_size * s.gradient_accumulation_steps
    cut = f"; cut: {'; '.join(answer.deadline.cut)}" if answer.deadline and answer.deadline.cut else ""
    said = (
        f"{s.method}, {s.batch_size} × {s.gradient_accumulation_steps} of {s.max_length:,}, "
        f"{format_bytes(answer.recommended.memory.device_peak_bytes)}; {time.steps:,} steps, {time.steps * batch:,} "
        f"sequences in {format_duration(time.total)}{cut}"
    )
    return f"| {situation.setting.name} | `{words}` | {said} |"


def render() -> str:
    """The whole page."""
    return "".join(parts())


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
