"""The allocator's settings, with PyTorch's defaults (c10/core/AllocatorConfig.h)."""

from typing import Any

from memmodel.allocator.blocks import (
    LARGE_SEGMENT,
    MIN_BLOCK,
    MIN_LARGE,
    ROUND_LARGE,
    SMALL,
    SMALL_SEGMENT,
    MiB,
    round_up,
)
from memmodel.base.errors import UsageError, check_kind, shortened
from memmodel.base.frozen import Frozen

INTERVALS = 16  # of roundup_power2_divisions: from 1 MiB, each twice as long as the one before, the last unbounded


class AllocatorConfig(Frozen):
    """The settings of `PYTORCH_ALLOC_CONF`; sizes in bytes.

    Attributes:
        expandable_segments: map pages on demand into one address range per stream and pool.
        max_split_size: blocks of at least this are never split, nor given to smaller requests; None for no limit.
        max_non_split_rounding: how much larger than the request such a block may be; None for `large_segment`.
        roundup_power2_divisions: steps between powers of two that requests are rounded to; 0 or 1 is off. A tuple
            holds the steps of each of the 16 intervals.
        large_segment: the segment for requests between 1 and 10 MiB.
    """

    expandable_segments: bool = False
    max_split_size: int | None = None
    max_non_split_rounding: int | None = None
    roundup_power2_divisions: int | tuple[int, ...] = 0
    large_segment: int = LARGE_SEGMENT

    def __post_init__(self) -> None:
        """Normalise equivalent settings, so that they compare equal. Raises UsageError for what is no setting."""
        self._check()
        if self.max_non_split_rounding is None:
            object.__setattr__(self, "max_non_split_rounding", self.large_segment)
        steps = self.roundup_power2_divisions
        if isinstance(steps, tuple) and len({max(step, 1) for step in steps}) == 1:
            object.__setattr__(self, "roundup_power2_divisions", steps[0])
        if self.roundup_power2_divisions == 1:
            object.__setattr__(self, "roundup_power2_divisions", 0)

    def _check(self) -> None:
        check_kind("expandable_segments", self.expandable_segments, bool, "True or False")
        limits = {name: getattr(self, name) for name in ("max_split_size", "max_non_split_rounding")}
        known = {name: limit for name, limit in limits.items() if limit is not None}
        for name, size in {"large_segment": self.large_segment, **known}.items():
            if not isinstance(size, int) or size < 1:
                raise UsageError(f"{name} {shortened(size)}: expected a number of bytes")
        given: Any = self.roundup_power2_divisions
        steps = given if isinstance(given, tuple) else (given,) * INTERVALS
        # No bit twice: a power of two, or none.
        if len(steps) != INTERVALS or not all(isinstance(one, int) and one >= 0 and not one & one - 1 for one in steps):
            raise UsageError(
                f"roundup_power2_divisions {shortened(given)}: expected a power of two, or {INTERVALS} in a tuple"
            )

    def block_size(self, requested: int) -> int:
        """The block a request needs (round_size)."""
        if requested < MIN_BLOCK:
            return MIN_BLOCK
        divisions = self.roundup_power2_divisions
        if divisions:
            if isinstance(divisions, tuple):
                divisions = divisions[_interval(requested)]
            if divisions > 1 and requested > MIN_BLOCK * divisions:
                return _next_division(requested, divisions)
        return -(-requested // MIN_BLOCK) * MIN_BLOCK

    def segment_size(self, block: int) -> int:
        """The segment asked of the driver for a block (get_allocation_size)."""
        if block <= SMALL:
            return SMALL_SEGMENT
        return self.large_segment if block < MIN_LARGE else round_up(block, ROUND_LARGE)

    def unsplittable(self, size: int) -> bool:
        """Whether a block of this size is never split."""
        return self.max_split_size is not None and size >= self.max_split_size


def _interval(requested: int) -> int:
    """Index of the interval of roundup_power2_divisions that holds a request."""
    return min(max(0, (requested // MiB).bit_length() - 1), INTERVALS - 1)


def _next_division(size: int, divisions: int) -> int:
    """The next multiple of 1/divisions of the power of two below (roundup_power2_next_division)."""
    floor = 1 << (size.bit_length() - 1)
    step = floor >> (divisions.bit_length() - 1)  # divisions are a power of two, whose logarithm this is
    return floor << 1 if step == 0 else round_up(size, step)
