"""A data file becomes lengths in tokens, and the micro-batches that they make."""
