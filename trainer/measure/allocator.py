"""Settings of the devices' allocators, which these read from the environment when the first tensor is made."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The name since PyTorch 2.9, and the one before, which is read where the first isn't set."""
OPTION = "expandable_segments"


WATERMARKS = {"PYTORCH_MPS_HIGH_WATERMARK_RATIO": "1.0", "PYTORCH_MPS_LOW_WATERMARK_RATIO": "0.9"}
"""Shares of Metal's working set: beyond the high one PyTorch raises, from the low one on it gives back what is free.

Its own are 1.7 and 1.4, more than there is RAM on most Macs, so that a run which is too large swaps and never ends. A
low one above the high one is an error, so both are set (PyTorch aten/src/ATen/mps/MPSAllocator.h, 2.13).
"""


def stay_within_working_set(environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets a run on a Mac fail rather than swap; where the user has set either share, both are left alone."""
    if not any(name in environment for name in WATERMARKS):
        environment.update(WATERMARKS)


def configure(expandable: bool, environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets segments grow where the plan counts on it; what the user's own settings say about them stands."""
    if not expandable:
        return
    name = next((name for name in VARIABLES if environment.get(name)), VARIABLES[0])
    given = [part for part in environment.get(name, "").split(",") if part]
    if not any(part.split(":")[0].strip() == OPTION for part in given):
        environment[name] = ",".join([*given, f"{OPTION}:True"])
