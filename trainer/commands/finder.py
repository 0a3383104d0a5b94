"""Learning-rate range test (Smith 2017, arXiv:1506.01186): the rate rises step by step until the loss breaks away.

Where it hasn't at the last rate asked for, the rates go on rising for as many steps again, since a range without its
end says little; where it still hasn't then, the finding says so.

What it says is weak evidence: a minute of training at rising rates shows where training breaks, and hints at where the
loss falls fastest; it does not show which rate ends lowest after epochs with warm-up and decay. A grid does.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.contract.errors import Interrupted, InvalidInput, NotModelled, RunFailed
from planner.contract.words import one_line

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from trainer.loop.prepare import Prepared

SMOOTHING = 0.9
"""Weight of the past in the running mean of the loss; corrected for its start."""
DIVERGED = 1.5
"""The test ends where the loss has lost all that it had gained and stands this many times above its lowest."""
SETTLED = 0.05
"""Share of its whole fall within which the loss counts as having arrived: on the plateau that follows, which rate
has the very lowest loss is chance."""
BEYOND = 2
"""Times the steps asked for after which the test ends at the latest."""
WEAK = "weak evidence: rates are compared over a few steps only; confirm with `grid` or a short run"

OPEN_END = (
    "the loss never broke away, so where training breaks is not known: the upper end is a guess from where it stopped "
    "falling"
)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Outcome of a range test."""

    rates: list[float]
    losses: list[float]
    """Mean loss per target of each step."""
    smoothed: list[float]
    suggested: float | None
    """Where the smoothed loss falls fastest per factor of the rate; None where it never fell."""
    upper: float | None
    """A tenth of the rate at which the smoothed loss had all but arrived at its lowest: more is risky."""
    diverged_at: float | None
    """None where the loss didn't break away: then the last of `rates` is only where the test ended."""
    note: str
    interrupted: bool = False
    """Whether Ctrl-C ended it: what is here was measured up to then."""


def smooth(losses: Sequence[float]) -> list[float]:
    """Bias-corrected exponential mean."""
    mean, out = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        out.append(mean / (1 - SMOOTHING**number))
    return out


def has_diverged(losses: Sequence[float]) -> bool:
    """Whether the losses stand far above the lowest at last: smoothed, or each of three, which smoothing would hide."""
    if not math.isfinite(losses[-1]):
        return True
    smoothed = smooth(losses)
    limit = max(smoothed[0], DIVERGED * min(smoothed))
    return smoothed[-1] > limit or min(losses[-3:]) > limit


def judge(rates: Sequence[float], losses: Sequence[float], *, diverged: bool) -> Finding:
    """Suggestion from the measured losses; values that are no number are left out."""
    pairs = [(rate, loss) for rate, loss in zip(rates, losses, strict=True) if math.isfinite(loss)]
    kept = [rate for rate, _ in pairs]
    smoothed = smooth([loss for _, loss in pairs])
    suggested = upper = None
    if len(kept) >= 5:
        lowest = min(range(len(kept)), key=smoothed.__getitem__)
        # The slope over five neighbours: a single step says nothing.
        slopes = {}
        for place in range(2, lowest - 1):
            run = math.log(kept[place + 2] / kept[place - 2])
            slopes[place] = (smoothed[place + 2] - smoothed[place - 2]) / run
        falling = {place: slope for place, slope in slopes.items() if slope < 0}
        if falling and smoothed[0] - smoothed[lowest] > 0.02 * abs(smoothed[0]):
            suggested = kept[min(falling, key=falling.__getitem__)]
            fall = smoothed[0] - smoothed[lowest]
            arrived = next(n for n, value in enumerate(smoothed) if value <= smoothed[lowest] + SETTLED * fall)
            upper = kept[arrived] / 10
            if upper < suggested:
                suggested = upper
    note = WEAK
    if suggested is None:
        note = (
            "the loss never clearly fell: widen the range, take more steps, or look at the data; no rate is suggested"
        )
    elif not diverged:
        note = f"{WEAK}; {OPEN_END}"
    at = kept[-1] if diverged and kept else None
    return Finding(
        rates=kept,
        losses=[loss for _, loss in pairs],
        smoothed=smoothed,
        suggested=_round(suggested),
        upper=_round(upper),
        diverged_at=at,
        note=note,
    )


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.1e}")


def find(
    plan: Path, *, data: str | None, device: str, low: float, high: float, steps: int, progress: object = None
) -> Finding:
    """Runs the test on the plan's model, data and settings. Nothing that was trained is kept."""
    if not 0 < low < high < math.inf:
        raise InvalidInput(f"--min {low} and --max {high}: need 0 < min < max")
    if steps < 10:
        raise InvalidInput(f"--steps {steps}: a range test needs at least 10")
    from trainer.loop import prepare as preparing

    with tempfile.TemporaryDirectory(prefix="tuneplan-find-lr-") as name:
        work = Path(name)
        prepared = preparing.prepare(plan, data=data, device=device)
        return _sweep(prepared, work, low, high, steps, progress)


def _sweep(prepared: Prepared, work: Path, low: float, high: float, steps: int, progress: Any) -> Finding:
    import torch
    from transformers import TrainerCallback

    from trainer.loop import prepare as preparing
    from trainer.loop.trainer import LoopTrainer

    losses: list[float] = []
    most = BEYOND * steps
    rates = [low * (high / low) ** (step / (steps - 1)) for step in range(most)]
    outcome = {"diverged": False, "interrupted": False}

    class Sweep(LoopTrainer):
        """The run's own step at rising rates."""

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer,
                lambda step: rates[min(step, most - 1)] / low,
            )
            self._created_lr_scheduler = True
            return self.lr_scheduler

        def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
            """Nothing is kept."""

    class LossWatch(TrainerCallback):
        def on_epoch_begin(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
        ) -> None:
            loop.batches.set_epoch(state.global_step // loop.steps_per_epoch)

        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
        ) -> Any:
            losses.append(loop.step_loss)
            if progress is not None:
                total = steps if state.global_step <= steps else most
                progress(state.global_step, total, rates[state.global_step - 1], losses[-1])
            if len(losses) > 5 and has_diverged(losses):
                outcome["diverged"] = control.should_training_stop = True
            control.should_save = False
            return control

    hyper = prepared.plan.hyperparameters.model_copy(
        update={"learning_rate": low, "max_steps": most, "report_to": (), "logging_steps": 10**9}
    )
    loop = preparing.make_loop(prepared, work, hyper, cls=Sweep, callbacks=[LossWatch()])
    try:
        loop.train()
    except RunFailed:
        outcome["diverged"] = True  # a loss that is no number: the far end of the range was reached
    except KeyboardInterrupt:
        if not losses:
            raise
        outcome["interrupted"] = True
    found = judge(rates[: len(losses)], losses, diverged=outcome["diverged"])
    return dataclasses.replace(found, interrupted=outcome["interrupted"])


def _check_picture(path: Path) -> None:
    """Refused before the sweep: a kind of picture that can't be drawn, a folder that isn't there."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise NotModelled("--plot needs matplotlib: pip install 'tuneplan[plot]'")
    if path.suffix.lower() not in ("", ".png", ".svg", ".pdf"):
        raise InvalidInput(f"--plot {path}: draws .png, .svg or .pdf")
    if not path.absolute().parent.is_dir() or path.is_dir():
        raise InvalidInput(f"--plot {path}: {'is a folder' if path.is_dir() else f'there is no folder {path.parent}'}")


def picture(finding: Finding, path: Path) -> None:
    """Loss over rate as PNG, SVG or PDF."""
    try:
        import matplotlib
    except ImportError:
        raise NotModelled("--plot needs matplotlib: pip install 'tuneplan[plot]'") from None
    matplotlib.use("Agg")
    import io

    from matplotlib import pyplot

    from planner.contract.files import write_named

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(finding.rates, finding.losses, color="0.75", linewidth=1, label="loss")
    axes.plot(finding.rates, finding.smoothed, color="C0", label="smoothed")
    if finding.suggested is not None:
        axes.axvline(finding.suggested, color="C2", linestyle="--", label=f"suggested {finding.suggested:g}")
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss per target")
    axes.set_title("Learning-rate range test (weak evidence)", fontsize=10)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lstrip(".") or "png")
    pyplot.close(figure)
    write_named(path, buffer.getvalue())


def text_plot(finding: Finding, *, width: int = 60, height: int = 12) -> str:
    """The smoothed loss over the rate (logarithmic), for a terminal."""
    if len(finding.rates) < 2:
        return ""
    top = max(finding.smoothed[0] * 1.3, min(finding.smoothed) * 1.05)
    values = [min(value, top) for value in finding.smoothed]
    floor, span = min(values), max(max(values) - min(values), 1e-12)
    first, last = math.log(finding.rates[0]), math.log(finding.rates[-1])
    cells = [[" "] * width for _ in range(height)]
    for rate, value in zip(finding.rates, values, strict=True):
        column = round((math.log(rate) - first) / (last - first) * (width - 1))
        cells[height - 1 - round((value - floor) / span * (height - 1))][column] = "*"
    if finding.suggested is not None:
        column = round((math.log(finding.suggested) - first) / (last - first) * (width - 1))
        for line in cells:
            if 0 <= column < width and line[column] == " ":
                line[column] = ":"
    lines = ["".join(line).rstrip() for line in cells]
    lines[0] = f"{max(values):8.3f} |{lines[0]}"
    lines[-1] = f"{floor:8.3f} |{lines[-1]}"
    lines[1:-1] = [f"         |{line}" for line in lines[1:-1]]
    ends = f"{finding.rates[0]:.1e}", f"{finding.rates[-1]:.1e}"
    return "\n".join([*lines, f"          {ends[0]}{ends[1]:>{width - len(ends[0])}}"])


def command(given: Namespace) -> int:
    """`python -m trainer find-lr`."""
    import json

    from planner.contract.files import write_named

    if given.plot is not None:
        _check_picture(given.plot)

    def progress(step: int, total: int, rate: float, loss: float) -> None:
        if step == 1 or step % 10 == 0:
            print(f"step {step}/{total}  rate {rate:.2e}  loss {loss:.4f}", file=sys.stderr)

    finding = find(
        given.plan,
        data=given.data,
        device=given.device,
        low=given.min,
        high=given.max,
        steps=given.steps,
        progress=progress,
    )
    record = {"schema": "tuneplan.find-lr/1", **dataclasses.asdict(finding)}
    if given.output is not None:
        write_named(given.output, (json.dumps(record, indent=1) + "\n").encode())
        print(one_line(f"wrote {given.output}"), file=sys.stderr)
    code = 0
    if finding.interrupted:
        code = Interrupted.exit_code
        print(
            f"interrupted after {len(finding.rates)} of {given.steps} steps; what they say is shown, nothing else is "
            "kept; start again for the rest",
            file=sys.stderr,
        )
    if given.json:
        print(json.dumps(record, indent=1))
        _draw(finding, given.plot)
        return code
    print(text_plot(finding))
    if finding.suggested is not None:
        print(f"suggested --learning-rate {finding.suggested:g} (not above {finding.upper:g}); {finding.note}")
    else:
        print(finding.note)
    if finding.diverged_at is not None:
        print(f"the loss broke away at {finding.diverged_at:.1e}")
    elif finding.rates and not finding.interrupted:
        print(f"the loss had not broken away at {finding.rates[-1]:.1e}, where the test ended")
    _draw(finding, given.plot)
    return code


def _draw(finding: Finding, path: Path | None) -> None:
    """Last of all: a picture that can't be written costs nothing of what was measured."""
    if path is not None:
        sys.stdout.flush()
        picture(finding, path)
        print(one_line(f"wrote {path}"), file=sys.stderr)
