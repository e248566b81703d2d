"""What autograd keeps for backward: read off the graph just before backward begins."""

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from memmodel.tracer.private.autograd import kept_by, label_of, nodes_behind
from memmodel.tracer.private.patches import is_packed


def saved_tensors(roots: Iterable[Any]) -> Iterator[tuple[str, Tensor]]:
    """(node's name, tensor) of every tensor that the graph behind `roots` (tensors) keeps, from the first op on."""
    for node in nodes_behind(roots):
        if not is_packed(node):
            yield from ((label_of(node), kept) for kept in kept_by(node))
