"""`plan calibrate`: measures this machine, fits the corrections, says what they are worth."""

from __future__ import annotations

from dataclasses import asdict

from planner.calibration.run import Outcome, calibrate
from planner.cli.children import require_train_extra
from planner.cli.talk import print_json, say
from planner.contract.errors import Interrupted, InvalidInput
from planner.contract.units import format_bytes
from planner.contract.words import shown


def run(*, device: str, minutes: float | None, fit_only: bool, as_json: bool) -> int:
    """Exit code 0, or 130 when it was interrupted (finished points are kept and fitted)."""
    if minutes is not None and not 0 < minutes <= 120:
        raise InvalidInput(f"--minutes must be above 0 and at most 120, not {minutes:g}")
    if not fit_only:
        require_train_extra("calibrate")
    try:
        outcome = calibrate(device, minutes=minutes, measure=not fit_only, progress=_say)
    except KeyboardInterrupt:
        # During the fit: the points lie in the data folder already.
        raise Interrupted("interrupted; measured points are kept, plan calibrate --fit-only fits them") from None
    if as_json:
        print_json(record(outcome))
    else:
        for line in lines(outcome):
            print(shown(line))
    return 130 if outcome.interrupted else 0


def run_from(files: list[str], *, as_json: bool) -> int:
    """Takes others' observations and fits the devices that they are of."""
    from pathlib import Path

    from planner.calibration import share

    outcomes = share.refit_all(share.take([Path(name) for name in files]))
    if as_json:
        print_json([record(outcome) for outcome in outcomes])
    else:
        for outcome in outcomes:
            for line in lines(outcome):
                print(shown(line))
    return 0


def _say(line: str) -> None:
    say(line)


def record(outcome: Outcome) -> dict[str, object]:
    """The outcome as JSON."""
    return {
        "schema": "tuneplan.calibration/1",
        "profile": outcome.profile,
        "measured": outcome.measured,
        "failed": outcome.failed,
        "left_out": outcome.left_out,
        "interrupted": outcome.interrupted,
        "seconds": round(outcome.seconds, 1),
        "path": str(outcome.path),
        "fit": asdict(outcome.calibration),
    }


def lines(outcome: Outcome) -> list[str]:
    """The outcome as people read it."""
    found = outcome.calibration
    said = [
        f"{outcome.profile}: {outcome.measured} points measured in {outcome.seconds:.0f} s, "
        f"{found.observations} observations of {found.models} models in the fit."
    ]
    errors = found.errors
    if "bare_median" in errors:
        said.append(
            f"Device peak, models left out of the fit: {errors['bare_median']:.2%} off in the median without "
            f"correction (worst {errors['bare_worst']:+.2%}), {errors['fitted_median']:.2%} with it "
            f"(worst {errors['fitted_worst']:+.2%})."
        )
    if not found.applied:
        said.append(f"No correction is applied: {found.reason}.")
    else:
        context = format_bytes(found.context_bytes or 0)
        said.append(
            f"Context {context}, allocator slack {format_bytes(found.slack_bytes)} and "
            f"{found.fragmentation_factor:.2f} times the expected fragmentation; "
            f"persistent bytes x {found.persistent_factor:.4f}, moving bytes x {found.moving_factor:.4f}."
        )
        if found.coverage is not None:
            said.append(f"The interval held {found.coverage:.0%} of the observations of models left out of it.")
        if found.speed:
            said.append(
                f"Speed: arithmetic x {found.speed['arithmetic']:.2f}, bandwidth x {found.speed['bandwidth']:.2f}, "
                f"host time per kernel x {found.speed['launch']:.2f}; step times scatter by a factor "
                f"of {2.718281828 ** found.speed['spread']:.2f}."
            )
        else:
            said.append("Step times were too few or too irregular to correct the speed by.")
    said += [f"Not measured: {text}" for text in outcome.failed]
    said += [f"Not used: {text}" for text in outcome.left_out]
    said.append(f"Kept in {outcome.path}.")
    return said
