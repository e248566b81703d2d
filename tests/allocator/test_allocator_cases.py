"""Cases worked out by hand from c10/cuda/CUDACachingAllocator.cpp; sizes in MiB unless said otherwise."""

from itertools import pairwise

import pytest

from memmodel.allocator import AllocatorConfig, Block, CachingAllocator, OutOfMemory
from memmodel.allocator.replay import EMPTY_CACHE, FREE, KEEP, MALLOC, Blocks, Request, serve
from memmodel.predictor import predict

MiB = 1 << 20


def malloc(allocator: CachingAllocator, size_MiB: float) -> Block:
    block = allocator.malloc(round(size_MiB * MiB))
    assert block is not None
    return block


def usage(allocator: CachingAllocator) -> tuple[float, float]:
    return allocator.allocated / MiB, allocator.reserved / MiB


@pytest.mark.parametrize(
    ("request_MiB", "allocated", "reserved"),
    [
        (1, 1, 2),  # small requests come from segments of 2, and 1 is still small
        (5, 5, 20),  # below 10 a segment is 20
        (9.5, 9.5, 20),
        (10, 10, 10),  # from 10 on a segment is the request rounded up to 2: nothing is left
        (10.5, 10.5, 12),  # 1.5 are left: more than 1, so split off
        (11, 12, 12),  # exactly 1 is left: it stays inside the block
        (11.5, 12, 12),  # 0.5 is left: it stays inside the block
        (25, 26, 26),
    ],
)
def test_a_request_on_a_fresh_device(request_MiB: float, allocated: float, reserved: float) -> None:
    allocator = CachingAllocator()
    malloc(allocator, request_MiB)
    assert usage(allocator) == (allocated, reserved)


def test_one_byte_more_than_small_is_large() -> None:
    allocator = CachingAllocator()
    allocator.malloc(MiB + 1)
    assert (allocator.allocated, allocator.reserved) == (MiB + 512, 20 * MiB)


def test_no_byte_is_no_block() -> None:
    allocator = CachingAllocator()
    assert allocator.malloc(0) is None
    allocator.free(None)
    assert (allocator.allocated, allocator.reserved, allocator.failed) == (0, 0, None)


@pytest.mark.parametrize(
    ("request_MiB", "allocated"),
    [
        (31.5, 32),  # 0.5 of the hole is left: it stays inside the block
        (30, 30),  # 2 are left: split off
    ],
)
def test_a_request_in_a_cached_hole_of_32(request_MiB: float, allocated: float) -> None:
    allocator = CachingAllocator()
    allocator.free(malloc(allocator, 32))
    malloc(allocator, request_MiB)
    assert usage(allocator) == (allocated, 32)


def test_the_smallest_hole_that_fits_is_taken() -> None:
    allocator = CachingAllocator()
    holes = {size: malloc(allocator, size) for size in (40, 24, 32)}
    address = holes[24].address
    for hole in holes.values():
        allocator.free(hole)
    assert malloc(allocator, 22).address == address


def test_of_equal_holes_the_lowest_address_is_taken() -> None:
    allocator = CachingAllocator()
    holes = [malloc(allocator, 24) for _ in range(3)]
    for hole in reversed(holes):
        allocator.free(hole)
    assert malloc(allocator, 24).address == min(hole.address for hole in holes)


def test_neighbours_merge() -> None:
    allocator = CachingAllocator()
    first, second, third = (malloc(allocator, 5) for _ in range(3))  # one segment of 20
    allocator.free(first)
    allocator.free(third)  # joins the 5 that are left behind it
    allocator.free(second)  # joins both
    assert malloc(allocator, 19.5).address == first.address
    assert usage(allocator) == (20, 20)  # 0.5 stays inside the block


def test_streams_do_not_share_holes() -> None:
    allocator = CachingAllocator()
    allocator.free(allocator.malloc(32 * MiB, stream=0))
    allocator.malloc(32 * MiB, stream=1)
    assert usage(allocator) == (32, 64)


def test_at_capacity_whole_free_segments_go_back_and_the_request_is_tried_again() -> None:
    allocator = CachingAllocator(capacity=40 * MiB)
    allocator.free(malloc(allocator, 20))
    malloc(allocator, 30)  # 20 + 30 is too much; without the cached 20 it fits
    assert usage(allocator) == (30, 30)
    assert allocator.retries == 1
    assert allocator.failed is None


def test_a_segment_with_a_block_in_use_cannot_go_back() -> None:
    allocator = CachingAllocator(capacity=40 * MiB)
    malloc(allocator, 5)  # 15 of its 20 are free, but split from a block in use
    assert allocator.malloc(30 * MiB) is None
    failed = allocator.failed
    assert failed is not None
    assert (failed.requested, failed.allocated, failed.reserved) == (30 * MiB, 5 * MiB, 20 * MiB)


def test_peaks_start_again_from_the_current_values() -> None:
    allocator = CachingAllocator()
    block = malloc(allocator, 32)
    allocator.free(block)
    assert allocator.allocated_peak == 32 * MiB
    allocator.reset_peak()
    assert (allocator.allocated_peak, allocator.reserved_peak) == (0, 32 * MiB)


MAX_SPLIT_32 = AllocatorConfig(max_split_size=32 * MiB)


@pytest.mark.parametrize(
    ("cached", "request_MiB", "allocated", "reserved"),
    [
        (40, 30, 30, 70),  # blocks of 32 and more are not given to smaller requests
        (40, 35, 40, 40),  # nor split: this one is given whole, 5 too large
        (60, 35, 36, 96),  # 20 and more too large (max_non_split_rounding): refused
        (30, 20, 20, 30),  # below 32 all is as ever
    ],
)
def test_max_split_size(cached: float, request_MiB: float, allocated: float, reserved: float) -> None:
    allocator = CachingAllocator(config=MAX_SPLIT_32)
    allocator.free(malloc(allocator, cached))
    malloc(allocator, request_MiB)
    assert usage(allocator) == (allocated, reserved)


def test_with_max_split_size_a_large_enough_cached_block_is_given_back_before_the_rest() -> None:
    allocator = CachingAllocator(capacity=100 * MiB, config=MAX_SPLIT_32)
    large, small = malloc(allocator, 60), malloc(allocator, 20)
    allocator.free(large)
    allocator.free(small)
    malloc(allocator, 36)  # the 60 is too large to be given; in its place 36 fit, and the 20 stay cached
    assert usage(allocator) == (36, 56)
    assert allocator.retries == 0


@pytest.mark.parametrize(
    ("requested", "block"),
    [
        (1200, 1536),  # up to 512 x 4 nothing changes: a multiple of 512
        (2049, 2560),  # steps of 2048 / 4
        (5 * MiB, 5 * MiB),  # steps of 4 / 4: a step already
        (5 * MiB + 1, 6 * MiB),
        (9 * MiB, 10 * MiB),  # steps of 8 / 4
        (15 * MiB, 16 * MiB),
    ],
)
def test_roundup_power2_divisions_of_4(requested: int, block: int) -> None:
    assert AllocatorConfig(roundup_power2_divisions=4).block_size(requested) == block


EXPANDABLE = AllocatorConfig(expandable_segments=True)


@pytest.mark.parametrize(
    ("request_MiB", "allocated", "reserved"),
    [
        (0.5, 0.5, 2),  # small pages are 2
        (11.5, 11.5, 20),  # large pages are 20, and any rest is split off
        (31, 31, 40),
    ],
)
def test_expandable_segments_map_whole_pages(request_MiB: float, allocated: float, reserved: float) -> None:
    allocator = CachingAllocator(config=EXPANDABLE)
    malloc(allocator, request_MiB)
    assert usage(allocator) == (allocated, reserved)


def test_an_expandable_segment_grows_behind_its_last_block() -> None:
    allocator = CachingAllocator(config=EXPANDABLE)
    first = malloc(allocator, 31)
    second = malloc(allocator, 15)  # 9 of the second page, 6 of a third
    assert second.address == first.address + first.size
    assert usage(allocator) == (46, 60)


def test_an_expandable_segment_gives_back_the_pages_inside_a_hole() -> None:
    allocator = CachingAllocator(config=EXPANDABLE)
    first, second = malloc(allocator, 50), malloc(allocator, 5)
    allocator.free(first)
    allocator.empty_cache()  # pages 0-20 and 20-40 lie inside the hole; 40-60 holds the second block
    assert usage(allocator) == (5, 20)
    allocator.free(second)
    allocator.empty_cache()
    assert usage(allocator) == (0, 0)


def test_a_new_segment_never_reaches_into_the_one_before() -> None:
    """Sizes grow by more than the gap between segments, so each address has to count its own segment's size."""
    allocator = CachingAllocator()
    blocks = [malloc(allocator, size) for size in (12, 8192, 12, 4096)]
    for block, following in pairwise(blocks):
        assert following.address + following.size <= block.address
    for block in blocks:
        allocator.free(block)
    assert malloc(allocator, 12).address == blocks[2].address  # of equal holes the lower


def test_dropout_of_64_sequences_is_predicted() -> None:
    """Its program takes segments of 4 GiB and then of 128 MiB, which used to overlap."""
    (prediction,) = predict("A100", "naive", batch=64, seq=1024, dropout=0.1).predictions
    assert prediction.memory.fits


def cached(allocator: CachingAllocator, *sizes_MiB: float) -> None:
    """Free blocks of these sizes, each a segment of its own."""
    for block in [malloc(allocator, size) for size in sizes_MiB]:
        allocator.free(block)


def test_several_oversize_blocks_are_given_back_largest_first_until_they_are_enough() -> None:
    """No single one holds 80: 60 and then 40 go, 34 stay; of 150 the driver then has 116."""
    allocator = CachingAllocator(150 * MiB, MAX_SPLIT_32)
    cached(allocator, 34, 40, 60)
    malloc(allocator, 80)
    assert usage(allocator) == (80, 34 + 80)
    assert allocator.retries == 0


def test_where_oversize_blocks_are_not_enough_the_rest_of_the_cache_goes_too() -> None:
    """40 is less than the 75 asked for, so the 20 that may be split go as well: the release of a retry."""
    allocator = CachingAllocator(100 * MiB, MAX_SPLIT_32)
    cached(allocator, 20, 40)
    malloc(allocator, 75)
    assert usage(allocator) == (75 + 1, 76)  # a segment of 76, of which 1 is kept unsplit
    assert allocator.retries == 1


@pytest.mark.parametrize(
    ("config", "cached_MiB", "request_MiB", "allocated", "reserved"),
    [
        # an oversize block may be 50 too large instead of 20: 80 is less than 35 + 50, not less than 29 + 50
        (AllocatorConfig(max_split_size=30 * MiB, max_non_split_rounding=50 * MiB), 80, 35, 80, 80),
        (AllocatorConfig(max_split_size=29 * MiB, max_non_split_rounding=50 * MiB), 80, 29, 30, 110),
        # 33 are rounded up to 40 by steps of 32 / 4, which is oversize: the cached 48 are given whole
        (AllocatorConfig(max_split_size=36 * MiB, roundup_power2_divisions=4), 48, 33, 48, 48),
        (AllocatorConfig(max_split_size=42 * MiB, roundup_power2_divisions=4), 48, 33, 40, 88),
        # segments of 40 for requests below 10, and so limits of rounding of 40
        (AllocatorConfig(large_segment=40 * MiB), 5, 9, 9, 40),
        (AllocatorConfig(large_segment=40 * MiB, max_split_size=40 * MiB), 79, 41, 80, 80),
        (AllocatorConfig(large_segment=40 * MiB, max_split_size=40 * MiB), 81, 41, 42, 124),
        # pages of large segments: 31 take one of 40, 41 take two; of 12, three and four
        (AllocatorConfig(large_segment=40 * MiB, expandable_segments=True), 31, 41, 41, 80),
        (AllocatorConfig(large_segment=12 * MiB, expandable_segments=True), 31, 41, 41, 48),
        # rounded up, then split off to the last 512 bytes
        (AllocatorConfig(roundup_power2_divisions=4, expandable_segments=True), 1, 5.25, 6, 22),
        # the oversize block is no best fit, but free address space: it is split all the same
        (AllocatorConfig(max_split_size=24 * MiB, expandable_segments=True), 50, 10, 10, 60),
    ],
)
def test_settings_and_their_combinations(
    config: AllocatorConfig, cached_MiB: float, request_MiB: float, allocated: float, reserved: float
) -> None:
    allocator = CachingAllocator(config=config)
    cached(allocator, cached_MiB)
    malloc(allocator, request_MiB)
    assert usage(allocator) == (allocated, reserved)


def test_expandable_segments_of_two_streams_do_not_share_pages() -> None:
    allocator = CachingAllocator(config=EXPANDABLE)
    allocator.free(allocator.malloc(15 * MiB, stream=0))
    allocator.malloc(15 * MiB, stream=7)
    assert usage(allocator) == (15, 40)


def test_at_capacity_free_pages_are_unmapped_and_mapped_where_they_are_needed() -> None:
    """Holes of 20 before and 20 behind a block of 20: 40 in one piece need the first page behind the last."""
    allocator = CachingAllocator(60 * MiB, EXPANDABLE)
    first, middle, last = (malloc(allocator, 20) for _ in range(3))
    allocator.free(first)
    allocator.free(last)
    block = malloc(allocator, 40)
    assert block.address == middle.address + middle.size
    assert usage(allocator) == (60, 60)
    assert allocator.retries == 1


def test_the_replay_gives_usage_after_each_request() -> None:
    allocator = CachingAllocator()
    requests = [
        Request(MALLOC, "a", 12 * MiB),
        Request(KEEP, "workspace", 512),
        Request(KEEP, "workspace", 512),  # it is there
        Request(MALLOC, "nothing", 0),
        Request(FREE, "nothing"),
        Request(FREE, "a"),
        Request(EMPTY_CACHE, ""),
    ]
    in_MiB = [(allocated / MiB, reserved / MiB) for allocated, reserved in serve(requests, allocator, {})]
    small = 512 / MiB
    assert in_MiB == [
        (12, 12),
        *[(12 + small, 14)] * 4,
        (small, 14),
        (small, 2),
    ]


def test_the_replay_ends_at_the_first_request_that_does_not_fit() -> None:
    allocator = CachingAllocator(20 * MiB)
    blocks: Blocks = {}
    requests = [Request(MALLOC, "a", 12 * MiB), Request(MALLOC, "b", 12 * MiB), Request(FREE, "a")]
    assert list(serve(requests, allocator, blocks)) == [(12 * MiB, 12 * MiB)]
    assert allocator.failed == OutOfMemory(12 * MiB, 12 * MiB, 12 * MiB)
    assert list(blocks) == ["a"]
    with pytest.raises(KeyError):
        list(serve([Request(FREE, "never asked for")], CachingAllocator(), {}))
