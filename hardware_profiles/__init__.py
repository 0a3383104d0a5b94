"""Device facts as data: one TOML per device, each fact with unit, source and date. See `planner.devices.profiles`."""
