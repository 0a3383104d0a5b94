"""What a trainer tells while it works: one frozen record for each kind of event, and the line that carries it.

A line is `Event`: its kind, its time, and the record's fields under `data`. A field that nobody set isn't written, one
that isn't known is null. Whoever reads must live without any of them: another version wrote the line, or a damaged
file holds it. `docs/events.md` is made from this file (`python -m tests.support.event_docs`).
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, InstanceOf, model_validator

from planner.contract.record import Record
from planner.contract.shown import shown


def _figure(value: object) -> float | None:
    """A number, also one of numpy's or torch's; an infinite one and none at all are unknown: JSON has no word."""
    if hasattr(value, "item"):
        value = value.item()
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, not {shown(value)}")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if abs(value) >= 2**63:
        raise ValueError("is too large")
    return value


def _bounded(value: object) -> float | None:
    number = _figure(value)
    if number is not None and abs(number) >= 2**63:
        raise ValueError("is too large")
    return number


def _count(value: object) -> int | None:
    number = _bounded(value)
    return None if number is None else int(number)


Count = Annotated[int | None, BeforeValidator(_count)]
"""A whole number."""
Amount = Annotated[float | None, BeforeValidator(_bounded)]
"""A number that has bounds in nature: seconds, tokens per second."""
Figure = Annotated[float | None, BeforeValidator(_figure)]
"""A number of any size: a loss and what is made of it."""
Words = InstanceOf[str] | None
"""Text as it is: a path may hold bytes that are no UTF-8."""
Table = dict[str, Any] | None


class Told(Record):
    """What one event says. No field is sure to be there, so each is None by default."""

    event_kind: ClassVar[str]

    # Of a newer version there may be more.
    model_config = ConfigDict(extra="ignore")


class StartedEvent(Told):
    """Model, data and device are ready; the steps begin."""

    event_kind = "started"

    run_dir: Words = None
    """Folder of the run, a whole path."""
    pid: Count = None
    """Process id of the trainer."""
    device: Words = None
    """`cuda:0`, `cpu` …; of several devices how many there are of which type."""
    total_steps: Count = None
    """Optimizer steps that are planned, those before a checkpoint that is resumed among them."""
    epochs: Amount = None
    trainable_parameters: Count = None
    parameters: Count = None
    versions: Table = None
    """Package -> version, of what the numbers depend on."""
    predicted: Table = None
    """The plan's `MemoryReport`; null where it has none."""
    resumed_from: Words = None
    """Checkpoint that the run goes on from; null for a new run."""


class PhaseEvent(Told):
    """A stage begins."""

    event_kind = "phase"

    name: Words = None
    """`load`, `data`, `train`, `eval`, `save` or `finish`."""
    detail: Words = None
    """What is loaded or read; empty where the name says all."""


class DataEvent(Told):
    """The data were read and made into sequences."""

    event_kind = "data"

    examples: Count = None
    """Sequences to train on."""
    validation_examples: Count = None
    """Sequences to validate on."""
    tokens: Count = None
    """Tokens of the sequences to train on, without padding."""
    truncated: Count = None
    """Sequences that were cut at max_length, of both sorts."""
    lengths: Table = None
    """Histogram of the training sequences' lengths, in tokens: bin_width, counts, min, max."""
    skipped: Count = None
    """Examples with nothing to learn, left out, of both sorts."""
    split: Count = None
    """Texts longer than max_length that became several sequences."""
    shape: Words = None
    """How the first example is written: messages, prompt-completion …"""
    longest: Count = None
    """Longest training sequence, in tokens."""
    median: Count = None
    """Median length of the training sequences, in tokens."""
    account: Table = None
    """What became of the file's rows and columns, as the reader counted."""


class StepEvent(Told):
    """An optimizer step was made (the last one of `logging_steps`)."""

    event_kind = "step"

    step: Count = None
    """Its number, from 1."""
    total_steps: Count = None
    epoch: Amount = None
    """Epochs so far, with their fraction."""
    loss: Figure = None
    """Mean over the targets of the steps since the last such event; nats per target."""
    learning_rate: Amount = None
    """That of the next step."""
    grad_norm: Figure = None
    """Norm of all gradients before they were clipped."""
    tokens_per_second: Amount = None
    """Tokens without padding per second of training."""
    step_seconds: Amount = None
    """Seconds per step since the last such event."""
    allocated_peak_bytes: Count = None
    """Largest sum of live tensors so far."""
    device_bytes: Count = None
    """What the device shows for the process now; on a CPU its resident memory."""
    seconds_left: Amount = None
    """Seconds that the steps to come will take at the median of the last 20."""
    device_load: Amount = None
    """Share of the last moments in which the card computed, 0 to 1, by NVML; left out, as the next three, where it
    doesn't tell."""
    device_celsius: Amount = None
    """Temperature of the card, of several the highest."""
    device_watts: Amount = None
    """Power of all cards of the run now."""
    device_watt_hours: Amount = None
    """Energy of all cards since the training began in this process."""


class EvalEvent(Told):
    """The validation set was passed through."""

    event_kind = "eval"

    step: Count = None
    """Steps made before; 0 before the training."""
    loss: Figure = None
    """Mean over all targets; nats per target."""
    perplexity: Figure = None
    """exp(loss)."""
    best: bool | None = None
    """Whether no earlier evaluation of the training had a lower loss."""
    sample: Words = None
    """What the model writes after the sample's prompt."""
    sample_prompt: Words = None
    """What was asked of it, without the chat template: a held-out example's last question, or `sample_prompt` of the
    plan; 2,000 characters at the most. Left out where no sample is made, as the next."""
    sample_expected: Words = None
    """What the example answers to that; cut like the prompt. Null where the plan gives the prompt."""
    accuracy: Amount = None
    """Share of right answers, 0 to 1; only of a classifier."""


class CheckpointEvent(Told):
    """A checkpoint is on the disk, whole."""

    event_kind = "checkpoint"

    path: Words = None
    step: Count = None
    kind: Words = None
    """`best` where its evaluation is the lowest so far, else `last`."""


class WarningEvent(Told):
    """Something that a person should know; the run goes on."""

    event_kind = "warning"

    what: Words = None
    """A word or two for the kind of warning."""
    message: Words = None
    """What was seen, in one line."""
    advice: Words = None
    """What to do about it; empty where there is nothing."""


class OomEvent(Told):
    """Memory ran out; what failed is undone and made again in smaller pieces."""

    event_kind = "oom"

    phase: Words = None
    """Instant of the step in which it ran out."""
    step: Count = None
    """The step that was being made, from 1; 0 while the model was loaded."""
    batch_size: Count = None
    """Rows that were passed at once."""
    new_batch_size: Count = None
    """Rows that are passed at once from here on; null where nothing is left to halve."""
    gradient_accumulation_steps: Count = None
    """Passes per step from here on."""
    rank: Count = None
    """Of several processes, the one that it happened to; left out for the first."""


class PausedEvent(Told):
    """The run waits after a step; everything stays in memory."""

    event_kind = "paused"

    step: Count = None


class ResumedEvent(Told):
    """The run goes on after a pause."""

    event_kind = "resumed"

    step: Count = None


class ChangedEvent(Told):
    """A setting was changed within the run; the plan in the run folder has the new value, so a resumed run too."""

    event_kind = "changed"

    step: Count = None
    """Steps made before."""
    name: Words = None
    """`learning_rate` or `logging_steps`."""
    before: Amount = None
    after: Amount = None


class FinishedEvent(Told):
    """The run has ended and its result is on the disk."""

    event_kind = "finished"

    reason: Words = None
    """`completed`, `stopped` or `early_stopping`."""
    adapter_path: Words = None
    """Folder of the adapter, or of the model under method full; null where nothing was trained."""
    steps: Count = None
    """Steps made, those before a checkpoint that was resumed among them."""
    seconds: Amount = None
    """From the start of the process on."""
    eval_loss: Figure = None
    """Lowest validation loss; null without a validation set."""
    eval_loss_before: Figure = None
    """Validation loss before the first step."""
    predicted_bytes: Count = None
    """Predicted peak of live tensors."""
    measured_bytes: Count = None
    """Measured peak of live tensors."""
    planned_length: Count = None
    """The plan's max_length, in tokens."""
    longest_length: Count = None
    """Padded length of the largest batch that ran, in tokens."""
    as_predicted: bool | None = None
    """Whether a batch as heavy as the predicted one ran, so that the two peaks may be compared."""
    observation_path: Words = None
    device_watt_hours: Amount = None
    """Energy of all cards of the run in this process; left out where NVML doesn't tell."""


class FailedEvent(Told):
    """The run has ended without a result; the last event."""

    event_kind = "failed"

    message: Words = None
    """Why, in one line; the same as on stderr."""
    exit_code: Count = None


RECORDS: tuple[type[Told], ...] = (
    *(StartedEvent, PhaseEvent, DataEvent, StepEvent, EvalEvent, CheckpointEvent, WarningEvent, OomEvent, PausedEvent),
    *(ResumedEvent, ChangedEvent, FinishedEvent, FailedEvent),
)
"""In the order in which a run tells them."""
_BY_KIND = {record.event_kind: record for record in RECORDS}


class Event(Record):
    """One line of the trainer's stdout and of a run's `events.jsonl`."""

    schema_: Literal["tuneplan.event/1"] = Field(default="tuneplan.event/1", alias="schema")
    kind: str
    time: Annotated[float, Field(ge=0, lt=1e11), BeforeValidator(_figure)]
    """Seconds since the epoch."""
    data: dict[str, Any] = Field(default_factory=dict)
    """The fields of the kind's record that were set; of a kind that isn't known, whatever there is."""

    model_config = ConfigDict(populate_by_name=True)

    @cached_property
    def told(self) -> Told | None:
        """What it says; None for a kind that isn't known here. Raises ValueError for values that make no sense."""
        record = _BY_KIND.get(self.kind)
        return None if record is None else record.model_validate(self.data)

    @model_validator(mode="after")
    def _readable(self) -> Event:
        _ = self.told
        return self


def stopped_at_once() -> FinishedEvent:
    """The end of a run that was stopped before its first step: there is nothing to save."""
    return FinishedEvent(
        reason="stopped",
        adapter_path=None,
        steps=0,
        seconds=0.0,
        eval_loss=None,
        eval_loss_before=None,
        predicted_bytes=None,
        measured_bytes=None,
        observation_path=None,
    )


def line_of(told: Told, seconds: float) -> Event:
    """The event that tells it, at so many seconds since the epoch."""
    data = {name: getattr(told, name) for name in type(told).model_fields if name in told.model_fields_set}
    return Event(kind=told.event_kind, time=seconds, data=data)
