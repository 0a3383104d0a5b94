"""How far off the memory model is: against traces, real runs and published measurements; writes docs/accuracy.md."""
