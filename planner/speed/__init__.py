"""How fast a configuration trains: the work of one step (`work`) on the limits of a device (`roofline`)."""

from planner.speed.roofline import model_flops, predict, require_dtype, rule_seconds, step_seconds

__all__ = ["model_flops", "predict", "require_dtype", "rule_seconds", "step_seconds"]
