"""The CUDA caching allocator's settings, which it reads from the environment when the first tensor is made."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

VARIABLES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The name since PyTorch 2.9, and the one before, which is read where the first isn't set."""
OPTION = "expandable_segments"


def configure(expandable: bool, environment: MutableMapping[str, str] = os.environ) -> None:
    """Lets segments grow where the plan counts on it; what the user's own settings say about them stands."""
    if not expandable:
        return
    name = next((name for name in VARIABLES if environment.get(name)), VARIABLES[0])
    given = [part for part in environment.get(name, "").split(",") if part]
    if not any(part.split(":")[0].strip() == OPTION for part in given):
        environment[name] = ",".join([*given, f"{OPTION}:True"])
