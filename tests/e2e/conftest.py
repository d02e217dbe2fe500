"""What the end-to-end tests share."""

import contextlib
from collections.abc import Iterator

import pytest
from checkout import GROUPS, Checkout


@pytest.fixture(scope="module")
def checkout(request: pytest.FixtureRequest) -> Iterator[Checkout]:
    """A checkout of the module's own, with a device of each of its GROUPS, in its NAME, with its TASK.

    Nothing is deployed yet.
    """
    own = request.module
    groups, name = getattr(own, "GROUPS", GROUPS), getattr(own, "NAME", "")
    with contextlib.closing(Checkout(groups, name, getattr(own, "TASK", "test_task.py"))) as checkout:
        yield checkout
