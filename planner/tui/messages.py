"""What workers tell the app: typed messages that carry finished snapshots. Workers never touch a widget."""

from __future__ import annotations

from textual.message import Message

from planner.contract.events import Event
from planner.tui.around import Surroundings
from planner.tui.comparing import Compared
from planner.tui.history import FollowedRun, PastRun
from planner.tui.importing import FileFound
from planner.tui.live import RunSnapshot
from planner.tui.reading import DataFound, HardwareFound, ModelFound
from planner.tui.samples import SampleText
from planner.tui.state import WizardState
from planner.tui.work import Evaluation, SearchAsked, WizardAnswer


class HardwareReady(Message):
    """This machine was looked at."""

    def __init__(self, found: HardwareFound) -> None:
        self.found = found
        super().__init__()


class ModelReady(Message):
    """A model was read, or the reason why not."""

    def __init__(self, found: ModelFound) -> None:
        self.found = found
        super().__init__()


class FileReady(Message):
    """A plan or another trainer's file was read, or the reason why not."""

    def __init__(self, found: FileFound) -> None:
        self.found = found
        super().__init__()


class PlanOfRun(Message):
    """The plan of an earlier run was read, or the reason why not."""

    def __init__(self, found: FileFound) -> None:
        self.found = found
        super().__init__()


class DataReady(Message):
    """A data set was profiled, or the reason why not."""

    def __init__(self, found: DataFound) -> None:
        self.found = found
        super().__init__()


class Evaluated(Message):
    """A configuration was judged: that of the state `about`; once more when its remedies are there."""

    def __init__(self, evaluation: Evaluation, about: WizardState) -> None:
        self.evaluation = evaluation
        self.about = about
        super().__init__()


class Recommended(Message):
    """Tiers and advice for the model, device and data of the state `about`; `asked` is the search that found them."""

    def __init__(self, recommendation: WizardAnswer, about: WizardState, asked: SearchAsked | None) -> None:
        self.recommendation = recommendation
        self.about = about
        self.asked = asked
        super().__init__()


class SamplesRead(Message):
    """The first examples of the data set at `path`."""

    def __init__(self, path: str, samples: tuple[SampleText, ...]) -> None:
        self.path = path
        self.samples = samples
        super().__init__()


class ColumnsRead(Message):
    """The columns of the data set at `path`, and whether the chosen model can learn labels as a classifier."""

    def __init__(self, path: str, columns: tuple[str, ...], classifies: bool) -> None:
        self.path = path
        self.columns = columns
        self.classifies = classifies
        super().__init__()


class Surrounded(Message):
    """The step's memory and the other batches and lengths of the state `about`."""

    def __init__(self, surroundings: Surroundings, about: WizardState) -> None:
        self.surroundings = surroundings
        self.about = about
        super().__init__()


class FitsFound(Message):
    """What of some models fits a device: by name."""

    def __init__(self, device: str, fits: dict[str, str]) -> None:
        self.device = device
        self.fits = fits
        super().__init__()


class Rested(Message):
    """The thread that answers has ended."""


class RunEvent(Message):
    """The trainer wrote one event."""

    def __init__(self, event: Event) -> None:
        self.event = event
        super().__init__()


class RunEnded(Message):
    """The trainer's process has ended, or could not be started."""

    def __init__(self, exit_code: int | None, tail: str = "", error: str | None = None) -> None:
        self.exit_code = exit_code
        self.tail = tail
        self.error = error
        super().__init__()


class RunsFound(Message):
    """The output folder was looked through for runs."""

    def __init__(self, runs: tuple[PastRun, ...]) -> None:
        self.runs = runs
        super().__init__()


class RunsCompared(Message):
    """Several runs were read; or what stood in the way."""

    def __init__(self, found: Compared | None, error: str | None = None) -> None:
        self.found = found
        self.error = error
        super().__init__()


class RunReopened(Message):
    """An earlier run was read; `trainer` follows it where it still goes on."""

    def __init__(
        self,
        past: PastRun,
        snapshot: RunSnapshot | None = None,
        trainer: FollowedRun | None = None,
        error: str | None = None,
    ) -> None:
        self.past = past
        self.snapshot = snapshot
        self.trainer = trainer
        self.error = error
        super().__init__()
