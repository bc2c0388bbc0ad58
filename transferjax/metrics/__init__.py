"""Transferability metrics: one file each. A new file with a `METRIC` or `METRICS` is all that a new metric takes."""

from transferjax.metrics._base import Metric, get, names, score

__all__ = ["Metric", "get", "names", "score"]
