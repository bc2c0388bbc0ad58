"""What all scripts share: how they start, and how they fail."""

from __future__ import annotations

import os
import platform
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import jax
from absl import app, flags, logging

from experiments import INTERRUPTED
from transferjax._validate import InputError


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags and runs `main`; bad input and ctrl-C end in one message and exit code 1, without a traceback.

    Args:
      main: takes the arguments left over after the flags.
    """
    interrupted = False

    def interrupt(signum: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        signal.default_int_handler(signum, frame)

    def lost(unraisable: sys.UnraisableHookArgs) -> None:
        # Python drops what finalisers raise, and what JAX's part in collecting garbage does.
        if interrupted and unraisable.exc_type is KeyboardInterrupt:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()  # once more, outside of it
        else:
            sys.__unraisablehook__(unraisable)

    def guarded(argv: list[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # absl's default shows what JAX tells itself about its backends
        try:
            signal.signal(signal.SIGINT, interrupt)
            sys.unraisablehook = lost
            cache_programs()
            if len(argv) > 1:
                raise InputError(f"{argv[1]!r} is not a flag. Flags look like --name=value; --help lists them.")
            main(argv)
        except (Exception, KeyboardInterrupt) as error:
            if not interrupted:
                if isinstance(error, InputError):
                    sys.exit(f"Error: {error}")
                raise
            # Where libraries call Python from C they make other exceptions of ctrl-C. By now half-written files are
            # removed.
            sys.stdout.flush()
            print(INTERRUPTED, file=sys.stderr, flush=True)
            os._exit(1)  # an interpreter that was stopped inside a compilation can crash while it takes itself down

    app.run(guarded)


def cache_programs() -> None:
    """Keeps compiled programs for the next process, in the user's cache folder.

    JAX's own settings come first: JAX_COMPILATION_CACHE_DIR says where, JAX_ENABLE_COMPILATION_CACHE=false not to
    keep any. Each machine has its own folder, since programs for one CPU need not run on another that shares the home.
    """
    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = root / "transferjax" / f"programs-{platform.node() or 'here'}"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
