"""The embedded demonstration: a tiny model trained from scratch here, and a data set with a rule it has never seen."""
