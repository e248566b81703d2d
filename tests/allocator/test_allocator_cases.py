"""Cases worked out by hand from c10/cuda/CUDACachingAllocator.cpp; sizes in MiB unless said otherwise."""

from itertools import pairwise

import pytest

from memmodel.allocator import AllocatorConfig, Block, CachingAllocator
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
    """Sizes fall by more than the gap between segments, so each address has to count its own segment's size."""
    allocator = CachingAllocator()
    blocks = [malloc(allocator, size) for size in (8192, 12, 4096, 12)]
    for block, following in pairwise(blocks):
        assert block.address + block.size <= following.address
    for block in blocks:
        allocator.free(block)
    assert malloc(allocator, 12).address == blocks[1].address  # of equal holes the lower


def test_dropout_of_64_sequences_is_predicted() -> None:
    """Its program takes segments of 4 GiB and then of 128 MiB, which used to overlap."""
    (prediction,) = predict("A100", "naive", batch=64, seq=1024, dropout=0.1).predictions
    assert prediction.memory.fits
