"""What all scripts share: programs compiled by one are there for the next; ctrl-C ends them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
SCRIPT = """
import jax, time
from experiments import _cli
_cli.cache_programs()
compiled = []
jax.monitoring.register_event_listener(lambda event, **_: compiled.append(event) if "cache_misses" in event else None)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: jax.lax.fori_loop(0, 9, lambda i, y: y @ y, x))(jax.numpy.ones((8, 8))).block_until_ready()
print(len(compiled) > 0, jax.config.jax_compilation_cache_dir)
"""


def run(**settings):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env={**kept, **settings}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME"])
def test_the_second_process_compiles_nothing(tmp_path, variable):
    settings = {"XDG_CACHE_HOME": "", variable: str(tmp_path)}
    missed, folder = run(**settings)
    assert missed == "True"
    assert Path(folder).is_relative_to(tmp_path)
    assert any(Path(folder).iterdir())
    assert run(**settings) == ["False", folder]


def test_jax_s_own_setting_comes_first(tmp_path):
    assert run(JAX_COMPILATION_CACHE_DIR=str(tmp_path), XDG_CACHE_HOME="/nowhere")[1] == str(tmp_path)


LOST = """
import os, signal, sys, time
from experiments import _cli

class Pressed:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

def main(argv):
    pressed = Pressed()
    del pressed
    print("Python went on", flush=True)
    time.sleep(60)
    print("to the end")

sys.argv = ["script"]
_cli.run(main)
"""


def test_ctrl_c_in_a_finaliser_is_not_lost():
    """Python drops the exceptions of finalisers, ctrl-C's too."""
    done = subprocess.run([sys.executable, "-c", LOST], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (1, "Python went on\n")
    assert done.stderr.startswith("Interrupted. Nothing was left half-written")
    assert done.stderr.count("\n") == 1
