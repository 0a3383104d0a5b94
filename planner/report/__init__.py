"""Text for people: one renderer per record. Nothing here computes; every figure comes from a report."""
