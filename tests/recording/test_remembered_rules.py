"""What an operator does is remembered by what its rule can know: layouts and numbers, never the tensors themselves."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest

from memmodel import recording
from memmodel.attention.case import make_case
from memmodel.events.program import Alloc, Launch
from memmodel.events.work import Work
from memmodel.recorder import record
from memmodel.rules import dispatch
from memmodel.rules.dispatch import aten
from memmodel.rules.operator import RULES
from memmodel.tensors.tape import Tape


def launches(tape: Tape) -> list[Launch]:
    return [event for event in tape.events if isinstance(event, Launch)]


def test_a_rule_is_asked_about_the_same_tensor_twice_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(call: Any) -> Any:
        yield dispatch.Result(-1)
        yield Launch("mul", Work(vector=len({id(x) for x in call.args})), call.out.dtype)

    monkeypatch.setitem(RULES, "mul", counted)
    with Tape(sites=False) as tape:
        x, y = recording.empty(8, 16), recording.empty(8, 16)
        for a, b in ((x, y), (x, x), (y, x), (y, y)):
            aten("mul", a, b)
    assert [launch.work.vector for launch in launches(tape)] == [2, 1, 2, 1]


def test_equal_numbers_of_two_types_are_told_apart() -> None:
    """A whole number leaves a tensor of ints one of ints; 2.0 makes it one of floats, in PyTorch too."""
    with Tape(sites=False):
        x = recording.empty(4, dtype=recording.int64)
        assert [aten("mul", x, factor).dtype.name for factor in (2, 2.0, 2)] == ["int64", "float32", "int64"]


def test_no_tensor_is_kept_alive() -> None:
    with Tape(sites=False):
        x = recording.empty(3, 5)
        aten("cat", [x, x], 0)
        aten("mul", x, x)
        known = weakref.ref(x)
        del x
        gc.collect()
        assert known() is None


def test_sizes_with_letters_print_as_they_are_after_plain_ones() -> None:
    """16 heads and 16 sequences are equal numbers with letters of their own."""
    case = make_case("naive", batch=16, heads=16, seq=64, head_dim=32)
    plain, lettered = record(case), record(case.lettered())
    shapes = [event.shape for event in lettered.events if isinstance(event, Alloc)]
    assert [tuple(map(int, shape)) for shape in shapes] == [e.shape for e in plain.events if isinstance(e, Alloc)]
    assert {getattr(size, "letter", "") for shape in shapes for size in shape if size == 16} == {"b", "h"}


def test_arrays_are_computed_and_agree_with_each_of_their_numbers() -> None:
    sizes = np.array([64, 80, 96])
    case = make_case("naive", heads=4, seq=64, head_dim=32)
    swept = [e.work.flops for e in record(case.__class__(**_at(case, sizes))).launches()]
    for i, size in enumerate(sizes):
        alone = [e.work.flops for e in record(case.__class__(**_at(case, int(size)))).launches()]
        assert [int(np.broadcast_to(flops, sizes.shape)[i]) for flops in swept] == alone


def _at(case: object, seq: object) -> dict[str, object]:
    fields = {name: getattr(case, name) for name in case.__dataclass_fields__}  # type: ignore[attr-defined]
    return fields | {"seq": seq, "kv_seq": seq}


def test_a_rule_that_changes_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def free(call: Any) -> Any:
        yield dispatch.Result(-1)

    with Tape(sites=False) as tape:
        x = recording.empty(8, 16)
        aten("mul", x, x)
        monkeypatch.setitem(RULES, "mul", free)
        aten("mul", x, x)
    assert len(launches(tape)) == 1
