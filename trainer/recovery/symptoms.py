"""What a loss curve says about a run, as it is made: the guides' warning signs with what to do about each."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass
from typing import Any

BY_HAND = "by_hand"
"""Key of the log's evaluations that a person asked for: they count neither as one without gain nor as a turn."""
WINDOW = 20
"""Steps that the next one is held against."""
TAIL = 2 * WINDOW
"""Steps above all of whose losses a spike must stand as well. Where batches are grouped by length, one in ten or thirty
may hold examples of another kind, with a loss several times the others': that is the data, not the training."""


def is_due(entry: dict[str, Any]) -> bool:
    """Whether an entry of the log is an evaluation within the training that its settings asked for."""
    return "eval_loss" in entry and entry.get("step", 0) > 0 and not entry.get(BY_HAND)


@dataclass(frozen=True, kw_only=True, slots=True)
class Symptom:
    """One `warning` event."""

    what: str
    message: str
    advice: str


class Symptoms:
    """Fed with each step and each evaluation; answers with what looks wrong. Each lasting sign is told once."""

    def __init__(self, *, total_steps: int, warmup_steps: int, max_grad_norm: float) -> None:
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.clips = max_grad_norm > 0
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._tail: deque[float] = deque(maxlen=TAIL)
        self._norms: deque[float] = deque(maxlen=WINDOW)
        self._first: list[float] = []
        """The first losses, against which later ones are held."""
        self._evaluations: list[tuple[float, float]] = []
        """(validation loss, median training loss at that time)."""
        self._told: set[str] = set()
        self._quiet_until = 0

    def step(self, step: int, loss: float, grad_norm: float | None) -> list[Symptom]:
        """After each optimizer step; `loss` is a mean per target, `grad_norm` before clipping."""
        found = []
        if len(self._losses) >= WINDOW // 2 and step >= self._quiet_until:
            found += self._spikes(step, loss, grad_norm)
        self._losses.append(loss)
        self._tail.append(loss)
        if grad_norm is not None and math.isfinite(grad_norm):
            self._norms.append(grad_norm)
        if len(self._first) < WINDOW:
            self._first.append(loss)
        found += self._stands_still(step)
        return found

    def _spikes(self, step: int, loss: float, grad_norm: float | None) -> list[Symptom]:
        usual = statistics.median(self._losses)
        spread = statistics.median(abs(value - usual) for value in self._losses)
        apart = loss > 1.5 * usual and loss > usual + 8 * spread and loss > usual + 0.5
        if apart and loss > 1.5 * max(self._tail):
            self._quiet_until = step + WINDOW // 2
            more = "lower the learning rate" + ("" if self.clips else " or clip gradients (--max-grad-norm 1)")
            return [
                Symptom(
                    what="loss spike",
                    message=f"step {step}: the loss is {loss:.3g}; its median over {len(self._losses)} steps before "
                    f"was {usual:.3g}",
                    advice=f"look for damaged examples in this batch; if it happens again, {more}",
                )
            ]
        norms = self._norms
        if grad_norm is not None and not self.clips and len(norms) >= WINDOW // 2:
            usual = statistics.median(norms)
            if grad_norm > 10 * usual > 0:
                self._quiet_until = step + WINDOW // 2
                return [
                    Symptom(
                        what="gradient spike",
                        message=f"step {step}: the gradient norm is {grad_norm:.3g}; its median was {usual:.3g}",
                        advice="clip gradients (--max-grad-norm 1) or lower the learning rate",
                    )
                ]
        return []

    def _stands_still(self, step: int) -> list[Symptom]:
        """Judged once at half of the run, when it is long enough to judge."""
        after = self.warmup_steps + 3 * WINDOW
        if step != max(after, self.total_steps // 2) or len(self._first) < WINDOW or "still" in self._told:
            return []
        self._told.add("still")
        first, now = statistics.median(self._first), statistics.median(self._losses)
        if now < 0.9 * first or now < 0.1:
            return []
        if now >= 0.99 * first:
            return [
                Symptom(
                    what="loss doesn't fall",
                    message=f"step {step}: the loss is {now:.3g}, at the start it was {first:.3g}",
                    advice="raise the learning rate (find it with a short run at ten times as much), and look whether "
                    "the examples are read as intended",
                )
            ]
        return [
            Symptom(
                what="slow convergence",
                message=f"step {step}: the loss fell from {first:.3g} to {now:.3g} only",
                advice="raise the learning rate or the adapter's rank, or train longer",
            )
        ]

    def evaluation(self, step: int, loss: float) -> list[Symptom]:
        """After each evaluation during training."""
        if not math.isfinite(loss):
            return [
                Symptom(
                    what="evaluation is no number",
                    message=f"step {step}: the validation loss is {loss}",
                    advice="look for damaged validation examples; with fp16, try bf16 or fp32",
                )
            ]
        training = statistics.median(self._losses) if self._losses else math.inf
        self._evaluations.append((loss, training))
        last = self._evaluations[-3:]
        rising = len(last) == 3 and last[0][0] < last[1][0] < last[2][0] and last[2][0] > 1.02 * last[0][0]
        if rising and last[2][1] < last[0][1] and "overfitting" not in self._told:
            self._told.add("overfitting")
            return [
                Symptom(
                    what="overfitting",
                    message=f"step {step}: the validation loss rose twice in a row, "
                    f"{last[0][0]:.3g} to {last[2][0]:.3g}, while the training loss fell to {training:.3g}",
                    advice="stop early (early_stopping_patience), train fewer epochs, or raise dropout or weight "
                    "decay; the best checkpoint is kept",
                )
            ]
        return []

    def recall(self, history: list[dict[str, float]]) -> None:
        """Takes over a resumed run's log, telling nothing again."""
        for entry in history:
            if is_due(entry):
                self.evaluation(int(entry["step"]), float(entry["eval_loss"]))
            elif "loss" in entry:
                self.step(int(entry.get("step", 0)), float(entry["loss"]), None)
