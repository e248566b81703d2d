"""The time of attention over many new tokens, as serving stacks run it: one fused kernel, and the cache's writes.

    pair    = products x 4 d / FLOP per clock of an SM + exp / exponentials per clock of an SM       clocks
    program = visited blocks x rows x cols x pair + prologue
    body    = max(longest program, programs / SMs + tail x longest program, bytes once / bandwidth)
              max(programs of the busiest SM, bytes once / bandwidth)                 where a plan deals them out
    time    = launch + body (1 + sag body / (sag_after + body)) + copies / bandwidth + token x tokens / SMs

The same code runs on ints and on arrays, one element for each row of a table: fits use arrays.
"""

from functools import cache, partial
from typing import NamedTuple

from memmodel.attention.case import Case
from memmodel.attention.masks import Mask
from memmodel.sizes.dims import ceil_div, each, maximum
from memmodel.timing.serving.chip import Chip
from memmodel.timing.serving.parts import Parts, Seconds, bytes_of_a_key, bytes_of_queries


class Prefill(NamedTuple):
    """The constants of a prefill kernel at one head dim.

    Attributes:
        rows, cols: of the tile that a program works on: queries, and keys at a time.
        splits: whether programs share the keys of one tile where there are fewer tiles than SMs (0 or 1).
        dealt: whether SM i works on tiles i, i + SMs, i + 2 SMs, ... of all heads in order, however long (0 or 1).
        launch: seconds that every call takes: launches, and the stack's own work.
        products: clocks of a pair's products, as a multiple of those at the peak. exp: the same of its exponential.
        prologue: clocks at the start of a program of 128 rows and head dim 128.
        tail: share of the longest program that runs after the others have ended.
        sag: the most that falling clocks add to a long call. sag_after: seconds of a call that meets half of it.
        query_copies: passes over Q and O, cache_copies: over the new K and V, beside attention's own reads.
        token: clocks of one SM that a new token costs where its K and V are written to the cache.
    """

    rows: int
    cols: int
    splits: int
    launch: float
    products: float
    exp: float
    prologue: float
    tail: float
    sag: float
    sag_after: float
    query_copies: float
    cache_copies: float
    token: float
    dealt: int = 0


def prefill_parts(case: Case, chip: Chip, kernel: Prefill) -> Parts:
    """Seconds of a prefill of `case.seq` new tokens a sequence, which see `case.kv_seq` keys, the older ones cached."""
    units, longest = _programs(case, chip, kernel)
    queries, key = bytes_of_queries(case), bytes_of_a_key(case)
    memory = (queries + key * case.kv_seq) / chip.bandwidth
    body = maximum(maximum(longest, units + (0 if kernel.dealt else kernel.tail) * longest), memory)
    copies = (kernel.query_copies * queries + kernel.cache_copies * key * case.seq) / chip.bandwidth
    beside = {
        "waves": body - maximum(units, memory),
        "clocks": body * kernel.sag * body / (kernel.sag_after + body),
        "cache": copies + kernel.token * case.batch * case.seq / (chip.sms * chip.clock),
        "launch": kernel.launch,
    }
    return Parts(units, memory, beside)


def _programs(case: Case, chip: Chip, kernel: Prefill) -> tuple[Seconds, Seconds]:
    """Seconds of all programs on all SMs, and of the longest one; where they are dealt out, of the busiest SM's."""
    rows, cols, head = kernel.rows, kernel.cols, (case.head_dim + case.value_dim) / 2
    pair = kernel.products * 4 * head / chip.flop_per_clock + kernel.exp / chip.exp_per_clock
    prologue = kernel.prologue * rows * head / 128**2
    heads = case.batch * case.heads
    programs = heads * ceil_div(case.seq, rows)
    sharing = maximum(1, chip.sms // programs) if kernel.splits else 1  # idle SMs take keys of others' tiles
    visited = heads * case.mask.blocks(case.seq, case.kv_seq, rows, cols)
    most = case.mask.most_keys(case.seq, case.kv_seq, rows, cols)
    total = visited * rows * cols * pair + programs * prologue
    longest = most * rows * cols * pair / sharing + prologue
    if kernel.dealt:
        deal = partial(_most_dealt, case.mask, rows, cols, chip.sms)
        blocks = each(deal, heads, case.seq, case.kv_seq)
        longest = blocks * rows * cols * pair + ceil_div(programs, chip.sms) * prologue
    return total / (chip.sms * chip.clock), longest / chip.clock


@cache  # fits ask for the same rows again and again
def _most_dealt(mask: Mask, rows: int, cols: int, sms: int, heads: int, n: int, m: int) -> int:
    """The blocks of the busiest SM, where SM i works on tiles i, i + SMs, i + 2 SMs, ... of all heads in order.

    A causal mask makes a head's tiles longer and longer. Where their number and that of the SMs have a common divisor,
    an SM meets the same few of them again and again: 8 tiles and 152 SMs, always the same one.
    """
    ends = [min(n, row + rows) for row in range(0, n, rows)]
    visited = [mask.most_keys(end, m - n + end if mask.causal else m, rows, cols) for end in ends]
    tiles = len(visited)
    found = 0
    for first in range(min(tiles, sms, heads * tiles)):  # SMs after these meet the same tiles, no more of them
        own = ceil_div(heads * tiles - first, sms)
        cycle = [visited[(first + k * sms) % tiles] for k in range(min(own, tiles))]
        found = max(found, own // tiles * sum(cycle) + sum(cycle[: own % tiles]))
    return found
