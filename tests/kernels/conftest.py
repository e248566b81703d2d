"""Kernel tests run on a GPU where there is one, else in Triton's interpreter, which must be asked for at import."""

import importlib.util
import os
from collections.abc import Iterator

import pytest

collect_ignore_glob: list[str] = []

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("triton") is None:
    collect_ignore_glob.append("*")  # installed without the torch extra
else:
    import torch

    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or deterministic matmuls are refused

    @pytest.fixture(autouse=True)
    def poisoned() -> Iterator[None]:
        """Fill every torch.empty with NaN, so that an element nobody wrote cannot pass."""
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True)
        yield
        torch.use_deterministic_algorithms(before)
