"""What autograd keeps for backward: read off the graph just before backward begins."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from memmodel.tracer.watch.patches import is_packed


def saved_tensors(roots: Iterable[Any]) -> Iterator[tuple[str, Tensor]]:
    """(node's name, tensor) of every tensor that the graph behind `roots` (tensors) keeps, from the first op on."""
    for node in _nodes(roots):
        if is_packed(node):
            continue
        name = str(node.name()).rpartition("::")[2]
        for kept in _kept(node):
            yield name, kept


def _kept(node: Any) -> Iterator[Tensor]:
    """Generated nodes show what they keep as `_saved_...`, Python's as `saved_tensors`."""
    fields = [field for field in dir(node) if field.startswith("_saved_")]
    values = [getattr(node, field, None) for field in fields]
    if not fields and hasattr(node, "saved_tensors"):
        try:
            values = list(node.saved_tensors)
        except RuntimeError:  # freed already, or packed away by hooks
            values = []
    yield from (x for x in tree_leaves(values) if isinstance(x, Tensor))


def _nodes(roots: Iterable[Any]) -> list[Any]:
    """Nodes in the order in which forward made them."""
    seen: dict[Any, None] = {}
    stack = [root.grad_fn for root in roots if getattr(root, "grad_fn", None) is not None]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen[node] = None
        stack += [after for after, _ in node.next_functions if after is not None]
    found = [node for node in seen if "AccumulateGrad" not in node.name()]
    return sorted(found, key=lambda node: int(node._sequence_nr()))
