"""Networks and their weights. A new family is one file with its modules, their names torchvision's, and its `SPECS`."""

from transferjax.models._base import ModelSpec, Pretrained, memory_per_image, run
from transferjax.models._demo import demo_names
from transferjax.models._heads import apply_head, headless
from transferjax.models._registry import Imported, get, import_state_dict, import_torch, names, register
from transferjax.models.loading import load, load_and_report
from transferjax.models.weights import make_source, random_source, save

__all__ = [
    "Imported",
    "ModelSpec",
    "Pretrained",
    "apply_head",
    "demo_names",
    "get",
    "headless",
    "import_state_dict",
    "import_torch",
    "load",
    "load_and_report",
    "make_source",
    "memory_per_image",
    "names",
    "random_source",
    "register",
    "run",
    "save",
]
