"""One small builder per model type: a completed config to a ModelSpec with every parameterised module."""
