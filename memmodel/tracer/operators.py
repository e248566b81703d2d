"""PyTorch's operators as the rules read them: a traced call becomes a `Call`, and its rule says what happens.

An operator without a rule moves its bytes. Its arithmetic is what `torch.utils.flop_counter` has registered for it
(convolutions, the user's own operators), else reported as not known.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

import memmodel.rules.all
import memmodel.tracer.flash  # noqa: F401 (registers rules)
from memmodel.base.device import Device
from memmodel.events.program import Launch
from memmodel.events.work import Work
from memmodel.rules.collectives import C10D
from memmodel.rules.libraries import library_workspace
from memmodel.rules.operator import RESULTS, Call, NotKnown, Steps, kernel, rule_of
from memmodel.rules.optimizers import LISTS, on_lists
from memmodel.rules.pointwise import pointwise
from memmodel.tensors.layout import Strided
from memmodel.tracer.corrections.torch_types import kind_of, number, plain_dims
from memmodel.tracer.private.dispatch import name_of, packet_of, schema_of, tensors_in, tree_leaves
from memmodel.tracer.private.distributed import GROUPS, ranks_of

_NO_ARITHMETIC = NotKnown("its arithmetic is not known: it counts as moving its bytes")


class Traced(Strided):
    """A traced tensor as a kernel sees it; decisions about layout are taken at the hints of its symbols."""

    __slots__ = ("tensor",)

    def __init__(self, tensor: Tensor) -> None:
        (offset,) = plain_dims((tensor.storage_offset(),))
        super().__init__(plain_dims(tensor.shape), kind_of(tensor.dtype), plain_dims(tensor.stride()), offset)
        self.tensor = tensor

    def is_contiguous(self) -> bool:
        """Whether it is row-major."""
        return bool(self.tensor.is_contiguous())

    def at_most(self, n: int, dim: int | None = None) -> bool:
        """Whether it has at most n elements, or n along `dim`; a guard of its symbols."""
        return bool((self.tensor.numel() if dim is None else self.tensor.shape[dim]) <= n)

    def numbers(self) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """Sizes, strides and offset, at the hints of symbols."""
        x = self.tensor
        return tuple(map(number, x.shape)), tuple(map(number, x.stride())), number(x.storage_offset())


@cache
def is_view(func: Any) -> bool:
    """Whether an operator allocates nothing: its results are on its operands' storages."""
    returned = schema_of(func).returns
    return bool(returned) and all(r.alias_info is not None and not r.alias_info.is_write for r in returned)


def call_of(
    func: Any, args: Any, kwargs: Any, out: Any, device: Device, is_number: Callable[[Tensor], bool] | None = None
) -> Call:
    """The call as rules read it. `is_number` says of a tensor without dimensions whether it is a number on the host."""
    schema = schema_of(func)
    seen: dict[int, Traced] = {}
    given = [_plain(x, seen, is_number) for x in args]
    named = {a.name: x for a, x in zip(schema.arguments, given, strict=False)}
    named |= {name: _plain(x, seen, is_number) for name, x in kwargs.items()}
    if named.keys() & GROUPS:
        named["ranks"] = ranks_of(next(named[name] for name in GROUPS if name in named))
    results = [_plain(x, seen, None) for x in tensors_in(out)]
    writes = (named.get(a.name) for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write)
    mutated = [x for x in tree_leaves(list(writes)) if isinstance(x, Strided)]
    operands = [x for x in tree_leaves(list(named.values())) if isinstance(x, Strided)]
    # Operators that a real run makes in place (corrections/in_place.py) return their operand.
    mutated = mutated or [x for x in results if any(x is y for y in operands)]
    space, _, op = name_of(func).partition("::")
    op = C10D + op if space == "c10d" else op
    return Call(op, given, named, results, device, mutated, schema.overload_name)


def _plain(x: Any, seen: dict[int, Traced], is_number: Callable[[Tensor], bool] | None) -> Any:
    """An argument without PyTorch: tensors as kernels see them, each once; symbols as expressions."""
    if isinstance(x, Tensor):
        if is_number is not None and not x.dim() and is_number(x):
            # Any value: it changes no allocation.
            return 1.0 if x.dtype.is_floating_point else 1
        if id(x) not in seen:
            seen[id(x)] = Traced(x)
        return seen[id(x)]
    if isinstance(x, torch.SymInt):
        return x.node.expr
    if isinstance(x, torch.dtype):
        return kind_of(x)
    return [_plain(each, seen, is_number) for each in x] if isinstance(x, list | tuple) else x


def steps_of(func: Any, call: Call, args: Any, kwargs: Any, out: Any) -> Steps:
    """The steps of an operator: by its rule, as an elementwise or list operator, or as one kernel that moves bytes."""
    found = rule_of(call.op)
    if found is None and call.op.startswith(LISTS):
        found = on_lists
    if found is None and torch.Tag.pointwise in func.tags and func.namespace == "aten":
        found = pointwise
    yield from _unruled(func, call, args, kwargs, out) if found is None else found(call)
    unknown = library_workspace(call.op) if call.device.name == "cuda" else None
    if unknown:
        yield unknown


def _unruled(func: Any, call: Call, args: Any, kwargs: Any, out: Any) -> Steps:
    from torch.utils.flop_counter import flop_registry  # imports Triton

    counted = flop_registry.get(packet_of(func))
    matmul = plain_dims((counted(*args, **kwargs, out_val=out),))[0] if counted else 0
    yield RESULTS
    if counted is None:
        yield _NO_ARITHMETIC
    written = call.written()
    # Times go by the type that is computed in: a floating one where there is one.
    typed = next((x for x in (*written, *call.tensors()) if x.dtype.floating), None) or (*written, *call.tensors())[0]
    yield kernel(call.op, call.tensors(), written, typed.dtype, matmul=matmul, in_place=call.in_place)


def launches(func: Any, args: Any, kwargs: Any, out: Any, device: Device) -> Iterator[Launch]:
    """The operator's kernels alone."""
    if is_view(func):
        return
    call = call_of(func, args, kwargs, out, device)
    yield from (step for step in steps_of(func, call, args, kwargs, out) if isinstance(step, Launch))


def work_of(func: Any, args: Any, kwargs: Any, out: Any, device: Device) -> Work:
    """The work of the operator's kernels together."""
    return sum((launch.work for launch in launches(func, args, kwargs, out, device)), start=Work())
