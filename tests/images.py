"""Class folders of small images."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def write(folder: Path, classes: Iterable[str], count: int) -> None:
    """Write `count` images of 8 x 8 pixels for each class."""
    random = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / name / f"{number}.png")
