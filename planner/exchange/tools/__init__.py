"""One file for each tool: how its keys are read, and how a plan is written in them."""
