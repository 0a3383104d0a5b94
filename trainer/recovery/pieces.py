"""Going on after out-of-memory: the failed piece is undone, cut in two and run again.

The step that the plan describes stays what it is: the same examples in the same order, one update per effective batch,
the loss divided by all its targets. Only the pieces in which a micro-batch passes through the model become smaller.
"""

from __future__ import annotations

import gc
import hashlib
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from planner.contract.choices import TrainingChoices
from planner.contract.errors import RunFailed
from planner.contract.events import OomEvent
from planner.contract.shown import clause
from trainer.measure import devices
from trainer.recovery import checkpoints, limits, room
from trainer.recovery.faults import Faults

log = logging.getLogger("trainer")


class StartAgain(RunFailed):
    """Memory ran out where the processes of a run can't recover one by one: all start again with fewer rows."""

    def __init__(self, message: str, rows: int, eval_rows: int, oom: OomEvent) -> None:
        super().__init__(message)
        self.oom = oom
        self.rows = f"{rows},{eval_rows}"
        """What the environment variable of `trainer.distributed.environment.ROWS` holds then."""


class RandomState:
    """The random numbers of the cpu and of the device, to be put back."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.cpu = torch.get_rng_state()
        self.own = _device_random(device).get_rng_state() if device.type in ("cuda", "mps") else None

    def restore(self) -> None:
        """Puts the states back."""
        torch.set_rng_state(self.cpu)
        if self.own is not None:
            _device_random(self.device).set_rng_state(self.own)


def _device_random(device: torch.device) -> Any:
    return torch.cuda if device.type == "cuda" else torch.mps


@dataclass(slots=True)
class Piece:
    """Rows of a micro-batch that pass through the model together."""

    inputs: dict[str, Any]
    first_row: int
    seed: int | None = None
    """Seed of its random numbers; None for the leading piece, which draws from the run's own stream."""
    start: RandomState | None = None
    """Leading piece: where in the stream it began, once it ran."""
    counted: bool = False
    """Whether its loss has been added to the step's already (it is run again only for its gradients)."""
    retried: bool = False

    @property
    def rows(self) -> int:
        """Rows of the piece."""
        return len(self.inputs["input_ids"])


def cut(piece: Piece, rows: int, seed: Callable[[int], int]) -> list[Piece]:
    """The piece in parts of at most `rows` rows, in order; the first keeps the piece's random numbers."""
    if piece.rows <= rows:
        return [piece]
    parts = []
    for start in range(0, piece.rows, rows):
        inputs = {
            name: value[start : start + rows] if _by_row(value, piece.rows) else value
            for name, value in piece.inputs.items()
        }
        parts.append(
            Piece(
                inputs=inputs,
                first_row=piece.first_row + start,
                seed=piece.seed if start == 0 else seed(piece.first_row + start),
                start=piece.start if start == 0 else None,
                counted=piece.counted,
            )
        )
    return parts


def _by_row(value: object, rows: int) -> bool:
    """Whether a field of a batch holds something for each row: a tensor's first dimension, or a list."""
    if torch.is_tensor(value):
        return value.dim() > 0 and len(value) == rows
    return isinstance(value, list) and len(value) == rows


class Aside:
    """Keeps the gradients of earlier pieces out of a backward pass that may fail half way."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.kept: list[torch.Tensor | None] = []

    def take(self) -> None:
        """From here on backward writes into fresh gradients."""
        self.kept = [parameter.grad for parameter in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None

    def merge(self) -> None:
        """Adds the fresh gradients to the kept ones, as backward itself would have done."""
        kept, fresh = [], []
        for parameter, old in zip(self.parameters, self.kept, strict=True):
            if old is None:
                continue
            if parameter.grad is not None:
                kept.append(old)
                fresh.append(parameter.grad)
            parameter.grad = old
        if kept:
            torch._foreach_add_(kept, fresh)
        self.kept = []

    def restore(self) -> None:
        """Throws the fresh gradients away; the kept ones are as they were."""
        for parameter, old in zip(self.parameters, self.kept, strict=True):
            parameter.grad = old
        self.kept = []


@dataclass(kw_only=True)
class Recovery:
    """How many rows pass at once, and what happens when that was too many."""

    device: torch.device
    choices: TrainingChoices
    run_dir: Path
    seed: int
    phase: Callable[[], str]
    """The instant that is running, for the report."""
    report: Callable[[OomEvent], None]
    faults: Faults = field(default_factory=Faults)
    rank: int = 0
    """Of several processes, this one's number: each draws its own random numbers."""
    recovers: bool = True
    """Whether this process can go on by itself; else it leaves with `StartAgain`."""
    rows: int = 0
    eval_rows: int = 0
    step: int = 0
    """The optimizer step that is being made, from 1."""
    notes: list[str] = field(default_factory=list)
    _micro_batches: int = 0
    _done: list[Piece] = field(default_factory=list)
    _aside: Aside | None = None
    parameters: list[torch.nn.Parameter] = field(default_factory=list)
    """What is trained."""

    def __post_init__(self) -> None:
        self.rows = self.choices.batch_size
        self.eval_rows = self.choices.eval_batch_size or self.choices.batch_size

    # ---- state -----------------------------------------------------------------------------------------------------

    def watch(self, model: torch.nn.Module) -> None:
        """Learns which parameters are trained. Adapters' gradients are set aside during a backward pass; of a model
        that is trained as a whole they'd take too much room, and are made again after a failure instead."""
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        apart = self.recovers and self.choices.method != "full"
        self._aside = Aside(self.parameters) if apart else None

    def state(self) -> dict[str, int]:
        """What a resumed run must know to go on the same way."""
        return {"rows": self.rows, "eval_rows": self.eval_rows}

    def restore(self, state: dict[str, int]) -> None:
        """Takes over from a checkpoint; never more rows than planned."""
        self.rows = max(1, min(self.rows, int(state.get("rows", self.rows))))
        self.eval_rows = max(1, min(self.eval_rows, int(state.get("eval_rows", self.eval_rows))))

    def accumulation(self) -> int:
        """Pieces per update at the present number of rows."""
        return self.choices.gradient_accumulation_steps * -(-self.choices.batch_size // self.rows)

    def choices_now(self) -> TrainingChoices:
        """The choices with the rows that really pass at once."""
        import dataclasses

        if self.rows == self.choices.batch_size:
            return self.choices
        return dataclasses.replace(self.choices, batch_size=self.rows, gradient_accumulation_steps=self.accumulation())

    def begin_step(self, step: int) -> None:
        """A new effective batch begins."""
        self.step = step
        self._micro_batches = 0
        self._done.clear()

    # ---- training --------------------------------------------------------------------------------------------------

    def micro_batch(self, inputs: dict[str, object], attempt: Callable[..., torch.Tensor]) -> torch.Tensor:
        """Runs `attempt(inputs) -> loss` (forward and backward) over the micro-batch; returns the loss's sum."""
        number = self._micro_batches
        self._micro_batches += 1

        def seed(row: int) -> int:
            text = f"{self.seed}-{self.step}-{number}-{row}{f'-{self.rank}' if self.rank else ''}".encode()
            return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest())

        pending = deque(cut(Piece(inputs=inputs, first_row=0), self.rows, seed))
        total = torch.zeros((), device=self.device)
        while pending:
            piece = pending.popleft()
            loss, failed_in = self._run(piece, attempt)
            if failed_in is None:
                assert loss is not None
                if not piece.counted:
                    total += loss
                piece.counted = True
                if self._aside is None:
                    self._done.append(piece)
                continue
            self._shrink(failed_in, piece)
            pending.extendleft(reversed(cut(piece, self.rows, seed)))
            if self._aside is None and failed_in == "backward":
                # Gradients may be half added to: all that this update has so far is made again, piece by piece.
                for parameter in self.parameters:
                    parameter.grad = None
                again = list(self._done)
                self._done.clear()
                pending.extendleft(reversed(again))
        return total

    def _run(self, piece: Piece, attempt: Callable[..., torch.Tensor]) -> tuple[torch.Tensor | None, str | None]:
        """(loss, None), or (None, where memory ran out) with gradients and random numbers as they were before."""
        before = RandomState(self.device)
        leading = piece.seed is None and piece.start is None
        if piece.seed is not None:
            torch.manual_seed(piece.seed)
        elif piece.start is not None:
            piece.start.restore()
        if self._aside is not None:
            self._aside.take()
        try:
            with room.asked_first(self.device):
                loss = attempt(piece.inputs)
        except Exception as error:
            if not devices.is_out_of_memory(error):
                raise
            failed_in = self.phase()
            log.info("out of memory: %s", clause(error, 300))
        else:
            if self._aside is not None:
                self._aside.merge()
            if leading:
                piece.start = before
            else:
                before.restore()
            return loss, None
        # Here, outside `except`, the traceback and with it the failed piece's tensors are gone.
        if self._aside is not None:
            self._aside.restore()
        before.restore()
        return None, failed_in

    def _shrink(self, failed_in: str, piece: Piece) -> None:
        free(self.device)
        old = self.rows
        if piece.rows == 1:
            if piece.retried:
                self.give_up(failed_in, 1)
            # What other pieces left in the allocator's cache may have been in the way.
            piece.retried = True
            self.rows = 1
        else:
            self.rows = max(1, min(self.rows, piece.rows) // 2)
        self._tell(failed_in, old, self.rows)

    # ---- update ----------------------------------------------------------------------------------------------------

    def update_failed(self, divisible: bool) -> None:
        """Memory ran out in the optimizer: smaller micro-batches leave it more room."""
        free(self.device)
        old = self.rows
        if old == 1 and not divisible:
            self.give_up("optimizer", 1)
        self.rows = max(1, old // 2)
        self._tell("optimizer", old, self.rows)

    # ---- evaluation ------------------------------------------------------------------------------------------------

    def evaluation(self, inputs: dict[str, object], attempt: Callable[[dict[str, object]], object]) -> list[Any]:
        """Results of `attempt` over the evaluation batch, in pieces where it doesn't fit."""
        pending = deque(cut(Piece(inputs=inputs, first_row=0), self.eval_rows, lambda row: row))
        results: list[object] = []
        while pending:
            piece = pending.popleft()
            try:
                with room.asked_first(self.device):
                    results.append(attempt(piece.inputs))
                continue
            except Exception as error:
                if not devices.is_out_of_memory(error):
                    raise
                log.info("out of memory: %s", clause(error, 300))
            free(self.device)
            old = self.eval_rows
            if piece.rows == 1 and piece.retried:
                self.give_up("eval", 1)
            piece.retried = piece.rows == 1
            self.eval_rows = max(1, min(self.eval_rows, piece.rows) // 2)
            self._tell("eval", old, self.eval_rows)
            pending.extendleft(reversed(cut(piece, self.eval_rows, lambda row: row)))
        return results

    # ---- telling ---------------------------------------------------------------------------------------------------

    def _tell(self, phase: str, old: int, new: int) -> None:
        kind = "evaluation batch" if phase == "eval" else "micro-batch"
        told = self._event(phase, old, new)
        outcome = f"went on with {new}" if new != old else "memory was freed and the piece run again"
        self.notes.append(f"out of memory at step {self.step} in {phase} with {kind} {old}: {outcome}")
        self.report(told)
        if not self.recovers:
            good = checkpoints.last_good(self.run_dir)
            place = f"from {good}" if good else "from the beginning, as no checkpoint had been written yet"
            raise StartAgain(
                f"out of memory at step {self.step} ({phase}) with {kind} {old}: under --strategy "
                f"{self.choices.strategy} all processes start again {place}, with {new}",
                self.rows,
                self.eval_rows,
                told,
            )

    def _event(self, phase: str, old: int, new: int | None) -> OomEvent:
        return OomEvent(
            phase=phase,
            step=self.step,
            batch_size=old,
            new_batch_size=new,
            gradient_accumulation_steps=self.accumulation(),
        )

    def give_up(self, phase: str, rows: int) -> None:
        """Nothing is left to halve: one line that says what would need less. Raises RunFailed."""
        self.report(self._event(phase, rows, None))
        c = self.choices
        ways = [f"a --max-length below {c.max_length}"]
        if not c.gradient_checkpointing:
            ways.append("--gradient-checkpointing")
        if c.loss != "chunked":
            ways.append("--loss chunked")
        if c.method == "full":
            ways.append("--method lora")
        elif c.method == "lora":
            ways.append("--method qlora")
        some = f"{', '.join(ways[:-1])} or {ways[-1]}" if len(ways) > 1 else ways[0]
        good = checkpoints.last_good(self.run_dir)
        kept = f"the last good checkpoint is {good}" if good else "no checkpoint had been written yet"
        raise RunFailed(
            f"out of memory on {self.device} at step {self.step} ({phase}) with micro-batch 1: "
            f"nothing is left to halve; {kept}; start anew with {some}"
        )


def free(device: torch.device) -> None:
    """Gives back what is dead: reference cycles, then the allocator's cache."""
    gc.collect()
    limits.trim()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
