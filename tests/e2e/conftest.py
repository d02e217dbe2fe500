"""What the end-to-end tests share."""

import contextlib
from collections.abc import Iterator

import pytest
from checkout import GROUPS, Checkout


@pytest.fixture(scope="module")
def garden(request: pytest.FixtureRequest) -> Iterator[Checkout]:
    """A checkout of the module's own, with a device of each of its GROUPS; nothing is deployed yet."""
    with contextlib.closing(Checkout(getattr(request.module, "GROUPS", GROUPS))) as garden:
        yield garden
