"""The wizard's own colours, dark and light: one colour for each component of memory, on every screen.

The order of lightness differs from neighbour to neighbour in a stack, so that it reads without hue: by people who see
few colours, on terminals with sixteen of them, and without any. Hues follow Okabe and Ito's set for colour blindness
(Color Universal Design, 2008).
"""

from __future__ import annotations

from textual.theme import Theme

COMPONENTS: dict[str, tuple[str, str]] = {
    "context": ("#5c6773", "#a3adb8"),
    "workspaces": ("#8d99a6", "#7a8794"),
    "weights": ("#3d7fb8", "#2f6fa8"),
    "adapters": ("#b39ddb", "#8e6cc0"),
    "optimizer_state": ("#8a5fbf", "#6d42a6"),
    "gradients": ("#cc79a7", "#b05a8c"),
    "communication": ("#56b4e9", "#2f93cc"),
    "waiting_batches": ("#7fd4d4", "#3fa3a3"),
    "checkpoints": ("#00a57c", "#008a66"),
    "lora_activations": ("#e69f00", "#c98a00"),
    "attention": ("#f0e05a", "#c9b400"),
    "layer_activations": ("#9ed36a", "#74a83e"),
    "logits_and_loss": ("#d55e00", "#bf5200"),
    "temporaries": ("#d9b38c", "#b58a5c"),
    "fragmentation": ("#3f4853", "#c2cad2"),
}
"""By component the colour on dark and on light ground; in the order of a stack, what lives longest lowest."""
OTHERS = ("communication", "temporaries", "waiting_batches", "adapters")
"""Whose colours a component without one of its own borrows."""


def color_of(component: str) -> str:
    """The component's colour, as a variable of the theme."""
    known = component if component in COMPONENTS else OTHERS[sum(component.encode()) % len(OTHERS)]
    return f"$mem-{known.replace('_', '-')}"


def place_of(component: str) -> int:
    """Where a component lies in a stack: what lives longest lowest."""
    names = list(COMPONENTS)
    return names.index(component) if component in names else len(names)


FIT_MARKS = {
    "fits": ("✓", "$success"),
    "tight": ("!", "$warning"),
    "qlora": ("q", "$primary"),
    "no": ("✗", "$error"),
    "unknown": ("?", "dim"),
}
"""How a list shows what of a model fits."""


def fit_mark(fit: str | None) -> tuple[str, str]:
    """Character and style; a blank where it isn't known yet."""
    return FIT_MARKS.get(fit or "", (" ", ""))


ANSI = {
    "context": "bright_white", "workspaces": "cyan", "weights": "blue", "adapters": "bright_magenta",
    "optimizer_state": "magenta", "gradients": "bright_red", "communication": "bright_blue",
    "waiting_batches": "bright_cyan", "checkpoints": "green", "lora_activations": "yellow",
    "attention": "bright_yellow", "layer_activations": "bright_green", "logits_and_loss": "red",
    "temporaries": "white", "fragmentation": "bright_black",
}  # fmt: skip
"""The same among the sixteen colours that a terminal has of its own, on dark ground."""
ANSI_LIGHT = ANSI | {"context": "black", "temporaries": "bright_black", "fragmentation": "white"}
"""On light ground."""
SIXTEEN = ("ansi-dark", "ansi-light")
"""Textual's themes of these sixteen."""


def component_variables(theme: Theme) -> dict[str, str]:
    """The components' colours for a theme that brings none of its own."""
    if theme.ansi:
        colors = ANSI if theme.dark else ANSI_LIGHT
        return {f"mem-{name.replace('_', '-')}": f"ansi_{color}" for name, color in colors.items()}
    return _variables(0 if theme.dark else 1)


SEEN = {
    "border-blurred": "ansi_bright_black",
    "block-cursor-blurred-background": "ansi_bright_black",
    "block-cursor-blurred-foreground": "ansi_bright_white",
}


def legible(theme: Theme, variables: dict[str, str]) -> dict[str, str]:
    """A theme's variables, with borders, scroll bars and a list's cursor that can be seen: Textual's sixteen colours
    have them in the ground's own.
    """
    return variables | SEEN if theme.ansi else variables


def _variables(ground: int) -> dict[str, str]:
    return {f"mem-{name.replace('_', '-')}": colors[ground] for name, colors in COMPONENTS.items()}


DARK = Theme(
    name="tuneplan",
    primary="#4f9fdb",
    secondary="#7c8cff",
    accent="#ffb454",
    warning="#f0b429",
    error="#ff6b5e",
    success="#3ecf8e",
    foreground="#d8dee6",
    background="#0e1217",
    surface="#141a21",
    panel="#1c242d",
    boost="#1a222b",
    dark=True,
    variables={
        **_variables(0),
        "border-blurred": "#3a4754",
        "footer-key-foreground": "#ffb454",
        "footer-background": "#1c242d",
        "block-cursor-blurred-background": "#24303b",
        "input-selection-background": "#4f9fdb 35%",
    },
)
LIGHT = Theme(
    name="tuneplan-light",
    primary="#1f6fb2",
    secondary="#4b57c9",
    accent="#b35c00",
    warning="#a86b00",
    error="#c62828",
    success="#1b7f4d",
    foreground="#1f2933",
    background="#f7f8fa",
    surface="#ffffff",
    panel="#e9edf2",
    boost="#f0f3f6",
    dark=False,
    variables={
        **_variables(1),
        "border-blurred": "#b4c0cb",
        "footer-key-foreground": "#b35c00",
        "footer-background": "#e9edf2",
        "block-cursor-blurred-background": "#c4d4e3",
    },
)
THEMES = (DARK, LIGHT)


def usual_theme(color_system: str | None) -> str:
    """The theme where none was chosen: on a terminal with sixteen colours (`standard`, as rich says) those."""
    return SIXTEEN[0] if color_system == "standard" else DARK.name
