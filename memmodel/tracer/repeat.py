"""Whether a function allocates alike each time: one that draws numbers in Python, or changes its own state, may not.

What it draws from torch's generators has no value in a trace, so that no size can depend on it.
"""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from memmodel.errors import UsageError
from memmodel.liveness import births_and_deaths
from memmodel.program import Program


@dataclass
class Drawing:
    """Whether code within `watched` drew from Python's or numpy's generators."""

    drew: bool = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within, draws are noticed, also of numpy if it was imported before."""
        before = _states()
        yield
        after = _states()
        self.drew = any(before[name] != after[name] for name in before)


def _states() -> dict[str, str]:
    numpy = sys.modules.get("numpy.random")
    return {"random": str(random.getstate())} | ({"numpy": str(numpy.get_state())} if numpy else {})


def check_alike(first: Program, again: Callable[[], Program], times: int) -> None:
    """Trace again so many times. Raises UsageError where the storages differ from those of the first time."""
    expected = births_and_deaths(first)
    for _ in range(times):
        if births_and_deaths(again()) != expected:
            raise UsageError(
                "two traces of the function allocate differently: it draws numbers in Python (random, numpy) or "
                "changes state that it depends on; seed what it draws (random.seed(0) in the function), or pass it in"
            )
