"""Replays: the recorded addresses, and what other settings and capacities make of the same requests."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshot_data import MiB, Recording, frame

from memmodel.allocator import AllocatorConfig, CachingAllocator
from memmodel.snapshot.alloc_conf import AllocConf, parse_alloc_conf
from memmodel.snapshot.releases import Capacity, releases
from memmodel.snapshot.runs import BEFORE_THE_FIRST, Addresses, RanOut
from memmodel.snapshot.snapshot import Snapshot, parse_snapshot
from memmodel.snapshot.study import study

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
        run.malloc(size, data.draw(st.sampled_from([0, 0, 7])))
        if run.live and data.draw(st.booleans()):
            run.free(data.draw(st.sampled_from(sorted(run.live))))
    snapshot = snapshot_of(run, since)
    assert snapshot.config == config
    found = study(snapshot)
    assert found.addresses.first_different_event is None
    assert found.history.allocated[-1] == found.runs[1].allocated_end_bytes == run.allocator.allocated


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
    outcome = study(snapshot_of(run), AllocConf(config)).runs[-1]
    assert outcome.allocated_peak_bytes == other.allocated_peak
    assert outcome.reserved_peak_bytes == other.reserved_peak
    assert outcome.reserved_end_bytes == other.reserved
    assert outcome.end.free_bytes == other.reserved - other.allocated


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
    for course in study(snapshot_of(run, since), config, capacity).runs[1:]:
        outcome = course
        assert outcome.allocated_peak_bytes <= outcome.reserved_peak_bytes <= capacity
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
    recorded, same, asked = found.runs
    ((out, free),) = found.out_of_memory
    assert (out, free) == (RanOut(10, 18 * MiB, 18 * MiB, 40 * MiB), 10 * MiB)
    assert recorded.fits is False
    assert recorded.ran_out == out
    assert same.capacity_bytes == asked.capacity_bytes == 50 * MiB
    assert same.fits is False
    assert same.ran_out == out
    assert recorded.retries == same.retries == 1


def test_expandable_segments_join_the_two_halves() -> None:
    """In one range the blocks lie at 0, 9, 18 and 27 MiB: the middle two are 18 MiB in one piece, of 40 mapped."""
    asked = study(snapshot_of(a_hole_of_two_halves()), EXPANDABLE).runs[-1]
    assert asked.fits is True
    assert asked.allocated_peak_bytes == 36 * MiB
    assert asked.reserved_peak_bytes == 40 * MiB
    assert asked.end.segments == 1
    assert (asked.end.largest_free_bytes, asked.end.free_bytes) == (18 * MiB, 22 * MiB)


def test_a_capacity_that_is_given_counts_and_not_the_recorded_one() -> None:
    snapshot = snapshot_of(a_hole_of_two_halves())
    assert study(snapshot, None, 58 * MiB).runs[-1].fits is True  # 40 and a segment of 18
    assert study(snapshot, None, 58 * MiB - 1).runs[-1].fits is False


def test_a_start_that_does_not_fit_is_packed_and_then_does() -> None:
    """Three blocks of 4 MiB left in two segments of 20 MiB: packed they need one."""
    run = Recording()
    blocks = [run.malloc(4 * MiB) for _ in range(10)]
    for address in blocks[1:5] + blocks[6:9]:
        run.free(address)
    since = len(run.events)
    run.malloc(MiB // 2)
    snapshot = snapshot_of(run, since)
    (course,) = study(snapshot, None, 42 * MiB).runs[1:]
    assert (course.start, course.reserved_peak_bytes) == ("recorded", 42 * MiB)
    (course,) = study(snapshot, None, 22 * MiB).runs[1:]
    assert (course.start, course.fits, course.reserved_peak_bytes) == ("packed", True, 22 * MiB)
    (course,) = study(snapshot, None, 19 * MiB).runs[1:]
    assert course.ran_out is not None
    assert course.ran_out.event == BEFORE_THE_FIRST


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
    (release,) = releases(snapshot)
    assert release.by_program
    assert snapshot.events[release.last].action == "segment_free"
    asked = study(snapshot, AllocConf(AllocatorConfig(roundup_power2_divisions=2))).runs[-1]
    assert asked.reserved_peak_bytes == (12 + 16) * MiB  # 14 MiB are rounded up to 16
    assert asked.reserved_end_bytes == (12 + 2) * MiB


def test_a_cache_that_the_allocator_released_to_make_room_is_left_to_the_model() -> None:
    """12 MiB are given back when 20 MiB are asked for with 30 in all; with more room nothing is."""
    run = Recording(capacity=30 * MiB)
    run.free(run.malloc(12 * MiB))
    run.malloc(20 * MiB)
    snapshot = snapshot_of(run)
    (release,) = releases(snapshot)
    assert not release.by_program
    exact = study(snapshot)
    assert exact.addresses.first_different_event is None
    assert exact.runs[1].reserved_peak_bytes == 20 * MiB
    asked = study(snapshot, EXPANDABLE, 30 * MiB).runs[1]
    assert (asked.reserved_peak_bytes, asked.retries) == (20 * MiB, 1)
    roomy = study(snapshot, EXPANDABLE, 60 * MiB).runs[1]
    assert (roomy.reserved_peak_bytes, roomy.retries) == (32 * MiB, 0)


def at_its_limit() -> Recording:
    """12 MiB cached are given back for a segment of 20 MiB: with 30 MiB 12 and 20 do not fit together."""
    run = Recording(capacity=30 * MiB)
    run.free(run.malloc(12 * MiB))
    run.malloc(20 * MiB)
    return run


def test_a_released_cache_bounds_the_capacity() -> None:
    """20 MiB were reserved, and 12 + 20 MiB were refused."""
    found = study(snapshot_of(at_its_limit()))
    assert found.capacity == Capacity(20 * MiB, 32 * MiB - 1)
    assert [run.retries for run in found.runs] == [1, 1]


def test_errors_that_found_other_amounts_left_bound_the_capacity() -> None:
    """30 of 50 MiB were held when 20 MiB were left and when 5 were: another process had taken 15."""
    run = Recording(capacity=50 * MiB)
    run.malloc(30 * MiB)
    run.malloc(30 * MiB)
    data = run.data()
    events = data["device_traces"][0]
    events.append(events[-1] | {"device_free": 5 * MiB})
    assert study(parse_snapshot(data, "x.pickle")).capacity == Capacity(35 * MiB, 50 * MiB)


def test_unsplittable_blocks_given_back_alone_are_no_retry() -> None:
    """60 MiB go back for 36 with 100 in all, and the 20 stay (release_available_cached_blocks)."""
    run = Recording(AllocatorConfig(max_split_size=32 * MiB), capacity=100 * MiB)
    for address in [run.malloc(60 * MiB), run.malloc(20 * MiB)]:
        run.free(address)
    run.malloc(36 * MiB)
    assert run.allocator.retries == 0
    found = study(snapshot_of(run))
    assert [each.retries for each in found.runs] == [0, 0]
    assert found.capacity == Capacity(80 * MiB, 116 * MiB - 1)


def test_a_cache_that_the_program_emptied_bounds_nothing() -> None:
    run = Recording()
    run.free(run.malloc(12 * MiB))
    run.empty_cache([frame("/env/site-packages/torch/cuda/memory.py", 1, "empty_cache")])
    run.malloc(20 * MiB)
    assert study(snapshot_of(run)).capacity is None


def test_collecting_garbage_gives_memory_back_without_a_refusal() -> None:
    data = at_its_limit().data()
    data["allocator_settings"]["garbage_collection_threshold"] = 0.8
    assert study(parse_snapshot(data, "x.pickle")).capacity is None


@pytest.mark.parametrize(
    ("more_MiB", "fits", "capacity_MiB"),
    [
        (0, True, 20),  # steps of 16 / 4: 20 MiB stay 20
        (1, None, 20),  # 21 are rounded up to 24: more than the 20 that were held, less than the 32 that were refused
        (13, False, None),  # 33 are 40: refused at any capacity below 32
    ],
)
def test_whether_a_setting_would_have_fitted_is_asked_of_both_bounds(
    more_MiB: int, fits: bool | None, capacity_MiB: int | None
) -> None:
    """A request larger than the recorded one stands in for a setting that needs more."""
    data = at_its_limit().data()
    last = data["device_traces"][0][-1]
    size = last["size"] + more_MiB * MiB
    last["size"] = size
    asked = study(parse_snapshot(data, "x.pickle"), parse_alloc_conf("roundup_power2_divisions:4")).runs[-1]
    assert asked.fits is fits
    assert asked.capacity_bytes == (32 * MiB - 1 if capacity_MiB is None else capacity_MiB * MiB)


def test_with_expandable_segments_what_was_mapped_after_the_release_bounds_the_capacity() -> None:
    """Pages of 2 MiB of small blocks are mapped; 20 MiB are then refused at 28 MiB in all."""
    run = Recording(AllocatorConfig(expandable_segments=True), capacity=28 * MiB)
    small = [run.malloc(MiB) for _ in range(10)]
    for address in small:
        run.free(address)
    run.malloc(15 * MiB)
    snapshot = snapshot_of(run)
    assert study(snapshot).addresses.first_different_event is None
    assert study(snapshot).capacity == Capacity(20 * MiB, 30 * MiB - 1)


def test_a_rest_of_a_block_of_the_start_is_read_off_the_next_request() -> None:
    """4.5 MiB in a hole of 5 MiB keep its rest, and 10 MiB behind it are free; then 6 MiB are asked for.

    Freed later, the block of 5 MiB is known by its request of 4.5 MiB alone: its end is where the 6 MiB begin.
    """
    run = Recording()
    first, hole, *behind = [run.malloc(5 * MiB) for _ in range(4)]
    run.free(hole)
    kept = run.malloc(9 * MiB // 2)
    assert kept == hole
    for address in behind:
        run.free(address)
    since = len(run.events)
    run.malloc(6 * MiB)
    run.free(kept)
    run.free(first)
    run.malloc(10 * MiB)
    found = study(snapshot_of(run, since))
    assert (found.addresses.equal, found.addresses.first_different_event) == (2, None)
    assert found.history.allocated[0] == 10 * MiB


def test_small_pages_that_are_unmapped_together_are_as_long_as_a_large_one() -> None:
    """20 blocks of 1 MiB fill 10 pages of 2 MiB; given back they are 20 MiB in one piece, one page of large blocks."""
    run = Recording(AllocatorConfig(expandable_segments=True))
    blocks = [run.malloc(MiB) for _ in range(20)]
    large = run.malloc(30 * MiB)
    since = len(run.events)
    for address in blocks:
        run.free(address)
    run.empty_cache()
    run.malloc(512)
    run.free(large)
    run.malloc(35 * MiB)
    snapshot = snapshot_of(run, since)
    assert ("segment_unmap", 20 * MiB) in {(event.action, event.size) for event in snapshot.events}
    assert study(snapshot).addresses == Addresses(2, 2, None)


@pytest.mark.parametrize(("pool", "fits"), [((0, 0), True), ((1, 0), False)], ids=["default pool", "private pool"])
def test_the_cache_of_a_private_pool_is_not_given_back_to_make_room(pool: tuple[int, int], fits: bool) -> None:
    """30 MiB lie free in a segment; 40 MiB are asked for with 60 in all: they fit if the 30 go back to the driver."""
    run = Recording()
    run.free(run.malloc(30 * MiB, stream=7))
    run.malloc(40 * MiB)
    data = run.data()
    for event in data["device_traces"][0]:
        event["pool_id"] = pool if event["stream"] == 7 else (0, 0)
    for segment in data["segments"]:
        segment["segment_pool_id"] = pool if segment["stream"] == 7 else (0, 0)
    asked = study(parse_snapshot(data, "x.pickle"), None, 60 * MiB).runs[-1]
    assert asked.fits is fits
