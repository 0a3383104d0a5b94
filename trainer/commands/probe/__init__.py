"""A few real steps of one shape on random weights, measured: what the calibration and the benchmarks observe."""
