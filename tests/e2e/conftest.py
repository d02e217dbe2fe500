"""What the end-to-end tests share."""

import contextlib
from collections.abc import Iterator

import pytest
from checkout import Checkout


@pytest.fixture(scope="module")
def garden() -> Iterator[Checkout]:
    """A checkout of the module's own; nothing is deployed yet."""
    with contextlib.closing(Checkout()) as garden:
        yield garden
