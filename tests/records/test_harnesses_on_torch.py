"""The harnesses are the scripts' torch code: on a real PyTorch (its CPU build) they allocate as recorded."""

from functools import partial
from typing import Any

import pytest

from memmodel_validate.harnesses import HARNESSES
from memmodel_validate.records import Row
from torch_events import real_events, recorded_events

FACTORIES = ("randn", "ones", "empty", "arange")
EAGER = [name for name in HARNESSES if "compiled" not in name]


class OnTheCpu:
    """A library whose factories leave the device out."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp
        self.__name__ = xp.__name__

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._xp, name)
        return partial(_without_device, found) if name in FACTORIES else found


def _without_device(factory: Any, *args: Any, device: str, **kwargs: Any) -> Any:
    return factory(*args, **kwargs)


Events = list[tuple[str, int, int]]


def without_empty(events: Events) -> Events:
    """Without storages of no bytes: PyTorch does not ask its allocator for these."""
    empty = {number for _, number, nbytes in events if nbytes == 0}
    kept = sorted({number for _, number, _ in events} - empty)
    renumbered = {number: index for index, number in enumerate(kept)}
    return [(kind, renumbered[n], nbytes) for kind, n, nbytes in events if n not in empty]


@pytest.mark.parametrize("table", EAGER)
def test_events_agree_with_pytorch(table: str) -> None:
    run = Row(table, batch=2, seq=48, d=24, printed={}, out_of_memory=False)

    def body(xp: Any) -> None:
        HARNESSES[table](OnTheCpu(xp), run, lambda phase: None)

    assert without_empty(recorded_events(body)) == real_events(body)
