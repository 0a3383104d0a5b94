"""`plan models [NAME] [--fit GPU]`: what is known of the catalogue's models, and what of each fits a device."""

from __future__ import annotations

import time
from collections.abc import Sequence

from planner.calibration import attach
from planner.cli.talk import print_json, say
from planner.contract.spec import HardwareProfile
from planner.decide.fits import Fit, fit_of
from planner.models import catalogue
from planner.models.catalogue import CatalogueEntry
from planner.models.sources import load_model
from planner.report import listing, words

TOLD_SECONDS = 2.0
"""Between two signs of life."""


def run(typed: str | None, gpu: str | None, *, as_json: bool) -> int:
    """Prints one model in full, those that the typed words may mean, or all by family; exit code 0."""
    named = typed is not None and catalogue.look_up(typed) is not None
    entries = [catalogue.entry(typed)] if typed is not None and named else listing.listed(catalogue.entries(), typed)
    if not entries and typed is not None:
        entries = [catalogue.entry(typed)]  # which says that there is none
    hardware = None if gpu is None else attach.find(gpu)
    fits = None if hardware is None else _fits(hardware, entries)
    if as_json:
        records = [listing.model_record(entry) for entry in entries]
        if hardware is not None and fits is not None:
            records = [{**record, "gpu": hardware.name, "fit": fits[str(record["name"])]} for record in records]
        print_json(records[0] if named and fits is None else records)
    elif named and fits is None:
        listing.model_view(words.make_console(), entries[0])
    else:
        listing.models_view(words.make_console(), entries, fits=fits, by_family=typed is None)
    return 0


def _fits(hardware: HardwareProfile, entries: Sequence[CatalogueEntry]) -> dict[str, Fit]:
    """Each model's judgement; the first time that takes seconds, which are told."""
    found: dict[str, Fit] = {}
    told = time.monotonic()
    for entry in entries:
        if time.monotonic() - told > TOLD_SECONDS:
            told = time.monotonic()
            say(f"{len(found)} of {len(entries)} models judged")
        found[entry.name] = fit_of(load_model(entry.hub_id), hardware, budget_bytes=hardware.budget_bytes)
    return found
