"""Fixtures of the node shell's tests."""

from collections.abc import Iterator

import pytest

from unit.nodeshell.tree import Tree, temporary


@pytest.fixture
def tree() -> Iterator[Tree]:
    with temporary() as tree:
        yield tree
