"""How fast the planner answers: `python -m benchmarks.wizard`.

For each model and device, in milliseconds of the processor, which say the same on a machine that does other things too:
- *verdict*: one shape that was never asked before, without remedies (what the wizard shows first);
- *known*: the same shape again;
- *search*: method, batch, recomputation, length and all else that was left open;
- *key*: from a key in the wizard until its screen is painted again, everything that does not wait for an answer;
- *ten keys*: from the first of ten quick keys until all figures, tiers and pictures are those of the last one.
Beside them stand ratios to a fixed loop (`LOOP`), which a slower machine changes little. The last line is the start of
`plan --gpu a10g --max-length 2048` beside that of a process that only imports numpy.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from benchmarks.accuracy.metrics import table

if TYPE_CHECKING:
    from planner.decide.question import Question
    from planner.tui.app import TuneplanApp

MODELS = ("phi-2", "llama-3.1-8b", "llama-3.1-70b")
DEVICES = ("a10g", "a100-80gb", "rtx4090", "m3-max-64gb")
METHODS = {"llama-3.1-8b": "qlora", "llama-3.1-70b": "qlora"}
"""How a model is trained where it is not LoRA."""
GOALS = {"verdict": 100.0, "known": 16.0, "search": 250.0, "key": 50.0, "ten keys": 1000.0}
"""Milliseconds."""
START_GOAL = 4.5
"""Times the start of a process that imports numpy."""
LOOP = 200_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What was measured of one model on one device, in milliseconds of the processor; each the median and the worst."""

    model: str
    device: str
    figures: dict[str, tuple[float, float]]


def loop_ms() -> float:
    """A fixed loop: what it takes says how fast this processor is just now."""
    started = time.process_time()
    total: dict[int, int] = {}
    for number in range(LOOP):
        total[number & 1023] = total.get(number & 1023, 0) + number
    return (time.process_time() - started) * 1e3


def question(model: str, device: str, **changes: Any) -> Question:
    """A question as the command line asks it, its choices changed."""
    from planner.contract.choices import TrainingChoices
    from planner.decide.question import Question
    from planner.devices.profiles import load
    from planner.models.sources import load_model

    changes.setdefault("method", METHODS.get(model, "lora"))
    return Question(
        model=load_model(model),
        hardware=load(device),
        choices=replace(TrainingChoices(), **changes),
        fixed=frozenset(changes),
        model_name=model,
    )


def timed(work: Callable[[], object]) -> float:
    """Milliseconds of the processor that `work` takes."""
    started = time.process_time()
    work()
    return (time.process_time() - started) * 1e3


def judged(model: str, device: str, count: int, chance: random.Random) -> dict[str, tuple[float, float]]:
    """Verdict and search, for shapes that nobody asked before."""
    from planner.contract.errors import Infeasible
    from planner.decide.check import check
    from planner.decide.search import recommend

    lengths = iter(chance.sample(range(260, 1800), 2 * count + 1))
    found: dict[str, list[float]] = {"verdict": [], "known": [], "search": []}
    check(question(model, device, batch_size=1, max_length=next(lengths)), with_remedies=False)  # imports
    for _ in range(count):
        asked = question(
            model, device, batch_size=chance.randint(1, 8), max_length=next(lengths), gradient_accumulation_steps=4
        )
        for name in ("verdict", "known"):
            found[name].append(timed(lambda asked=asked: check(asked, with_remedies=False)))  # type: ignore[misc]
        open_ = question(model, device, max_length=next(lengths))

        def search(open_: Question = open_) -> None:
            with contextlib.suppress(Infeasible):
                recommend(open_)

        found["search"].append(timed(search))
    return {name: (statistics.median(times), max(times)) for name, times in found.items()}


async def typed(model: str, device: str, count: int) -> dict[str, tuple[float, float]]:
    """Keys in the wizard's plan step, and how long until it is at rest."""
    from planner.tui.app import TuneplanApp

    keys: list[float] = []
    rests: list[float] = []
    app = TuneplanApp(gpu=device, model=model)
    async with app.run_test(size=(120, 36)):
        await _at_rest(app)
        app.go("plan")
        await _at_rest(app)
        for turn in range(count):
            started = time.process_time()
            for _ in range(10):
                begun = time.thread_time()  # the answers' thread computes meanwhile
                await _press(app, "right" if turn % 2 == 0 else "left")
                keys.append((time.thread_time() - begun) * 1e3)
            await _at_rest(app)
            rests.append((time.process_time() - started) * 1e3)
    return {"key": (statistics.median(keys), max(keys)), "ten keys": (statistics.median(rests), max(rests))}


async def _press(app: TuneplanApp, name: str) -> None:
    """A key, until what it does is painted."""
    from textual import events

    event = events.Key(name, None)
    event.set_sender(app)
    app.post_message(event)
    await asyncio.sleep(0.001)
    while app.typing or app.screen._dirty_widgets or app.screen._layout_required or app.message_queue_size:
        await asyncio.sleep(0.002)


async def _at_rest(app: TuneplanApp) -> None:
    """Until every question is answered and painted."""
    quiet = 0
    while (
        quiet < 3 and app.is_running
    ):  # a step that is shown for the first time is laid out after the answers are there
        await asyncio.sleep(0.05)
        quiet += 1
        if not (app.idle and app.settled and not app.typing and not app.screen._dirty_widgets):
            quiet = 0


def start_ratio(count: int) -> tuple[float, float]:
    """Processor seconds of `plan --gpu a10g --max-length 2048`, and how often those of importing numpy: the medians."""
    plan = (
        "import sys; from planner.cli import main; sys.argv = ['plan', '--gpu', 'a10g', '--max-length', '2048']; main()"
    )

    def seconds(code: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    seconds(plan)  # writes bytecode, and keeps the step
    pairs = [(seconds(plan), seconds("import numpy")) for _ in range(count)]
    return statistics.median(plan for plan, _ in pairs), statistics.median(plan / bare for plan, bare in pairs)


@contextlib.contextmanager
def _own_home() -> Iterator[None]:
    """Nothing that was asked before is known, and nothing is left behind."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.environ.get("TUNEPLAN_HOME")
        os.environ["TUNEPLAN_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["TUNEPLAN_HOME"]
            else:
                os.environ["TUNEPLAN_HOME"] = before


def measure(models: tuple[str, ...], devices: tuple[str, ...], *, shapes: int, turns: int) -> Iterator[Row]:
    """One row after another; `shapes` new ones for each pair and `turns` of ten keys (0: no wizard)."""
    chance = random.Random(5)
    for model in models:
        for device in devices:
            figures = judged(model, device, shapes, chance)
            if turns:
                figures |= asyncio.run(typed(model, device, turns))
            yield Row(model=model, device=device, figures=figures)


def lines(rows: list[Row], loop: float) -> list[str]:
    """The table: medians with the worst in brackets, and the worst beside goal and loop."""
    names = list(rows[0].figures)
    body = [
        [row.model, row.device, *(f"{median:.0f} ({worst:.0f})" for median, worst in row.figures.values())]
        for row in rows
    ]
    worst = {name: max(row.figures[name][0] for row in rows) for name in names}
    body.append(["largest median", "", *(f"{worst[name]:.0f}" for name in names)])
    body.append(["goal", "", *(f"{GOALS[name]:.0f}" for name in names)])
    body.append(["in loops", "", *(f"{worst[name] / loop:.1f}" for name in names)])
    return table(["model", "device", *names], body)


def main() -> int:
    """Prints the table; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--devices", default=",".join(DEVICES))
    parser.add_argument("--shapes", type=int, default=5, help="new shapes for each model and device")
    parser.add_argument("--turns", type=int, default=2, help="times ten keys; 0: without the wizard")
    parser.add_argument("--starts", type=int, default=7, help="starts that are compared; 0: none")
    asked = parser.parse_args()
    loops = [loop_ms()]
    with _own_home():
        rows = []
        models, devices = asked.models.split(","), asked.devices.split(",")
        for row in measure(tuple(models), tuple(devices), shapes=asked.shapes, turns=asked.turns):
            rows.append(row)
            loops.append(loop_ms())
            told = ", ".join(f"{name} {median:.0f}" for name, (median, _) in row.figures.items())
            print(f"{row.model} on {row.device}: {told}", file=sys.stderr)
        loop = statistics.median(loops)
        print("\n".join(lines(rows, loop)))
        print(f"loop: {loop:.1f} ms (the fastest {min(loops):.1f}, the slowest {max(loops):.1f})")
        missed = any(median > GOALS[name] for row in rows for name, (median, _) in row.figures.items())
        if asked.starts:
            seconds, ratio = start_ratio(asked.starts)
            print(f"start: {seconds * 1e3:.0f} ms, {ratio:.2f} x importing numpy (goal {START_GOAL})")
            missed |= ratio > START_GOAL
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
