"""What planner and trainer share: records, choices, errors, readers. The only rooms that the trainer may import."""
