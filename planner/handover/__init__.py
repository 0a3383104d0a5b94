"""What goes from the planner to the trainer: the plan file and the process that runs it."""
