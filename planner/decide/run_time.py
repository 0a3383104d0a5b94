"""How long a whole run takes: loading, steps, evaluations and saving, as the data and the advice have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.contract.record import AtLeastOne, Positive, Record, Seconds
from planner.contract.records import Advice, CheckReport
from planner.contract.spec import ModelSpec
from planner.decide.question import Question

if TYPE_CHECKING:
    from planner.data.use import DataUse

EXAMPLES = 1_000
"""Without data, time is told for so many examples of full length."""
START_SECONDS = 15.0
"""Rule: what importing torch and transformers and making the device ready takes."""
READ_BYTES_PER_SECOND, WRITTEN_BYTES_PER_SECOND = 1e9, 0.5e9
"""Rule: what an NVMe disk gives when weights are read into tensors, and when a checkpoint is written and synced."""
EVALUATED = 1 / 3
"""Time of an evaluated token against a trained one: forward without backward, of a backward that costs twice that."""


class RunTime(Record):
    """Parts of a run's time, in seconds."""

    load: Seconds
    train: Seconds
    evaluate: Seconds
    save: Seconds
    epochs: Positive
    steps: AtLeastOne
    """Optimizer steps."""
    examples: AtLeastOne
    """Training examples that are seen once or more."""

    @property
    def total(self) -> float:
        """All of it."""
        return self.load + self.train + self.evaluate + self.save

    @property
    def beside(self) -> float:
        """What is no training."""
        return self.total - self.train


def run_time(
    question: Question, report: CheckReport, advice: list[Advice], *, max_steps: int | None = None
) -> RunTime | None:
    """Of the judged configuration with the advised epochs and rhythm; None where no speed is modelled.

    `max_steps` ends it earlier. Without data it is that of 1,000 examples of full length, none of which validates.
    """
    if report.speed is None:
        return None
    values = {entry.name: entry.value for entry in advice}
    epochs, data, settings = float(values.get("epochs") or 1.0), question.data, report.settings
    batch = settings.effective_batch_size
    examples = EXAMPLES if data is None else data.training_examples
    per_epoch = -(-examples // batch)
    if data is None or report.speed.epoch_seconds is None:
        epoch = report.speed.step_seconds * per_epoch
    else:
        epoch = report.speed.epoch_seconds
    steps = max(1, round(per_epoch * epochs))
    share = 1.0
    if max_steps is not None and max_steps < steps:
        share, steps = max_steps / steps, max_steps
    every = values.get("eval_steps")
    evaluations = max(1, steps // int(every) if every else round(epochs * share)) if data is not None else 0
    one = 0.0 if data is None else _validated(data) / max(1, examples) * epoch * EVALUATED
    saved = report.model.trainable_parameters * 12.0  # a weight and the optimizer's two moments
    return RunTime(
        load=START_SECONDS + _stored(question.model) / READ_BYTES_PER_SECOND,
        train=epoch * epochs * share,
        evaluate=evaluations * one,
        save=max(1, evaluations) * saved / WRITTEN_BYTES_PER_SECOND,
        epochs=min(epochs, steps / per_epoch) if share < 1 else epochs,
        steps=steps,
        examples=min(examples, steps * batch),
    )


def _stored(model: ModelSpec) -> float:
    """Bytes of the model's file, in 16 bit."""
    return 2.0 * model.parameters


def _validated(data: DataUse) -> int:
    """Examples of one evaluation."""
    given = data.profile.validation_lengths
    return len(given) if given is not None else data.profile.examples - data.training_examples
