"""Operators on lists of tensors, which optimizers run over all parameters at once.

Sources: aten/src/ATen/native/cuda/ForeachFunctors.cuh, FusedAdamKernel.cu. A list operator counts as one kernel over
all of its tensors.
"""

from memmodel.dims import Dim
from memmodel.rules.operator import RESULTS, Call, Steps, kernel
from memmodel.tensors.layout import Strided

LISTS = ("_foreach_", "_fused_adam", "_fused_sgd", "_fused_adagrad", "_amp_foreach")
_VECTOR = {  # FLOP per element, where not one
    "_foreach_addcmul": 3,
    "_foreach_addcdiv": 3,
    "_foreach_lerp": 3,
    "_foreach_norm": 2,
    "_foreach_copy": 0,
    "_foreach_zero": 0,
    "_fused_adam": 14,
    "_fused_adamw": 14,
}


def on_lists(call: Call) -> Steps:
    """One kernel that reads and writes each tensor once, and computes on every element of the first list."""
    yield RESULTS
    if not call.tensors():
        return  # numbers on the host, such as step counters
    n = _elements(call.args[0])
    vector = _VECTOR.get(call.op.rstrip("_"), 1)
    written = call.written()
    fills = call.op.startswith(("_foreach_copy", "_foreach_zero"))
    read = [x for x in call.tensors() if not (fills and any(x is y for y in written))]
    dtype = (written or call.tensors())[0].dtype
    yield kernel(call.op.strip("_"), read, written, dtype, vector=vector * n, in_place=call.in_place)


def _elements(tensors: list[Strided]) -> Dim:
    return sum((x.numel() for x in tensors if isinstance(x, Strided)), start=0)
