"""What a row of the plan means, what is advised for it, and which tier is next. UI-free."""

from __future__ import annotations

from typing import Any

from planner.contract.records import CheckReport
from planner.contract.spec import ModelSpec
from planner.tui.field import Field
from planner.tui.fields import BY_KEY
from planner.tui.state import WizardState


def hint(state: WizardState, key: str, recommendation: Any = None) -> str:
    """What a field does, and what is advised for it."""
    entry = BY_KEY[key]
    text = entry.help
    if key == "lora_targets" and state.model:
        text += f" Names: {', '.join(leaf_names(state.model))}."
    if key == "max_length" and state.model and state.model.max_positions:
        text += f" {state.model.id} has {state.model.max_positions} positions."
    for advice in getattr(recommendation, "advice", ()):
        if advice.name == key:
            text += f" Advised: {entry.format(as_field(entry, advice.value))}."
    return text


def as_field(entry: Field, new: Any) -> Any:
    """A value from advice or a file as the field holds it (lists become tuples)."""
    if entry.kind == "names":
        return tuple(new.replace(",", " ").split()) if isinstance(new, str) else tuple(str(name) for name in new)
    return new


def leaf_names(model: ModelSpec) -> tuple[str, ...]:
    """Names of the linear layers that can carry an adapter, in forward order."""
    names = [m.leaf for m in model.modules if m.kind in ("linear", "conv1d") and m.layers is not None]
    return tuple(dict.fromkeys(names))


def next_tier(state: WizardState, tiers: tuple[CheckReport, ...], recommended: str | None) -> CheckReport:
    """The tier after the one that the choices equal; the recommended one where they equal none."""
    now = state.choices
    place = next((index for index, tier in enumerate(tiers) if tier.settings == now), None)
    if place is None:
        return next((tier for tier in tiers if tier.tier == recommended), tiers[0])
    # Neighbouring tiers may be equal; the next different one is meant.
    for offset in range(1, len(tiers) + 1):
        tier = tiers[(place + offset) % len(tiers)]
        if tier.settings != now:
            return tier
    return tiers[place]
