"""The export for TRL, run by TRL: the same losses as our own run."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.nightly
def test_trl_gives_our_losses(tmp_path: Path) -> None:
    """GIVEN a plan WHEN `trl sft` runs its export as it is THEN every step's loss is our own run's, to a part in a
    thousand (2026-11, trl 1.16.0: to one in ten million)."""
    pytest.importorskip("trl")
    from benchmarks.exchange import trl_curve

    own, theirs = trl_curve.losses(tmp_path)
    assert len(own) == trl_curve.STEPS
    assert own[-1] < own[0]
    assert theirs == pytest.approx(own, rel=1e-3)
