"""Checkpoints as PyTorch writes them, for tests of what reads them."""

from __future__ import annotations

import numpy as np

from tests.models.test_torch_file import checkpoint, plain


def tensors(value):
    """Arrays within dicts → tensors."""
    if isinstance(value, dict):
        return {key: tensors(inner) for key, inner in value.items()}
    return plain(value) if isinstance(value, np.ndarray) else value


def write_zip(path, value):
    path.write_bytes(checkpoint(tensors(value)))


def write_legacy(path, value):
    path.write_bytes(checkpoint(tensors(value), legacy=True))
