"""What holds for any sequence of requests, under every setting."""

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memmodel.allocator import AllocatorConfig, Block, CachingAllocator
from memmodel.allocator.blocks import SMALL, Pool

MiB = 1 << 20
WHOLE = AllocatorConfig()
EXPANDABLE = AllocatorConfig(expandable_segments=True)
CONFIGS = {
    "whole": WHOLE,
    "expandable": EXPANDABLE,
    "max split": AllocatorConfig(max_split_size=24 * MiB),
    "max split, rounding": AllocatorConfig(max_split_size=30 * MiB, max_non_split_rounding=50 * MiB),
    "power of two": AllocatorConfig(roundup_power2_divisions=4),
    "power of two by interval": AllocatorConfig(roundup_power2_divisions=(8, 2, 0, 4) * 4),
    "segments of 12": AllocatorConfig(large_segment=12 * MiB),
    "segments of 40, max split": AllocatorConfig(large_segment=40 * MiB, max_split_size=64 * MiB),
    "expandable, power of two": AllocatorConfig(expandable_segments=True, roundup_power2_divisions=8),
    "expandable, max split": AllocatorConfig(expandable_segments=True, max_split_size=24 * MiB, large_segment=12 * MiB),
}
IDS, EVERY = list(CONFIGS), list(CONFIGS.values())
PROGRAMS = 1000  # of each setting in the slow test

edges = st.sampled_from([1, 512, 513, SMALL - 1, SMALL, SMALL + 1, 10 * MiB - 1, 10 * MiB, 20 * MiB, 21 * MiB])
sizes = st.one_of(edges, st.integers(1, 4 * MiB), st.integers(1, 64).map(lambda n: n * MiB // 2))
requests = st.tuples(st.just("malloc"), sizes, st.integers(0, 1))
frees = st.tuples(st.just("free"), st.integers(0, 1 << 20), st.just(0))
cache = st.tuples(st.just("empty cache"), st.just(0), st.just(0))
histories = st.lists(st.one_of(requests, requests, requests, frees, frees, cache), max_size=60)
History = list[tuple[str, int, int]]


@dataclass
class Run:
    """An allocator and the blocks that it handed out; `step` holds it to every invariant."""

    allocator: CachingAllocator
    live: list[Block] = field(default_factory=list)

    def step(self, action: str, number: int, stream: int) -> None:
        self.act(action, number, stream)
        self.check()

    def act(self, action: str, number: int, stream: int) -> None:
        if action == "malloc":
            self.malloc(number, stream)
        elif action == "free" and self.live:
            self.allocator.free(self.live.pop(number % len(self.live)))
        elif action == "empty cache":
            self.allocator.empty_cache()

    def malloc(self, requested: int, stream: int) -> None:
        block = self.allocator.malloc(requested, stream)
        if block is None:
            assert self.allocator.failed is not None
            return
        assert block.stream == stream
        assert block.size >= requested
        self.live.append(block)

    def check(self) -> None:
        allocator = self.allocator
        blocks = sorted([*self.live, *free_blocks(allocator)], key=lambda block: block.address)
        for left, right in pairwise(blocks):
            assert left.address + left.size <= right.address
        assert all(block.size % 512 == 0 and block.address % 512 == 0 for block in blocks)
        assert allocator.allocated == sum(block.size for block in self.live)
        assert allocator.reserved == sum(block.size for block in blocks)
        for left, right in pairwise(blocks):
            assert left.allocated or right.allocated or left.next is not right  # free neighbours are merged
        assert allocator.allocated <= allocator.allocated_peak <= allocator.reserved_peak
        assert allocator.driver.capacity is None or allocator.reserved <= allocator.driver.capacity


def free_blocks(allocator: CachingAllocator) -> list[Block]:
    return [*allocator.small.blocks(), *allocator.large.blocks()]


def runs(config: AllocatorConfig, history: History, capacity: int | None) -> Run:
    run = Run(CachingAllocator(capacity, config))
    for action in history:
        run.step(*action)
    return run


@pytest.mark.parametrize("config", EVERY, ids=IDS)
@settings(max_examples=15, deadline=None)
@given(history=histories, capacity=st.sampled_from([None, 100 * MiB]))
def test_blocks_never_overlap_and_add_up_within_the_capacity(
    config: AllocatorConfig, history: History, capacity: int | None
) -> None:
    runs(config, history, capacity)


@pytest.mark.slow
@pytest.mark.parametrize("config", EVERY, ids=IDS)
@pytest.mark.parametrize("capacity", [None, 300 * MiB], ids=["endless", "300 MiB"])
def test_long_random_programs_keep_every_invariant(config: AllocatorConfig, capacity: int | None) -> None:
    """Programs of 50 to 150 requests, in which blocks live long and the cache is emptied now and then."""
    for seed in range(PROGRAMS // 2):
        dice = random.Random(seed)
        run = Run(CachingAllocator(capacity, config))
        for _ in range(10):
            for _ in range(dice.randrange(5, 15)):
                if run.live and dice.random() < 0.45:
                    run.act("free", dice.randrange(1 << 20), 0)
                elif dice.random() < 0.02:
                    run.act("empty cache", 0, 0)
                else:
                    size = dice.randrange(1, dice.choice([MiB, 12 * MiB, 80 * MiB]))
                    run.act("malloc", size, dice.choice([0, 0, 0, 7]))
            run.check()


@pytest.mark.parametrize("config", EVERY, ids=IDS)
@settings(max_examples=15, deadline=None)
@given(history=histories)
def test_all_freed_and_the_cache_emptied_nothing_is_reserved(config: AllocatorConfig, history: History) -> None:
    run = runs(config, history, None)
    for block in run.live:
        run.allocator.free(block)
    run.live.clear()
    if not config.expandable_segments:
        assert all(block.whole_segment for block in free_blocks(run.allocator))
    run.allocator.empty_cache()
    run.check()
    assert run.allocator.allocated == run.allocator.reserved == 0
    assert free_blocks(run.allocator) == []  # no page is mapped


def best_fit(pool: Pool, size: int, stream: int) -> Block | None:
    fitting = [block for block in pool.blocks() if block.stream == stream and block.size >= size]
    return min(fitting, key=lambda block: (block.size, block.address), default=None)


def can_expand(block: Block) -> bool:
    return block.next is not None and not block.next.mapped


@pytest.mark.parametrize("config", [WHOLE, EXPANDABLE], ids=["whole", "expandable"])
@settings(max_examples=60, deadline=None)
@given(history=histories, requested=sizes)
def test_the_best_fit_is_the_smallest_free_block_and_the_lowest_of_equals(
    config: AllocatorConfig, history: History, requested: int
) -> None:
    run = Run(CachingAllocator(config=config))
    for action in history:
        run.step(*action)
    size = config.block_size(requested)
    best = best_fit(run.allocator.small if size <= SMALL else run.allocator.large, size, stream=0)
    expected = None if best is None or can_expand(best) else best.address
    before = run.allocator.reserved
    block = run.allocator.malloc(requested)
    assert block is not None
    assert (run.allocator.reserved > before) == (best is None)
    assert expected in (None, block.address)


@settings(max_examples=60, deadline=None)
@given(history=histories)
def test_expandable_segments_never_allocate_more(history: History) -> None:
    """A rest of up to 1 MiB is split off where a whole segment would keep it inside the block."""
    whole, expandable = Run(CachingAllocator(config=WHOLE)), Run(CachingAllocator(config=EXPANDABLE))
    for action in history:
        whole.step(*action)
        expandable.step(*action)
        assert expandable.allocator.allocated <= whole.allocator.allocated
