"""Launching the kernels: what is allocated, with which tile, over which grid.

Allocations, in order (the memory model mirrors them event by event; nothing else is allocated):

forward:          o (like q), lse (b, h, n) fp32
backward, split:  delta (b, h, n) fp32, dq (like q), dk (like k), dv (like v)
backward, fused:  delta (b, h, n) fp32, dk (like k), dv (like v), dq_sum (like q, but fp32 and zeroed),
                  dq (like q; in fp32 it is dq_sum itself)

Nothing is copied: strides are passed on, and what the copy engine cannot read is read by pointer.
"""

import contextlib
import functools
import os
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from memmodel import dtypes, tiles
from memmodel.tiles import Pass, Row, Tile
from memmodel_kernels.triton_flash import choice
from memmodel_kernels.triton_flash.delta import delta_kernel
from memmodel_kernels.triton_flash.forward import forward_kernel
from memmodel_kernels.triton_flash.fused import fused_kernel
from memmodel_kernels.triton_flash.problem import Problem, check_strides
from memmodel_kernels.triton_flash.split import split_kernel

DELTA_ROWS = 64
L2_BUDGET = 32 * 2**20  # bytes of K and V that neighbouring programs may share: the 50 to 60 MB of L2, less the rest
TMA_ALIGNMENT = 16  # bytes: base address and strides (CUDA driver API, cuTensorMapEncodeTiled)
INTERPRETED_ARCH = 90
USE_TMA = os.environ.get("MEMMODEL_TMA", "1") != "0"  # a way around the copy engine, should a driver refuse descriptors


def forward(q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
    """Return (o, lse): o like q, lse (b, h, n) in natural log."""
    check_strides(q=q, k=k, v=v)
    (tile,) = _tiles(q, problem, tiles.FORWARD)
    o = torch.empty_like(q)
    lse = q.new_empty((problem.b, problem.h, problem.n), dtype=torch.float32)
    if o.numel() == 0:
        return o, lse
    tma = _streams_by_tma(k, v)
    grid = problem.b * problem.h * triton.cdiv(problem.n, tile.rows)
    with _device(q):
        forward_kernel[(grid,)](
            q,
            _stream(k, tile.cols, problem, tma),
            _stream(v, tile.cols, problem, tma),
            o,
            lse,
            q.stride(),
            k.stride(),
            v.stride(),
            o.stride(),
            abs(problem.scale_log2),
            problem.b * problem.h,
            **_sizes(q, problem),
            ROWS=tile.rows,
            COLS=tile.cols,
            FLIP=problem.scale < 0,
            TMA=tma,
            **_constants(q, problem, tile, tiles.FORWARD),
        )
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
    deterministic: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (dq, dk, dv) from do, the gradient of o, and dlse, the gradient of lse, if there is one."""
    check_strides(do=do, q=q, k=k, v=v)
    delta = torch.empty_like(lse)
    if q.numel() == 0 or k.numel() == 0:
        return torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    form = _split if deterministic or not has_fused(q, problem) else _fused
    with _device(q):
        _delta(o, do, dlse, delta, problem)
        return form(q, k, v, do, lse, delta, problem)


def _delta(o: Tensor, do: Tensor, dlse: Tensor | None, delta: Tensor, problem: Problem) -> None:
    grid = problem.b * problem.h * triton.cdiv(problem.n, DELTA_ROWS)
    delta_kernel[(grid,)](
        o,
        do,
        dlse,
        delta,
        o.stride(),
        do.stride(),
        (0, 0, 0) if dlse is None else dlse.stride(),
        problem.h,
        problem.n,
        D=problem.d,
        BLOCK_D=problem.block_d,
        ROWS=DELTA_ROWS,
        HAS_DLSE=dlse is not None,
        num_warps=4,
        enable_fp_fusion=True,
    )


def _split(
    q: Tensor, k: Tensor, v: Tensor, do: Tensor, lse: Tensor, delta: Tensor, problem: Problem
) -> tuple[Tensor, Tensor, Tensor]:
    """Every gradient by its one writer: the dK/dV programs, then the dQ programs, in one launch."""
    dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    dkdv, by_row = _tiles(q, problem, tiles.DKDV, tiles.DQ)
    tma = _streams_by_tma(q, k, v, do)
    by_key = problem.b * problem.g * triton.cdiv(problem.m, dkdv.cols)
    by_query = problem.b * problem.h * triton.cdiv(problem.n, by_row.rows)
    split_kernel[(by_key + by_query,)](
        q,
        k,
        v,
        do,
        _stream(q, dkdv.rows, problem, tma),
        _stream(k, by_row.cols, problem, tma),
        _stream(v, by_row.cols, problem, tma),
        _stream(do, dkdv.rows, problem, tma),
        dq,
        dk,
        dv,
        lse,
        delta,
        q.stride(),
        k.stride(),
        v.stride(),
        do.stride(),
        dq.stride(),
        dk.stride(),
        dv.stride(),
        problem.scale,
        problem.scale_log2,
        problem.b * problem.h,
        **_sizes(q, problem),
        DKDV_ROWS=dkdv.rows,
        DKDV_COLS=dkdv.cols,
        DQ_ROWS=by_row.rows,
        DQ_COLS=by_row.cols,
        TMA=tma,
        **_constants(q, problem, dkdv, tiles.DKDV),
    )
    return dq, dk, dv


def _fused(
    q: Tensor, k: Tensor, v: Tensor, do: Tensor, lse: Tensor, delta: Tensor, problem: Problem
) -> tuple[Tensor, Tensor, Tensor]:
    """Let the dK/dV programs add up dQ too, in fp32."""
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    dq_sum = torch.zeros_like(q, dtype=torch.float32)
    (tile,) = _tiles(q, problem, tiles.FUSED)
    # The interpreter has no reduction by the copy engine.
    tma = _streams_by_tma(q, do, dq_sum) and q.device.type == "cuda"
    fused_kernel[(problem.b * problem.g * triton.cdiv(problem.m, tile.cols),)](
        k,
        v,
        _stream(q, tile.rows, problem, tma),
        _stream(do, tile.rows, problem, tma),
        dk,
        dv,
        _stream(dq_sum, tile.rows, problem, tma),
        lse,
        delta,
        q.stride(),
        k.stride(),
        v.stride(),
        do.stride(),
        dk.stride(),
        dv.stride(),
        dq_sum.stride(),
        problem.scale,
        problem.scale_log2,
        problem.b * problem.h,
        **_sizes(q, problem),
        ROWS=tile.rows,
        COLS=tile.cols,
        TMA=tma,
        **_constants(q, problem, tile, tiles.FUSED),
    )
    return dq_sum.to(q.dtype), dk, dv


def _sizes(q: Tensor, problem: Problem) -> dict[str, int]:
    """Run-time sizes that every attention kernel takes under the same names."""
    return {
        "heads": problem.h,
        "group": problem.group,
        "n": problem.n,
        "m": problem.m,
        "first": problem.first or 0,
        "last": problem.last or 0,
        "section": _section(q, problem),
    }


def _constants(q: Tensor, problem: Problem, tile: Tile, pass_: Pass) -> dict[str, Any]:
    """Compile-time constants and options that every attention kernel takes under the same names."""
    return {
        "D": problem.d,
        "BLOCK_D": problem.block_d,
        "LEFT": problem.first is not None,
        "RIGHT": problem.last is not None,
        "PRECISION": _precision(q, problem, pass_),
        "num_warps": tile.warps,
        "num_stages": tile.stages,
        "enable_fp_fusion": True,  # Triton 3.10 announces to turn it off unless asked: twice the FMA work
    }


def _section(q: Tensor, problem: Problem) -> int:
    """Heads that go through their blocks side by side.

    Where blocks differ in work, as many as have their K and V in L2 together, so that the longest blocks of many heads
    come first; else one after the other, which is kindest to L2.
    """
    if problem.last is None:
        return 1
    per_head = 2 * problem.m * problem.d * q.element_size() / problem.group
    return max(1, int(L2_BUDGET // max(1.0, per_head)))


def rows(q: Tensor, problem: Problem, passes: tuple[Pass, ...]) -> tuple[Row, ...]:
    """Rows of the table that this launch may use on q's device, default first."""
    precision = _precision(q, problem, passes[0])
    return tiles.rows(_arch(q.device), _kind(q.dtype), problem.d, passes, precision, _shared_limit(q.device))


def key(q: Tensor, problem: Problem, passes: tuple[Pass, ...]) -> choice.Key:
    """Under what the choice of a row is remembered."""
    return choice.key(_arch(q.device), _kind(q.dtype), problem, passes, _precision(q, problem, passes[0]))


def _tiles(q: Tensor, problem: Problem, *passes: Pass) -> Row:
    """One tile per pass: what was chosen for calls like this one, else the table's default."""
    return choice.chosen(key(q, problem, passes), passes) or rows(q, problem, passes)[0]


def _precision(q: Tensor, problem: Problem, pass_: Pass) -> str:
    """How fp32 is multiplied in this pass: exactly where the table has no tensor-core tile."""
    if q.element_size() == 2:
        return "tf32"  # says nothing for 16-bit types: one value, so that one kernel is compiled
    asked = problem.precision or default_precision()
    return asked if tiles.supports(_arch(q.device), _kind(q.dtype), problem.d, pass_, asked) else "ieee"


def default_precision() -> str:
    """What torch.matmul would use now: fp32 is multiplied exactly unless the user has allowed TF32."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def has_fused(q: Tensor, problem: Problem) -> bool:
    """Whether the table knows a fused tile; the split form serves where it does not."""
    precision = _precision(q, problem, tiles.FUSED)
    return tiles.supports(_arch(q.device), _kind(q.dtype), problem.d, tiles.FUSED, precision)


def _kind(dtype: torch.dtype) -> dtypes.DType:
    return dtypes.dtype(str(dtype))


@functools.cache
def _arch(device: torch.device) -> int:
    """Compute capability as one number, 90 for 9.0. The interpreter runs the sm_90 path."""
    if device.type != "cuda":
        return INTERPRETED_ARCH
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@functools.cache
def _shared_limit(device: torch.device) -> int:
    """Shared memory that a program may have on this device, bytes."""
    if device.type != "cuda":
        return tiles.SHARED_LIMIT[INTERPRETED_ARCH]
    index = torch.cuda.current_device() if device.index is None else device.index
    return int(triton.runtime.driver.active.utils.get_device_properties(index)["max_shared_mem"])


def _device(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Make x's device current: Triton launches on the current one."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def _streams_by_tma(*tensors: Tensor) -> bool:
    """Whether the loops read these by the copy engine, which needs sm_90.

    fp32 inputs do not gain: FMA units take their operands through registers, where pointers cost less.
    """
    first = tensors[0]
    suits = USE_TMA and _arch(first.device) >= 90 and first.element_size() == 2
    return suits and all(map(_fits_descriptor, tensors))


def _fits_descriptor(x: Tensor) -> bool:
    """Whether a TMA descriptor can describe x: innermost stride 1, the others and the base multiples of 16 bytes."""
    outer = [stride * x.element_size() for stride in x.stride()[:3]]
    return (
        x.stride(3) == 1
        and x.numel() > 0
        and x.data_ptr() % TMA_ALIGNMENT == 0
        and all(stride > 0 and stride % TMA_ALIGNMENT == 0 for stride in outer)
    )


def _stream(x: Tensor, rows: int, problem: Problem, tma: bool) -> Tensor | TensorDescriptor:
    """`x` as a loop reads it: blocks of `rows` rows of one head, by descriptor or by pointer."""
    if not tma:
        return x
    return TensorDescriptor(x, list(x.shape), list(x.stride()), [1, 1, rows, problem.block_d])
