"""The part of the app that takes what is chosen: device, model, data, or a file that says all of it."""

from __future__ import annotations

from planner.contract.spec import HardwareProfile
from planner.tui import messages, state
from planner.tui.asking import Asking
from planner.tui.screens.data import DataScreen
from planner.tui.screens.model import ModelScreen

ORDER = ("hardware", "model", "data", "plan")


class Choosing(Asking):
    """Goes from step to step, and hands the screens what was read for them."""

    @property
    def first_open(self) -> str:
        """The first step that is not decided yet, else the plan."""
        done = {"hardware": self.wizard.hardware, "model": self.wizard.model, "data": self.wizard.dataset}
        return next((name for name in ORDER if not done.get(name)), "plan")

    def find_hardware(self, name: str) -> HardwareProfile:
        """A device by name or alias, `auto` for this machine's; `InvalidInput` with near names."""
        from planner.calibration import attach

        return attach.find(name)

    def go_on(self) -> None:
        """From the device to the first step that is not decided; all were chosen for another one: to the plan."""
        self.go(self.first_open)

    def choose_hardware(self, profile: HardwareProfile) -> None:
        """Takes a device."""
        self.update(state.with_hardware(self.wizard, profile))

    def go(self, name: str) -> None:
        """Shows a step."""
        if self.shown is not None:
            self.switch_screen(name)

    def on_fits_found(self, message: messages.FitsFound) -> None:
        """Some models more are known to fit the device, or not to."""
        if self.wizard.hardware is not None and message.device == self.wizard.hardware.name:
            self.fits |= message.fits
            self.tell(ModelScreen, lambda screen: screen.mark(message.fits))

    def on_model_ready(self, message: messages.ModelReady) -> None:
        """A model was read."""
        found = message.found
        screen = self.shown
        if found.final and found.model is not None:
            self.say()
            self.update(state.with_model(self.wizard, found.model, found.name))
            if self.wizard.data.path:
                # Tokens are counted with the model's own tokenizer where it is at hand.
                self.read_data(self.wizard.data.path)
            if isinstance(screen, ModelScreen):
                self.go_on()
        else:
            self.tell(ModelScreen, lambda screen: screen.show(found))

    def on_file_ready(self, message: messages.FileReady) -> None:
        """A plan or another trainer's file was read, and is taken where that was asked."""
        found = message.found
        if not found.final or found.state is None:
            self.tell(ModelScreen, lambda screen: screen.show_file(found))
            return
        self.say()
        self.update(found.state)
        if found.state.dataset is not None:
            self.read_data(found.state.dataset.path)  # by the tokenizer of this model
        self.go_on()

    def on_run_reopened(self, message: messages.RunReopened) -> None:
        """Where nothing has been chosen yet, an earlier run's plan stands in the plan step: for another like it."""
        if message.snapshot is not None and self.wizard.hardware is None and self.wizard.model is None:
            self.read_plan_of(message.past.folder)

    def on_plan_of_run(self, message: messages.PlanOfRun) -> None:
        """That plan was read; one that can't be is left out."""
        if message.found.state is not None and self.wizard.model is None:
            self.update(message.found.state)

    def on_data_ready(self, message: messages.DataReady) -> None:
        """A data set was measured; the one that is chosen already was measured again, for another model."""
        found = message.found
        self._measuring -= 1
        self._look_whether_settled()
        chosen = self.wizard.data
        if found.settings.validation_path != chosen.validation_path and found.path == chosen.path:
            return  # another file was named meanwhile: that one's figures follow
        if found.dataset is not None and found.dataset.path == chosen.path:
            self.choose_data(found.dataset, state.with_rows_of(found.settings, chosen), found.model)
        elif found.dataset is None and found.path == chosen.path:
            if chosen.validation_path is not None:
                self.update(state.without_validation(self.wizard))
            else:
                self.choose_data(None)
            self.say(found.error or "the data can't be read any more", error=True)
        self.tell(DataScreen, lambda screen: screen.show(found))

    def on_samples_read(self, message: messages.SamplesRead) -> None:
        """The chosen data's first examples."""
        self.tell(DataScreen, lambda screen: screen.show_samples(message.path, message.samples))

    def on_columns_read(self, message: messages.ColumnsRead) -> None:
        """The columns of a data set that is to be read otherwise."""
        self.tell(DataScreen, lambda screen: screen.ask(message.path, message.columns, message.classifies))
