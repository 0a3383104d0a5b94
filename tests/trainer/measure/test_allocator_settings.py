"""Settings of the devices' allocators that a run makes before the first tensor."""

from __future__ import annotations

from trainer.measure.allocator import WATERMARKS, stay_within_working_set


def test_a_mac_raises_rather_than_swaps() -> None:
    environment: dict[str, str] = {}
    stay_within_working_set(environment)
    assert environment == WATERMARKS
    low, high = (float(environment[f"PYTORCH_MPS_{end}_WATERMARK_RATIO"]) for end in ("LOW", "HIGH"))
    assert 0 < low <= high <= 1


def test_the_user_s_own_watermark_stands() -> None:
    environment = {"PYTORCH_MPS_HIGH_WATERMARK_RATIO": "0.0"}
    stay_within_working_set(environment)
    assert environment == {"PYTORCH_MPS_HIGH_WATERMARK_RATIO": "0.0"}
