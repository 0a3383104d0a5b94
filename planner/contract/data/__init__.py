"""Data files into examples: one reader for planner and trainer, so that what is measured is what is trained."""
