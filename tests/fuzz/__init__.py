"""Hostile inputs of every kind, made by changing good ones, and what must hold for each: `python -m tests.fuzz`."""
