"""Networks and their weights. A new family is one file with its modules, its torchvision keys and its `SPECS`."""

from transferjax.models._base import ModelSpec, memory_per_image, run
from transferjax.models._demo import demo_names
from transferjax.models._registry import get, import_torch, names
from transferjax.models.weights import load, make_source, random_source, save

__all__ = [
    "ModelSpec",
    "demo_names",
    "get",
    "import_torch",
    "load",
    "make_source",
    "memory_per_image",
    "names",
    "random_source",
    "run",
    "save",
]
