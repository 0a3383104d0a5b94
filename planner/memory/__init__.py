"""The memory model: a training step's program run on sizes, and the peaks that follow from it."""

from planner.memory.estimate import Grid, predict, predict_grid

__all__ = ["Grid", "predict", "predict_grid"]
