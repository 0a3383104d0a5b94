"""Programs that were recorded from a traced step instead of written: for every network that transformers can build."""
