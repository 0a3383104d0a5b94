"""Device facts as data: one TOML per device, each fact with unit, source and date; `hardware_profiles.loader` reads it."""
