"""Tests of trainer.record."""
