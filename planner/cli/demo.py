"""`plan demo`: the whole path on the embedded model: plan, train, compare what was promised with what was seen."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from planner.cli.asked import Source, Target
from planner.cli.children import require_train_extra
from planner.cli.progress import Follower, kept_line, summary_lines
from planner.cli.resolve import resolve
from planner.cli.signals import held, passed_on
from planner.cli.talk import say
from planner.contract import process
from planner.contract.errors import Interrupted, InvalidInput, RunFailed
from planner.contract.words import shown

SHOWN_EXAMPLES = 3


LEARNING_RATE = 2e-3
"""The advised rates are fitted to models from 1 B parameters on; one of a thousandth of it learns at ten times them."""


def run(*, output: str | None, epochs: float | None) -> int:
    """Makes the assets, plans for this machine, trains, and prints predicted beside measured."""
    from planner.decide import search
    from planner.decide.advice import hyperparameters
    from planner.decide.planning import make_plan
    from planner.handover import plans, trainer_process
    from planner.report.plan_view import Shown, plan_view
    from planner.report.words import make_console

    require_train_extra("demo")
    if epochs is not None and not 0 < epochs < math.inf:
        raise InvalidInput(f"--epochs must be above 0, not {epochs:g}")
    folder = Path(output) if output else Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    _claim(folder)
    say("a small model learns a rule that it has never seen: planned, trained, and measured on this machine")
    assets = _child(["demo-assets"])
    # fp32: the model is small, and the figures then show what training does, not what rounding does.
    target = Target(model=assets["model"], settings={"precision": "fp32"})
    question = resolve(target, Source(data=assets["train"]))
    answer = search.recommend(question)
    advice = list(answer.advice)
    settings = hyperparameters(advice, epochs=epochs, learning_rate=LEARNING_RATE)
    plan = make_plan(question, answer.recommended, hyperparameters=settings, advice=advice)
    plan_file = plans.save(plan, folder / "plan.yaml")
    plan_view(make_console(), answer, [], shown=Shown(decision=False))
    print()
    print(shown(f"This plan is {plan_file}; it is trained now, as `plan train` would."))
    print()
    sys.stdout.flush()
    follower = Follower()
    code = follower.follow(trainer_process.start(plan_file, output=folder / "run", with_parent=True))
    for line in summary_lines(follower.finished) if follower.finished else ():
        print(shown(line))
    if follower.stopped:
        sys.stdout.flush()
        raise Interrupted(kept_line(folder / "run"))
    if follower.finished is None:
        return code or RunFailed.exit_code
    print(shown(f"The rule in the data: {assets['rule']}"))
    try:
        for prompt, wanted in _examples(Path(assets["held_out"]), SHOWN_EXAMPLES):
            said = _generate(follower.started.run_dir or str(folder / "run"), prompt)
            print(f"  {prompt!r} → {said!r} (held-out answer: {wanted!r})", flush=True)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; what was trained is kept in {folder / 'run'}") from None
    print("Next: `plan` asks for your model, device and data; `plan --gpu a10g --model phi-2` answers at once.")
    return code


def _claim(folder: Path) -> None:
    """Makes the folder now: a wrong one is told before a model is made."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise InvalidInput(f"--output {folder} is no folder; choose another one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in os.listdir(folder):
            what = "already holds a demonstration" if name == "run" else f"isn't empty ({name})"
            raise InvalidInput(f"--output {folder} {what}; choose another folder")
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InvalidInput(f"--output {folder} can't be written: {error.strerror or error}") from None


def _examples(path: Path, count: int) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:count]]
    return [(row["prompt"], row["completion"]) for row in rows]


def _generate(run_dir: str, prompt: str) -> str:
    child = subprocess.run(
        process.command("trainer", "generate", run_dir, "--prompt", "-", "--max-new-tokens", "48"),
        env=process.environment(),
        input=prompt,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    if child.returncode != 0:
        raise process.failure(child.returncode, f"no text could be generated: {_last_line(child.stderr)}")
    return child.stdout.rstrip("\n")


def _child(words: list[str]) -> dict[str, Any]:
    """JSON that a trainer command prints; its talk goes to stderr as it comes."""
    with held():
        child = subprocess.Popen(
            process.command("trainer", *words),
            env=process.environment(),
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    assert child.stdout is not None
    with passed_on(child) as interrupts:
        said = child.stdout.read()
        code = child.wait()
    if interrupts:
        # A child that ends by itself has said so.
        said_it = code == Interrupted.exit_code
        raise Interrupted("" if said_it else "ended at once; nothing was written, plan demo starts it again")
    if code != 0:
        raise process.failure(code, "the demonstration's model could not be made; the line above says why")
    try:
        found: dict[str, Any] = json.loads(said)
    except ValueError:
        raise RunFailed(f"python -m trainer {' '.join(words)} printed no result") from None
    return found


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.split("\n")) if line.strip()), "no message")
