"""Training on several devices: one process for each, started together, with the same plan."""
