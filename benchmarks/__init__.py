"""Benchmarks of sessionstore against the stores people would use instead, and against the disk itself.

`python -m benchmarks` measures everything in one run on one machine, in interleaved rounds, and prints medians,
ratios with their spread, and whether each bar was hit or missed. A bar is a promise about speed, not a test: a
missed bar is printed, and does not fail the run. A measurement that could not be made does.
"""
