"""What the screens ask of the app that holds them: the state they show, and what a key may set going."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from planner.contract.control import Command
    from planner.contract.spec import HardwareProfile
    from planner.report.finding import ListEntry
    from planner.tui.around import Surroundings
    from planner.tui.doubts import Act, Doubt
    from planner.tui.live import RunSnapshot
    from planner.tui.state import WizardState
    from planner.tui.work import Evaluation, WizardAnswer


class Wizard(Protocol):
    """The app as a screen sees it; nothing but this is used of it."""

    wizard: WizardState
    """What has been chosen so far."""
    evaluation: Evaluation | None
    """The judgement of the newest settings that were judged."""
    recommendation: WizardAnswer | None
    """The tiers of the newest question that was answered."""
    judged: bool
    """Whether the judgement is about the settings on the screen."""
    tiers_judged: bool
    """Whether the tiers are."""
    settled: bool
    """Whether both are, this machine is known and the data is measured."""
    surroundings: Surroundings | None
    """The newest pictures around the plan."""
    around_judged: bool
    """Whether they are of the settings on the screen."""
    profiles: tuple[HardwareProfile, ...]
    """All devices, this machine's first once it is known."""
    start_folder: str
    """Where the file browser begins."""
    run_snapshot: RunSnapshot | None
    """The run that is shown."""
    run_folder: str
    """Where it writes."""

    def update(self, new: WizardState) -> None:
        """Takes a new state and asks what it comes to."""

    def go(self, name: str) -> None:
        """To a step by name."""

    def go_on(self) -> None:
        """To the first step that is not decided."""

    def find_hardware(self, name: str) -> HardwareProfile:
        """A device by name; raises InvalidInput."""

    def choose_hardware(self, profile: HardwareProfile) -> None:
        """Takes a device."""

    fits: dict[str, str]
    """What of each model fits the chosen device, as far as it was looked at."""

    def model_entries(self, wide: bool = False) -> list[ListEntry]:
        """Models to choose from."""

    def look_what_fits(self) -> None:
        """Asks what of each model fits the chosen device."""

    def read_model(self, name: str, final: bool) -> None:
        """Reads a model in the background; `final` goes on to the next step."""

    def read_file(self, path: str, final: bool) -> None:
        """Reads a plan or another trainer's file in the background; `final` takes it."""

    def read_data(self, path: str, changes: Mapping[str, Any] | None = None) -> None:
        """Measures a data file in the background."""

    def read_samples(self) -> None:
        """Reads the first examples of the chosen data in the background."""

    def read_columns(self, path: str) -> None:
        """Reads the columns of a data file in the background."""

    def choose_data(self, dataset: Any, settings: Any = None, model: Any = None) -> None:
        """Takes measured data, or none."""

    def doubt(self, act: Act = "train") -> Doubt | None:
        """What speaks against saving or training what stands on the screen."""

    def save_plan(self) -> Path:
        """Writes the plan file."""

    def start_training(self) -> None:
        """Hands the plan to the trainer."""

    @property
    def attached(self) -> bool:
        """Whether someone else started the run that is watched."""

    @property
    def may_resume(self) -> bool:
        """Whether the run can go on from a checkpoint."""

    def pause_or_resume(self) -> None:
        """Pauses the run, or lets it go on."""

    def tell_run(self, command: Command, doing: str) -> None:
        """Something that the trainer is to do after its step; `doing` is said until it has."""

    def stop_run(self) -> None:
        """Ends the run with a checkpoint."""

    def resume_run(self) -> None:
        """Goes on from the last checkpoint."""

    def next_commands(self) -> list[tuple[str, str]]:
        """What can be done with the result: title and command."""
