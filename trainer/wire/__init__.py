"""What is said to the planner and to the disk."""
