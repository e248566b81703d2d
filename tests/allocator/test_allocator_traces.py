"""A trace cut out of a longer run replays from its middle: the state before it is rebuilt from what came after.

Traces here are made with the model itself, so they check the rebuilding; the recorded ones check the model.
"""

import random
from typing import Any

import pytest

from memmodel.allocator import AllocatorConfig, CachingAllocator
from memmodel.allocator.blocks import Block, Pool
from memmodel.allocator.segments import ExpandableSegments
from memmodel.allocator.trace import Segment, TraceEvent, replay_trace

MiB = 1 << 20
CONFIGS = [AllocatorConfig(), AllocatorConfig(expandable_segments=True)]


class Recorder:
    """An allocator whose events are written down as PyTorch's memory history does."""

    def __init__(self, config: AllocatorConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[TraceEvent] = []
        self.live: dict[int, tuple[Block, int, int]] = {}
        self.blocks: set[Block] = set()
        self.allocator = CachingAllocator(config=config)
        self.segments: dict[int, tuple[int, bool, int]] = {}
        if config.expandable_segments:
            original = ExpandableSegments._map

            def mapping(source: Any, block: Block, size: int, pool: Pool) -> bool:
                page = source.page(pool.small)
                for start in range(block.address, block.address + -(-size // page) * page, page):
                    self.segments[start] = (page, pool.small, block.stream)
                self.note("segment_map", block.address, -(-size // page) * page, block.stream)
                return original(source, block, size, pool)

            monkeypatch.setattr(ExpandableSegments, "_map", mapping)

    def note(self, action: str, address: int, size: int, stream: int) -> None:
        self.events.append(TraceEvent(action, address, size, stream))

    def malloc(self, size: int, stream: int) -> None:
        before = self.allocator.reserved
        block = self.allocator.malloc(size, stream)
        assert block is not None
        grown = self.allocator.reserved - before
        if grown and not self.allocator.config.expandable_segments:
            self.segments[block.address] = (grown, block.small, stream)
            self.note("segment_alloc", block.address, grown, stream)
        self.note("alloc", block.address, size, stream)
        self.live[block.address] = (block, size, stream)

    def free(self, address: int) -> None:
        block, size, stream = self.live.pop(address)
        self.note("free_completed", address, size, stream)
        self.allocator.free(block)

    def at_the_end(self) -> list[Segment]:
        found = []
        for start, (size, small, stream) in self.segments.items():
            inside = [
                (address, block.size, requested)
                for address, (block, requested, _) in self.live.items()
                if start <= address < start + size
            ]
            found.append(Segment(start, size, small, stream, tuple(inside)))
        return found


def a_size(dice: random.Random, config: AllocatorConfig) -> int:
    """Small and large requests; large ones leave no rest below 1 MiB, which a trace cannot always tell."""
    small, large = dice.randrange(1, MiB), dice.randrange(MiB + 1, 90 * MiB)
    return dice.choice([small, large if config.expandable_segments else 2 * MiB * (large // (2 * MiB) + 1)])


@pytest.mark.parametrize("config", CONFIGS, ids=["whole", "expandable"])
@pytest.mark.parametrize("seed", range(25))
def test_the_second_half_of_a_run_replays(config: AllocatorConfig, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(seed)
    recorder = Recorder(config, monkeypatch)
    cut = 0
    for step in range(400):
        if step == 200:
            cut = len(recorder.events)
        if recorder.live and dice.random() < 0.45:
            recorder.free(dice.choice(sorted(recorder.live)))
        else:
            recorder.malloc(a_size(dice, config), dice.choice([0, 0, 7]))
    monkeypatch.undo()
    window = recorder.events[cut:]
    result = replay_trace(window, recorder.at_the_end(), config)
    assert result.different == 0
    assert result.equal == sum(event.action == "alloc" for event in window)
    assert result.allocated == result.recorded_allocated == recorder.allocator.allocated


def test_a_wrong_address_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder(AllocatorConfig(), monkeypatch)
    for _ in range(3):
        recorder.malloc(3 * MiB, 0)
    *events, last = recorder.events
    moved = TraceEvent(last.action, last.address + 512, last.size, last.stream)
    segments = [Segment(s.address, s.size, s.small, s.stream, ()) for s in recorder.at_the_end()]
    (block, size, _) = recorder.live.pop(last.address)
    in_use = [(a, b.size, r) for a, (b, r, _) in recorder.live.items()]
    segments[0] = Segment(segments[0].address, segments[0].size, False, 0, (*in_use, (moved.address, block.size, size)))
    assert replay_trace([*events, moved], segments).different == 1
