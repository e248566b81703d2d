"""Buffers that FlashAttention-2's host code allocates, in PyTorch's copy and in the flash-attn package.

Source: csrc/flash_attn/flash_api.cpp (set_params_splitkv, num_splits_heuristic, mha_bwd); PyTorch's copy of it is in
aten/src/ATen/native/transformers/cuda/flash_attn.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from memmodel.attention.masks import Mask
from memmodel.base.device import Device
from memmodel.base.dtypes import DType, float32
from memmodel.events.program import Launch
from memmodel.rules.operator import Scratch, kernel, zeroed
from memmodel.sizes.dims import Dim, ceil_div, each, exact_div, minimum, same, symbolic
from memmodel.tensors.layout import Strided

LARGE_SHARED_MEMORY = (80, 87, 90, 100, 103)  # compute capabilities with more than 99 KiB a thread block
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
        """Sizes in the forward kernel: for one query, the heads of a group become rows (seqlenq_ngroups_swapped)."""
        if not same(self.n, 1) or same(self.h, self.g):
            return self
        return self._replace(h=self.g, n=self.h // self.g)


def seen(operands: Iterable[Any], k: Strided, v: Strided, mask: Mask, n: Dim) -> list[Any]:
    """The operands that a kernel of n queries reads; of keys and values (b, m, g, d), only those inside some window."""
    if mask.window is None or len(k.shape) < 4:
        return list(operands)
    return [_last_keys(x, mask.keys(n, x.shape[1])) if x is k or x is v else x for x in operands]


def _last_keys(x: Strided, keys: Dim) -> Strided:
    b, _, g, d = x.shape
    return Strided((b, keys, g, d), x.dtype)


def grid(heads: Dim, rows: Dim, keys: Dim, head_dim: Dim, pairs: Dim) -> tuple[Dim, ...]:
    """`Launch.sizes` of a library's kernel, whose programs own 128 rows each and visit `pairs` in blocks of 128.

    `heads` are of all sequences, `rows` those that programs own: queries, in backward keys; of the others the longest
    row sees `keys`. Empty for sizes that are not numbers: only the time of a kernel depends on it.
    """
    if not all(isinstance(size, int) for size in (heads, rows, keys, head_dim, pairs)):
        return ()
    height = min(int(rows), ROWS)
    blocks = int(pairs) / (height * ROWS)
    return int(heads) * ceil_div(int(rows), height), blocks, ceil_div(int(keys), ROWS), height, int(head_dim)


def width_of(x: Strided) -> Dim:
    """The head dim of accumulators: that of `x` rounded up to a multiple of 32, or of 64 above 128."""
    return rounded(x.shape[-1], 32 if x.at_most(128, -1) else 64)


def rounded(size: Dim, multiple: int) -> Dim:
    """`size` rounded up to a multiple; a multiple keeps its letter in formulas."""
    return size if isinstance(size, int) and size % multiple == 0 else ceil_div(size, multiple) * multiple


def split_outputs(sizes: Sizes, device: Device) -> Iterator[Scratch]:
    """The log-sum-exp and the output of each split of the keys, in fp32; nothing for a single split.

    Closed forms leave it out, since the number of splits depends on all sizes and on the GPU.
    """
    if symbolic(*sizes):
        return
    b, h, _, n, m, d, width = sizes
    slots = 2 * device.sms  # two thread blocks of the splitting kernel run on an SM (set_params_splitkv)
    parts = each(splits, minimum(b * h * ceil_div(n, 64), slots), slots, ceil_div(m, keys_of_a_block(d)))
    if not same(parts, 1):
        rows = (parts * (parts > 1), b, h, n)  # in arrays, 0 where there is a single split
        yield Scratch(rows, float32, "log-sum-exp of each split")
        yield Scratch((*rows, width), float32, "output of each split")


def keys_of_a_block(head_dim: Dim) -> Dim:
    """Keys of a block in the splitting kernel: 256, 128 or 64 for head dims to 64, to 128 and above."""
    return 64 * (1 + (head_dim <= 128)) * (1 + (head_dim <= 64))


def splits(tiles: int, slots: int, blocks: int, most: int = 128) -> int:
    """The fewest splits whose waves of thread blocks are at least 85 % as full as the fullest (num_splits_heuristic).

    Args:
        tiles: thread blocks of one split: batch times heads times blocks of rows.
        slots: thread blocks that run at once, two an SM.
        blocks: blocks of keys, which the splits share out evenly.
        most: splits at most.
    """
    if tiles >= 0.8 * slots:
        return 1
    parts = range(1, min(most, slots, blocks) + 1)
    # 64 blocks in 12 splits are 6 each, which fill 11 splits: a count like 12 is passed over.
    waves = {s: tiles * s / slots for s in parts if s == 1 or ceil_div(blocks, s) != ceil_div(blocks, s - 1)}
    filled = {s: wave / math.ceil(wave) for s, wave in waves.items()}
    return next((s for s in filled if filled[s] >= 0.85 * max(filled.values())), 1)


def gradient_sums(
    sizes: Sizes, dtype: DType, device: Device, deterministic: bool, packed: tuple[Dim, Dim] | None = None
) -> Iterator[Scratch | Launch]:
    """Accumulators of mha_bwd: dQ in fp32 and, with grouped heads, dK and dV per query head.

    A deterministic backward has one zeroed dQ for each group of thread blocks that share an SM. `packed`: rows of dQ
    and keys of all sequences, where these lie behind one another.
    """
    b, h, g, n, m, d, width = sizes
    # dQ is added to by all blocks of keys at once, in fp32; dK and dV belong to one thread block, in their dtype.
    rows, keys = ((b, rounded(n, ROWS)), (b, m)) if packed is None else (packed[:1], packed[1:])
    parts = ceil_div(device.sms, b * h) if deterministic else 1
    shape = (parts, *rows, h, width)
    yield from zeroed(shape, float32, "sums of dQ") if deterministic else [Scratch(shape, float32, "sums of dQ")]
    if not same(h, g):
        for name in ("dK", "dV"):
            yield Scratch((*keys, h, d), dtype, f"{name} per query head")


def row_dots(b: Dim, h: Dim, n: Dim) -> tuple[Dim, Dim, Dim]:
    """The shape of softmax_d, the fp32 sum of dO * O over each row: rows are rounded up to a query block."""
    return b, h, rounded(n, ROWS)


def summed_heads(sizes: Sizes, dtype: DType) -> Iterator[Launch]:
    """Sums of dK and dV over the query heads that share a key head (at::sum_out)."""
    b, h, g, _, m, d, _ = sizes
    if same(h, g):
        return
    expanded, result = Strided((b, m, h, d), dtype), Strided((b, m, g, d), dtype)
    for _ in range(2):
        yield kernel(
            "sum", [expanded], [result], dtype, vector=expanded.numel(), kind="reduction",
            sizes=(result.numel(), exact_div(h, g)), gradient=True,
        )  # fmt: skip
