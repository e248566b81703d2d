"""The tensors of a model's weights: as they are, in 4 bits, and with low-rank adapters beside them."""

from collections.abc import Iterator
from typing import NamedTuple

from memmodel.base.dtypes import DType, float32, uint8
from memmodel.models.architecture import Weight
from memmodel.models.quantization import NF4_BLOCK, SCALE_BLOCK
from memmodel.models.setting import Adapter, ModelCase
from memmodel.sizes.dims import Dim, Shape, ceil_div, product


class Stored(NamedTuple):
    """A tensor of the weights: its name, what it is part of, shape and dtype, and whether it learns."""

    name: str
    part: str
    shape: Shape
    dtype: DType
    learns: bool


def stored(weight: Weight, case: ModelCase, in_layer: bool) -> Iterator[Stored]:
    """The tensors that hold one weight; in a layer, linear ones may be in 4 bits or have an adapter."""
    adapter = case.adapter
    matrix = in_layer and weight.linear and len(weight.shape) == 2
    if matrix and adapter is not None and adapter.four_bit:
        yield from _four_bit(weight)
    else:
        yield Stored(
            weight.name,
            weight.part,
            weight.shape,
            float32 if case.autocast or weight.in_fp32 else case.dtype,
            case.phase == "train" and adapter is None and not weight.frozen,
        )
    if matrix and adapter is not None and adapter.covers(weight.name):
        yield from _low_rank(weight, adapter, case)


def _four_bit(weight: Weight) -> Iterator[Stored]:
    """NF4 with double quantization: two elements a byte, a byte a block of 64, and a scale for 256 of these."""
    layer, blocks = weight.name.removesuffix(".weight"), ceil_div(product(weight.shape), NF4_BLOCK)
    tensors: dict[str, tuple[Dim, DType]] = {
        "packed": (ceil_div(product(weight.shape), 2), uint8),
        "absmax": (blocks, uint8),
        "absmax_scales": (ceil_div(blocks, SCALE_BLOCK), float32),
        # Tables of a QuantState and of its nested one: the 16 values of NF4, the 256 of quantized scales, their mean.
        "codes": (16, float32),
        "absmax_codes": (256, float32),
        "offset": (1, float32),
    }
    for name, (size, dtype) in tensors.items():
        yield Stored(f"{layer}.{name}", weight.part, (size,), dtype, learns=False)


def _low_rank(weight: Weight, adapter: Adapter, case: ModelCase) -> Iterator[Stored]:
    """The two matrices of LoRA, down to the rank and up from it, and the magnitudes of DoRA."""
    layer, (features, width) = weight.name.removesuffix(".weight"), weight.shape
    shapes: dict[str, Shape] = {"lora_a": (adapter.rank, width), "lora_b": (features, adapter.rank)}
    if adapter.magnitudes:
        shapes["magnitude"] = (features,)
    for name, shape in shapes.items():
        dtype = float32 if adapter.in_fp32 else case.dtype
        yield Stored(f"{layer}.{name}", "adapters", shape, dtype, case.phase == "train")
