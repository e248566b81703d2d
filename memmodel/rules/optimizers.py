"""Operators on lists of tensors, which optimizers run over all parameters at once.

An optimizer runs without autograd, so that its updates in place have no gradients here.

Sources: aten/src/ATen/native/cuda/ForeachFunctors.cuh, FusedAdamKernel.cu. A list operator counts as one kernel over
all of its tensors.
"""

from collections.abc import Callable, Sequence
from typing import Any

from memmodel.rules.dispatch import aten, several
from memmodel.rules.operator import RESULTS, Call, Spec, Steps, kernel, makes, rule
from memmodel.rules.pointwise import kept_strides
from memmodel.sizes.dims import Dim
from memmodel.tensors.layout import Strided
from memmodel.tensors.tensor import Tensor, method

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
    written_ids = set(map(id, written))
    # These alone do not read what they write over.
    fills = call.op.startswith(("_foreach_copy", "_foreach_zero"))
    read = [x for x in call.tensors() if not (fills and id(x) in written_ids)]
    dtype = (written or call.tensors())[0].dtype
    yield kernel(call.op.strip("_"), read, written, dtype, vector=vector * n, in_place=call.in_place)


def _elements(tensors: list[Strided]) -> Dim:
    return sum((x.numel() for x in tensors if isinstance(x, Strided)), start=0)


rule(
    *(
        f"_foreach_{name}"
        for name in ("add", "sub", "mul", "div", "neg", "sqrt", "lerp", "addcmul", "addcdiv", "norm", "copy", "zero")
    ),
    *(f"_fused_{name}" for name in ("adam", "adamw", "sgd")),
)(on_lists)


def _one_each(tensors: Sequence[Strided], *_: Any, **__: Any) -> list[Spec]:
    return [Spec(x.shape, x.dtype, kept_strides(x)) for x in tensors]


makes(*(f"_foreach_{name}" for name in ("add", "sub", "mul", "div", "neg", "sqrt")))(_one_each)
makes("_foreach_norm")(lambda tensors, *_: [Spec((), x.dtype) for x in tensors])


def on_each(op: str) -> Callable[..., Any]:
    """An operator on lists, by ATen's name; in place where the name ends with an underscore."""

    def run(tensors: Sequence[Tensor], *operands: Any, **named: Any) -> tuple[Tensor, ...]:
        written = tensors if op.endswith("_") else None
        if op.startswith("_fused"):
            written = [x for each in (tensors, *operands[1:]) for x in each]  # all but the gradients
        return several(op, tensors, *operands, into=written, after=tensors, **named)

    return run


def _update(name: str, doc: str) -> None:
    def update(self: Tensor, *operands: Any, **_: Any) -> Tensor:
        return aten(name, self, *operands, into=self)

    update.__doc__ = f"{doc}, into the tensor itself; not under autograd."
    method(name)(update)


def _plain(name: str, doc: str) -> None:
    def run(self: Tensor, *operands: Any, **_: Any) -> Tensor:
        return aten(name, self, *operands)

    run.__doc__ = f"{doc}; not under autograd."
    method(name)(run)


_plain("lerp", "self + weight * (end - self)")
_update("clamp_", "`clamp`")
_update("square_", "The square")
_update("lerp_", "self + weight * (end - self)")
_update("addcmul_", "self + value * a * b")
_update("addcdiv_", "self + value * a / b")
