"""The fold over events: what holds of it for any program, and storages that are freed while a graph had kept them."""

from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memmodel import recording
from memmodel.base.dtypes import float32
from memmodel.events.liveness import phase_peaks, saved_bytes, states
from memmodel.events.program import Alloc, Event, Free, Mark, Program, Release, Save


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Allocations, frees, saves and releases of storages that are alive, in phases, in any order."""
    events: list[Event] = []
    alive: list[int] = []
    kept: list[int] = []
    keys = count()
    for phase in ("inputs", "forward", "backward", "after"):
        events.append(Mark(phase))
        for _ in range(draw(st.integers(0, 12))):
            what = draw(st.sampled_from(("alloc", "alloc", "free", "save", "release")))
            if what == "alloc":
                alive.append(next(keys))
                events.append(Alloc(alive[-1], draw(st.integers(1, 1000)), (1,), float32, "op", None, "tensor"))
            elif what == "free" and alive:
                events.append(Free(alive.pop(draw(st.integers(0, len(alive) - 1)))))
                kept = [one for one in kept if one in alive]
            elif what == "save" and alive:
                kept.append(draw(st.sampled_from(alive)))
                events.append(Save(kept[-1], "Node"))
            elif what == "release" and kept:
                events.append(Release(kept.pop(), "Node"))
    return Program(events, {}, {})


@given(programs())
def test_live_bytes_are_those_of_the_storages_alive(program: Program) -> None:
    peak = 0
    for now in states(program):
        assert now.live == sum(birth.nbytes for birth in now.alive.values())
        assert 0 <= now.saved <= now.live
        if now.phase in ("forward", "backward"):
            peak = max(peak, now.live)
    assert phase_peaks(program)["peak"] == peak


@given(programs())
def test_any_size_adds_up_alike(program: Program) -> None:
    """Bytes in another unit, and as pairs of coefficients, fold to the same."""
    twice = [now.live for now in states(program, lambda birth: 2 * birth.nbytes)]
    assert twice == [2 * now.live for now in states(program)]


def _branch_dropped(x: Any) -> Any:
    x.exp()  # its result is freed at once, and with it what it saved
    return x * 2.0


def _result_detached(x: Any) -> Any:
    """The graph of exp is gone; its result, which it had saved, lives on."""
    return x * 2.0, x.exp().detach()


def _softmax_of_softmax(x: Any) -> Any:
    """The two softmaxes' graph is gone; the product saves the second's result, its copy, and x."""
    return x.softmax(-1).softmax(-1).detach().clone() * x


@pytest.mark.parametrize(
    ("function", "saved"),
    [(_branch_dropped, 0), (_result_detached, 0), (_softmax_of_softmax, 300 * 400 * 4)],
)
def test_what_a_dropped_graph_kept_is_not_saved(function: Any, saved: int) -> None:
    """x is (300, 400) in fp32 and an input: saved bytes leave it out."""
    with recording.Tape() as tape:
        tape.mark("inputs")
        x = recording.empty(300, 400, requires_grad=True)
        tape.mark("forward")
        out = function(x)
        tape.mark("after")
        del out
    assert saved_bytes(tape.program) == saved


def test_a_trace_keeps_the_same() -> None:
    torch = pytest.importorskip("torch")
    from memmodel import trace

    for function, saved in ((_branch_dropped, 0), (_result_detached, 0), (_softmax_of_softmax, 300 * 400 * 4)):
        found = trace(function, "x=300,400:fp32", step="forward", formulas=False)
        assert found.memory.saved_bytes == saved, (function.__name__, torch.__version__)
