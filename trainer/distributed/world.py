"""The processes of a run: what they tell each other, through accelerate's process group."""

# mypy: disable-error-code="import-untyped"

from __future__ import annotations

import datetime
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from trainer.distributed import environment

TIMEOUT = datetime.timedelta(hours=2)
"""How long one process waits for the others. A process that died is noticed by the launcher or by a closed connection
long before; this ends what hangs. Rank 0 alone writes checkpoints and generates the sample, which may take its time."""

LOST_TEXTS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "gloo",
    "NCCL",
    "Timed out waiting",
    "Socket Timeout",
    "Connection refused",
    "TCPStore",
    "process group",
)


class World:
    """This process among those that train together. One process alone tells nobody and waits for nobody."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @property
    def main(self) -> bool:
        """Whether this is the process that writes events, checkpoints and results."""
        return self.rank == 0

    def table(self, values: Sequence[float]) -> Any:
        """Every process's values, (processes, values), float64 on the cpu, the same on all."""
        import torch

        row = torch.tensor([list(values)], dtype=torch.float64)
        if self.size == 1:
            return row
        from accelerate import PartialState
        from accelerate.utils import gather

        return gather(row.to(PartialState().device)).cpu()

    def objects(self, value: object) -> list[Any]:
        """Every process's value, in the order of their ranks: numbers, texts, tensors and what holds them.

        They travel as bytes of JSON and safetensors; nothing is pickled.
        """
        if self.size == 1:
            return [value]
        import torch
        from accelerate import PartialState
        from accelerate.utils import gather

        from trainer.recovery import state_files

        content = state_files.dumps(value)
        sizes = [int(size) for size in self.table([len(content)])[:, 0]]
        row = torch.zeros(1, max(sizes), dtype=torch.uint8)
        row[0, : len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        rows = gather(row.to(PartialState().device)).cpu()
        found = (rows[rank, :size].numpy().tobytes() for rank, size in enumerate(sizes))
        return [state_files.loads(each) for each in found]

    def share(self, value: object) -> Any:
        """Rank 0's value."""
        return self.objects(value if self.main else None)[0]


def start(*, cpu: bool) -> World:
    """Joins the process group that the environment describes: gloo on a cpu, NCCL on CUDA (RCCL on ROCm)."""
    if environment.size() == 1:
        return World()
    if cpu:
        # DeepSpeed would otherwise take the card of a machine that has one; libraries import it where it is installed.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from accelerate import PartialState

    if (launcher := environment.launcher()) is not None:
        _end_with(launcher)
    PartialState(cpu=cpu, timeout=TIMEOUT)
    return World(environment.rank(), environment.size())


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error only says that another process of the run is gone."""
    if environment.size() == 1:
        return False
    import torch

    if isinstance(error, torch.distributed.DistError):
        return True
    return isinstance(error, (RuntimeError, ConnectionError)) and any(text in str(error) for text in LOST_TEXTS)


def _end_with(launcher: int) -> None:
    """Ends this process when its launcher is gone: nobody would notice it otherwise."""

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(0.5)
        os._exit(4)

    threading.Thread(target=watch, name="launcher", daemon=True).start()
