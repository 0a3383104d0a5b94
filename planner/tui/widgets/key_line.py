"""The last line: the keys that act now, and on a wide screen more of them."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.widgets import Footer
from textual.widgets._footer import FooterKey

MORE = ("chart.left", "chart.in", "chart.out", "chart.log", "chart.whole", "plan.zoom", "plan.reset")
"""Keys that are named where there is room; elsewhere `?` names them."""


class KeyLine(Footer):
    """Textual's footer, whose keys follow the room."""

    wide = False
    """Whether there is room for more keys and the command palette's."""

    def compose(self) -> ComposeResult:
        yield from super().compose()
        if not (self.wide and self._bindings_ready):
            return
        named: set[str | None] = set()  # two keys may do one thing
        for _, binding, enabled, tooltip in self.screen.active_bindings.values():
            if binding.id in MORE and binding.id not in named:
                named.add(binding.id)
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
        if self.wide != wide:
            self.wide = self.show_command_palette = wide
            self.refresh(recompose=True)
