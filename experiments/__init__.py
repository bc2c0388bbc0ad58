"""The scripts. Each is run from the repository: `python -m experiments.<name> --help`."""

import signal
import sys


def _stop(_signum: int, _frame: object) -> None:
    sys.exit("Interrupted. Nothing was left half-written; the same command goes on where it stopped.")


# Here and not in the scripts, because importing JAX takes seconds and ctrl-C then should not print a traceback either.
# Only for scripts (argv is still "-m" while their package is imported): whoever imports this keeps their own handler.
if sys.argv[:1] == ["-m"]:
    signal.signal(signal.SIGINT, _stop)
