"""Fixtures of the node shell's tests."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.nodeshell.tree import Tree


@pytest.fixture
def tree() -> Iterator[Tree]:
    """A node; directly below the folder for temporary files, because the path of a socket is short."""
    root = Path(tempfile.mkdtemp(prefix="pn"))
    yield Tree(root)
    shutil.rmtree(root)
