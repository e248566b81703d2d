"""The form of a snapshot: what is read, and the sentence for what is not there."""

import copy
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshot_data import MODEL, Data, MiB, Recording, frame

from memmodel.allocator import AllocatorConfig
from memmodel.base.errors import UsageError
from memmodel.report.snapshot import snapshot_dict, snapshot_parts
from memmodel.snapshot.alloc_conf import parse_alloc_conf
from memmodel.snapshot.snapshot import parse_snapshot, recorded_settings
from memmodel.snapshot.study import study


def small_run() -> Data:
    """A few blocks on two streams, some freed, the cache emptied once; its start is lost."""
    run = Recording()
    addresses = [run.malloc(size, stream, MODEL) for size in (3 * MiB, 700, 12 * MiB, 5 * MiB) for stream in (0, 7)]
    since = len(run.events)
    for address in addresses[::2]:
        run.free(address)
    run.empty_cache([frame("memory.py", 1, "empty_cache")])
    run.malloc(11 * MiB, 0, MODEL)
    run.malloc(100, 7)
    return run.data(since)


def refusal(data: Any, device: int | None = None) -> str:
    with pytest.raises(UsageError) as refused:
        study(parse_snapshot(data, "x.pickle", device))
    assert "\n" not in str(refused.value)
    assert "x.pickle" in str(refused.value)
    return str(refused.value)


def without(key: str, *path: Any) -> Data:
    data = small_run()
    part: Any = data
    for step in path:
        part = part[step]
    del part[key]
    return data


@pytest.mark.parametrize(
    ("key", "path", "message"),
    [
        ("segments", (), "the segments is missing"),
        ("device_traces", (), "the device_traces is missing"),
        ("address", ("segments", 1), "the address of segments[1] is missing"),
        ("total_size", ("segments", 1), "the total_size of segments[1] is missing"),
        ("segment_type", ("segments", 0), "the segment_type of segments[0] is missing"),
        ("blocks", ("segments", 0), "the blocks of segments[0] is missing"),
        ("state", ("segments", 0, "blocks", 0), "the state of segments[0].blocks[0] is missing"),
        ("size", ("segments", 0, "blocks", 0), "the size of segments[0].blocks[0] is missing"),
        ("action", ("device_traces", 0, 2), "device_traces[0]: the action of [2] is missing"),
        ("addr", ("device_traces", 0, 1), "event 1 is free_completed with address -1, size 3145728"),
        ("size", ("device_traces", 0, 1), "size 0 and stream 0 (-1: none), expected 1 byte to 4 TiB at an address"),
    ],
)
def test_a_missing_key_is_named(key: str, path: tuple[Any, ...], message: str) -> None:
    assert message in refusal(without(key, *path))


def test_optional_keys_may_be_missing() -> None:
    whole = study(parse_snapshot(small_run(), "x.pickle"))
    for key, path in [
        ("allocator_settings", ()),
        ("device", ("segments", 0)),
        ("segment_pool_id", ("segments", 0)),
        ("is_expandable", ("segments", 0)),
        ("frames", ("device_traces", 0, 0)),
    ]:
        assert study(parse_snapshot(without(key, *path), "x.pickle")).runs == whole.runs


def test_values_of_another_kind_are_named() -> None:
    assert "x.pickle: the whole is [], expected a table" in refusal([])
    assert "device_traces is {}, expected a list" in refusal({"segments": [], "device_traces": {}})
    data = small_run()
    data["device_traces"][0][1]["size"] = "12"
    assert "device_traces[0]: [1].size is '12', expected a whole number" in refusal(data)
    data["device_traces"][0][1]["size"] = 1 << 60
    assert "event 1 is free_completed with address 1099511627776, size 1152921504606846976" in refusal(data)
    data = small_run()
    data["segments"][0]["total_size"] += 512
    assert "do not add up" in refusal(data)


def test_devices() -> None:
    data = small_run()
    data["device_traces"].insert(0, [])
    for segment in data["segments"]:
        segment["device"] = 1
    assert parse_snapshot(data, "x.pickle").device == 1
    assert "nothing of device 0: choose --device 1" in refusal(data, device=0)
    assert "nothing of device -1" in refusal(data, device=-1)
    data["device_traces"].append(copy.deepcopy(data["device_traces"][1]))
    assert "holds events of devices 1, 2: choose one with --device" in refusal(data)
    assert parse_snapshot(data, "x.pickle", 1).device == 1


def test_without_events_its_segments_and_owners_are_read() -> None:
    """On stream 0 are left 12 MiB and 5 MiB; 2 MiB + 20 MiB on stream 7 hold 512 bytes and 1 KiB: by hand below."""
    run = Recording()
    run.malloc(12 * MiB, frames=MODEL)
    kept = run.malloc(9 * MiB, frames=MODEL)
    run.free(kept)
    run.malloc(700)
    found = study(parse_snapshot(run.data() | {"device_traces": [[]]}, "x.pickle"))
    assert [(owner.where.function, owner.nbytes) for owner in found.owners] == [
        ("forward", 12 * MiB),
        ("no stack recorded", 1024),
    ]
    large, small, together = found.pools
    assert (large.reserved_bytes, large.free_bytes, large.largest_free_bytes) == (32 * MiB, 20 * MiB, 20 * MiB)
    assert (small.reserved_bytes, together.segments) == (2 * MiB, 3)
    assert found.addresses.compared == 0
    assert "no events are recorded" in "".join(map(str, snapshot_parts(found)))


def test_without_events_the_device_is_the_one_with_segments() -> None:
    data = small_run() | {"device_traces": [[], [], []]}
    for segment in data["segments"]:
        segment["device"] = 2
    assert parse_snapshot(data, "x.pickle").device == 2
    data["segments"][0]["device"] = 1
    assert "holds segments of devices 1, 2: choose one with --device" in refusal(data)
    assert len(parse_snapshot(data, "x.pickle", 1).segments) == 1


def test_neither_events_nor_segments() -> None:
    assert "no events and no segments: call" in refusal({"device_traces": [[], []], "segments": []})


def test_a_segment_that_is_listed_twice_is_refused() -> None:
    data = small_run()
    again = copy.deepcopy(data["segments"][0])
    assert f"segments overlap at {again['address']:#x}" in refusal(data | {"segments": [*data["segments"], again]})
    again["address"] += again["total_size"] - 512  # only its first block
    assert "segments overlap" in refusal(data | {"segments": [*data["segments"], again]})


def test_events_missing_at_the_end_are_noticed() -> None:
    data = small_run()
    data["segments"] = []
    assert "neither freed nor in use at the end" in refusal(data)
    run = Recording()
    address = run.malloc(512)
    run.free(address)
    run.malloc(512)
    data = run.data()
    del data["device_traces"][0][-1]
    assert "frees a block that is in use after it" in refusal(data)


def test_a_list_named_many_times_is_counted_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few bytes of a pickle name the same list a thousand times."""
    monkeypatch.setattr("memmodel.snapshot.snapshot._MAX_ITEMS", 100_000)
    blocks = [{"size": 512, "state": "inactive"}] * 1000
    known = {"address": 0, "total_size": 512_000, "segment_type": "small", "stream": 0, "blocks": blocks}
    assert "record fewer events" in refusal(small_run() | {"segments": [known] * 1000})


def test_recorded_settings() -> None:
    said = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64,large_segment_size_mb:32"}
    assert recorded_settings(said).config == AllocatorConfig(max_split_size=64 * MiB, large_segment=32 * MiB)
    said = {"PYTORCH_ALLOC_CONF": "expandable_segments:True", "expandable_segments": False, "max_split_size": -1}
    assert recorded_settings(said).config == AllocatorConfig()  # the field tells what was in force
    steps = {"roundup_power2_divisions": {str(1 << i): 4 for i in range(16)}}
    assert recorded_settings(steps).config == AllocatorConfig(roundup_power2_divisions=4)
    assert "not all understood" in recorded_settings({"PYTORCH_ALLOC_CONF": "later_setting:1"}).notes[0]
    assert "defaults are assumed" in recorded_settings(None).notes[0]


def test_segments_say_whether_they_are_expandable_where_no_settings_do() -> None:
    run = Recording(AllocatorConfig(expandable_segments=True))
    run.malloc(25 * MiB)
    data = run.data()
    del data["allocator_settings"]
    assert parse_snapshot(data, "x.pickle").config.expandable_segments


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested data."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


odd = st.sampled_from(
    [None, True, -1, 0, 1, 512, 513, 1 << 20, 1 << 41, 1 << 63, "", "alloc", "oom", 1.5, [], {}, (0, 1)]
)
shifts = st.sampled_from(["segment_alloc", "segment_free", "segment_map", "segment_unmap", "free_completed", "alloc"])


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 1 << 30), values=st.lists(st.one_of(odd, shifts), min_size=1, max_size=3))
def test_whatever_a_file_says_the_answer_is_a_study_or_a_sentence(seed: int, values: list[Any]) -> None:
    dice = random.Random(seed)
    data = small_run()
    for value in values:
        path = dice.choice(places(data))
        part: Any = data
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = value
    message = ""
    try:
        snapshot = parse_snapshot(data, "x.pickle")
        for conf in (None, parse_alloc_conf("expandable_segments:True")):
            found = study(snapshot, conf, 30 * MiB)
            snapshot_dict(found)
            list(snapshot_parts(found))
    except UsageError as error:
        message = str(error)
    assert "\n" not in message
