"""A name or this machine becomes a `HardwareProfile`."""
