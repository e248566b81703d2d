from dataclasses import replace

import pytest

from memmodel.allocator.trace import replay_trace
from memmodel_evidence.traces import load_trace, traces


@pytest.mark.parametrize("name", traces())
def test_every_address_is_the_one_that_the_real_allocator_chose(name: str) -> None:
    events, segments = load_trace(name)
    result = replay_trace(events, segments)
    assert result.different == 0
    assert result.equal == sum(event.action == "alloc" for event in events)
    assert result.new_segments == sum(event.action == "segment_alloc" for event in events)
    assert result.allocated == result.recorded_allocated


def test_the_traces_hold_10387_allocations_and_a_new_segment() -> None:
    events = [event for name in traces() for event in load_trace(name)[0]]
    # 644 and 3,310 of Okazaki-Yumemi, 3,737 of Wuyh11, 2,696 of yyin-dev
    assert sum(event.action == "alloc" for event in events) == 644 + 3310 + 3737 + 2696 == 10387
    assert sum(event.action == "segment_alloc" for event in events) == 1


def test_a_trace_with_one_other_address_differs() -> None:
    events, segments = load_trace("okazaki-small-forward")
    address = next(event.address for event in events if event.action == "alloc")
    moved = [replace(e, address=address + 512) if e.address == address else e for e in events]
    assert replay_trace(moved, segments).different == 1
