"""`--dry-run`: the longest batch goes forward, backward and through the optimizer, before hours are spent.

Two optimizer steps are taken, because memory stands highest in the second, when the optimizer's state exists; with
accumulation each has two micro-batches, because the last one meets the gradients of those before it.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

from planner.contract.errors import RunFailed
from planner.contract.shown import clause
from planner.contract.words import shown

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
    from trainer.wire.request import Request, read_choices, read_plan

    request = Request(plan=plan, data=data, device=device, skip_invalid=skip_invalid)
    asked = read_choices(read_plan(request), str(plan))
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


def _steps(prepared: Any, work: Path, asked: Any) -> DryRun:
    from transformers import TrainerCallback

    from trainer.data.tokens import TokenizedData
    from trainer.loop import prepare as preparing
    from trainer.loop.trainer import LoopTrainer

    # Only the longest rows, as often as the steps need them: every batch is the longest one.
    c = prepared.choices
    ranked = sorted(prepared.train.sequences, key=len, reverse=True)
    need = c.batch_size * c.gradient_accumulation_steps * STEPS
    rows = ranked[: c.batch_size] if c.padding != "packed" else ranked
    prepared.train = TokenizedData(sequences=(rows * (-(-need // len(rows))))[: max(need, len(rows))])
    seen: dict[str, float] = {}

    class Dry(LoopTrainer):
        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            """Nothing is kept."""

    class Watch(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            prepared.meter.start_training(loop.model, loop.optimizer)

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seen["started"] = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            prepared.meter.end()
            prepared.meter.step_done()
            seen["seconds"] = time.perf_counter() - seen["started"]
            seen["loss"] = float(loop._step_loss)
            control.should_save = False
            return control

    hyper = prepared.plan.hyperparameters.model_copy(
        update={"max_steps": STEPS, "report_to": (), "logging_steps": 10**9, "warmup_steps": 0}
    )
    loop = preparing.make_loop(prepared, work, hyper, cls=Dry, callbacks=[Watch()])
    if c.padding != "packed":  # in the order they stand in: else the longest row would fill a batch with its copies
        loop.batches.shuffle = loop.batches.group_by_length = False
    overflows: list[Any] = []
    loop.tell_out_of_memory = overflows.append  # the loop would go on with a halved micro-batch
    loop.train()
    prepared.meter.close()
    if overflows:
        return _overflow(asked, prepared.plan, "the longest batch ran out of memory and had to be halved")
    measured = prepared.meter.measured()
    predicted = prepared.plan.predicted
    promised = predicted.allocated_peak_bytes if predicted is not None else None
    got = measured["allocated_peak_bytes"]
    batch, length = loop.longest_batch
    foreseen = predicted.batch_lengths if predicted is not None else None
    full = foreseen is None and length == asked.max_length and batch == asked.batch_size
    comparable = (full or (foreseen is not None and foreseen == loop.heaviest)) and promised and got
    fits, message = True, f"{batch} x {length} tokens ran forward, backward and through the optimizer"
    if length != asked.max_length and not comparable:
        message += f"; planned were {asked.max_length} tokens (--full-length pads to them)"
    return DryRun(
        device=str(prepared.device),
        rows=batch,
        length=length,
        planned_length=asked.max_length,
        loss=seen.get("loss"),
        step_seconds=round(seen.get("seconds", 0.0), 4),
        instants=measured["instants"],
        measured_bytes=got,
        device_bytes=measured["device_peak_bytes"],
        predicted_bytes=promised,
        difference=got / promised - 1 if comparable else None,
        fits=fits,
        message=message,
    )


def _overflow(asked: Any, plan: Any, reason: str) -> DryRun:
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


def command(given: Any) -> int:
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
