"""Importing PyTorch takes seconds that are not an example's: it is done before any example's time is taken."""

from torch._subclasses.fake_tensor import FakeTensorMode

import memmodel.tracer.api  # noqa: F401

FakeTensorMode()
