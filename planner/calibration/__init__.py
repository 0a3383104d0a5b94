"""Corrections from observations: what a device's runs really took, beside what the bare model said."""
