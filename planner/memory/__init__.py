"""The memory model: a training step's program run on sizes, and the peaks that follow from it."""

from planner.memory.corrected import predict, predict_grid
from planner.memory.grid import Grid
from planner.memory.loads import allocated_peak

__all__ = ["Grid", "allocated_peak", "predict", "predict_grid"]
