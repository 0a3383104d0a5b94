"""One contender's epoch, or the matrix products' peak, in a process of its own.

    python -m benchmarks.throughput.worker '{"name": "ours", …}'

The last line of stdout is the result as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

PEAK = "matmul"


def work(asked: dict[str, Any]) -> dict[str, Any]:
    """The result of a request of `benchmarks.throughput.rounds`."""
    import torch

    torch.set_num_threads(asked["threads"])
    from benchmarks.throughput import contenders, limits, workload

    load = workload.chosen(asked["device"], quick=asked["quick"])
    if asked["name"] == PEAK:
        return {"flops_per_second": limits.matmul_peak(load, asked["device"])}
    with tempfile.TemporaryDirectory(prefix="throughput-") as scratch:
        return contenders.run(
            asked["name"],
            Path(asked["model"]),
            Path(scratch),
            load,
            asked["data"],
            asked["device"],
            metered=asked["metered"],
        )


def main() -> int:
    """Libraries' prints go to stderr, so that stdout holds the result alone."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    result = work(json.loads(sys.argv[1]))
    os.write(stdout, (json.dumps(result) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
