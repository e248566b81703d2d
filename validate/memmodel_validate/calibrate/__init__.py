"""Measuring a machine's ceilings: micro-benchmarks by kind of kernel, saved as a calibration."""
