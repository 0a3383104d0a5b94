"""tuneplan's planner: what fits on a device, how tightly, how fast, and why. Never imports torch."""

__version__ = "0.1.0"
