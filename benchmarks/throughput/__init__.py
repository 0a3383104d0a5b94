"""Tokens per second and peak bytes of our training step beside other trainers, on the same model, data and settings."""
