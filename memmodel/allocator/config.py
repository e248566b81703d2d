"""The allocator's settings, with PyTorch's defaults (c10/core/AllocatorConfig.h)."""

from dataclasses import dataclass

from memmodel.allocator.blocks import (
    LARGE_SEGMENT,
    MIN_BLOCK,
    MIN_LARGE,
    ROUND_LARGE,
    SMALL,
    SMALL_SEGMENT,
    round_up,
)


@dataclass(frozen=True, slots=True)
class AllocatorConfig:
    """What `PYTORCH_ALLOC_CONF` sets; sizes in bytes.

    Attributes:
        expandable_segments: map pages on demand into one address range per stream and pool.
        max_split_size: blocks of at least this are never split, nor given to smaller requests; None is no limit.
        max_non_split_rounding: how much larger than the request such a block may be.
        roundup_power2_divisions: steps between powers of two that requests are rounded to; 0 or 1 is off.
        large_segment: the segment for requests between 1 and 10 MiB.
    """

    expandable_segments: bool = False
    max_split_size: int | None = None
    max_non_split_rounding: int = LARGE_SEGMENT
    roundup_power2_divisions: int = 0
    large_segment: int = LARGE_SEGMENT

    def block_size(self, requested: int) -> int:
        """The block a request needs (round_size)."""
        if requested < MIN_BLOCK:
            return MIN_BLOCK
        divisions = self.roundup_power2_divisions
        if divisions > 1 and requested > MIN_BLOCK * divisions:
            return _next_division(requested, divisions)
        return round_up(requested, MIN_BLOCK)

    def segment_size(self, block: int) -> int:
        """The segment asked of the driver for a block (get_allocation_size)."""
        if block <= SMALL:
            return SMALL_SEGMENT
        return self.large_segment if block < MIN_LARGE else round_up(block, ROUND_LARGE)

    def unsplittable(self, size: int) -> bool:
        """Whether a block of this size is kept whole."""
        return self.max_split_size is not None and size >= self.max_split_size


def _next_division(size: int, divisions: int) -> int:
    """The next multiple of 1/divisions of the power of two below (roundup_power2_next_division)."""
    floor = 1 << (size.bit_length() - 1)
    step = floor >> (divisions.bit_length() - 1)
    return floor << 1 if step == 0 else round_up(size, step)
