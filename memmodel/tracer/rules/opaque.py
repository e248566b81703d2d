"""Operators whose storages cannot be read off their results: which are born inside, in which order and how large."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from memmodel.dims import maximum, minimum
from memmodel.recording.device import Device
from memmodel.tracer.rules.kinds import count, kind_of, plain_dims
from memmodel.tracer.rules.scratch import Scratch, like

FREED = "freed"  # in a plan: the scratch that was born last dies
_FEW_INDICES = 3072  # embedding's backward sums so many without sorting them
_ROWS_PER_PART = 10  # NROWS_PER_THREAD: rows that one warp sums


class Sized(NamedTuple):
    """A result that keeps more bytes than its shape needs."""

    tensor: Tensor
    nbytes: Any


def births_of_opaque(func: Any, args: Any, kwargs: Any, out: Any, device: Device) -> list[Any] | None:
    """Results (plain, or `Sized`), scratch (bytes, shape, dtype) and `FREED`, in order; None for other operators."""
    name = func._schema.name
    plan = _PLANS.get(name) or (_ON_CUDA.get(name) if device.name == "cuda" else None)
    return None if plan is None else plan(args, kwargs, out)


def _flash_attention_backward(args: Any, kwargs: Any, out: Any) -> list[Any]:
    """delta, then the gradients; with atomics dK and dV first, and dQ's fp32 sum before dQ (triton_flash.launch)."""
    from memmodel_kernels.flash import flash_tiles

    q, deterministic = args[2], args[-1]
    dq, dk, dv = out
    float32 = kind_of(torch.float32)
    rows = plain_dims(q.shape[:-1])
    delta = count(q) // plain_dims(q.shape)[-1] * 4, rows, float32
    if deterministic or flash_tiles(80, kind_of(q.dtype), int(q.shape[-1])).fused is None:
        return [delta, dq, dk, dv]
    if q.dtype is torch.float32:
        return [delta, dk, dv, dq]
    return [delta, dk, dv, (count(q) * 4, plain_dims(q.shape), float32), dq]


def _reduces(args: Any, kwargs: Any, place: int = 2) -> bool:
    return bool((args[place] if len(args) > place else kwargs.get("reduction", 1)) != 0)


def _resized_loss(args: Any, kwargs: Any, out: Any) -> list[Any]:
    """The result is made for every element and then shrunk, which keeps its memory; a loss per element beside it."""
    if not _reduces(args, kwargs):
        return [out]
    return [Sized(out, like(args[0])[0]), like(args[0])]


def _cross_entropy_of_bits(args: Any, kwargs: Any, out: Any) -> list[Any]:
    """The loss per element, into whose memory its mean is copied."""
    if not _reduces(args, kwargs, 3):
        return [out]
    return [Sized(out, like(args[0])[0]), like(out)]


def _soft_margin(args: Any, kwargs: Any, out: Any) -> list[Any]:
    """Likewise, into a result that was made without elements and grows to the loss of each."""
    return [Sized(out, like(args[0])[0]), like(out)] if _reduces(args, kwargs) else [out]


def _scattered_back(args: Any, kwargs: Any, out: Any) -> list[Any]:
    """The mask is counted; what it picks and zeros for the rest, together as large, are made into one tensor."""
    return [like(args[1], torch.int64), FREED, like(out), out]


def _huber(args: Any, kwargs: Any, out: Any) -> list[Any]:
    return [like(args[0]), out] if _reduces(args, kwargs) else [out]


def _numbers(n: Any, kind: torch.dtype = torch.int64) -> Scratch:
    element = kind_of(kind)
    return n * element.itemsize, (n,), element


def _sorted_with_places(n: Any, kind: torch.dtype) -> list[Any]:
    """A radix sort of n keys with their places: both results, the places before it, and its second pair of buffers."""
    return [_numbers(n, kind), _numbers(n, kind), _numbers(n, kind), _numbers(2 * n, kind), FREED, FREED]


def _embedding_backward(args: Any, kwargs: Any, out: Any) -> list[Any]:
    """Few indices are summed as they stand; more are sorted, split into parts of 10 rows, and summed part by part."""
    grad, indices, vocabulary, _, by_frequency = args
    copied = [] if grad.is_contiguous() else [like(grad)]
    if indices.numel() <= _FEW_INDICES and not by_frequency:  # in letters a condition of the formulas
        return [*copied, out]
    n, kind = count(indices), indices.dtype
    (rows,) = plain_dims((vocabulary,))
    segments = minimum(n, rows)
    parts = n // _ROWS_PER_PART + segments
    width = plain_dims(grad.shape)[-1]
    summed = torch.float64 if grad.dtype is torch.float64 else torch.float32
    frequencies = [_numbers(n, kind)] if by_frequency else []
    return [
        *copied, *_sorted_with_places(n, kind), *frequencies, out, _numbers(n, kind), _numbers(1),
        _numbers(segments, kind), _numbers(segments, kind), _numbers(1), _numbers(parts, kind),
        _numbers(parts * width, summed),
    ]  # fmt: skip


def _accumulated_index_put(args: Any, kwargs: Any, out: Any) -> list[Any]:
    """Indices as one number each, sorted; the values where they are not contiguous."""
    accumulates = args[3] if len(args) > 3 else kwargs.get("accumulate", False)
    indices = [x for x in args[1] if x is not None]
    if not accumulates or not indices:
        return [out]
    n: Any = 1
    for x in indices:
        n = maximum(n, count(x))
    copied = [] if args[2].is_contiguous() else [like(args[2])]
    return [out, *copied, _numbers(n), *_sorted_with_places(n, torch.int64)]


def _log_sigmoid(args: Any, kwargs: Any, out: Any) -> list[Any]:
    """The second result, which the CPU keeps for backward, is empty."""
    return [out[0]]


def _loss_of_classes(args: Any, kwargs: Any, out: Any) -> list[Any]:
    """The sum of weights first; what is reduced is first made contiguous."""
    copied = [like(x) for x in args[:2] if _reduces(args, kwargs, 3) and not x.is_contiguous()]
    return [out[1], out[0], *copied]


def _masked_scatter(args: Any, kwargs: Any, out: Any) -> list[Any]:
    """Where each true element's value stands: sums of the mask, int64."""
    return [out, like(args[1], torch.int64)]


_PLANS: dict[str, Callable[[Any, Any, Any], list[Any]]] = {
    "memmodel::flash_attention_backward": _flash_attention_backward,
    "aten::mse_loss": _resized_loss,
    "aten::smooth_l1_loss": _resized_loss,
    "aten::huber_loss": _huber,
    "aten::nll_loss2d_forward": _loss_of_classes,
    "aten::binary_cross_entropy": _cross_entropy_of_bits,
    "aten::soft_margin_loss": _soft_margin,
    "aten::masked_scatter_backward": _scattered_back,
}
_ON_CUDA: dict[str, Callable[[Any, Any, Any], list[Any]]] = {
    "aten::embedding_dense_backward": _embedding_backward,
    "aten::index_put": _accumulated_index_put,
    "aten::index_put_": _accumulated_index_put,
    "aten::_unsafe_index_put": _accumulated_index_put,
    "aten::_index_put_impl_": _accumulated_index_put,
    "aten::log_sigmoid_forward": _log_sigmoid,
    "aten::masked_scatter": _masked_scatter,
    "aten::masked_scatter_": _masked_scatter,
}
