"""Scripts, each without the flags of the others: several have the same names."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

from absl import flags


@contextlib.contextmanager
def alone(name: str) -> Iterator[ModuleType]:
    """Imports a script, and takes its flags away afterwards."""
    others = {
        flag.name: flag
        for module, defined in flags.FLAGS.flags_by_module_dict().items()
        if module.startswith("experiments.") and module != "experiments._target"
        for flag in defined
    }
    for other in others:
        delattr(flags.FLAGS, other)
    module = importlib.import_module(name)
    own = [flag.name for flag in flags.FLAGS.flags_by_module_dict()[name]]
    flags.FLAGS(["test"])
    yield module
    for flag_name in own:
        delattr(flags.FLAGS, flag_name)
    del sys.modules[name]
    for other, flag in others.items():
        flags.FLAGS[other] = flag
