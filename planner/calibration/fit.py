"""Fits the few physical quantities that a calibration may correct, with priors, and checks that it helps.

    allocated = W + a P + b M        reserved = allocated + f F + s        device = reserved + c

W workspaces, P persistent and M moving bytes, F what the allocator was expected to hold beyond the tensors, s slack,
c context (planner.memory.device). Residuals are in units of what a measurement scatters and pass through a robust
(pseudo-Huber) loss; priors hold each quantity near the bare model's value, so that one observation moves it a little
and outliers can't carry it away. A fit is accepted only if, for models left out of it, it beats the bare model.
scipy is imported here and nowhere else.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from planner.calibration.features import Row
from planner.contract.spec import Calibration, HardwareProfile
from planner.contract.units import MIB
from planner.memory import device

Array = npt.NDArray[np.float64]

LOWEST = np.array([0.9, 0.9, 0.0, -256.0 * MIB, 0.0, 0.0])
HIGHEST = np.array([1.1, 1.1, 8.0, 1024.0 * MIB, 512.0 * MIB, 8192.0 * MIB])
"""What the quantities may become at most, in the order of `Terms`."""
MINIMUM = 3
"""Observations below which nothing can be checked, and so nothing is corrected."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """The fitted quantities; bytes where the name says so."""

    persistent_factor: float = 1.0
    moving_factor: float = 1.0
    fragmentation_factor: float = 1.0
    slack_bytes: float = 0.0
    workspace_bytes: float = 0.0
    """Both workspaces together."""
    context_bytes: float = 0.0

    def allocated(self, row: Row) -> float:
        """Corrected allocated peak."""
        return self.workspace_bytes + self.persistent_factor * row.persistent + self.moving_factor * row.moving

    def reserved(self, row: Row) -> float:
        """Corrected reserved peak."""
        return self.allocated(row) + max(0.0, self.fragmentation_factor * row.beyond + self.slack_bytes)

    def device(self, row: Row) -> float:
        """Corrected device peak."""
        return self.reserved(row) + self.context_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Priors:
    """Standard deviations of the quantities around the bare model's values."""

    persistent: float = 0.002
    moving: float = 0.01
    fragmentation: float = 0.5
    slack: float = 16.0 * MIB
    workspace: float = 16.0 * MIB
    context: float = 256.0 * MIB


def priors_for(hardware: HardwareProfile) -> Priors:
    """A cpu has no workspaces; what its process holds beyond tensors differs more between machines."""
    return Priors(workspace=1.0, context=512.0 * MIB) if hardware.kind == "cpu" else Priors()


def bare_terms(hardware: HardwareProfile) -> Terms:
    """The bare model as terms."""
    return Terms(workspace_bytes=device.workspace_bytes(hardware), context_bytes=hardware.context_bytes)


def fit_terms(rows: Sequence[Row], hardware: HardwareProfile) -> Terms:
    """Maximum-a-posteriori terms of the rows."""
    from scipy.optimize import least_squares

    start, sizes = bare_terms(hardware), _sizes(hardware)
    centre = np.array([1.0, 1.0, 1.0, 0.0, start.workspace_bytes, start.context_bytes])
    equations = [equation for row in rows for equation in _equations(row)]
    matrix = np.array([columns for columns, _, _ in equations]).reshape(-1, len(sizes))
    targets = np.array([target for _, target, _ in equations])
    scales = np.array([scale for _, _, scale in equations])
    design = matrix * sizes / scales[:, None]
    offset = (matrix @ centre - targets) / scales
    identity = np.eye(len(sizes))

    def residuals(steps: Array) -> Array:
        return np.concatenate([_robust(design @ steps + offset), steps])

    def slopes(steps: Array) -> Array:
        values = design @ steps + offset
        bent = _robust(values)
        safe = np.where(np.abs(bent) < 1e-9, 1.0, bent)
        factor = np.where(np.abs(bent) < 1e-9, 1.0, values / (np.sqrt(1 + values * values) * safe))
        return np.vstack([design * factor[:, None], identity])

    found = least_squares(residuals, np.zeros(len(sizes)), jac=slopes, method="lm")
    values = np.clip(centre + found.x * sizes, LOWEST, HIGHEST)
    return Terms(
        persistent_factor=float(values[0]),
        moving_factor=float(values[1]),
        fragmentation_factor=float(values[2]),
        slack_bytes=float(values[3]),
        workspace_bytes=float(values[4]),
        context_bytes=float(values[5]),
    )


def _sizes(hardware: HardwareProfile) -> Array:
    p = priors_for(hardware)
    return np.array([p.persistent, p.moving, p.fragmentation, p.slack, p.workspace, p.context])


def design(rows: Sequence[Row], hardware: HardwareProfile) -> Array:
    """Coefficients of the equations of `rows`, in units of scatter and priors: (equations, 6)."""
    made = [np.array(columns) * _sizes(hardware) / scale for row in rows for columns, _, scale in _equations(row)]
    return np.array(made).reshape(-1, 6)


def _equations(row: Row) -> list[tuple[list[float], float, float]]:
    """(coefficients of the terms, measured, scatter) of a row; each measures only what it adds to the one before."""
    made = []
    if row.allocated is not None:
        columns = [float(row.persistent), float(row.moving), 0.0, 0.0, 1.0, 0.0]
        made.append((columns, float(row.allocated), 1 * MIB + 0.003 * row.moving))
    if row.reserved is not None and row.allocated is not None:
        columns = [0.0, 0.0, float(row.beyond), 1.0, 0.0, 0.0]
        made.append((columns, float(row.reserved - row.allocated), 8 * MIB + 0.01 * row.moving))
    if row.device is not None:
        scatter = 8 * MIB + 0.005 * row.moving
        if row.reserved is not None:
            made.append(([0.0, 0.0, 0.0, 0.0, 0.0, 1.0], float(row.device - row.reserved), scatter))
        elif row.allocated is not None:
            columns = [0.0, 0.0, float(row.beyond), 1.0, 0.0, 1.0]
            made.append((columns, float(row.device - row.allocated), scatter))
    return made


def _robust(values: Array) -> Array:
    """Square root of twice the pseudo-Huber loss: like the value near 0, growing with its root far out."""
    bent: Array = np.copysign(np.sqrt(2 * (np.sqrt(1 + values * values) - 1)), values)
    return bent


# ---- checking ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """One observation predicted by a fit that had not seen its model."""

    row: Row
    terms: Terms

    def error(self, terms: Terms | None = None) -> float:
        """Signed error of the device peak (allocated where the device was not measured)."""
        chosen = terms or self.terms
        if self.row.device is not None:
            return (chosen.device(self.row) - self.row.device) / self.row.device
        assert self.row.allocated is not None
        return (chosen.allocated(self.row) - self.row.allocated) / self.row.allocated

    def units(self) -> float:
        """Measured minus predicted device peak in units of the interval."""
        unit = device.INTERVAL_BYTES + device.INTERVAL_SHARE * self.row.moving
        if self.row.device is not None:
            return (self.row.device - self.terms.device(self.row)) / unit
        assert self.row.allocated is not None
        return (self.row.allocated - self.terms.allocated(self.row)) / unit


def leave_out(rows: Sequence[Row], hardware: HardwareProfile) -> list[Held]:
    """Each observation under a fit without its model; without itself where there is one model only."""
    models = sorted({row.model for row in rows})
    folds = (
        [[row for row in rows if row.model == model] for model in models]
        if len(models) > 1
        else [[row] for row in rows]
    )
    held = []
    for fold in folds:
        kept = [row for row in rows if not any(row is other for other in fold)]
        terms = fit_terms(kept, hardware)
        held += [Held(row=row, terms=terms) for row in fold]
    return held


def interval(units: Sequence[float]) -> tuple[float, float]:
    """Half widths (lower, upper) that should hold 95 of 100: ranks where there are enough values, else Student's t.

    Never below one unit, and never below what was seen.
    """
    from scipy.stats import t

    values = np.sort(np.asarray(units, dtype=float))
    count = len(values)
    if count >= 40:
        rank = math.floor((count + 1) * 0.025)
        low, high = -values[rank - 1], values[count - rank]
    else:
        spread = float(values.std(ddof=1)) if count > 1 else abs(float(values[0]))
        half = float(t.ppf(0.975, max(count - 1, 1))) * spread * math.sqrt(1 + 1 / count)
        low = max(half - float(values.mean()), -float(values[0]))
        high = max(half + float(values.mean()), float(values[-1]))
    return max(float(low), 1.0), max(float(high), 1.0)


def coverage(held: Sequence[Held]) -> float | None:
    """Share of observations inside the interval made from the other models' errors; None with one model."""
    models = {item.row.model for item in held}
    if len(models) < 2:
        return None
    inside = 0
    for item in held:
        low, high = interval([other.units() for other in held if other.row.model != item.row.model])
        inside += -low <= item.units() <= high
    return inside / len(held)


def calibrate(rows: Sequence[Row], hardware: HardwareProfile, *, versions: dict[str, str]) -> Calibration:
    """The calibration that the rows support on `hardware` (a bare profile); unapplied, with the reason, if none."""
    usable = [row for row in rows if row.allocated is not None]
    models = len({row.model for row in usable})
    common: dict[str, Any] = {
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "observations": len(usable),
        "models": models,
    }
    if len(usable) < MINIMUM:
        reason = f"{len(usable)} observations are too few to check a correction with; {MINIMUM} are needed"
        return Calibration(applied=False, reason=reason, **common)
    held = leave_out(usable, hardware)
    bare = bare_terms(hardware)
    before = [item.error(bare) for item in held]
    after = [item.error() for item in held]
    errors = {
        "bare_median": float(np.median(np.abs(before))),
        "bare_mean": float(np.mean(np.abs(before))),
        "bare_worst": max(before, key=abs),
        "fitted_median": float(np.median(np.abs(after))),
        "fitted_mean": float(np.mean(np.abs(after))),
        "fitted_worst": max(after, key=abs),
    }
    if errors["fitted_mean"] >= errors["bare_mean"]:
        reason = (
            f"for models left out the correction was {errors['fitted_mean']:.2%} off on average, "
            f"the model without it {errors['bare_mean']:.2%}"
        )
        return Calibration(applied=False, reason=reason, errors=errors, **common)
    terms = fit_terms(usable, hardware)
    cuda = hardware.kind in ("cuda", "rocm")
    found = Calibration(
        applied=True,
        persistent_factor=terms.persistent_factor,
        moving_factor=terms.moving_factor,
        fragmentation_factor=terms.fragmentation_factor,
        slack_bytes=round(terms.slack_bytes),
        cublas_workspace_bytes=round(terms.workspace_bytes / device.CUBLAS_HANDLES) if cuda else None,
        context_bytes=round(terms.context_bytes),
        interval=interval([item.units() for item in held]),
        coverage=coverage(held),
        errors=errors,
        **common,
    )
    from planner.calibration.fit_speed import fit_speed

    return replace(found, speed=fit_speed(usable, hardware))
