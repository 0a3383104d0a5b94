"""The plan's panels: one file for each, placed and sized by the deck."""
