"""What a run leaves behind besides its weights: the observation, also of a run that failed or overflowed."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from planner.contract.records import Plan
from planner.contract.spec import TrainingChoices
from trainer.recovery import limits
from trainer.recovery.lastwords import LastWords
from trainer.wire.events import EventStream


class Accounts:
    """The part of a `Run` that observes it."""

    plan: Plan
    choices: TrainingChoices
    config: dict[str, Any]
    run_dir: Path
    events: EventStream
    device: Any
    trainer: Any
    reporter: Any
    phase: str
    last_words: LastWords

    def observe(self, notes: tuple[str, ...] = (), measured: dict[str, Any] | None = None) -> tuple[Any, Path]:
        """Builds and saves the observation; of `measured` where several processes measured, else of this one's."""
        from trainer.commands import observe

        trainer = self.trainer
        trainer.meter.close()
        observation = self._observation(list(notes), choices=trainer.recovery.choices_now(), measured=measured)
        return observation, observe.save(observation, self.run_dir)

    def _observation(
        self, notes: list[str], *, choices: TrainingChoices, outcome: str = "ran", measured: Any = None
    ) -> Any:
        from trainer.commands import observe

        trainer, reporter = self.trainer, self.reporter
        remarks = [*notes, *trainer.recovery.notes]
        rows, longest = trainer.longest_batch
        if longest and longest < choices.max_length and choices.padding == "longest":
            foreseen = self.plan.predicted is not None and self.plan.predicted.batch_lengths == trainer.heaviest
            if not foreseen:
                planned = choices.max_length
                remarks.append(f"planned max_length {planned}; the longest batch was {rows} x {longest} tokens")
            choices = dataclasses.replace(choices, max_length=longest)
        # The first step pays for start-up work that no later one repeats.
        steady = reporter.step_seconds[1:] or reporter.step_seconds
        spent = sum(reporter.step_seconds)
        return observe.build(
            plan=self.plan,
            choices=choices,
            config=self.config,
            device=self.device,
            measured=measured if measured is not None else trainer.meter.measured(),
            step_seconds=steady[:200],
            tokens_per_second=trainer.real_tokens / spent if spent else None,
            notes=remarks,
            outcome=outcome,
            batch_lengths=trainer.heaviest,
        )

    def observe_failure(self, kind: str) -> None:
        """What is known of a failed run is kept too. `kind` says why in a word: a message may quote data or paths."""
        if self.trainer is None or self.reporter is None:
            return
        with contextlib.suppress(Exception):
            self.observe((f"failed: {kind}",))

    def out_of_memory(self, fields: dict[str, Any]) -> None:
        """An `oom` event, and an observation of the settings that did not fit, for the calibration."""
        from trainer.commands import observe

        self.events.emit("oom", **fields)
        recovery = self.trainer.recovery
        self.last_words.begin(recovery.rows, recovery.eval_rows)
        if fields["phase"] == "eval":
            tried = dataclasses.replace(self.trainer.recovery.choices_now(), eval_batch_size=fields["batch_size"])
        else:
            planned = self.choices
            pieces = -(-planned.batch_size // fields["batch_size"])
            tried = dataclasses.replace(
                planned,
                batch_size=fields["batch_size"],
                gradient_accumulation_steps=planned.gradient_accumulation_steps * pieces,
            )
        # A full disk or a driver that doesn't answer must not cost the run that is being saved here.
        with contextlib.suppress(Exception):
            observation = self._observation([], choices=tried, outcome="out_of_memory")
            observe.save(
                observation,
                self.run_dir,
                name=f"observation-oom-{fields['step']}-{fields['phase']}-{fields['batch_size']}.json",
            )

    def loss_begins(self, meter: Any, instant: str) -> None:
        """Called at the vocabulary head."""
        within = meter.current == "forward"
        meter.loss_begins(instant)
        if within and self.trainer is not None:
            self.trainer.recovery.faults.strike("loss", self.trainer.recovery.step)

    def as_predicted(self) -> bool:
        """Whether what was measured met a batch as heavy as the one that was predicted for; a run that goes on
        mid-epoch may not.
        """
        from trainer.loop.trainer import heavier

        predicted, trainer = self.plan.predicted, self.trainer
        if predicted is None:
            return False
        if predicted.batch_lengths is not None and trainer.heaviest is not None:
            return bool(heavier(trainer.heaviest, predicted.batch_lengths, self.choices) == trainer.heaviest)
        return bool(trainer.longest_batch == (self.choices.batch_size, self.choices.max_length))

    def predicted_bytes(self) -> int | None:
        """Predicted counterpart of `measured_bytes`."""
        if self.plan.predicted is None:
            return None
        return self.plan.predicted.allocated_peak_bytes

    def measured_bytes(self, observation: Any) -> int | None:
        """Measured allocated peak."""
        return observation.allocated_peak_bytes

    def report_out_of_memory(self, error: BaseException) -> str:
        """Emits the `oom` event and returns the line for it."""
        step = self.trainer.state.global_step + 1 if self.trainer is not None else 0
        phase = self.trainer.meter.current or self.phase if self.trainer is not None else self.phase
        c = self.choices
        self.events.emit(
            "oom",
            phase=phase,
            step=step,
            batch_size=c.batch_size,
            new_batch_size=None,
            gradient_accumulation_steps=c.gradient_accumulation_steps,
        )
        where = f"out of memory on {self.device} at step {step} ({phase})"
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
        c = self.choices
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
