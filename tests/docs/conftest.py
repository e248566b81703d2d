"""Importing PyTorch takes seconds that are not an example's: it is done before any example's time is taken."""

import importlib.util

import pytest


@pytest.fixture(scope="session", autouse=True)
def imported() -> None:
    """Import it here, not above: Triton's interpreter is asked for by the kernels' tests before torch loads Triton."""
    if importlib.util.find_spec("torch") is not None:
        from torch._subclasses.fake_tensor import FakeTensorMode

        import memmodel.tracer.api  # noqa: F401

        FakeTensorMode()
