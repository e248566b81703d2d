"""Buffers that FlashAttention-2's host code takes, in PyTorch's copy and in the flash-attn package alike.

Source: csrc/flash_attn/flash_api.cpp (set_params_splitkv, num_splits_heuristic, mha_bwd); PyTorch's copy of it is in
aten/src/ATen/native/transformers/cuda/flash_attn.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from memmodel.device import Device
from memmodel.dims import Dim, ceil_div, each, exact_div, minimum, same, symbolic
from memmodel.dtypes import DType, float32
from memmodel.masks import Mask
from memmodel.program import Launch
from memmodel.rules.operator import Scratch, kernel, zeroed
from memmodel.tensors.layout import Strided

ROWS = 128  # of a query block in backward, to which rows are rounded


class Sizes(NamedTuple):
    """Sizes of a call: batch, query heads, key heads, queries, keys, the head dim, and that of accumulators."""

    b: Dim
    h: Dim
    g: Dim
    n: Dim
    m: Dim
    d: Dim
    width: Dim

    @property
    def decoding(self) -> "Sizes":
        """As the forward kernel sees it: of one query, the heads of a group are rows (seqlenq_ngroups_swapped)."""
        if not same(self.n, 1) or same(self.h, self.g):
            return self
        return self._replace(h=self.g, n=self.h // self.g)


def seen(operands: Iterable[Any], k: Strided, v: Strided, mask: Mask, n: Dim) -> list[Any]:
    """What a kernel of n queries reads: of keys and values (b, m, g, d), not those that a window hides from all."""
    if mask.window is None or len(k.shape) < 4:
        return list(operands)
    return [_last_keys(x, mask.keys(n, x.shape[1])) if x is k or x is v else x for x in operands]


def _last_keys(x: Strided, keys: Dim) -> Strided:
    b, _, g, d = x.shape
    return Strided((b, keys, g, d), x.dtype)


def width_of(x: Strided) -> Dim:
    """The head dim of accumulators, from a tensor whose last dimension it is: up to 32s, above 128 up to 64s."""
    return rounded(x.shape[-1], 32 if x.at_most(128, -1) else 64)


def rounded(size: Dim, multiple: int) -> Dim:
    """A size rounded up; one that is a multiple already keeps its letter."""
    return size if isinstance(size, int) and size % multiple == 0 else ceil_div(size, multiple) * multiple


def split_outputs(sizes: Sizes, device: Device) -> Iterator[Scratch]:
    """The log-sum-exp and the output of each split of the keys, in fp32; nothing where they are read in one part.

    Closed forms leave it out: the number of parts depends on all sizes, and on the GPU.
    """
    if symbolic(*sizes):
        return
    b, h, _, n, m, d, width = sizes
    columns = 256 if d <= 64 else 128 if d <= 128 else 64
    slots = 2 * device.sms
    parts = each(splits, minimum(b * h * ceil_div(n, 64), slots), slots, ceil_div(m, columns))
    if not same(parts, 1):
        rows = (parts * (parts > 1), b, h, n)
        yield Scratch(rows, float32, "log-sum-exp of each split")
        yield Scratch((*rows, width), float32, "output of each split")


def splits(tiles: int, slots: int, blocks: int) -> int:
    """The fewest parts that fill the last wave of `slots` thread blocks to 85 % of the best.

    Args:
        tiles: thread blocks of one part: batch, heads and blocks of rows.
        slots: thread blocks at once, two an SM.
        blocks: blocks of keys, of which each part takes as many as the others or one more.
    """
    if tiles >= 0.8 * slots:
        return 1
    parts = range(1, min(128, slots, blocks) + 1)
    waves = {s: tiles * s / slots for s in parts if s == 1 or ceil_div(blocks, s) != ceil_div(blocks, s - 1)}
    filled = {s: wave / math.ceil(wave) for s, wave in waves.items()}
    return next((s for s in filled if filled[s] >= 0.85 * max(filled.values())), 1)


def gradient_sums(
    sizes: Sizes, dtype: DType, device: Device, deterministic: bool, packed_rows: tuple[Dim, ...] | None = None
) -> Iterator[Scratch | Launch]:
    """What mha_bwd adds up in: dQ in fp32 and, with shared heads, dK and dV per query head.

    Deterministic, each group of thread blocks that share an SM has a dQ of its own, of zeros. `packed_rows`: of dQ,
    where sequences are packed.
    """
    b, h, g, n, m, d, width = sizes
    rows = packed_rows or (b, rounded(n, ROWS))
    parts = ceil_div(device.sms, b * h) if deterministic else 1
    shape = (parts, *rows, h, width)
    yield from zeroed(shape, float32, "sums of dQ") if deterministic else [Scratch(shape, float32, "sums of dQ")]
    if not same(h, g):
        for name in ("dK", "dV"):
            yield Scratch((b, m, h, d), dtype, f"{name} per query head")


def row_dots(b: Dim, h: Dim, n: Dim) -> tuple[Dim, Dim, Dim]:
    """The shape of softmax_d, the sum of dO * O of each row in fp32: rows up to a query block."""
    return b, h, rounded(n, ROWS)


def summed_heads(sizes: Sizes, dtype: DType) -> Iterator[Launch]:
    """dK and dV per query head, added up over the heads that share a key head (at::sum_out)."""
    b, h, g, _, m, d, _ = sizes
    if same(h, g):
        return
    expanded, result = Strided((b, m, h, d), dtype), Strided((b, m, g, d), dtype)
    for _ in range(2):
        yield kernel(
            "sum", [expanded], [result], dtype, vector=expanded.numel(), kind="reduction",
            sizes=(result.numel(), exact_div(h, g)), gradient=True,
        )  # fmt: skip
