"""The scripts. Each is run from the repository: `python -m experiments.<name> --help`."""

import signal
import sys


def _stop(_signum: int, _frame: object) -> None:
    sys.exit("Interrupted. Nothing was left half-written; the same command goes on where it stopped.")


# Here and not in the scripts, because importing JAX takes seconds and ctrl-C then should not print a traceback either.
signal.signal(signal.SIGINT, _stop)
