"""`plan gpus` and `plan models`: what is known, with where it was found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from planner.contract.spec import HardwareProfile
from planner.contract.units import format_bytes, format_count, format_quantity
from planner.decide.fits import LENGTH, WORDS, Fit
from planner.models.order import family_of, model_order
from planner.report.finding import ListEntry, found

if TYPE_CHECKING:
    from planner.models.catalogue import CatalogueEntry

LICENCE_WIDTH = 12
"""Columns of the licence in the list of models; `plan models NAME` spells it out."""


def gpu_record(profile: HardwareProfile) -> dict[str, object]:
    """A profile as JSON-ready data, every fact with unit, source and date."""
    return {
        "name": profile.name,
        "title": profile.title,
        "kind": profile.kind,
        "aliases": list(profile.aliases),
        "total_bytes": profile.total_bytes,
        "budget_bytes": profile.budget_bytes,
        "context_bytes": profile.context_bytes,
        "bandwidth_bytes_per_second": profile.bandwidth_bytes_per_second,
        "flops_per_second": profile.flops_per_second,
        "dtypes": list(profile.dtypes),
        "compute_capability": list(profile.compute_capability) if profile.compute_capability else None,
        "unified_memory": profile.unified_memory,
        "facts": {
            key: {"value": fact.value, "unit": fact.unit, "source": fact.source, "date": fact.date}
            for key, fact in profile.facts.items()
        },
    }


def gpus_view(console: Console, profiles: Sequence[HardwareProfile]) -> None:
    """One line per device."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("name", no_wrap=True, min_width=14)
    table.add_column("device", no_wrap=True, overflow="ellipsis")
    table.add_column("usable", justify="right", no_wrap=True, min_width=9)
    table.add_column("GB/s", justify="right", no_wrap=True, min_width=5)
    table.add_column("TFLOP/s", justify="right", no_wrap=True, min_width=7)
    table.add_column("beside fp32", no_wrap=True, min_width=11)
    for profile in profiles:
        best = next((kind for kind in ("bf16", "fp16", "fp32") if kind in profile.flops_per_second), "fp32")
        rate = profile.flops_per_second.get(best)
        table.add_row(
            profile.name,
            profile.title.removeprefix("NVIDIA ").removeprefix("GeForce "),
            format_bytes(profile.total_bytes),
            f"{profile.bandwidth_bytes_per_second / 1e9:,.0f}",
            "" if rate is None else f"{rate / 1e12:,.1f}",
            " ".join(name for name in profile.dtypes if name != "fp32"),
        )
    console.print(table)
    console.print(
        "TFLOP/s: dense, in the widest of bf16, fp16, fp32 that it has. One device: plan gpus NAME", style="dim"
    )


def gpu_view(console: Console, profile: HardwareProfile) -> None:
    """One device, every fact with its source."""
    console.print(f"{profile.title} ({profile.name})", style="bold")
    console.print(f"also known as {', '.join(profile.aliases)}", style="dim")
    for key, fact in profile.facts.items():
        console.print(f"{key} = {format_quantity(fact.value, fact.unit)}")
        console.print(f"    {fact.source} ({fact.date})", style="dim")


def model_record(entry: CatalogueEntry) -> dict[str, object]:
    """A catalogue entry as JSON-ready data."""
    return {
        "name": entry.name,
        "hub_id": entry.hub_id,
        "siblings": list(entry.siblings),
        "aliases": dict(entry.aliases),
        "architecture": entry.config.get("model_type"),
        "parameters": entry.parameters,
        "published_parameters": entry.published_parameters,
        "licence": entry.licence,
        "gated": entry.gated,
        "licence_source": entry.licence_source,
        "source": entry.source,
        "date": entry.date,
        "checked": entry.checked,
        "config": entry.config,
    }


def listed(entries: Sequence[CatalogueEntry], typed: str | None = None) -> list[CatalogueEntry]:
    """The models by family, the newest first; where something was typed those that it may mean, the nearest first."""
    ordered = {
        entry.name: entry for entry in sorted(entries, key=lambda entry: model_order(entry.name, entry.parameters))
    }
    rows = [
        ListEntry(key=entry.name, row="", more=" ".join((entry.hub_id, *entry.siblings, *entry.aliases)))
        for entry in ordered.values()
    ]
    return [ordered[row.key] for row in found(rows, typed or "")]


def models_view(
    console: Console,
    entries: Sequence[CatalogueEntry],
    *,
    fits: Mapping[str, Fit] | None = None,
    by_family: bool = True,
) -> None:
    """One line per model, under its family's name; `fits`: by name what of it fits the device that was asked about."""
    groups = groupby(entries, key=lambda entry: family_of(entry.name) if by_family else "")
    for place, (family, members) in enumerate(groups):
        if family:
            console.print(f"{'' if place == 0 else chr(10)}{family}", style="bold")
        table = _models_table(console, members, fits)
        table.show_header = place == 0
        console.print(table)
    if fits is not None:
        console.print(
            f"fits: one sequence of {LENGTH} tokens with LoRA, every layer recomputed; tight: the peak does, "
            "not all of its interval; QLoRA: on a quantised base only; ?: no program is written for it.",
            style="dim",
        )
    console.print("*: gated, the hub asks first. Sources: plan models NAME, plan models --json", style="dim")


def _models_table(console: Console, entries: Iterable[CatalogueEntry], fits: Mapping[str, Fit] | None) -> Table:
    """Columns of fixed widths: the tables of several families stand under one another."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    narrower, wider = 0 if fits is None else 3, max(0, console.width - 80)
    table.add_column("name", no_wrap=True, overflow="ellipsis", width=25 - narrower + min(15, wider))
    table.add_column("hub id", overflow="ellipsis", no_wrap=True, width=22 - narrower + max(0, min(30, wider - 15)))
    table.add_column("kind", no_wrap=True, overflow="ellipsis", width=11)
    table.add_column("size", justify="right", no_wrap=True, width=6)
    table.add_column("licence", no_wrap=True, overflow="ellipsis", width=LICENCE_WIDTH)
    if fits is not None:
        table.add_column("fits", no_wrap=True, width=5)
    for entry in entries:
        table.add_row(
            entry.name,
            entry.hub_id,
            str(entry.config.get("model_type", "")),
            format_count(entry.parameters),
            _licence(entry),
            *(() if fits is None else (WORDS[fits[entry.name]],)),
        )
    return table


def _licence(entry: CatalogueEntry) -> str:
    """The licence in its column's width, with the mark of a gated model, which must not be cut off."""
    mark = "*" if entry.gated == "yes" else ""
    room = LICENCE_WIDTH - len(mark)
    return (entry.licence if len(entry.licence) <= room else f"{entry.licence[: room - 1]}…") + mark


def model_view(console: Console, entry: CatalogueEntry) -> None:
    """One model with its dimensions and where they were read."""
    console.print(f"{entry.name} ({entry.hub_id})", style="bold")
    if entry.siblings:
        console.print(f"same dimensions: {', '.join(entry.siblings)}", style="dim")
    for short, hub_id in entry.aliases.items():
        console.print(f"{short} is {hub_id}", style="dim")
    console.print(f"{format_count(entry.parameters)} parameters, licence {entry.licence}, gated: {entry.gated}")
    for key, value in entry.config.items():
        console.print(f"{key} = {value}")
    if entry.licence_source is not None:
        console.print(entry.licence_source, style="dim")
    console.print(f"{entry.source} ({entry.date}; {entry.checked})", style="dim")
