"""What a run survives: overflows, kills, damaged checkpoints, full disks."""
