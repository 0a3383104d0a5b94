"""Settings of the devices' allocators, which these read from the environment when the first tensor is made."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

WATERMARKS = {"PYTORCH_MPS_HIGH_WATERMARK_RATIO": "1.0", "PYTORCH_MPS_LOW_WATERMARK_RATIO": "0.9"}
"""Shares of Metal's working set: beyond the high one PyTorch raises, from the low one on it gives back what is free.

Its own are 1.7 and 1.4, more than there is RAM on most Macs, so that a run which is too large swaps and never ends. A
low one above the high one is an error, so both are set (PyTorch aten/src/ATen/mps/MPSAllocator.h, 2.13).
"""


def stay_within_working_set(environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets a run on a Mac fail rather than swap; where the user has set either share, both are left alone."""
    if not any(name in environment for name in WATERMARKS):
        environment.update(WATERMARKS)
