"""`plan models --fit GPU`: what of each model fits a device at the least."""

from __future__ import annotations

from planner.calibration import attach
from planner.cli.talk import print_json
from planner.decide.fits import fit_of
from planner.models import catalogue
from planner.models.sources import load_model
from planner.report import listing, words


def run(gpu: str, name: str | None, *, as_json: bool) -> int:
    """Prints the catalogue, or the model of that name, with what fits; exit code 0."""
    hardware = attach.find(gpu)
    entries = catalogue.entries() if name is None else (catalogue.entry(name),)
    fits = {
        entry.name: fit_of(load_model(entry.hub_id), hardware, budget_bytes=hardware.budget_bytes) for entry in entries
    }
    if as_json:
        print_json(
            [{**listing.model_record(entry), "gpu": hardware.name, "fit": fits[entry.name]} for entry in entries]
        )
        return 0
    listing.models_view(words.make_console(), entries, fits=fits)
    return 0
