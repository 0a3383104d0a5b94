"""The last line: the keys that act now, and on a wide screen more of them."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.widgets import Footer
from textual.widgets._footer import FooterKey

MORE = ("plan.zoom", "plan.reset", "chart.left", "chart.in", "chart.out", "chart.log", "chart.whole")
"""Keys that are named where there is room; elsewhere `?` names them."""
FIRST = 4
"""As many of them have room on every wide screen; all, from `ROOMY` columns on."""
ROOMY = 140


class KeyLine(Footer):
    """Textual's footer, whose keys follow the room."""

    wide = False
    """Whether there is room for more keys and the command palette's."""
    _roomy = False

    def compose(self) -> ComposeResult:
        yield from super().compose()
        if not (self.wide and self._bindings_ready):
            return
        active = {each.binding.id: each for each in self.screen.active_bindings.values()}  # two keys may do one thing
        for name in MORE[: None if self.screen.size.width >= ROOMY else FIRST]:
            if name in active:
                _, binding, enabled, tooltip = active[name]
                yield FooterKey(
                    binding.key,
                    self.app.get_key_display(binding),
                    binding.description,
                    binding.action,
                    disabled=not enabled,
                    tooltip=tooltip,
                ).data_bind(compact=Footer.compact)

    def widen(self, wide: bool) -> None:
        """Another width: other keys."""
        roomy = self.screen.size.width >= ROOMY
        if (self.wide, self._roomy) != (wide, roomy):
            self.wide = self.show_command_palette = wide
            self._roomy = roomy
            self.refresh(recompose=True)
