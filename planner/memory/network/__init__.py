"""What the layers of a network allocate and keep."""
