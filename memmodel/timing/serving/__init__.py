"""The time of attention in serving stacks: kernels that others measured, each with a model of few constants.

What says whether a case and a GPU have such a time is here; the models, which few commands need, are in `call.py`.
"""

from memmodel.attention.case import Case
from memmodel.gpus import Gpu

SERVED = ("flash", "decode")  # algorithms that stacks have a kernel for


def serves(case: Case) -> bool:
    """Whether serving stacks have a kernel for a case: flash attention or decoding in 16 bits, without gradients."""
    return case.phase == "inference" and case.algorithm in SERVED and case.dtype.itemsize == 2


def chip_known(gpu: Gpu) -> bool:
    """Whether a GPU's data have what `memmodel.timing.serving.chip.chip_of` needs."""
    return {"sm_count", "tensor_clock", "bandwidth", "tensor.fp16"} <= gpu.values.keys()
