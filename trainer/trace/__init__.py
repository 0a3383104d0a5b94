"""The fake-tensor reference: what one training step allocates, at full size, without weights and without the device."""

from trainer.trace.result import TraceResult, explain
from trainer.trace.run import Setup, trace

__all__ = ["Setup", "TraceResult", "explain", "trace"]
