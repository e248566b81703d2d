"""PyTorch's dispatch: operators, modes, trees of arguments, and identities of storages."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, _get_current_dispatch_mode_stack
from torch.utils._pytree import tree_leaves as any_leaves
from torch.utils._pytree import tree_map, tree_map_only

__all__ = [
    "IS_CPU",
    "IS_CUDA",
    "PARSE_TO",
    "VARIABLE_FUNCTIONS",
    "HigherOrderOperator",
    "OpOverload",
    "TorchDispatchMode",
    "address_of",
    "converting_log_softmax",
    "converting_softmax",
    "decompositions",
    "has_symbols",
    "hook_tables",
    "hooks_of",
    "inner",
    "is_composite",
    "is_wrapped",
    "is_wrapper",
    "modes_on",
    "name_of",
    "packet_of",
    "schema_of",
    "storage_of",
    "tables_of",
    "tensors_in",
    "tree_leaves",
    "tree_map",
    "tree_map_only",
    "without_function_modes",
    "without_modes",
]

IS_CUDA = vars(torch._C.TensorBase)["is_cuda"].__get__  # what a function mode sees of `x.is_cuda`
IS_CPU = vars(torch._C.TensorBase)["is_cpu"].__get__
VARIABLE_FUNCTIONS = torch._VF  # what torch.nn.functional calls: torch.dropout and others
PARSE_TO = torch._C._nn._parse_to  # what `module.to(...)` asks which device and type it was given
modes_on = _get_current_dispatch_mode_stack
without_modes = _disable_current_modes
without_function_modes = torch._C.DisableTorchFunction
converting_softmax, converting_log_softmax = torch._softmax, torch._log_softmax  # (x, dim, half to float)


def schema_of(target: Any) -> Any:
    """An operator's schema (name, arguments, returns); None for a function that is no operator."""
    return getattr(target, "_schema", None)


def name_of(operator: Any) -> str:
    """An operator's name without its overload: "aten::add"."""
    return str(operator._schema.name)


@cache
def is_composite(operator: Any) -> bool:
    """Whether an operator's kernel is the same for every device and calls others, which autograd knows."""
    return bool(operator.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd))


def packet_of(operator: Any) -> Any:
    """All overloads of an operator."""
    return operator._overloadpacket


def decompositions() -> Mapping[Any, Callable[..., Any]]:
    """PyTorch's operators in Python: what computes an operator out of others."""
    from torch._decomp import decomposition_table  # takes a while

    return decomposition_table


def has_symbols(tensor: Tensor) -> bool:
    """Whether a size or stride of it is symbolic."""
    return bool(tensor._has_symbolic_sizes_strides)


_ATOMS = frozenset((int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format))


def tree_leaves(value: Any) -> list[Any]:
    """The leaves of lists, tuples and dicts, in order; PyTorch's own walk knows more types and is many times slower."""
    found: list[Any] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: list[Any]) -> None:
    kind = type(value)
    if kind is tuple or kind is list:
        for each in value:
            _collect(each, found)
    elif kind is dict:
        for each in value.values():
            _collect(each, found)
    elif kind in _ATOMS or isinstance(value, Tensor):
        found.append(value)
    else:
        found += any_leaves(value)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in lists, tuples and dicts of arguments or results, in order."""
    return [x for x in tree_leaves(value) if isinstance(x, Tensor)]


def is_wrapped(tensor: Tensor) -> bool:
    """Whether a transform of torch.func (grad, vmap) has put its own tensor around another."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def address_of(storage: torch.UntypedStorage) -> int:
    """The identity of a storage among those that are alive."""
    return int(storage._cdata)


def storage_of(tensor: Tensor) -> torch.UntypedStorage:
    """The storage of a tensor; where torch.func or torch.distributed wraps one, that of the innermost."""
    # Transforms nest: vmap of grad wraps twice.
    while is_wrapped(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return inner(tensor).untyped_storage()


def inner(tensor: Tensor) -> Tensor:
    """The tensor of this rank inside one of torch.distributed's (DTensor, AsyncCollectiveTensor), else itself."""
    while type(tensor).__module__.startswith("torch.distributed."):
        # AsyncCollectiveTensor has `elem`, DTensor `_local_tensor`.
        tensor = tensor.elem if hasattr(tensor, "elem") else tensor._local_tensor  # type: ignore[attr-defined]
    return tensor


def is_wrapper(types: Iterable[type]) -> bool:
    """Whether one of these tensor types is torch.distributed's own, which dispatches to the tensors inside."""
    return any(kind.__module__.startswith("torch.distributed.") for kind in types)


def tables_of(module: torch.nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """A module's own parameters and buffers by name, to be changed in place."""
    return module._parameters, module._buffers


def hooks_of(module: torch.nn.Module) -> Iterator[Callable[..., Any]]:
    """The functions that PyTorch calls around a module, its parts and their parameters, in no order."""
    for part in module.modules():
        for table in (part._forward_pre_hooks, part._forward_hooks, part._backward_pre_hooks, part._backward_hooks):
            yield from table.values()
        for parameter in part._parameters.values():
            for hooks in hook_tables(parameter):
                yield from hooks.values()


def hook_tables(tensor: Tensor | None) -> tuple[dict[int, Any], dict[int, Any]]:
    """The hooks of a tensor: on its gradient, and after that is accumulated."""
    return getattr(tensor, "_backward_hooks", None) or {}, getattr(tensor, "_post_accumulate_grad_hooks", None) or {}


def children_of(module: torch.nn.Module) -> dict[str, Any]:
    """A module's own children by name, to be changed in place."""
    return module._modules
