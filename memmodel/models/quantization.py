"""Weights in fewer bits: the bytes of a linear layer's weight by format, with its scales and zero points.

Sources: of fp8, vllm's and transformers' block-quantized linear layers (scales in fp32 for blocks of 128 x 128); of AWQ
and GPTQ, AutoAWQ's WQLinear and AutoGPTQ's QuantLinear (groups of 128 rows, g_idx of GPTQ); of MXFP4 and NVFP4, the OCP
Microscaling specification and NVIDIA's; of NF4 and int8, bitsandbytes functional.py and nn/modules.py.
"""

from collections.abc import Callable
from typing import NamedTuple

from memmodel.models.architecture import PARTS, Architecture, Part, Weight, all_weights
from memmodel.sizes.dims import Dim, ceil_div

# Elements of NF4 that share a scale, and scales that share one of their own (bitsandbytes, nn/modules.py).
NF4_BLOCK, SCALE_BLOCK = 64, 256
_GROUP = 128  # rows of AWQ's and GPTQ's groups; sides of fp8's blocks


class Format(NamedTuple):
    """A format of linear weights.

    Attributes:
        title: for people.
        matrix: bytes of a matrix of `outputs` x `inputs`.
        of_experts: whether a mixture keeps its other layers as they are.
    """

    title: str
    matrix: Callable[[Dim, Dim], Dim]
    of_experts: bool = False


def _blocks(outputs: Dim, inputs: Dim) -> Dim:
    """A byte an element, and an fp32 scale for each block of 128 x 128."""
    return outputs * inputs + 4 * ceil_div(outputs, _GROUP) * ceil_div(inputs, _GROUP)


def _grouped(bits: int, index: bool) -> Callable[[Dim, Dim], Dim]:
    """Packed integers, with an fp16 scale and a packed zero point for each group of rows, and GPTQ's index of rows."""

    def nbytes(outputs: Dim, inputs: Dim) -> Dim:
        groups = ceil_div(inputs, _GROUP)
        return outputs * inputs * bits // 8 + groups * outputs * (16 + bits) // 8 + (4 * inputs if index else 0)

    return nbytes


def _micro(block: int) -> Callable[[Dim, Dim], Dim]:
    """4-bit floats, with a scale of one byte for each block."""
    return lambda outputs, inputs: outputs * inputs // 2 + outputs * ceil_div(inputs, block)


def _nf4(outputs: Dim, inputs: Dim) -> Dim:
    """Two elements a byte, and an fp32 scale a block."""
    return ceil_div(outputs * inputs, 2) + 4 * ceil_div(outputs * inputs, NF4_BLOCK)


def _nf4_double(outputs: Dim, inputs: Dim) -> Dim:
    """The same with scales of one byte, of which a block shares one in fp32."""
    blocks = ceil_div(outputs * inputs, NF4_BLOCK)
    return ceil_div(outputs * inputs, 2) + blocks + 4 * ceil_div(blocks, SCALE_BLOCK)


FORMATS: dict[str, Format] = {
    "fp8": Format("fp8 in blocks of 128 x 128", _blocks),
    "fp8-tensor": Format("fp8 with one scale a matrix", lambda outputs, inputs: outputs * inputs + 4),
    "int8": Format("LLM.int8, a scale a row", lambda outputs, inputs: outputs * inputs + 4 * outputs),
    "awq": Format("AWQ in 4 bits, groups of 128", _grouped(4, index=False)),
    "gptq4": Format("GPTQ in 4 bits, groups of 128", _grouped(4, index=True)),
    "gptq8": Format("GPTQ in 8 bits, groups of 128", _grouped(8, index=True)),
    "mxfp4": Format("MXFP4, a scale for 32", _micro(32), of_experts=True),
    "nvfp4": Format("NVFP4, a scale for 16", _micro(16)),
    "nf4": Format("NF4, a scale for 64", _nf4),
    "nf4-double": Format("NF4 with quantized scales", _nf4_double),
}


def packed_bytes(weight: Weight, arch: Architecture, quantize: str, itemsize: int) -> Dim:
    """The bytes of one parameter tensor: packed where the format packs it, else `itemsize` an element.

    Embedding, head, norms, biases and routers stay as they are, as the published checkpoints have them.
    """
    form = FORMATS.get(quantize)
    if form is None or not weight.linear or (form.of_experts and arch.moe and weight.part != "experts"):
        return weight.numel * (4 if weight.in_fp32 else itemsize)
    *stack, outputs, inputs = weight.shape
    nbytes = form.matrix(outputs, inputs)
    for count in stack:
        nbytes = nbytes * count
    return nbytes


def weight_bytes(arch: Architecture, quantize: str = "none", itemsize: int = 2) -> dict[Part, Dim]:
    """Bytes of all parameters by part of the model."""
    found: dict[Part, Dim] = dict.fromkeys(PARTS, 0)
    for weight, count in all_weights(arch):
        found[weight.part] = found[weight.part] + count * packed_bytes(weight, arch, quantize, itemsize)
    return {part: nbytes for part, nbytes in found.items() if nbytes}
