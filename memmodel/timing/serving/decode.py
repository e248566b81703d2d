"""The time of attention of one new token a sequence over a cache, as serving stacks run it: keys split over programs.

    programs = batch x kv heads x ceil(rows / pack)          rows: query heads of a group x new tokens
    splits   = as many as fill the SMs, or FlashAttention-2's whole waves
    key      = ((dim_clocks + row_clocks rows / 64) 128 (d / 128)^power + key_clocks) (1 + far missed) / size   clocks
    busy     = waves x (prologue + prologue_head d / 128 + keys of a split x key) / clock
    moved    = ((HBM + L2 hit)^3 + (L2 missed)^3)^(1/3)       HBM: bytes x missed x (1 + loss) / bandwidth
    time     = launch + combining + copies + (busy^3 + moved^3)^(1/3)

hit = 1 - missed is the share of K and V that L2 holds since the call before: servers' benchmarks repeat a call, and so
do these times. Cubes stand for an overlap that is nearly whole: the longer of two counts, and both if they are equal.
"""

from typing import NamedTuple

from memmodel.attention.case import Case
from memmodel.rules import flash_buffers
from memmodel.sizes.dims import ceil_div, each, maximum, minimum
from memmodel.timing.serving.chip import Chip
from memmodel.timing.serving.parts import Parts, Seconds, bytes_of_a_key, bytes_of_queries

_KEYS_AT_ONCE = 16  # that a program loads: the least step in the length of its split
_PARTIAL_BYTES = 8  # fp32, written by a split and read by the kernel that combines them


class Decode(NamedTuple):
    """The constants of a decoding kernel.

    Attributes:
        pack: rows of a group's queries that one program takes. resident: programs that run on an SM at once.
        widest: times that a program grows, in threads, where there are too few to fill the SMs; 1 never.
        most_splits: of a program's keys. least_keys: of a split. whole_waves: FlashAttention-2's splits (0 or 1).
        itemsize: bytes of an element of the cache; 0 takes the case's.
        launch: seconds of every call. single: more of them where a group is one head. split: where splits are combined.
        dim_clocks, row_clocks, power, key_clocks, far: clocks a key, as above.
        prologue, prologue_head: clocks of a program's start, and more of them at head dim 128.
        cold: seconds until memory delivers at its rate, where keys come from there: latency, pages of a TLB.
        loss: time that memory takes beyond its listed bandwidth, as a share. l2_rate: bytes from L2, a clock and SM.
        cap, width: in L2s: a cache of up to `cap` stays there, one beyond `cap` + `width` does not.
        combine: passes over the splits' results.
        swap: seconds of copies where a group's heads take the place of queries. narrow: where values are narrower.
    """

    pack: int
    resident: int
    widest: int
    most_splits: int
    least_keys: int
    whole_waves: int
    itemsize: int
    launch: float
    single: float
    split: float
    dim_clocks: float
    row_clocks: float
    power: float
    key_clocks: float
    far: float
    prologue: float
    prologue_head: float
    cold: float
    loss: float
    l2_rate: float
    cap: float
    width: float
    combine: float
    swap: float
    narrow: float


class _Grid(NamedTuple):
    """Programs of a launch, splits counted; the threads and places of one; the rows that it takes."""

    programs: Seconds
    splits: Seconds
    size: Seconds
    resident: Seconds
    rows: Seconds
    tiles: Seconds


def decode_parts(case: Case, chip: Chip, kernel: Decode) -> Parts:
    """Seconds of `case.seq` new tokens a sequence (one, or a few) over `case.kv_seq` keys."""
    keys = case.kv_seq if case.mask.window is None else minimum(case.kv_seq, case.mask.window + case.seq - 1)
    grid = _grid(case, keys, chip, kernel)
    itemsize = case.cache.dtype.itemsize if case.cache.dtype else kernel.itemsize or case.dtype.itemsize
    cache = bytes_of_a_key(case) * keys * itemsize / case.dtype.itemsize
    missed = minimum(1.0, maximum(0.0, (cache / chip.l2 - kernel.cap) / kernel.width))
    near = kernel.l2_rate * chip.sms * chip.clock
    hbm = (cache + bytes_of_queries(case)) * missed * (1 + kernel.loss) / chip.bandwidth
    l2 = cache * grid.tiles / near
    busy, moved = _busy(case, keys, missed, grid, chip, kernel), _overlapped(hbm + l2 * (1 - missed), l2 * missed)
    split, group = grid.splits > 1, case.heads // case.kv_heads
    partial = grid.splits * case.batch * case.heads * case.seq * case.value_dim * _PARTIAL_BYTES
    # Groups of one KV head become rows by a view; of several, q and out are copied (FlashAttention-2).
    swapped = kernel.swap * ((group > 1) & (case.kv_heads > 1)) * (1 + (case.batch > 1)) / 2
    beside = {
        "no overlap": _overlapped(busy, moved) - maximum(busy, moved),
        "cold memory": kernel.cold * missed,
        "combining": (kernel.split + kernel.combine * partial / near) * split,
        "copies": swapped + kernel.narrow * (case.value_dim < case.head_dim),
        "launch": kernel.launch + kernel.single * (group == 1),
    }
    return Parts(busy, moved, beside)


def _overlapped(a: Seconds, b: Seconds) -> Seconds:
    """The longer of two, and more where they are alike: 1.26 times either if they are equal."""
    return (a**3 + b**3) ** (1 / 3)


def _grid(case: Case, keys: Seconds, chip: Chip, kernel: Decode) -> _Grid:
    rows = case.heads // case.kv_heads * case.seq
    tiles = ceil_div(rows, kernel.pack)
    programs = case.batch * case.kv_heads * tiles
    size = minimum(kernel.widest, ceil_div(chip.sms * kernel.resident, programs))
    resident = maximum(1, kernel.resident // size)
    if kernel.whole_waves:
        blocks = ceil_div(keys, flash_buffers.keys_of_a_block(case.head_dim))
        splits = each(flash_buffers.splits, programs, 2 * chip.sms, blocks, kernel.most_splits)
    else:
        room = minimum(kernel.most_splits, ceil_div(keys, kernel.least_keys))
        splits = maximum(1, minimum(chip.sms * resident // programs, room))
    return _Grid(programs * splits, splits, size, resident, minimum(rows, kernel.pack), tiles)


def _busy(case: Case, keys: Seconds, missed: Seconds, grid: _Grid, chip: Chip, kernel: Decode) -> Seconds:
    """Seconds of the programs, in waves: each waits for its keys one block after another."""
    head = (case.head_dim + case.value_dim) / 2
    of_head = (kernel.dim_clocks + kernel.row_clocks * grid.rows / 64) * 128 * (head / 128) ** kernel.power
    key = (of_head + kernel.key_clocks) * (1 + kernel.far * missed) / grid.size
    own = ceil_div(ceil_div(keys, grid.splits), _KEYS_AT_ONCE) * _KEYS_AT_ONCE
    waves = ceil_div(grid.programs, chip.sms * grid.resident)
    return waves * (kernel.prologue + kernel.prologue_head * head / 128 + own * key) / chip.clock
