"""tuneplan's trainer: a process of its own that runs a plan, measures it and writes an observation."""
