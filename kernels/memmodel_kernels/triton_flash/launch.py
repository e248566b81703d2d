"""The kernels' launches: what is allocated, and one description per kernel of its grid, arguments and constants.

Allocations, in order (the memory model mirrors them event by event; nothing else is allocated):

forward:          o (like q), lse (b, h, n) fp32; of packed sequences, which are one batch, n is the rows of all
backward, split:  delta (b, h, n) fp32, dq (like q), dk (like k), dv (like v)
backward, fused:  delta (b, h, n) fp32, dk (like k), dv (like v), dq_sum (like q, but fp32 and zeroed),
                  dq (like q; in fp32 it is dq_sum itself)

Nothing is copied: strides are passed on, and what the copy engine cannot read is read by pointer. A `Launch` is only a
description: `run` launches it, and `report.py` compiles the same one for an architecture that is not at hand.
"""

import math
import os
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from memmodel.attention import tiles
from memmodel.attention.tiles import Row, Tile
from memmodel_kernels.triton_flash import choice
from memmodel_kernels.triton_flash.backward import delta_kernel, fused_kernel, split_kernel
from memmodel_kernels.triton_flash.blocks import Counts, Heads, Tiling
from memmodel_kernels.triton_flash.dropout import Dropout
from memmodel_kernels.triton_flash.forward import forward_kernel
from memmodel_kernels.triton_flash.problem import Problem, check_strides
from memmodel_kernels.triton_flash.scores import Scores
from memmodel_kernels.triton_flash.sequences import Sequences

DELTA_TILE = Tile(64, 0, warps=4)
L2_BUDGET = 32 * 2**20  # bytes of K and V that neighbouring programs may share: the 50 to 60 MB of L2, less the rest
TMA_ALIGNMENT = 16  # bytes: base address and strides (CUDA driver API, cuTensorMapEncodeTiled)
USE_TMA = os.environ.get("MEMMODEL_TMA", "1") != "0"  # a way around the copy engine, should a driver refuse descriptors


class Beside(NamedTuple):
    """What a call may have beside q, k and v: packed sequences, the seed of dropout (1,), a bias.

    The bias broadcasts to (b, h, n, m).
    """

    sequences: Sequences | None = None
    seed: Tensor | None = None
    bias: Tensor | None = None


NOTHING = Beside()


class Launch(NamedTuple):
    """`programs` programs of a Triton kernel: its arguments in order, the last ones constexpr, and its pipeline."""

    kernel: Any
    programs: int
    arguments: tuple[Any, ...]
    tile: Tile

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of the compiler beside constants."""
        # Triton 3.10 announces to turn fusion off unless asked: twice the FMA work.
        return {"num_warps": self.tile.warps, "num_stages": self.tile.stages, "enable_fp_fusion": True}

    def run(self, device: torch.device) -> None:
        """Launch on `device`, on its current stream."""
        if device.type == "cuda" and device.index != torch.cuda.current_device():
            with torch.cuda.device(device):  # Triton launches on the current device
                self.kernel[(self.programs,)](*self.arguments, **self.options)
        else:
            self.kernel[(self.programs,)](*self.arguments, **self.options)


def forward(q: Tensor, k: Tensor, v: Tensor, problem: Problem, beside: Beside = NOTHING) -> tuple[Tensor, Tensor]:
    """Return (o, lse): o like q, lse (b, h, n) in natural log."""
    check_strides(q=q, k=k, v=v)
    row = choice.row(problem, tiles.FORWARD)
    o = torch.empty_like(q)
    lse = q.new_empty(q.shape[:3], dtype=torch.float32)
    if o.numel():
        tma = not problem.packed and streams_by_tma(k, v)
        forward_launch(q, k, v, o, lse, problem, row, tma, beside).run(q.device)
    return o, lse


def backward(
    do: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    problem: Problem,
    beside: Beside = NOTHING,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (dq, dk, dv) from do, the gradient of o, and dlse, the gradient of lse, if there is one."""
    check_strides(do=do, q=q, k=k, v=v)
    lse = lse.contiguous()  # it is, unless something that keeps saved tensors has changed it
    delta = torch.empty_like(lse)
    if q.numel() == 0 or k.numel() == 0:
        return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    delta_launch(o, do, dlse, delta, problem).run(q.device)
    if problem.deterministic or not choice.has(problem, tiles.FUSED):
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        row, tma = choice.row(problem, tiles.DKDV, tiles.DQ), not problem.packed and streams_by_tma(q, k, v, do)
        split_launch(q, k, v, do, dq, dk, dv, lse, delta, problem, row, tma, beside).run(q.device)
        return dq, dk, dv
    dk, dv, dq_sum = torch.empty_like(k), torch.empty_like(v), torch.zeros_like(q, dtype=torch.float32)
    # The interpreter has no reduction by the copy engine.
    row, tma = choice.row(problem, tiles.FUSED), not problem.packed and q.is_cuda and streams_by_tma(q, do, dq_sum)
    fused_launch(q, k, v, do, dk, dv, dq_sum, lse, delta, problem, row, tma, beside).run(q.device)
    return dq_sum.to(q.dtype), dk, dv


def forward_launch(
    q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, problem: Problem, row: Row, tma: bool,
    beside: Beside = NOTHING,
) -> Launch:  # fmt: skip
    """One program per query block and head; of packed sequences, as many for each as for the longest."""
    (tile,) = row
    tiling = _tiling(problem, tile, tma, choice.precision(problem, tiles.FORWARD))
    streams = stream(k, tile.cols, tiling), stream(v, tile.cols, tiling)
    scores = _scores(problem)
    flip, positive = scores.unit < 0, scores._replace(unit=abs(scores.unit), unit_log2=abs(scores.unit_log2))
    sizes = _counts(problem, lse), problem.band, beside.sequences, positive, _dropout(problem, beside), flip
    tensors = (_heads(q), *streams, _bias(problem, beside), _heads(o), lse)
    programs = problem.b * problem.h * triton.cdiv(problem.n, tile.rows)
    return Launch(forward_kernel, programs, (*tensors, *sizes, tiling), tile)


def delta_launch(o: Tensor, do: Tensor, dlse: Tensor | None, delta: Tensor, problem: Problem) -> Launch:
    """One program per 64 query rows of one head."""
    tensors = _heads(o), _heads(do), None if dlse is None else _heads(dlse), delta
    b, h, n = delta.shape  # rows alone: it does not matter whose sequence they are
    programs = b * h * triton.cdiv(n, DELTA_TILE.rows)
    tiling = _tiling(problem, DELTA_TILE, False, "ieee")
    return Launch(delta_kernel, programs, (*tensors, _counts(problem, delta), n, tiling), DELTA_TILE)


def split_launch(
    q: Tensor, k: Tensor, v: Tensor, do: Tensor, dq: Tensor, dk: Tensor, dv: Tensor, lse: Tensor, delta: Tensor,
    problem: Problem, row: Row, tma: bool, beside: Beside = NOTHING,
) -> Launch:  # fmt: skip
    """Every gradient by its one writer: the dK/dV programs, then the dQ programs, in one launch."""
    by_key, by_query = row
    precision = choice.precision(problem, tiles.DKDV)
    dkdv, for_dq = (_tiling(problem, tile, tma, precision) for tile in row)
    streams = (
        stream(q, by_key.rows, dkdv),
        stream(k, by_query.cols, for_dq),
        stream(v, by_query.cols, for_dq),
        stream(do, by_key.rows, dkdv),
    )
    tensors = (
        *map(_heads, (q, k, v)),
        _bias(problem, beside),
        _heads(do),
        *streams,
        *map(_heads, (dq, dk, dv)),
        lse,
        delta,
    )
    programs = problem.b * problem.g * triton.cdiv(problem.m, by_key.cols)
    programs += problem.b * problem.h * triton.cdiv(problem.n, by_query.rows)
    return Launch(split_kernel, programs, (*tensors, *_backward_sizes(problem, lse, beside), dkdv, for_dq), by_key)


def fused_launch(
    q: Tensor, k: Tensor, v: Tensor, do: Tensor, dk: Tensor, dv: Tensor, dq_sum: Tensor, lse: Tensor, delta: Tensor,
    problem: Problem, row: Row, tma: bool, beside: Beside = NOTHING,
) -> Launch:  # fmt: skip
    """The dK/dV programs add up dQ too, in fp32."""
    (tile,) = row
    tiling = _tiling(problem, tile, tma, choice.precision(problem, tiles.FUSED))
    q_stream, do_stream, dq_stream = (stream(x, tile.rows, tiling) for x in (q, do, dq_sum))
    tensors = (
        q_stream,
        _heads(k),
        _heads(v),
        _bias(problem, beside),
        do_stream,
        _heads(dk),
        _heads(dv),
        dq_stream,
        lse,
        delta,
    )
    programs = problem.b * problem.g * triton.cdiv(problem.m, tile.cols)
    return Launch(fused_kernel, programs, (*tensors, *_backward_sizes(problem, lse, beside), tiling), tile)


def _backward_sizes(problem: Problem, lse: Tensor, beside: Beside) -> tuple[Any, ...]:
    sizes = _counts(problem, lse), problem.band, problem.mirror, beside.sequences
    return *sizes, problem.scale, _scores(problem), _dropout(problem, beside)


def _bias(problem: Problem, beside: Beside) -> Heads | None:
    if beside.bias is None:
        return None
    bias = beside.bias.expand(problem.b, problem.h, problem.n, problem.m)
    check_strides(bias=bias)
    return _heads(bias)


def _dropout(problem: Problem, beside: Beside) -> Dropout | None:
    if not problem.dropout:
        return None
    return Dropout(beside.seed, round(problem.dropout * 2**32) - 2**31, 1 / (1 - problem.dropout))


def _scores(problem: Problem) -> Scores:
    unit, squeeze = problem.scale, None
    if problem.softcap is not None:
        unit, squeeze = problem.softcap, problem.scale / problem.softcap
    if problem.biased:
        return Scores(1.0, math.log2(math.e), squeeze, unit)
    unit = unit or 1e-30  # a scale of 0 gives uniform weights: -inf * 0 would be NaN
    return Scores(unit, unit * math.log2(math.e), squeeze, None)


def _counts(problem: Problem, lse: Tensor) -> Counts:
    return Counts(problem.b, problem.h, problem.group, lse.shape[2], _section(problem))


def _section(problem: Problem) -> int:
    """Heads that go through their blocks side by side.

    Where blocks differ in work, as many as have their K and V in L2 together, so that the longest blocks of many heads
    come first; else one after the other, which is kindest to L2.
    """
    if problem.last is None:
        return 1
    per_head = 2 * problem.m * problem.d * problem.dtype.itemsize / problem.group
    return max(1, int(L2_BUDGET // max(1.0, per_head)))


def _tiling(problem: Problem, tile: Tile, tma: bool, precision: str) -> Tiling:
    return Tiling(tile.rows, tile.cols, problem.d, tiles.padded(problem.d), tma, precision)


def _heads(x: Tensor) -> Heads:
    return Heads(x, x.stride())


def stream(x: Tensor, rows: int, tiling: Tiling) -> Any:
    """`x` as a loop reads it, `rows` rows of one head at a time: by descriptor or by pointer."""
    if not tiling.tma:
        return _heads(x)
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [1, 1, rows, tiling.padded_d])


def streams_by_tma(*tensors: Tensor) -> bool:
    """Whether the loops read these by the copy engine, which needs sm_90.

    fp32 inputs do not gain: FMA units take their operands through registers, where pointers cost less.
    """
    first = tensors[0]
    suits = USE_TMA and choice.arch(first.device) >= 90 and first.element_size() == 2
    return suits and all(map(fits_descriptor, tensors))


def fits_descriptor(x: Tensor) -> bool:
    """Whether a TMA descriptor can describe x: innermost stride 1, the others and the base multiples of 16 bytes."""
    size = x.element_size()
    outer = [stride * size for stride in x.stride()[:3]]
    return (
        x.stride(3) == 1
        and x.numel() > 0
        and x.data_ptr() % TMA_ALIGNMENT == 0
        and all(stride > 0 and stride % TMA_ALIGNMENT == 0 for stride in outer)
    )
