"""Linear layers: plain, with a low-rank adapter beside the weight, or with a weight in 4 bits."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from memmodel_kernels.kernel import kernel
from memmodel_kernels.namespace import functional, namespace
from memmodel_kernels.parallel.tensor import TensorParallel


def linear(x: Any, weights: Mapping[str, Any], name: str, adapter_dropout: float = 0.0) -> Any:
    """x W^T + bias of the layer called `name`, and what its adapter adds, where it has one."""
    bias = weights.get(f"{name}.bias")
    if f"{name}.packed" in weights:
        out = four_bit_linear(x, weights, name)
        out = out if bias is None else out + bias
    else:
        out = functional(x).linear(x, weights[f"{name}.weight"], bias)
    if f"{name}.lora_a" not in weights:
        return out
    return _adapted(x, out, weights, name, adapter_dropout, functional(x).linear)


def columns(
    x: Any,
    weights: Mapping[str, Any],
    names: Sequence[str],
    tensor: TensorParallel | None,
    adapter_dropout: float = 0.0,
) -> list[Any]:
    """The layers of these names, which read one input; of their features a rank has its share."""
    if tensor is None:
        return [linear(x, weights, name, adapter_dropout) for name in names]
    outs = tensor.columns(x, [(weights[f"{name}.weight"], weights.get(f"{name}.bias")) for name in names])

    def adapted(low: Any, up: Any) -> Any:
        return tensor.columns(low, [(up, None)])[0]  # the way down is every rank's

    return [
        _adapted(x, out, weights, name, adapter_dropout, adapted) if f"{name}.lora_a" in weights else out
        for name, out in zip(names, outs, strict=True)
    ]


def row(
    x: Any, weights: Mapping[str, Any], name: str, tensor: TensorParallel | None, adapter_dropout: float = 0.0
) -> Any:
    """The layer called `name`, whose input's features ranks share."""
    if tensor is None:
        return linear(x, weights, name, adapter_dropout)
    out = tensor.row(x, (weights[f"{name}.weight"], weights.get(f"{name}.bias")))
    if f"{name}.lora_a" not in weights:
        return out

    def adapted(low: Any, up: Any) -> Any:
        return functional(x).linear(tensor.summed(low), up)  # the way up is every rank's

    return _adapted(x, out, weights, name, adapter_dropout, adapted)


def _adapted(
    x: Any, out: Any, weights: Mapping[str, Any], name: str, dropout: float, upwards: Callable[[Any, Any], Any]
) -> Any:
    """The result plus that of the adapter, in the adapter's dtype (LoRA, PEFT's tuners/lora/layer.py).

    `upwards`: the product with the matrix up from the rank.
    """
    f, dtype = functional(x), out.dtype
    down, up = weights[f"{name}.lora_a"], weights[f"{name}.lora_b"]
    x = x.to(down.dtype)
    dropped = f.dropout(x, dropout, True) if dropout else x
    magnitude = weights.get(f"{name}.magnitude")
    if magnitude is None:
        out = out + upwards(f.linear(dropped, down), up) * 2.0
    else:
        out = out + _by_magnitude(dropped, out, weights, name, magnitude)
    return out.to(dtype)


def _by_magnitude(x: Any, out: Any, weights: Mapping[str, Any], name: str, magnitude: Any) -> Any:
    """DoRA's part: the direction of weight and adapter together, scaled by a learned magnitude a row."""
    f, xp = functional(x), namespace(x)
    down, up = weights[f"{name}.lora_a"], weights[f"{name}.lora_b"]
    # PEFT has B A by sending the identity through both matrices (tuners/lora/dora.py).
    unit = xp.eye(down.shape[1], device=x.device, dtype=x.dtype)
    product = f.linear(f.linear(unit, down), up).T.detach()
    weight = _frozen(weights, name, x.shape[-1], out.dtype).to(x.dtype)
    weight = weight + 2.0 * product
    # A constant to autograd, as in the paper's section 4.3 (DoRA, arXiv 2402.09353).
    norm = weight.norm(2, 1).detach()
    scale = (magnitude / norm).view(1, -1)
    added = f.linear(f.linear(x, down), up)
    return (scale - 1) * out + scale * added * 2.0


def _frozen(weights: Mapping[str, Any], name: str, columns: Any, dtype: Any) -> Any:
    """The weight itself, made whole where it is in 4 bits."""
    if f"{name}.packed" not in weights:
        return weights[f"{name}.weight"]
    packed, absmax, scales = _four_bits(weights, name)
    return _whole(packed, absmax, scales, 2 * packed.numel() // columns, dtype)


def _four_bits(weights: Mapping[str, Any], name: str) -> tuple[Any, Any, Any]:
    return weights[f"{name}.packed"], weights[f"{name}.absmax"], weights[f"{name}.absmax_scales"]


def four_bit_linear(x: Any, weights: Mapping[str, Any], name: str) -> Any:
    """x W^T of a weight in NF4, which is made whole for the product, and again for its gradient (bitsandbytes)."""
    packed, absmax, scales = _four_bits(weights, name)
    rows = 2 * packed.numel() // x.shape[-1]
    return _function(namespace(x)).apply(x, rows, packed, absmax, scales)


def _whole(packed: Any, absmax: Any, scales: Any, rows: int, dtype: Any) -> Any:
    """The weight (rows, columns), from two elements a byte and a scale a block of 64, itself in 8 bits."""
    xp = namespace(packed)
    wide = absmax.new_empty(absmax.shape, dtype=xp.float32)
    with kernel("dequantize", reads=(absmax, scales), writes=(wide,)):
        pass
    weight = packed.new_empty(rows, 2 * packed.numel() // rows, dtype=dtype)
    with kernel("dequantize", reads=(packed, wide), writes=(weight,)):
        pass
    return weight


@cache
def _function(xp: Any) -> Any:
    base: Any = xp.autograd.Function if xp.__name__ == "torch" else xp.Function

    class FourBitLinear(base):  # type: ignore[misc]
        """A product with a frozen weight in 4 bits, of which nothing else is saved."""

        @staticmethod
        def forward(ctx: Any, x: Any, rows: int, packed: Any, absmax: Any, scales: Any) -> Any:
            ctx.save_for_backward(packed, absmax, scales)
            ctx.rows = rows
            return functional(x).linear(x, _whole(packed, absmax, scales, rows, x.dtype))

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            packed, absmax, scales = ctx.saved_tensors
            return grad @ _whole(packed, absmax, scales, ctx.rows, grad.dtype), None, None, None, None

    return FourBitLinear
