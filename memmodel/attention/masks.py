"""Masks, with two counts: the exact score pairs, and the blocks that a tiled kernel visits.

The n queries align with the last of the m keys (bottom-right alignment): query i is at key position i + m - n. n and m
may be ints, arrays or symbols (taken as multiples of the tile); tiles are ints.
"""

from typing import Any, NamedTuple

from memmodel.base.errors import UsageError, choice
from memmodel.sizes.dims import Dim, ceil_div, exact_div, maximum, minimum, same, symbolic


class Mask(NamedTuple):
    """The keys that a query sees: all, those not after it (`causal`), or only the last `window` of these.

    `window` counts keys, including that at the query's own position; it implies `causal`. The first `sinks` keys stay
    seen by every query after them, beside the window (Xiao et al., "Efficient Streaming Language Models with Attention
    Sinks", 2023).
    """

    causal: bool = False
    window: Dim | None = None
    sinks: int = 0

    @property
    def name(self) -> str:
        """The mask's name: none, causal or window."""
        return "window" if self.window is not None else "causal" if self.causal else "none"

    def pairs(self, n: Dim, m: Dim) -> Dim:
        """The exact number of unmasked score pairs of n queries and m keys."""
        if not self.causal:
            return n * m
        seen = n * (m - n) + triangle(n) if self._all_see(n, m) else triangle(m)
        if self.window is None:
            return seen
        beyond = maximum(m - self.window - self.sinks, 0)  # keys that the last query does not see
        unseen = triangle(minimum(beyond, n)) + maximum(beyond - n, 0) * n
        return seen - unseen

    def keys(self, n: Dim, m: Dim) -> Dim:
        """The number of keys, of m, that at least one of n queries sees: the sinks and those inside some window."""
        return m if self.window is None or same(n, m) else minimum(m, n + self.window - 1 + self.sinks)

    def _all_see(self, n: Dim, m: Dim) -> bool:
        """Whether each query sees a key (n <= m). Raises UsageError for arrays where only some do."""
        if symbolic(m - n):
            return True
        shorter = m < n
        if not isinstance(shorter, bool) and shorter.any():
            raise UsageError("a sweep over causal masks needs kv-seq at least seq everywhere")
        return not shorter if isinstance(shorter, bool) else True

    def blocks(self, n: Dim, m: Dim, rows: int, cols: int) -> Dim:
        """The number of blocks of `rows` queries by `cols` keys that hold at least one unmasked pair."""
        tiles = ceil_div(n, rows)
        if not self.causal:
            return tiles * ceil_div(m, cols)
        if symbolic(n, m):
            return self._symbolic_blocks(n, m, rows, cols)
        offset = m - n
        # Row tile i sees keys up to min(m, (i + 1) rows + offset), from i rows + offset - window + 1 on.
        ends = _ramp(tiles - 1, rows, rows + offset, cols, up=True) + ceil_div(m, cols)
        if self.window is None:
            return ends
        # Blocks before a tile's first one are not visited, but for those of the sinks.
        starts = _ramp(tiles, rows, offset - self.window + 1 - ceil_div(self.sinks, cols) * cols, cols, up=False)
        return ends - starts

    def edge_blocks(self, n: Dim, rows: int, cols: int) -> Dim:
        """Blocks that the mask's edge crosses, for tiles aligned with it: only these need masking.

        The diagonal leaves a tile of `rows` queries after `rows` keys; a window has a second edge, and sinks have
        theirs inside a block.
        """
        if not self.causal:
            return 0
        edges = ceil_div(n, rows) * ceil_div(rows, cols) * (1 if self.window is None else 2)
        return edges + ceil_div(n, rows) if self.sinks % cols else edges

    def most_keys(self, n: Dim, m: Dim, rows: int, cols: int) -> Dim:
        """Key blocks of the query tile that visits most: the last, which sees all keys unless a window limits it."""
        seen = m if self.window is None else minimum(m, self.window + rows - 1)
        more = ceil_div(self.sinks, cols) + (0 if self.window is None else 1)
        return minimum(ceil_div(m, cols), ceil_div(seen, cols) + more)

    def most_queries(self, n: Dim, m: Dim, rows: int, cols: int) -> Dim:
        """Query blocks of the key tile that is visited most: the first, by all queries unless a window limits them."""
        if self.window is None or self.sinks:
            return ceil_div(n, rows)
        seen = minimum(n, self.window + cols - 1)
        return minimum(ceil_div(n, rows), ceil_div(seen, rows) + 1)

    def _symbolic_blocks(self, n: Dim, m: Dim, rows: int, cols: int) -> Dim:
        if not same(n, m) or self.window is not None:
            raise UsageError("closed forms of tiled attention know no mask, or a causal one with seq = kv-seq")
        short, long = sorted((rows, cols))
        if long % short:
            raise UsageError(f"closed forms need one tile size to divide the other, not {rows} and {cols}")
        count = n / long
        return (long // short) * count * (count + 1) / 2

    def blocked(self, xp: Any, like: Any, n: Dim, m: Dim) -> Any:
        """A bool tensor (n, m), true where a pair is masked; None without a mask. `xp`: torch or memmodel.recording."""
        if not self.causal:
            return None
        after = xp.ones(n, m, dtype=xp.bool, device=like.device).triu(m - n + 1)
        if self.window is None:
            return after
        before = xp.ones(n, m, dtype=xp.bool, device=like.device).tril(m - n - self.window)
        if self.sinks:
            before.narrow(1, 0, self.sinks).zero_()
        return after | before

    def allowed(self, xp: Any, like: Any, n: Dim, m: Dim) -> Any:
        """A bool tensor (n, m), true where a pair counts, as scaled_dot_product_attention takes it; None without."""
        if not self.causal:
            return None
        seen = xp.ones(n, m, dtype=xp.bool, device=like.device).tril(m - n)
        if self.window is None:
            return seen
        near = seen.triu(m - n - self.window + 1)
        if self.sinks:
            near.narrow(1, 0, self.sinks).copy_(seen.narrow(1, 0, self.sinks))
        return near

    def check(self, n: int, m: int) -> None:
        """Raises UsageError for a window that is not between 1 and the number of keys, or sinks beyond the rest."""
        if self.window is None:
            if self.sinks:
                raise UsageError(f"{self.sinks} sink keys without a window: every key is seen; add --window")
        elif not 1 <= self.window <= m:
            raise UsageError(f"window {self.window} with {m} keys: give a window from 1 to {m}, or no window")
        elif not 0 <= self.sinks <= m - self.window:
            raise UsageError(
                f"{self.sinks} sink keys beside a window of {self.window} of {m} keys: give at most {m - self.window}"
            )

    def described(self) -> str:
        """The mask in words: "window 4096, 4 sink keys"."""
        if self.window is None:
            return "causal" if self.causal else "no mask"
        return f"window {self.window}" + (f", {self.sinks} sink keys" if self.sinks else "")


NO_MASK = Mask()


def mask(name: str | None, window: int | None = None, sinks: int = 0) -> Mask:
    """The mask called none, causal or window (which needs `window`), in any case; the name may be left out.

    Raises UsageError for another name, and for a window without its size.
    """
    unnamed = "none" if window is None else "window"
    name = choice("mask", unnamed if name is None else name, ("none", "causal", "window"))
    if window is None and name == "window":
        raise UsageError("mask 'window' needs its size: add --window")
    return Mask(name == "causal" or window is not None, window, sinks)


def triangle(n: Dim) -> Dim:
    """1 + 2 + ... + n."""
    return exact_div(n * (n + 1), 2)


def _ramp(count: Dim, step: int, start: Dim, size: int, up: bool) -> Dim:
    """Sum over i = 0 .. count-1 of (start + i step) / size, each rounded up or down, without terms below zero."""
    skip = minimum(maximum(ceil_div(-start, step), 0), maximum(count, 0))  # terms below zero
    base = start + skip * step + (size - 1 if up else 0)
    return _floor_sum(maximum(count - skip, 0), size, step, base)


def _floor_sum(count: Dim, modulus: int, step: int, start: Dim) -> Dim:
    """Sum over i = 0 .. count-1 of floor((step i + start) / modulus), by Euclid's algorithm; start >= 0."""
    start = maximum(start, 0)
    total = (step // modulus) * (count * (count - 1) // 2) + (start // modulus) * count
    step, start = step % modulus, start % modulus
    if step == 0:
        return total
    top = step * count + start
    return total + _floor_sum(top // modulus, step, modulus, top % modulus)
