"""The suites of `python -m experiments.benchmark`."""
