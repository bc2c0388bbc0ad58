"""What the tests of medical formats share."""

import numpy as np
import pytest

from transferjax._validate import InputError
from transferjax.data.reading import read_image


def message(call, *args, **options):
    """The one line with which a call fails."""
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def grey(path, **options):
    """A grey image as [h, w]."""
    image = read_image(path, **options)
    assert image.dtype == np.uint8
    assert (image == image[..., :1]).all()
    return image[..., 0]
