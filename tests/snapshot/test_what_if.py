"""Replays: the recorded addresses, and what other settings and capacities make of the same requests."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshot_data import MiB, Recording, frame, from_trace

from memmodel.allocator import AllocatorConfig, CachingAllocator
from memmodel.snapshot.alloc_conf import AllocConf, parse_alloc_conf
from memmodel.snapshot.emptied import emptied_by_program
from memmodel.snapshot.snapshot import Snapshot, parse_snapshot
from memmodel.snapshot.study import study
from memmodel.snapshot.what_if import BEFORE_THE_FIRST, RanOut
from memmodel_evidence.traces import traces

EXPANDABLE = parse_alloc_conf("expandable_segments:True")
CONFIGS = [
    AllocatorConfig(),
    AllocatorConfig(expandable_segments=True),
    AllocatorConfig(max_split_size=24 * MiB),
    AllocatorConfig(roundup_power2_divisions=4),
]
# multiples of 2 MiB leave no rest below 1 MiB, which a recording cannot always tell
sizes = st.one_of(st.integers(1, MiB), st.integers(1, 30).map(lambda n: 2 * n * MiB))


def snapshot_of(run: Recording, since: int = 0) -> Snapshot:
    return parse_snapshot(run.data(since), "x.pickle")


@pytest.mark.parametrize("name", traces())
def test_the_recorded_traces_land_on_every_address(name: str) -> None:
    data = from_trace(name)
    found = study(parse_snapshot(data, name))
    requests = sum(event["action"] == "alloc" for event in data["device_traces"][0])
    assert (found.landing.equal, found.landing.compared, found.landing.first_different) == (requests, requests, None)
    as_recorded, replayed = (course.outcome for course in found.courses)
    assert replayed.allocated_peak == as_recorded.allocated_peak == max(found.timeline.allocated)
    assert replayed.reserved_peak == as_recorded.reserved_peak
    assert replayed.end == as_recorded.end


def test_another_address_is_counted_and_the_first_is_named() -> None:
    data = from_trace("okazaki-small-forward")
    events = data["device_traces"][0]
    first = next(event["addr"] for event in events if event["action"] == "alloc")
    moved = [event | {"addr": first + 512} if event["addr"] == first else event for event in events]
    landing = study(parse_snapshot(data | {"device_traces": [moved]}, "x.pickle")).landing
    assert landing.first_different == next(i for i, event in enumerate(moved) if event["addr"] == first + 512)
    assert 0 < landing.equal < landing.compared


@pytest.mark.parametrize("config", CONFIGS, ids=["whole", "expandable", "max split", "power of two"])
@settings(max_examples=40, deadline=None)
@given(requests=st.lists(sizes, min_size=2, max_size=30), data=st.data())
def test_a_run_of_the_model_lands_from_anywhere_in_it(
    config: AllocatorConfig, requests: list[int], data: st.DataObject
) -> None:
    run = Recording(config)
    cut = data.draw(st.integers(0, len(requests) - 1))
    since = 0
    for index, size in enumerate(requests):
        if index == cut:
            since = len(run.events)
        run.malloc(size)
        if run.live and data.draw(st.booleans()):
            run.free(data.draw(st.sampled_from(sorted(run.live))))
    snapshot = snapshot_of(run, since)
    assert snapshot.config == config
    if config.max_split_size is None:  # else a freed block larger than its request is not in the file
        assert study(snapshot).landing.first_different is None


@pytest.mark.parametrize("config", CONFIGS, ids=["whole", "expandable", "max split", "power of two"])
@settings(max_examples=40, deadline=None)
@given(requests=st.lists(sizes, min_size=1, max_size=30), data=st.data())
def test_a_recording_from_the_first_request_on_tells_what_another_setting_takes(
    config: AllocatorConfig, requests: list[int], data: st.DataObject
) -> None:
    """Then nothing about the past is left to guess: the same requests, given to an allocator with those settings."""
    run, other = Recording(), CachingAllocator(config=config)
    blocks = {}
    for size in requests:
        address = run.malloc(size)
        blocks[address] = other.malloc(size)
        if data.draw(st.booleans()):
            address = data.draw(st.sampled_from(sorted(blocks)))
            run.free(address)
            other.free(blocks.pop(address))
    outcome = study(snapshot_of(run), AllocConf(config)).courses[-1].outcome
    assert outcome.allocated_peak == other.allocated_peak
    assert outcome.reserved_peak == other.reserved_peak
    assert outcome.reserved_end == other.reserved
    assert outcome.end.free == other.reserved - other.allocated


@settings(max_examples=60, deadline=None)
@given(
    requests=st.lists(sizes, min_size=1, max_size=30),
    capacity=st.integers(1, 400).map(lambda n: n * MiB),
    config=st.sampled_from([None, *map(AllocConf, CONFIGS)]),
    cut=st.integers(0, 29),
)
def test_no_replay_exceeds_its_capacity(requests: list[int], capacity: int, config: AllocConf | None, cut: int) -> None:
    run = Recording()
    since = 0
    for index, size in enumerate(requests):
        if index == min(cut, len(requests) - 1):
            since = len(run.events)
        run.malloc(size)
    for course in study(snapshot_of(run, since), config, capacity).courses[1:]:
        outcome = course.outcome
        assert outcome.allocated_peak <= outcome.reserved_peak <= capacity
        assert course.fits == (outcome.ran_out is None)


def a_hole_of_two_halves() -> Recording:
    """Blocks of 9 MiB, two to a segment of 20 MiB; the middle two are freed and 18 MiB asked for with 50 MiB in all.

    Whole segments: the halves lie in different segments, 40 MiB are held, and a third segment of 18 MiB does not fit.
    """
    run = Recording(capacity=50 * MiB)
    addresses = [run.malloc(9 * MiB) for _ in range(4)]
    run.free(addresses[1])
    run.free(addresses[2])
    assert run.malloc(18 * MiB) == 0
    return run


def test_the_capacity_is_known_where_memory_ran_out() -> None:
    found = study(snapshot_of(a_hole_of_two_halves()), EXPANDABLE)
    recorded, same, asked = found.courses
    ((out, free),) = found.out_of_memory
    assert (out, free) == (RanOut(10, 18 * MiB, 18 * MiB, 40 * MiB), 10 * MiB)
    assert recorded.fits is False
    assert recorded.outcome.ran_out == out
    assert same.capacity == asked.capacity == 50 * MiB
    assert same.fits is False
    assert same.outcome.ran_out == out
    assert same.outcome.retries == 1


def test_expandable_segments_join_the_two_halves() -> None:
    """In one range the blocks lie at 0, 9, 18 and 27 MiB: the middle two are 18 MiB in one piece, of 40 mapped."""
    asked = study(snapshot_of(a_hole_of_two_halves()), EXPANDABLE).courses[-1]
    assert asked.fits is True
    assert asked.outcome.allocated_peak == 36 * MiB
    assert asked.outcome.reserved_peak == 40 * MiB
    assert asked.outcome.end.segments == 1
    assert (asked.outcome.end.largest_free, asked.outcome.end.free) == (18 * MiB, 22 * MiB)


def test_a_capacity_that_is_given_counts_and_not_the_recorded_one() -> None:
    snapshot = snapshot_of(a_hole_of_two_halves())
    assert study(snapshot, None, 58 * MiB).courses[-1].fits is True  # 40 and a segment of 18
    assert study(snapshot, None, 58 * MiB - 1).courses[-1].fits is False


def test_a_start_that_does_not_fit_is_packed_and_then_does() -> None:
    """Three blocks of 4 MiB left in two segments of 20 MiB: packed they need one."""
    run = Recording()
    blocks = [run.malloc(4 * MiB) for _ in range(10)]
    for address in blocks[1:5] + blocks[6:9]:
        run.free(address)
    since = len(run.events)
    run.malloc(MiB // 2)
    snapshot = snapshot_of(run, since)
    (course,) = study(snapshot, None, 42 * MiB).courses[1:]
    assert (course.start, course.outcome.reserved_peak) == ("recorded", 42 * MiB)
    (course,) = study(snapshot, None, 22 * MiB).courses[1:]
    assert (course.start, course.fits, course.outcome.reserved_peak) == ("packed", True, 22 * MiB)
    (course,) = study(snapshot, None, 19 * MiB).courses[1:]
    assert course.outcome.ran_out is not None
    assert course.outcome.ran_out.event == BEFORE_THE_FIRST


@pytest.mark.parametrize("named", [True, False])
def test_a_cache_that_the_program_emptied_is_emptied_under_other_settings(named: bool) -> None:
    run = Recording()
    keep = run.malloc(12 * MiB)
    run.free(run.malloc(14 * MiB))
    run.empty_cache([frame("/env/site-packages/torch/cuda/memory.py", 1, "empty_cache")] if named else [])
    if not named:
        run.free(keep)  # what follows is no new segment
    run.malloc(512)
    snapshot = snapshot_of(run)
    (index,) = emptied_by_program(snapshot)
    assert snapshot.events[index].action == "segment_free"
    asked = study(snapshot, AllocConf(AllocatorConfig(roundup_power2_divisions=2))).courses[-1].outcome
    assert asked.reserved_peak == (12 + 16) * MiB  # 14 MiB are rounded up to 16
    assert asked.reserved_end == (12 + 2) * MiB


def test_a_cache_that_the_allocator_released_to_make_room_is_left_to_the_model() -> None:
    """12 MiB are given back when 20 MiB are asked for with 30 in all; with more room nothing is."""
    run = Recording(capacity=30 * MiB)
    run.free(run.malloc(12 * MiB))
    run.malloc(20 * MiB)
    snapshot = snapshot_of(run)
    assert emptied_by_program(snapshot) == set()
    exact = study(snapshot)
    assert exact.landing.first_different is None
    assert exact.courses[1].outcome.reserved_peak == 20 * MiB
    asked = study(snapshot, EXPANDABLE, 30 * MiB).courses[1].outcome
    assert (asked.reserved_peak, asked.retries) == (20 * MiB, 1)
    roomy = study(snapshot, EXPANDABLE, 60 * MiB).courses[1].outcome
    assert (roomy.reserved_peak, roomy.retries) == (32 * MiB, 0)
