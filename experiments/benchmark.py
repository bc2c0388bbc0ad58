"""How fast, how small and how exact: the metrics against their peers, and what their design rests on.

From the repository:

    python -m experiments.benchmark --suite=metrics
    python -m experiments.benchmark --suite=metrics --sizes=small --metrics=logme,sfda --output=small.csv
    python -m experiments.benchmark --suite=choices

`metrics` compares each metric with what a user of NumPy, SciPy and scikit-learn would write
(`experiments/benchmarks/peers.py`) on made-up data: small is 1,100 examples of 512 features in 11 classes, medium
10,000 of 2,048 in 100, large 100,000 of 2,048 in 100, without the peers. It takes long. `choices` compares single
design choices with their alternatives.
"""

from __future__ import annotations

from absl import flags

from experiments import _cli
from experiments.benchmarks import choices, measuring
from experiments.benchmarks import metrics as suite
from transferjax import _files, metrics
from transferjax._validate import one_of

_SUITES = ("choices", "metrics")
_SUITE = flags.DEFINE_string("suite", "choices", f"One of: {', '.join(_SUITES)}.")
_SIZES = flags.DEFINE_list(
    "sizes", list(measuring.SIZES), "Of the suite metrics: these, or such as 500x64x5 (n, d, c)."
)
_METRICS = flags.DEFINE_list("metrics", [], "Of the suite metrics. Default: all.")
_SECONDS = flags.DEFINE_float("seconds", 20, "After how long no further round of a metric begins.", lower_bound=0)
_ISOLATE = flags.DEFINE_bool("isolate", True, "A process for each metric and size; without, memory means little.")
_OUTPUT = flags.DEFINE_string("output", None, "CSV file for the numbers of the suite metrics.")


def main(argv: list[str]) -> None:
    """Runs a suite."""
    del argv
    if one_of("suite", _SUITE.value, _SUITES) == "choices":
        choices.run()
        return
    names = tuple(metrics.get(name).name for name in _METRICS.value) or metrics.names()
    sizes = {text: measuring.size_of(text) for text in _SIZES.value}
    table = suite.run(sizes, names, seconds=_SECONDS.value, isolate=_ISOLATE.value)
    if _OUTPUT.value:
        with _files.atomic_write(_OUTPUT.value) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")
        print(f"Written to {_OUTPUT.value}")


if __name__ == "__main__":
    _cli.run(main)
