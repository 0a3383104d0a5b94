"""The memory model: a training step's program run on sizes, and the peaks that follow from it."""

from planner.memory.estimate import Grid, allocated_peak, predict, predict_grid

__all__ = ["Grid", "allocated_peak", "predict", "predict_grid"]
