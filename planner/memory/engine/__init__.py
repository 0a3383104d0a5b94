"""Bookkeeping of one step: storages, lifetimes, operators, layout, peak."""
