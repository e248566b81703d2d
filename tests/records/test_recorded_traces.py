import pytest

from memmodel.snapshot.snapshot import parse_snapshot
from memmodel.snapshot.study import Study, study
from memmodel_evidence.traces import load_trace, traces


def studied(name: str) -> Study:
    return study(parse_snapshot(load_trace(name), name))


@pytest.mark.parametrize("name", traces())
def test_every_address_is_the_one_that_the_real_allocator_chose(name: str) -> None:
    found = studied(name)
    events, addresses = found.snapshot.events, found.addresses
    requests = sum(event.action == "alloc" for event in events)
    assert (addresses.equal, addresses.compared, addresses.first_different_event) == (requests, requests, None)
    recorded, replayed = found.runs
    in_use = sum(b.size for segment in found.snapshot.segments for b in segment.blocks if b.in_use)
    assert replayed.allocated_end_bytes == recorded.allocated_end_bytes == in_use
    assert replayed.reserved_end_bytes == sum(segment.size for segment in found.snapshot.segments)
    assert replayed.allocated_peak_bytes == recorded.allocated_peak_bytes == max(found.history.allocated)
    assert replayed.reserved_peak_bytes == recorded.reserved_peak_bytes
    assert replayed.end == recorded.end


def test_the_traces_hold_10387_allocations_and_a_new_segment() -> None:
    actions = [event["action"] for name in traces() for event in load_trace(name)["device_traces"][0]]
    # 644 and 3,310 of Okazaki-Yumemi, 3,737 of Wuyh11, 2,696 of yyin-dev
    assert actions.count("alloc") == 644 + 3310 + 3737 + 2696 == 10387
    assert actions.count("segment_alloc") == 1


def test_a_trace_with_one_other_address_differs() -> None:
    data = load_trace("okazaki-small-forward")
    events = data["device_traces"][0]
    first = next(event["addr"] for event in events if event["action"] == "alloc")
    moved = [event | {"addr": first + 512} if event["addr"] == first else event for event in events]
    addresses = study(parse_snapshot(data | {"device_traces": [moved]}, "x.pickle")).addresses
    assert addresses.first_different_event == next(i for i, event in enumerate(moved) if event["addr"] == first + 512)
    assert 0 < addresses.equal < addresses.compared
