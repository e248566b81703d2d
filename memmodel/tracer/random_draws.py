"""Functions that draw random numbers in Python, or change state of their own, may allocate differently at each call.

Such functions are traced several times: where they allocate otherwise, the range of their peaks is told. Numbers drawn
from torch's generators have no value in a trace, so no size can depend on them.
"""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from memmodel.base.errors import UsageError
from memmodel.base.units import bytes_text
from memmodel.events.liveness import births_and_deaths, phase_peaks
from memmodel.events.program import Program

_TIMES = 4


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


def check_alike(first: Program, again: Callable[[], Program]) -> None:
    """Trace once again. Raises UsageError where the storages differ from those of the first time."""
    if births_and_deaths(again()) != births_and_deaths(first):
        raise UsageError(
            "two traces of the function allocate differently: it changes state that it depends on; pass that in"
        )


def spread(first: Program, again: Callable[[], Program]) -> str:
    """Trace a few times again: a note of the live peaks of code that draws numbers."""
    peaks = [max(phase_peaks(each).values()) for each in (first, *(again() for _ in range(_TIMES)))]
    if len(set(peaks)) == 1:
        return "the code draws numbers in Python (random, numpy); several traces of it have the same live peak"
    return (
        f"the code draws numbers in Python (random, numpy): {len(peaks)} traces of it have live peaks from "
        f"{bytes_text(min(peaks))} to {bytes_text(max(peaks))}, of which this is one"
    )
