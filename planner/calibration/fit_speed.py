"""Fits how much of its arithmetic and bandwidth a device gets in a step, and what a kernel costs the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from planner.calibration.features import Row
from planner.calibration.reading import MOST_FACTOR, MOST_SPREAD
from planner.contract.errors import TuneplanError
from planner.contract.spec import Calibration, HardwareProfile

Array = npt.NDArray[np.float64]

NAMES = ("arithmetic", "bandwidth", "launch")
PRIOR = 0.7
"""Deviation of each factor's logarithm: a device is believed within a factor of two of the rules."""
FOLDS = 5
"""Groups of models that are left out in turn."""
MOST = 30
"""Newest timed observations that are fitted; more would only take longer."""
SCATTER = 0.15
"""Deviation of a step time's logarithm that is no fault of the model."""


def predicted_seconds(row: Row, hardware: HardwareProfile, factors: dict[str, float]) -> float:
    """Seconds of one micro-batch with its optimizer step; raises NotModelled for a dtype the device emulates."""
    from planner import speed

    changed = replace(hardware, calibration=Calibration(applied=True, speed=factors))
    c = row.choices
    layers = c.checkpointed_layers(row.spec.total_layers)
    return float(speed.step_seconds(row.spec, changed, c, c.batch_size, c.max_length, layers, accumulation=1))


def fit_factors(rows: Sequence[Row], hardware: HardwareProfile) -> dict[str, float]:
    """Factors on the expected efficiencies; 1 each without rows."""
    from scipy.optimize import least_squares

    def residuals(logs: Array) -> Array:
        factors = dict(zip(NAMES, (float(value) for value in np.exp(logs)), strict=True))
        data = [np.log((row.step_seconds or 1.0) / predicted_seconds(row, hardware, factors)) / SCATTER for row in rows]
        return np.array([*data, *(logs / PRIOR)])

    found = least_squares(residuals, np.zeros(len(NAMES)), loss="soft_l1", max_nfev=10, diff_step=[0.02] * len(NAMES))
    return dict(zip(NAMES, (float(value) for value in np.exp(found.x)), strict=True))


def fit_speed(rows: Sequence[Row], hardware: HardwareProfile) -> dict[str, float]:
    """Factors and `spread`; empty where too little was timed or the factors don't help models left out of the fit."""
    timed = []
    for row in list(rows)[-MOST:]:
        try:
            if row.step_seconds:
                predicted_seconds(row, hardware, {})
                timed.append(row)
        except TuneplanError:
            continue
    models = sorted({row.model for row in timed})
    if len(models) < 2 or len(timed) < 4:
        return {}
    before, after = [], []
    for fold in range(min(FOLDS, len(models))):
        left_out = set(models[fold::FOLDS])
        factors = fit_factors([row for row in timed if row.model not in left_out], hardware)
        for row in timed:
            if row.model in left_out:
                assert row.step_seconds is not None
                before.append(float(np.log(row.step_seconds / predicted_seconds(row, hardware, {}))))
                after.append(float(np.log(row.step_seconds / predicted_seconds(row, hardware, factors))))
    if np.mean(np.abs(after)) >= np.mean(np.abs(before)):
        return {}
    spread = max(0.05, float(np.sqrt(np.mean(np.square(after)))))
    factors = fit_factors(timed, hardware)
    if spread > MOST_SPREAD or not all(1 / MOST_FACTOR <= value <= MOST_FACTOR for value in factors.values()):
        return {}  # times that no device has
    return {**factors, "spread": spread}
