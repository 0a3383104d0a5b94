"""A name, a hub id or a config.json becomes a `ModelSpec`."""
