"""What a run leaves behind besides its weights: the observation, also of a run that failed or overflowed."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.contract.choices import TrainingChoices
from planner.contract.events import OomEvent, PhaseEvent
from planner.contract.records import Ended, Observation
from trainer.commands.start import Start
from trainer.recovery import limits
from trainer.recovery.lastwords import LastWords

if TYPE_CHECKING:
    from trainer.loop.callbacks import Reporter
    from trainer.loop.trainer import LoopTrainer
    from trainer.measure.instants import StepMeter


class Accounts:
    """What is known of a run so far, so that a failure can still leave an observation."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.phase = "load"
        self.config: dict[str, object] = {}
        """Content of the model's config.json."""
        self.loop: LoopTrainer | None = None
        self.reporter: Reporter | None = None
        self.last_words = LastWords(start.run_dir, start.world.rank)
        self.until_its_end = contextlib.ExitStack()
        """What holds as long as the run."""

    def enter(self, phase: str, detail: str = "") -> None:
        """Announces the stage; a stop that came meanwhile takes effect here while no step has run."""
        self.phase = phase
        self.start.events.emit(PhaseEvent(name=phase, detail=detail))
        if self.loop is None or not self.start.control.stepping:
            self.start.control.check()

    def announce(self, phase: str) -> None:
        """Tells of a stage within the training (`eval`, `save`, and `train` again) or after it."""
        self.phase = phase
        self.start.events.emit(PhaseEvent(name=phase, detail=""))

    def observe(
        self, notes: tuple[str, ...] = (), measured: dict[str, object] | None = None
    ) -> tuple[Observation, Path]:
        """Builds and saves the observation; of `measured` where several processes measured, else of this one's."""
        from trainer.commands import observe

        assert self.loop is not None
        self.loop.meter.close()
        observation = self._observation(list(notes), choices=self.loop.recovery.choices_now(), measured=measured)
        return observation, observe.save(observation, self.start.run_dir)

    def _observation(
        self,
        notes: list[str],
        *,
        choices: TrainingChoices,
        outcome: Ended = "ran",
        measured: dict[str, object] | None = None,
    ) -> Observation:
        from trainer.commands import observe

        loop, reporter, plan = self.loop, self.reporter, self.start.plan
        assert loop is not None
        assert reporter is not None
        remarks = [*notes, *loop.recovery.notes]
        rows, longest = loop.heaviest.padded
        if longest and longest < choices.max_length and choices.padding == "longest":
            foreseen = plan.predicted is not None and plan.predicted.batch_lengths == loop.heaviest.lengths
            if not foreseen:
                planned = choices.max_length
                remarks.append(f"planned max_length {planned}; the longest batch was {rows} x {longest} tokens")
            choices = dataclasses.replace(choices, max_length=longest)
        # The first step pays for start-up work that no later one repeats.
        steady = reporter.step_seconds[1:] or reporter.step_seconds
        spent = sum(reporter.step_seconds)
        return observe.build(
            plan,
            choices,
            config=self.config,
            device=self.start.device,
            measured=measured if measured is not None else loop.meter.measured(),
            run=observe.Steps(
                seconds=steady[:200],
                tokens_per_second=loop.real_tokens / spent if spent else None,
                heaviest=loop.heaviest.lengths,
                outcome=outcome,
                notes=remarks,
            ),
        )

    def observe_failure(self, kind: str) -> None:
        """What is known of a failed run is kept too. `kind` says why in a word: a message may quote data or paths."""
        if self.loop is None or self.reporter is None:
            return
        with contextlib.suppress(Exception):
            self.observe((f"failed: {kind}",))

    def out_of_memory(self, told: OomEvent) -> None:
        """An `oom` event, and an observation of the settings that did not fit, for the calibration."""
        from trainer.commands import observe

        assert self.loop is not None
        self.start.events.emit(told)
        recovery = self.loop.recovery
        self.last_words.begin(recovery.rows, recovery.eval_rows)
        rows = told.batch_size or 1
        if told.phase == "eval":
            tried = dataclasses.replace(recovery.choices_now(), eval_batch_size=rows)
        else:
            planned = self.start.choices
            pieces = -(-planned.batch_size // rows)
            tried = dataclasses.replace(
                planned,
                batch_size=rows,
                gradient_accumulation_steps=planned.gradient_accumulation_steps * pieces,
            )
        # A full disk or a driver that doesn't answer must not cost the run that is being saved here.
        with contextlib.suppress(Exception):
            observation = self._observation([], choices=tried, outcome="out_of_memory")
            name = f"observation-oom-{told.step}-{told.phase}-{rows}.json"
            observe.save(observation, self.start.run_dir, name=name)

    def loss_begins(self, meter: StepMeter, instant: str) -> None:
        """Called at the vocabulary head."""
        within = meter.current == "forward"
        meter.loss_begins(instant)
        if within and self.loop is not None:
            self.loop.recovery.faults.strike("loss", self.loop.recovery.step)

    def as_predicted(self) -> bool:
        """Whether what was measured met a batch as heavy as the one that was predicted for; a run that goes on
        mid-epoch may not.
        """
        from trainer.loop.heaviest import heavier

        predicted, choices = self.start.plan.predicted, self.start.choices
        if predicted is None or self.loop is None:
            return False
        met = self.loop.heaviest
        if predicted.batch_lengths is not None and met.lengths is not None:
            return heavier(met.lengths, predicted.batch_lengths, choices) == met.lengths
        return met.padded == (choices.batch_size, choices.max_length)

    def report_out_of_memory(self) -> str:
        """Emits the `oom` event and returns the line for it."""
        loop, c = self.loop, self.start.choices
        step = 0 if loop is None else loop.state.global_step + 1
        phase = self.phase if loop is None else loop.meter.current or self.phase
        told = OomEvent(
            phase=phase,
            step=step,
            batch_size=c.batch_size,
            new_batch_size=None,
            gradient_accumulation_steps=c.gradient_accumulation_steps,
        )
        self.start.events.emit(told)
        where = f"out of memory on {self.start.device} at step {step} ({phase})"
        if step == 0:  # no batch had any part in it
            return f"{where}: {self.load_needs()}"
        half = max(1, c.batch_size // 2)
        way_out = (
            f"--batch-size {half} --gradient-accumulation-steps {c.gradient_accumulation_steps * 2}"
            if c.batch_size > 1
            else "a smaller --max-length, --gradient-checkpointing or --loss chunked"
        )
        return f"{where}; start anew with {way_out}"

    def load_needs(self) -> str:
        """What would need less than a model that didn't load, in the words of the options."""
        c = self.start.choices
        ways = ["a smaller model"]
        if c.precision == "fp32":
            ways.append("--precision bf16")
        if c.method != "qlora":
            ways.append("--method qlora")
        limit = " (this process has a limit of its own: see `ulimit -a`)" if limits.limits() else ""
        return f"libraries, data and weights didn't fit{limit}; start anew with {' or '.join(ways)}, or more memory"


def largest(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Of what several processes measured, the most that any of them held, number by number."""
    found: dict[str, Any] = {}
    for name in measured[0]:
        values = [each[name] for each in measured if each[name] is not None]
        if name == "instants":
            names = {instant for each in values for instant in each}
            found[name] = {key: max(each.get(key, 0) for each in values) for key in sorted(names)}
        else:
            found[name] = max(values, default=None)
    return found
