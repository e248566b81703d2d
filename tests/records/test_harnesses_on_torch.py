"""The harnesses are the scripts' torch code: on a real PyTorch (its CPU build) they allocate as recorded."""

from functools import partial
from typing import Any

import pytest
from traced_harnesses import EAGER

from memmodel_evidence.harnesses import HARNESSES
from memmodel_evidence.harnesses.script import Row
from torch_events import real_events, recorded_events, without_empty

FACTORIES = ("randn", "ones", "empty", "full", "arange")


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


@pytest.mark.parametrize("table", EAGER)
def test_events_agree_with_pytorch(table: str) -> None:
    row = Row(batch=2, seq=48, d=24, warm_up=2, measured=2)

    def body(xp: Any) -> None:
        HARNESSES[table](OnTheCpu(xp), row, lambda phase: None)

    assert without_empty(recorded_events(body)) == real_events(body)
