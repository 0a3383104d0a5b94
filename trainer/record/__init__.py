"""What a step allocates, event by event, at shapes that the planner asks for: the raw material of recorded programs."""
