"""What all scripts share: how they start, and how they fail."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from absl import app, flags, logging

from experiments import INTERRUPTED
from transferjax._validate import InputError


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags and runs `main`; bad input and ctrl-C end in one message and exit code 1, without a traceback.

    Args:
      main: takes the arguments left over after the flags.
    """

    def guarded(argv: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # absl's default shows what JAX tells itself about its backends
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if len(argv) > 1:
                raise InputError(f"{argv[1]!r} is not a flag. Flags look like --name=value; --help lists them.")
            main(argv)
        except InputError as error:
            sys.exit(f"Error: {error}")
        except KeyboardInterrupt:  # by now half-written files are removed
            sys.stdout.flush()
            print(INTERRUPTED, file=sys.stderr, flush=True)
            os._exit(1)  # an interpreter that was stopped inside a compilation can crash while it takes itself down

    app.run(guarded)
