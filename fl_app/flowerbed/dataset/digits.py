"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8 pixels, which come with the package."""

import numpy as np

from flowerbed.dataset import Data


def sources(config) -> list[str]:
    """Return the files that `load` would read: none, the digits come with scikit-learn."""
    return []


def load(config) -> Data:
    """Return the digits as `Data`, their 17 shades of grey spread over 0..255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    return Data((x, digits.target.astype(np.int64)), None, [str(digit) for digit in range(10)])
