"""`python -m benchmarks.accuracy.epochs`: reserved bytes over an epoch of ragged micro-batches beside the plan's.

A plan replays its heaviest micro-batch; a run has as many shapes as micro-batches, and each leaves segments behind that
the next larger one can't use. Here the allocator's model plays whole epochs, micro-batch by micro-batch, in the order
of our trainer (the heaviest second) with the cache given back before a larger one (`trainer.loop.heaviest.Growing`) and
without, and in an order by chance as other trainers have it, with and without expandable segments. Lengths: log-normal
with a median of 330 tokens, cut at 2048, as instruction data has them. Each micro-batch is a step of its own here, so
that the plans are those without accumulation, which keeps gradients that are not played.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from benchmarks.accuracy.metrics import percent, table
from planner import memory
from planner.contract.choices import TrainingChoices
from planner.contract.microbatches import place_of_heaviest
from planner.contract.spec import HardwareProfile, ModelSpec
from planner.data.lengths import DataLengths
from planner.devices import profiles
from planner.memory.engine.ledger import BACKWARD_LIBRARY, FORWARD_LIBRARY
from planner.memory.loads import load_of
from planner.memory.reserved.history import LASTING, before_the_step, split, state_sizes
from planner.memory.reserved.player import Player, PreparedEvents
from planner.memory.reserved.replay import numbers, step_log
from planner.models.sources import load_model

CASES: tuple[tuple[str, dict[str, object]], ...] = (
    ("phi-2", {}),
    ("phi-2", {"stack": "peft", "loss": "full"}),
    ("llama-3.2-1b", {}),
    ("llama-3.2-1b", {"stack": "peft", "loss": "full"}),
    ("qwen2.5-1.5b", {"method": "qlora", "stack": "peft", "loss": "full"}),
    ("qwen2.5-1.5b", {"method": "full"}),
)


@dataclass(frozen=True, slots=True)
class Epoch:
    """Micro-batches of one example of data, and what plays them."""

    model: ModelSpec
    hardware: HardwareProfile
    choices: TrainingChoices
    lengths: tuple[int, ...]

    def planned(self) -> int:
        """Reserved bytes as `plan check --data` says them where nothing is in the way."""
        found = np.array(self.lengths)
        known = DataLengths(training=-np.sort(-found), validation=found[:0], continued=False)
        report = memory.predict(self.model, self.hardware, self.choices, lengths=known, budget_bytes=1 << 60)
        return report.reserved_peak_bytes

    def ours(self, steps: int) -> list[tuple[int, ...]]:
        """So many micro-batches in the trainer's order: the largest of the others, then the heaviest of all."""
        heaviest, others = self._apart(steps)
        first = others.index(max(others, key=max))
        others[0], others[first] = others[first], others[0]
        others.insert(place_of_heaviest(len(others) + 1, 1), heaviest)
        return others

    def by_chance(self, steps: int) -> list[tuple[int, ...]]:
        """The same micro-batches, the heaviest anywhere."""
        heaviest, others = self._apart(steps)
        others.insert(random.Random(2).randrange(len(others)), heaviest)
        return others

    def _apart(self, steps: int) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        size = self.choices.batch_size
        ordered = sorted(self.lengths, reverse=True)
        rest = ordered[size:]
        random.Random(1).shuffle(rest)
        cut = [tuple(rest[start : start + size]) for start in range(0, len(rest) - size + 1, size)]
        return tuple(ordered[:size]), cut[: steps - 1]

    def reserved(self, batches: list[tuple[int, ...]], *, gives_back: bool = False) -> int:
        """Reserved bytes once all of them have been trained on."""
        prepared: Callable[[tuple[int, ...]], _Batch] = cache(self._prepared)
        player = Player(expandable_segments=self.choices.expandable_segments)
        run = _Run(player, self.hardware.cublas_workspace_bytes)
        most = 0
        for rows in batches:
            shape = self._shape(rows)
            batch = prepared(shape)
            if not most:
                player.repeat(batch.loading)
            if gives_back and 0 < most < sum(shape):
                player.give_back()
            most = max(most, sum(shape))
            run.step(batch)
        return player.reserved_peak

    def _shape(self, rows: tuple[int, ...]) -> tuple[int, ...]:
        """Flattened on stack `builtin`, else padded."""
        if self.choices.stack == "builtin":
            return tuple(sorted(rows, reverse=True))
        return (max(rows),) * len(rows)

    def _prepared(self, shape: tuple[int, ...]) -> _Batch:
        load = load_of(self.model, self.hardware, self.choices, tuple((length,) for length in shape))
        case = load.case
        step, update = split(step_log(case, numbers(load.at_peak())))
        return _Batch(PreparedEvents.of(step), PreparedEvents.of(update), before_the_step(case)[-1], state_sizes(case))


@dataclass(frozen=True, slots=True)
class _Batch:
    step: PreparedEvents
    update: PreparedEvents
    loading: PreparedEvents
    state: list[int]


class _Run:
    """One optimizer step after another."""

    def __init__(self, player: Player, workspace: int) -> None:
        self.player = player
        self._lasting = LASTING
        self._marks = {FORWARD_LIBRARY: [workspace], BACKWARD_LIBRARY: [workspace]}
        self._has_state = False

    def step(self, batch: _Batch) -> None:
        self.player.repeat(batch.step, lambda mark: self._take(self._marks.pop(mark, [])))
        if not self._has_state:
            self._take(batch.state)
            self._has_state = True
        self.player.repeat(batch.update)
        self.player.release([*batch.step.left, *batch.update.left])

    def _take(self, sizes: list[int]) -> None:
        self.player.play((self._lasting + number, size) for number, size in enumerate(sizes))
        self._lasting += len(sizes)


def rows(steps: int, batch_sizes: tuple[int, ...]) -> list[list[str]]:
    """The table's lines."""
    found = []
    drawn = random.Random(4)
    lengths = tuple(min(2048, max(16, int(drawn.lognormvariate(5.8, 0.8)))) for _ in range(600))
    for name, changes in CASES:
        for size in batch_sizes:
            plain = TrainingChoices(batch_size=size, gradient_accumulation_steps=1, max_length=2048, padding="longest")
            choices = replace(plain, **changes)  # type: ignore[arg-type]
            epoch = Epoch(load_model(name), profiles.load("a10g"), choices, lengths)
            grown = replace(epoch, choices=replace(choices, expandable_segments=True))
            planned, ours = epoch.planned(), epoch.ours(steps)
            figures = (
                epoch.reserved(ours, gives_back=True),
                epoch.reserved(ours),
                epoch.reserved(epoch.by_chance(steps)),
            )
            beyond = [percent(figure / planned - 1, 1) for figure in figures]
            said = " ".join(str(value) for value in changes.values()) or "builtin"
            last = percent(grown.reserved(grown.by_chance(steps)) / grown.planned() - 1, 1)
            found.append([f"{name} {said}", str(size), f"{planned / 2**30:.2f} GiB", *beyond, last])
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="micro-batches of an epoch")
    parser.add_argument("--batch-sizes", default="1,4")
    asked = parser.parse_args()
    sizes = tuple(int(size) for size in asked.batch_sizes.split(","))
    header = ["case", "batch", "planned", "given back", "not given back", "any order", "any order, expandable"]
    print("\n".join(table(header, rows(asked.steps, sizes))))


if __name__ == "__main__":
    main()
