"""What the end-to-end tests share."""

import contextlib
from collections.abc import Iterator

import pytest
from checkout import GROUPS, Checkout


@pytest.fixture(scope="module")
def checkout(request: pytest.FixtureRequest) -> Iterator[Checkout]:
    """A checkout of the module's own, with a device of each of its GROUPS, in its NAME; nothing is deployed yet."""
    module = request.module
    with contextlib.closing(Checkout(getattr(module, "GROUPS", GROUPS), getattr(module, "NAME", ""))) as checkout:
        yield checkout
