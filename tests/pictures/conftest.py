"""The fixture of configurations."""

from typing import Any

import pytest
from picture_cases import CASES, IDS, cases


@pytest.fixture(params=CASES, ids=IDS)
def configured(request: pytest.FixtureRequest) -> Any:
    """A case, its GPU, and the arguments of `predict` that make it."""
    gpu, algorithm, sizes = request.param
    (case,), device = cases(gpu, [algorithm], sizes)
    return case, device, sizes
