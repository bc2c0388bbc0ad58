"""Scripts, each without the flags of the others: several have the same names."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

from absl import flags

import experiments

_SHARED = "experiments._target"


@contextlib.contextmanager
def alone(name: str) -> Iterator[ModuleType]:
    """Imports a script, and the scripts that it uses, anew; takes their flags away afterwards."""
    flags_before, modules_before = _taken_away()
    module = importlib.import_module(name)
    flags.FLAGS(["test"])
    yield module
    _taken_away()
    for key, found in modules_before.items():
        sys.modules[key] = found
        setattr(experiments, key.partition(".")[2], found)
    for module_name, own in flags_before.items():
        for flag in own:
            flags.FLAGS[flag.name] = flag
            flags.FLAGS.register_flag_by_module(module_name, flag)


def _taken_away() -> tuple[dict[str, list[flags.Flag]], dict[str, ModuleType]]:
    """Returns the flags of all scripts and these, which are there no more; but for what scripts share."""
    defining = {
        key: list(found)
        for key, found in flags.FLAGS.flags_by_module_dict().items()
        if key.startswith("experiments.") and key != _SHARED
    }
    for own in defining.values():
        for flag in own:
            delattr(flags.FLAGS, flag.name)
    modules = {key: sys.modules.pop(key) for key in defining if key in sys.modules}
    for key in modules:
        delattr(experiments, key.partition(".")[2])
    return defining, modules
