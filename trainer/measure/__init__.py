"""Devices, and the meters of their memory."""
