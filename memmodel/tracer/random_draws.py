"""Functions that draw random numbers in Python, or change state of their own, may allocate differently at each call.

Such functions are traced several times and must allocate alike. Numbers drawn from torch's generators have no value in
a trace, so no size can depend on them.
"""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from memmodel.base.errors import UsageError
from memmodel.events.liveness import births_and_deaths
from memmodel.events.program import Program


@dataclass
class RandomDraws:
    """Whether code within `watched` drew from Python's or numpy's generators."""

    drew: bool = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within, `drew` notices draws, also numpy's where numpy was imported before."""
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
