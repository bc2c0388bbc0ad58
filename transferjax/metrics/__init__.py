"""Transferability metrics: one file each. A new file with a `METRIC` or `METRICS` is all that a new metric takes."""

from transferjax.metrics._base import OVER_CANDIDATES, Metric, get, names, score
from transferjax.metrics.bootstrap import Interval, bootstrap

__all__ = ["OVER_CANDIDATES", "Interval", "Metric", "bootstrap", "get", "names", "score"]
