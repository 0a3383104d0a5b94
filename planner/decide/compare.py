"""One question on several devices: what fits, how fast, how long and, where a price is known, for how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from planner.contract.errors import TuneplanError
from planner.contract.records import CheckReport
from planner.contract.spec import HardwareProfile
from planner.decide.given_up import Changed
from planner.decide.prices import Price
from planner.decide.question import Question
from planner.decide.run_time import EXAMPLES
from planner.decide.search import recommend


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedRow:
    """The answer on one device, or why there is none."""

    gpu: str
    num_gpus: int
    report: CheckReport | None = None
    changed: list[Changed] = field(default_factory=list)
    epochs: float = 1.0
    why_not: str = ""
    price: Price | None = None
    """For one device and hour."""
    board_watts: float | None = None
    """Power limit of one device's board; None where none is published."""

    @property
    def hours(self) -> float | None:
        """Of the whole run: the data's epochs, else of 1,000 full examples."""
        if self.report is None or self.report.speed is None:
            return None
        speed = self.report.speed
        epoch = speed.epoch_seconds
        if epoch is None:
            settings = self.report.settings
            batch = settings.batch_size * settings.gradient_accumulation_steps * settings.num_gpus
            epoch = speed.step_seconds * -(-EXAMPLES // batch)
        return epoch * self.epochs / 3600

    @property
    def cost(self) -> float | None:
        """Money for the whole run in the price's currency; None where hours or price are unknown."""
        return None if self.hours is None or self.price is None else self.hours * self.price.amount * self.num_gpus

    @property
    def energy_kwh(self) -> float | None:
        """The most that the devices draw over the whole run: their limit all the time, without the host around them."""
        if self.hours is None or self.board_watts is None:
            return None
        return self.hours * self.board_watts * self.num_gpus / 1000


def compare(
    question: Question, devices: Sequence[HardwareProfile], num_gpus: Sequence[int], prices: dict[str, Price]
) -> list[ComparedRow]:
    """One row for each device and number of them, in the order given."""
    rows = []
    for profile in devices:
        for count in num_gpus:
            price = prices.get(profile.name)
            power = profile.facts.get("board_power")
            try:
                choices = replace(question.choices, num_gpus=count)
                fixed = question.fixed | ({"num_gpus"} if count > 1 else set())
                there = replace(question, hardware=profile, choices=choices, fixed=fixed, budget=None)
                answer = recommend(there)
            except TuneplanError as error:
                rows.append(ComparedRow(gpu=profile.name, num_gpus=count, why_not=str(error), price=price))
                continue
            epochs = next((float(entry.value) for entry in answer.advice if entry.name == "epochs"), 1.0)
            rows.append(
                ComparedRow(
                    gpu=profile.name,
                    num_gpus=count,
                    report=answer.recommended,
                    changed=answer.changed,
                    epochs=epochs,
                    price=price,
                    board_watts=None if power is None else float(power.value),
                )
            )
    return rows
