"""The line at the top: where in the wizard one is, and what has been chosen."""

from __future__ import annotations

from textual.app import RenderResult
from textual.content import Content
from textual.events import Click
from textual.reactive import reactive
from textual.widget import Widget

STEPS = ("Hardware", "Model", "Data", "Plan", "Train")


class StepBar(Widget):
    """`1 Hardware › 2 Model › …` with the current step marked and the choices so far at the right."""

    summary: reactive[str] = reactive("")

    def __init__(self, current: int) -> None:
        super().__init__()
        self.current = current
        self._ends: list[int] = []

    def on_mount(self) -> None:
        self.watch(self.app, "wizard", self._follow)
        self.watch(self.app, "run_snapshot", self._follow)

    def _follow(self) -> None:
        # By name: the app's type would import this module.
        chosen, run = getattr(self.app, "wizard"), getattr(self.app, "run_snapshot")  # noqa: B009
        self.summary = run.title if run is not None and self.current == len(STEPS) - 1 else chosen.summary

    def render(self) -> RenderResult:
        parts: list[str | tuple[str, str]] = []
        used = 0
        self._ends = []
        for place, name in enumerate(STEPS):
            label = f" {place + 1} {name} "
            style = "reverse bold" if place == self.current else ("bold" if place < self.current else "dim")
            parts.append((label, style))
            used += len(label)
            self._ends.append(used)
        room = self.size.width - used - 1
        if room > 4:
            text = self.summary if len(self.summary) <= room else self.summary[: room - 1] + "…"
            parts.append((text.rjust(room), "dim"))
        return Content.assemble(*parts)

    async def on_click(self, event: Click) -> None:
        """To the step under the pointer."""
        place = next((place for place, end in enumerate(self._ends) if event.x < end), None)
        if place is not None:
            await self.run_action(f"app.step({place})")
