"""What takes long to make is made by one of the processes that run tests, for all of them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(folders: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The path of a file or folder that `make` writes to the path it is given, unless another process has."""
    shared = folders.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / f"{name}.lock"):
        if not (shared / name).exists():
            make(unfinished := shared / f"{name} in the making")
            unfinished.rename(shared / name)
    return shared / name
