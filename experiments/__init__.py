"""The scripts. Each is run from the repository: `python -m experiments.<name> --help`."""

import os
import signal
import sys

INTERRUPTED = "Interrupted. Nothing was left half-written; the same command goes on where it stopped."


def _leave(_signum: int, _frame: object) -> None:
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(1)


# Ctrl-C while JAX is being imported, which takes seconds: leave at once, since nothing has begun, and an exception out
# of the import of a compiled module can end in a crash. `_cli.run` takes over once everything is imported. Only for
# scripts (argv is still "-m" while their package is imported): whoever else imports this keeps their own handler.
if sys.argv[:1] == ["-m"]:
    signal.signal(signal.SIGINT, _leave)
