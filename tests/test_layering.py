"""Imports point down only, and what is on one level does not import each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEVELS = [
    {"_compile", "_lazy", "_threads", "_validate", "_version"},
    {"_files", "_prefetch", "_sets", "types"},
    {"_download", "_groups", "_linalg", "_mixture", "_patches"},
    {"_pca"},
    {"metrics", "gradients", "models", "data", "evaluation", "published"},
    {"extraction", "streaming", "training", "combine"},
    {"ranking"},
    {"report"},
    {"experiments"},
]
LEVEL_OF = {part: level for level, parts in enumerate(LEVELS) for part in parts}
FREE = {"transferjax"}  # the package's own __init__ names the public parts
HEAVY = {"matplotlib": {f"transferjax/report/{name}.py" for name in ("contact_sheet", "evaluation_plots", "plots")}}
FORBIDDEN = {"torch", "tensorflow", "pickle"}


def part_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "experiments":
        return "experiments"
    return "transferjax" if parts[1] == "__init__" else parts[1]


def imports_of(source: str) -> list[str]:
    """The dotted names that a file imports, `from a import b` as a.b."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def wrong_imports(part: str, source: str) -> list[str]:
    wrong = []
    for name in imports_of(source):
        top, _, rest = name.partition(".")
        if top in FORBIDDEN or (top == "experiments" and part != "experiments"):
            wrong.append(name)
        elif top == "transferjax" and part not in FREE:
            imported = rest.split(".")[0]
            if imported in LEVEL_OF and imported != part and LEVEL_OF[imported] >= LEVEL_OF[part]:
                wrong.append(name)
            elif imported not in LEVEL_OF and part != "experiments":
                wrong.append(name)  # a lower part may not lean on the package's own __init__
    return wrong


# Run by another interpreter, imported by nothing.
OTHERS = {str(path.relative_to(ROOT)) for path in (ROOT / "experiments" / "benchmarks").glob("torch_*.py")}
FILES = sorted(
    path
    for path in [*(ROOT / "transferjax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]
    if str(path.relative_to(ROOT)) not in OTHERS
)


def test_what_belongs_to_another_interpreter_is_not_imported():
    for path in FILES:
        assert not any(Path(other).stem in name for name in imports_of(path.read_text()) for other in OTHERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    assert part_of(path) in LEVEL_OF or part_of(path) in FREE, "a new part needs its level in this test"
    assert wrong_imports(part_of(path), path.read_text()) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_heavy_libraries_stay_in_their_file(path):
    name = str(path.relative_to(ROOT))
    tops = {imported.split(".")[0] for imported in imports_of(path.read_text())}
    allowed = {library for library, files in HEAVY.items() if name in files}
    assert not tops & set(HEAVY) - allowed or name.startswith("experiments/")


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("metrics", "from transferjax.gradients import triplet_loss"),
        ("types", "import transferjax._linalg"),
        ("extraction", "from transferjax import combine"),
        ("models", "from transferjax.ranking import rank_sources"),
        ("data", "import torch"),
        ("ranking", "from experiments import _cli"),
        ("data", "from transferjax import __version__"),
    ],
)
def test_the_test_sees_wrong_imports(part, source):
    assert wrong_imports(part, source)
