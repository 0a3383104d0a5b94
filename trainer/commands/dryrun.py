"""`--dry-run`: the longest batch goes forward, backward and through the optimizer, before hours are spent.

Two optimizer steps are taken, because memory stands highest in the second, when the optimizer's state exists; with
accumulation each has two micro-batches, because the last one meets the gradients of those before it.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.contract.choices import TrainingChoices
from planner.contract.errors import RunFailed
from planner.contract.events import OomEvent
from planner.contract.records import Plan
from planner.contract.shown import clause
from planner.contract.words import shown

if TYPE_CHECKING:
    from trainer.loop.heaviest import Heaviest
    from trainer.loop.prepare import Prepared

STEPS = 2


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DryRun:
    """What a dry run found."""

    device: str
    rows: int
    length: int
    """Padded tokens of the longest batch."""
    planned_length: int
    loss: float | None
    step_seconds: float
    """Of the second step's micro-batches, as they were run."""
    instants: dict[str, int]
    measured_bytes: int | None
    """Allocated peak of tensors."""
    device_bytes: int | None
    predicted_bytes: int | None
    difference: float | None
    """Measured over predicted, minus one; None where nothing was predicted or another length was run."""
    fits: bool
    message: str


def dry_run(
    plan: Path, *, data: str | None, device: str, full_length: bool = False, skip_invalid: bool = False
) -> DryRun:
    """Runs the longest batch of the plan's data; `full_length` pads it to `max_length`, as the prediction takes it."""
    from trainer.loop import prepare as preparing
    from trainer.wire.request import Request, read_plan

    request = Request(plan=plan, data=data, device=device, skip_invalid=skip_invalid)
    asked = read_plan(request).settings
    changes: dict[str, Any] = {"gradient_accumulation_steps": min(2, asked.gradient_accumulation_steps)}
    if full_length and asked.padding == "longest":
        changes["padding"] = "max"
    with tempfile.TemporaryDirectory(prefix="tuneplan-dry-run-") as name:
        work = Path(name)
        from trainer.measure.devices import is_out_of_memory

        try:
            prepared = preparing.prepare(plan, data=data, device=device, skip_invalid=skip_invalid, **changes)
            return _steps(prepared, work, asked)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return _overflow(asked, read_plan(request), str(error))


def _steps(prepared: Prepared, work: Path, asked: TrainingChoices) -> DryRun:
    """Two steps over the longest rows alone, as often as the steps need them: every batch is the longest one."""
    c = prepared.choices
    ranked = sorted(prepared.material.train.sequences, key=len, reverse=True)
    need = c.batch_size * c.gradient_accumulation_steps * STEPS
    rows = ranked[: c.batch_size] if c.padding != "packed" else ranked
    longest = dataclasses.replace(
        prepared.material.train, sequences=(rows * (-(-need // len(rows))))[: max(need, len(rows))]
    )
    material = dataclasses.replace(prepared.material, train=longest)
    ran = _run(dataclasses.replace(prepared, material=material), work)
    if ran.overflowed:
        return _overflow(asked, prepared.plan, "the longest batch ran out of memory and had to be halved")
    return _judged(prepared, asked, ran)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What the steps were like."""

    loss: float | None
    seconds: float
    """Of the last step."""
    heaviest: Heaviest
    overflowed: bool


def _run(prepared: Prepared, work: Path) -> Ran:
    from transformers import TrainerCallback, TrainerControl

    from trainer.loop import prepare as preparing
    from trainer.loop.inputs import Listeners
    from trainer.loop.trainer import LoopTrainer

    meter, seen, overflows = prepared.meter, dict[str, float](), list[OomEvent]()

    class Dry(LoopTrainer):
        def _save_checkpoint(self, model: object, trial: object) -> None:
            """Nothing is kept."""

    class Timer(TrainerCallback):
        def on_train_begin(self, *_: object, **__: object) -> None:
            meter.start_training(loop.model, loop.optimizer)

        def on_step_begin(self, *_: object, **__: object) -> None:
            seen["started"] = time.perf_counter()

        def on_step_end(self, args: object, state: object, control: TrainerControl, **_: object) -> TrainerControl:
            meter.end()
            meter.step_done()
            seen["seconds"] = time.perf_counter() - seen["started"]
            seen["loss"] = loop.step_loss
            control.should_save = False
            return control

    hyper = prepared.plan.hyperparameters.model_copy(
        update={"max_steps": STEPS, "report_to": (), "logging_steps": 10**9, "warmup_steps": 0}
    )
    listeners = Listeners(out_of_memory=overflows.append)  # the loop would go on with a halved micro-batch
    loop = preparing.make_loop(prepared, work, hyper, cls=Dry, callbacks=[Timer()], listeners=listeners)
    if prepared.choices.padding != "packed":  # else the longest row would fill a batch with its copies
        loop.batches.order = "as given"
    loop.train()
    meter.close()
    return Ran(
        loss=seen.get("loss"),
        seconds=seen.get("seconds", 0.0),
        heaviest=loop.heaviest,
        overflowed=bool(overflows),
    )


def _judged(prepared: Prepared, asked: TrainingChoices, ran: Ran) -> DryRun:
    """Measured beside predicted, where the two speak of the same batch."""
    measured, predicted = prepared.meter.measured(), prepared.plan.predicted
    promised = predicted.allocated_peak_bytes if predicted is not None else None
    got = measured["allocated_peak_bytes"]
    batch, length = ran.heaviest.padded
    foreseen = predicted.batch_lengths if predicted is not None else None
    full = foreseen is None and length == asked.max_length and batch == asked.batch_size
    comparable = (full or (foreseen is not None and foreseen == ran.heaviest.lengths)) and promised and got
    message = f"{batch} x {length} tokens ran forward, backward and through the optimizer"
    if length != asked.max_length and not comparable:
        message += f"; planned were {asked.max_length} tokens (--full-length pads to them)"
    return DryRun(
        device=str(prepared.meter.device),
        rows=batch,
        length=length,
        planned_length=asked.max_length,
        loss=ran.loss,
        step_seconds=round(ran.seconds, 4),
        instants=measured["instants"],
        measured_bytes=got,
        device_bytes=measured["device_peak_bytes"],
        predicted_bytes=promised,
        difference=got / promised - 1 if comparable and promised else None,
        fits=True,
        message=message,
    )


def _overflow(asked: TrainingChoices, plan: Plan, reason: str) -> DryRun:
    promised = plan.predicted.allocated_peak_bytes if plan.predicted is not None else None
    first = (reason.strip().splitlines() or ["out of memory"])[0]
    if asked.batch_size > 1:
        doubled = asked.gradient_accumulation_steps * 2
        out = f"--batch-size {asked.batch_size // 2} --gradient-accumulation-steps {doubled}"
    else:
        out = "a smaller --max-length, --gradient-checkpointing or --loss chunked"
    return DryRun(
        device="",
        rows=asked.batch_size,
        length=asked.max_length,
        planned_length=asked.max_length,
        loss=None,
        step_seconds=0.0,
        instants={},
        measured_bytes=None,
        device_bytes=None,
        predicted_bytes=promised,
        difference=None,
        fits=False,
        message=f"does not fit: {clause(first)}; plan anew with {out}",
    )


def command(given: Namespace) -> int:
    """`python -m trainer dry-run`: exit code 0 where it fits, 3 where it doesn't."""
    import json

    from planner.contract.units import format_bytes

    found = dry_run(
        given.plan,
        data=given.data,
        device=given.device,
        full_length=given.full_length,
        skip_invalid=given.skip_invalid,
    )
    if given.json:
        print(json.dumps({"schema": "tuneplan.dry-run/1", **dataclasses.asdict(found)}, indent=1))
        return 0 if found.fits else 3
    print(shown(found.message))
    if not found.fits:
        return 3
    if found.measured_bytes is None:
        raise RunFailed(f"no peak could be measured on {found.device}")
    print(
        f"measured peak   {format_bytes(found.measured_bytes)} allocated, {format_bytes(found.device_bytes or 0)} held"
    )
    if found.predicted_bytes is None:
        print("predicted peak  none in this plan (plan … --save writes one)")
    else:
        off = f" ({found.difference:+.1%})" if found.difference is not None else " (for the planned length)"
        print(f"predicted peak  {format_bytes(found.predicted_bytes)}{off}")
    print(f"step            {found.step_seconds:.2f} s, loss {found.loss:.3f}")
    return 0
