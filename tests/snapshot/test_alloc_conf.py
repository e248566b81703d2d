"""The settings string, held to PyTorch's own parser where that is installed."""

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memmodel.allocator import AllocatorConfig, CachingAllocator
from memmodel.base.errors import UsageError
from memmodel.snapshot.alloc_conf import parse_alloc_conf

MiB = 1 << 20

GOOD: list[tuple[str, dict[str, Any]]] = [
    ("", {}),
    ("expandable_segments:True", {"expandable_segments": True}),
    ("expandable_segments:True,expandable_segments:False", {}),
    ("max_split_size_mb:128", {"max_split_size": 128 * MiB}),
    (" max_split_size_mb : 128 , ", {"max_split_size": 128 * MiB}),
    ("max_non_split_rounding_mb:50", {"max_non_split_rounding": 50 * MiB}),
    ("large_segment_size_mb:12", {"large_segment": 12 * MiB}),
    ("max_split_size_mb:16,large_segment_size_mb:12", {"large_segment": 12 * MiB, "max_split_size": 16 * MiB}),
    ("roundup_power2_divisions:8", {"roundup_power2_divisions": 8}),
    ("roundup_power2_divisions:1", {}),
    ("roundup_power2_divisions:[256:4,>:4]", {"roundup_power2_divisions": 4}),
    ("backend:native,pinned_num_register_threads:4", {}),
    ("pinned_max_round_threshold_mb:4,pinned_max_cached_size_mb:8", {}),
    ("max_split_size_mb:128MB", {"max_split_size": 128 * MiB}),  # the digits count
    ("max_split_size_mb:-1", {}),  # wraps to the largest number: no limit
    ("garbage_collection_threshold:0.99", {}),
]
BAD = [
    ("expandable_segment:True", "unknown allocator setting 'expandable_segment': did you mean expandable_segments"),
    ("expandable_segments:true", "expected True or False"),
    ("expandable_segments", "expected key:value"),
    ("max_split_size_mb:", "expected key:value"),
    ("max_split_size_mb:19", "expected at least 20"),
    ("max_split_size_mb:many", "expected a whole number"),
    ("max_split_size_mb:99999999999999999999", "expected a whole number"),
    ("max_split_size_mb:1.5", "expected at least 20"),
    ("max_split_size_mb:30,large_segment_size_mb:40", "expected at least 40, the size of large segments"),
    ("max_non_split_rounding_mb:4", "expected at least 20"),
    ("large_segment_size_mb:10", "expected more than 10"),
    ("roundup_power2_divisions:3", "expected powers of two"),
    ("roundup_power2_divisions:0", "expected powers of two"),
    ("roundup_power2_divisions:[3:4]", "expected powers of two"),
    ("roundup_power2_divisions:[256:4", "expected a closing bracket"),
    ("roundup_power2_divisions:[256]", "expected entries such as 256:4"),
    ("garbage_collection_threshold:1.5", "expected a number between 0 and 1"),
    ("garbage_collection_threshold:nan", "expected a number between 0 and 1"),
    ("garbage_collection_threshold:1", "expected a number between 0 and 1"),
    ("garbage_collection_threshold:0", "expected a number between 0 and 1"),
    ("backend:cudaMallocAsync", "only backend:native is modelled"),
    ("pinned_use_background_threads:maybe", "expected True or False"),
    ("pinned_max_cached_size_mb:some", "expected a whole number"),
    ("pinned_num_register_threads:3", "expected a power of two up to 128"),
    ("pinned_reserve_segment_size_mb:0", "expected a whole number above 0"),
    ("max_split_size_mb:30,,", "expected something between two commas"),
    ("max_split_size_mb:30;large_segment_size_mb:12", "expected key:value"),
    ("max_split_size_mb:64 expandable_segments:True", "expected key:value"),  # spaces are passed over
    ("roundup_power2_divisions:[,256:1]", "expected something between two commas"),
    ("roundup_power2_divisions:[256:1:2]", "expected entries such as 256:4"),
]


@pytest.mark.parametrize(("text", "fields"), GOOD)
def test_settings_mean_what_they_say(text: str, fields: dict[str, Any]) -> None:
    assert parse_alloc_conf(text).config == AllocatorConfig(**fields)


@pytest.mark.parametrize(("text", "message"), BAD)
def test_wrong_settings_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        parse_alloc_conf(text)


ANOTHER_DEVICE = [  # a build for CUDA judges these
    *("backend:cudaMallocAsync", "expandable_segment:True"),
    *("pinned_num_register_threads:3", "pinned_reserve_segment_size_mb:0"),
]


@pytest.fixture
def torch_parser() -> Iterator[Callable[[str], None]]:
    """PyTorch's own parser; some settings stay from one call to the next."""
    torch = pytest.importorskip("torch")
    parse = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if parse is None:
        pytest.skip("this torch has no parser without a GPU")
    parse("large_segment_size_mb:20,expandable_segments:False")
    yield parse
    parse("large_segment_size_mb:20,expandable_segments:False")


@pytest.mark.parametrize("text", [t for t, _ in GOOD] + [t for t, _ in BAD if t not in ANOTHER_DEVICE])
def test_torch_refuses_what_is_refused_here(text: str, torch_parser: Callable[[str], None]) -> None:
    assert refused(torch_parser, text, Exception) == refused(parse_alloc_conf, text, UsageError)


LISTS = [
    "2",
    "[256:1,512:2,1024:4,>:8]",
    "[>:2]",
    "[>:2,256:4]",
    "[64:8,>:0]",
    "[4:2,2:4,>:8]",
    "[32768:8,>:4]",
    "[1:2]",
]


@pytest.mark.parametrize("value", [*LISTS, "2,roundup_power2_divisions:[256:8]"])
def test_torch_holds_the_same_divisions(value: str, torch_parser: Callable[[str], None]) -> None:
    """Read from libc10 itself: what it would round a request of each interval to."""
    import torch

    held = ctypes.CDLL(f"{torch.__path__[0]}/lib/libc10.so")[HELD_DIVISIONS]
    held.argtypes, held.restype = [ctypes.c_size_t], ctypes.c_size_t
    text = f"roundup_power2_divisions:{value}"
    torch_parser(text)
    in_torch = tuple(max(held(MiB << interval), 1) for interval in range(16))
    steps = parse_alloc_conf(text).config.roundup_power2_divisions
    assert in_torch == tuple(max(step, 1) for step in (steps if isinstance(steps, tuple) else (steps,) * 16))


HELD_DIVISIONS = "_ZN3c1016CachingAllocator26AcceleratorAllocatorConfig24roundup_power2_divisionsEm"


def test_before_torch_2_9_the_rest_began_at_the_last_entry() -> None:
    """1100 MiB lie in the interval from 1024: in 2.13 steps of 1024 / 4, before steps of 1024 / 8."""
    text = "roundup_power2_divisions:[256:1,512:2,1024:4,>:8]"
    assert parse_alloc_conf(text).config.block_size(1100 * MiB) == 1280 * MiB
    assert parse_alloc_conf(text, torch=(2, 8)).config.block_size(1100 * MiB) == 1152 * MiB


def test_the_limit_of_rounding_follows_the_size_of_segments() -> None:
    """Unsplittable blocks may be up to a large segment too large: 100 for 65 is 35, which is less than 40."""
    config = parse_alloc_conf("large_segment_size_mb:40,max_split_size_mb:64").config
    assert config.max_non_split_rounding == 40 * MiB
    allocator = CachingAllocator(config=config)
    allocator.free(allocator.malloc(100 * MiB))
    allocator.malloc(65 * MiB)
    assert (allocator.allocated, allocator.reserved) == (100 * MiB, 100 * MiB)


def refused(parse: Any, text: str, error: type[Exception]) -> bool:
    try:
        parse(text)
    except error:
        return True
    return False


@pytest.mark.parametrize(
    ("requested", "block"),
    [
        (700 * 1024, 704 * 1024),  # below 256 MiB as the first entry says: steps of 512 KiB / 8 = 64 KiB
        (300 * MiB, 320 * MiB),  # from 256: steps of 256 MiB / 8 = 32 MiB
        (600 * MiB, 768 * MiB),  # from 512: steps of 512 MiB / 2 = 256 MiB
        (1025 * MiB, 1025 * MiB),  # from 1024: off
        (5000 * MiB, 5120 * MiB),  # all above: steps of 4096 MiB / 4 = 1024 MiB
    ],
)
def test_divisions_differ_by_interval(requested: int, block: int) -> None:
    config = parse_alloc_conf("roundup_power2_divisions:[256:8,512:2,1024:0,2048:4,>:4]").config
    assert config.block_size(requested) == block


@given(requested=st.integers(1, 1 << 37), steps=st.sampled_from([2, 4, 8, 16]))
def test_the_same_divisions_in_every_interval_are_the_plain_setting(requested: int, steps: int) -> None:
    listed = parse_alloc_conf(f"roundup_power2_divisions:[1:{steps},>:{steps}]").config
    assert listed.block_size(requested) == AllocatorConfig(roundup_power2_divisions=steps).block_size(requested)


def test_what_is_not_modelled_is_said() -> None:
    (note,) = parse_alloc_conf("garbage_collection_threshold:0.8").notes
    assert note.startswith("garbage_collection_threshold is not modelled")
    assert parse_alloc_conf("pinned_use_background_threads:True").notes == ()


@given(text=st.text(st.sampled_from("expandable_segments:True,[]>0123 max_split_size_mb"), max_size=40))
def test_any_text_is_settings_or_a_sentence(text: str) -> None:
    assert refused(parse_alloc_conf, text, UsageError) in (True, False)
