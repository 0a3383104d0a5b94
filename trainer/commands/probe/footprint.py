"""What the device shows for this process: allocator, context and libraries together."""

from __future__ import annotations

from typing import Any

import torch

from trainer.measure import devices


class Footprint:
    """Made before the first CUDA call, so that what others hold can be told apart.

    `bytes_now` asks, in this order: NVML for this process; what the card holds now minus what it held before; the card
    as a whole. `basis` names which. On mps it is what the driver allocated, on cpu the resident memory.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.basis = {"cuda": "process", "mps": "driver", "cpu": "resident"}[device.type]
        self._before = _used_on_card(device) if device.type == "cuda" else None

    def bytes_now(self) -> int:
        """Bytes that the process holds on the device at this moment."""
        if self.device.type != "cuda":
            return devices.device_bytes(self.device)
        own = devices.nvml_process_bytes(self.device)
        if own is not None:
            return own
        now = _used_on_card(self.device)
        if now is not None and self._before is not None:
            self.basis = "difference"
            return max(0, now - self._before)
        self.basis = "whole device"
        free, total = torch.cuda.mem_get_info(self.device)
        return total - free


def _used_on_card(device: torch.device) -> int | None:
    """Bytes in use on the card by NVML, without starting CUDA; None where NVML doesn't tell."""
    try:
        import pynvml

        pynvml.nvmlInit()
        try:
            handle = _handle(pynvml, device)
            return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
        finally:
            pynvml.nvmlShutdown()
    except Exception:  # any NVML failure only means that the driver doesn't tell
        return None


def _handle(nvml: Any, device: torch.device) -> Any:
    """The card that CUDA's device 0 is, by CUDA_VISIBLE_DEVICES."""
    import os

    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if visible and not visible.isdigit():
        return nvml.nvmlDeviceGetHandleByUUID(visible)
    return nvml.nvmlDeviceGetHandleByIndex(int(visible or 0) if visible else (device.index or 0))
