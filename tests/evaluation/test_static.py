from __future__ import annotations

import dataclasses

from transferjax import models
from transferjax.evaluation import static


def test_controls():
    source = models.random_source("thin", "resnet18", num_classes=7, seed=0, width=64)
    # torchvision's 11,689,512 less the head of 512 x 1000 + 1000: whatever the number of source classes
    assert static.controls(source) == {"num_parameters": 11_176_512.0, "source_set_size": 0.0}
    known = dataclasses.replace(source, num_train_examples=None, imagenet_accuracy=0.7)
    assert static.controls(known) == {"num_parameters": 11_176_512.0, "imagenet_accuracy": 0.7}
    assert set(static.controls(source) | static.controls(known)) == set(static.NAMES)
