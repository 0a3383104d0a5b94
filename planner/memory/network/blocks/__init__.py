"""Layer programs: the forward of each architecture's layer, statement by statement as transformers 5 runs it."""
