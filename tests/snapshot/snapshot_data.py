"""Snapshots for tests: written down while the model runs, as PyTorch does, or made of a recorded trace."""

import pickle
from itertools import count
from pathlib import Path
from typing import Any

from memmodel.allocator import AllocatorConfig, Block, CachingAllocator
from memmodel.allocator.blocks import round_up
from memmodel.allocator.segments import ExpandableSegments

KiB, MiB = 1 << 10, 1 << 20
Data = dict[str, Any]


def frame(filename: str, line: int, name: str) -> Data:
    return {"filename": filename, "line": line, "name": name}


MODEL = [frame("??", 0, "at::empty_cuda"), frame("/home/me/model.py", 10, "forward")]


class Recording:
    """An allocator of the model whose events are written down."""

    def __init__(self, config: AllocatorConfig | None = None, capacity: int | None = None) -> None:
        addresses = count(1 << 40, 1 << 36)  # of 64 bit, unlike the model's own ranges
        self.allocator = CachingAllocator(capacity, config, lambda: next(addresses))
        self.events: list[Data] = []
        self.live: dict[int, tuple[Block, int, list[Data]]] = {}
        self.seen: set[Block] = set()
        self.frames: list[Data] = []
        self._watch()

    def _watch(self) -> None:
        source: Any = self.allocator.source
        release = source.release_block
        if isinstance(source, ExpandableSegments):
            mapping = source._map

            def mapped(block: Block, size: int, pool: Any) -> bool:
                address, bytes_ = block.address, round_up(size, source.page(pool.small))
                done: bool = mapping(block, size, pool)
                if done:
                    self.note("segment_map", address, bytes_, block.stream)
                return done

            def unmapped(block: Block, pool: Any) -> None:
                assert block.base is not None
                first = block.base + round_up(block.address - block.base, source.page(pool.small))
                before = self.allocator.reserved
                release(block, pool)
                if self.allocator.reserved < before:
                    self.note("segment_unmap", first, before - self.allocator.reserved, block.stream)

            source._map, source.release_block = mapped, unmapped
            return
        grow = source.grow

        def grown(size: int, stream: int, pool: Any) -> Block | None:
            block: Block | None = grow(size, stream, pool)
            if block is not None:
                self.note("segment_alloc", block.address, block.size, stream)
            return block

        def released(block: Block, pool: Any) -> None:
            self.note("segment_free", block.address, block.size, block.stream)
            release(block, pool)

        source.grow, source.release_block = grown, released

    def note(self, action: str, address: int, size: int, stream: int = 0) -> None:
        known = {"action": action, "addr": address, "size": size, "stream": stream, "time_us": len(self.events)}
        self.events.append({**known, "frames": list(self.frames)})

    def malloc(self, size: int, stream: int = 0, frames: list[Data] | None = None) -> int:
        """The address of a new block; 0 where memory is out, which is written down too."""
        self.frames = frames or []
        block = self.allocator.malloc(size, stream)
        if block is None:
            capacity = self.allocator.driver.capacity
            assert capacity is not None
            self.note("oom", 0, size, stream)
            self.events[-1]["device_free"] = capacity - self.allocator.reserved
            del self.events[-1]["addr"]
            return 0
        self.note("alloc", block.address, size, stream)
        self.live[block.address] = block, size, self.frames
        self.frames = []
        return block.address

    def free(self, address: int) -> None:
        block, size, _ = self.live.pop(address)
        self.note("free_requested", address, size, block.stream)
        self.note("free_completed", address, size, block.stream)
        self.allocator.free(block)

    def empty_cache(self, frames: list[Data] | None = None) -> None:
        self.frames = frames or []
        self.allocator.empty_cache()
        self.frames = []

    def data(self, since: int = 0) -> Data:
        """The snapshot, with the events from `since` on."""
        config = self.allocator.config
        settings = {
            "PYTORCH_CUDA_ALLOC_CONF": "",
            "expandable_segments": config.expandable_segments,
            "max_split_size": -1 if config.max_split_size is None else config.max_split_size,
            "roundup_power2_divisions": {str(1 << i): config.roundup_power2_divisions for i in range(16)},
        }
        in_use = [block for block, *_ in self.live.values()]
        segments = [self._segment(run) for run in self.allocator.segments(in_use)]
        return {"segments": segments, "device_traces": [self.events[since:]], "allocator_settings": settings}

    def _segment(self, run: list[Block]) -> Data:
        return segment(run[0].address, run[0].small, [self._block(b) for b in run], run[0].stream) | {
            "is_expandable": self.allocator.config.expandable_segments
        }

    def _block(self, block: Block) -> Data:
        if not block.allocated:
            return {"address": block.address, "size": block.size, "requested_size": 0, "state": "inactive"}
        _, requested, frames = self.live[block.address]
        known = {"address": block.address, "size": block.size, "requested_size": requested, "frames": frames}
        return known | {"state": "active_allocated"}


def segment(address: int, small: bool, blocks: list[Data], stream: int = 0) -> Data:
    return {
        "device": 0,
        "address": address,
        "total_size": sum(block["size"] for block in blocks),
        "stream": stream,
        "segment_type": "small" if small else "large",
        "segment_pool_id": (0, 0),
        "blocks": blocks,
    }


def written(data: Any, folder: Path, protocol: int = 4) -> str:
    """The path of a pickle of the data."""
    path = folder / "snapshot.pickle"
    path.write_bytes(pickle.dumps(data, protocol))
    return str(path)
