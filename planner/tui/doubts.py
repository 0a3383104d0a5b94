"""What speaks against training or saving what stands on the screen. UI-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.contract.records import CheckReport
from planner.contract.units import format_bytes
from planner.tui.state import WizardState

Act = Literal["train", "save"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Doubt:
    """Why a training should not simply start, or a plan not simply be saved."""

    text: str
    may_go_on: bool = True
    """Whether asking twice starts it all the same."""


def doubt(state: WizardState, report: CheckReport | None, error: str | None, act: Act = "train") -> Doubt | None:
    """What speaks against starting the training here and now, or against saving the plan; None when nothing does."""
    if report is None:
        return Doubt(text=error or "the plan is still being computed", may_go_on=False)
    fits = "" if report.verdict != "does_not_fit" else _does_not_fit(report)
    if act == "save":
        return Doubt(text=fits) if fits else None
    if not state.data.path:
        return Doubt(text="no data chosen: go back with esc and pick a file", may_go_on=False)
    if state.choices.stack != "builtin":
        return Doubt(
            text="stack peft is for planning; the trainer runs the stack builtin: change it first", may_go_on=False
        )
    if state.this_machine and state.hardware and state.hardware.name != state.this_machine:
        elsewhere = f"The plan is for {state.hardware.name}, this machine is {state.this_machine}."
        return Doubt(text=f"{elsewhere} {fits}".rstrip())
    return Doubt(text=fits) if fits else None


def _does_not_fit(report: CheckReport) -> str:
    memory = report.memory
    return (
        f"It does not fit ({format_bytes(memory.device_peak_bytes)} of {format_bytes(memory.budget_bytes)}): the run "
        "will most likely end out of memory."
    )
