"""Whether a function allocates alike each time: one that draws numbers in Python, or changes its own state, may not.

What it draws from torch's generators has no value in a trace, so that no size can depend on it.
"""

import random
import sys
from collections.abc import Callable
from typing import Any

from memmodel.errors import UsageError
from memmodel.program import Alloc, Free, Program


def generators() -> list[Any]:
    """The state of Python's and numpy's generators: unlike before where the code drew from them."""
    numpy = sys.modules.get("numpy.random")
    return [random.getstate(), *map(str, numpy.get_state() if numpy else ())]


def check_alike(first: Program, again: Callable[[], Program], times: int) -> None:
    """Trace again so many times. Raises UsageError where the storages differ from those of the first time."""
    expected = _storages(first)
    for _ in range(times):
        if _storages(again()) != expected:
            raise UsageError(
                "two traces of the function allocate differently: it draws numbers in Python (random, numpy) or "
                "changes state that it depends on; seed what it draws (random.seed(0) in the function), or pass it in"
            )


def _storages(program: Program) -> list[tuple[int, int]]:
    births = ((e.key, int(e.nbytes)) for e in program.events if isinstance(e, Alloc))
    deaths = ((e.key, -1) for e in program.events if isinstance(e, Free))
    return [*births, *deaths]
