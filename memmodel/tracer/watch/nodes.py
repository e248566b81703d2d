"""Autograd's nodes: whose result each storage is, and of what the gradient; by the numbers that autograd gives them."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from memmodel.events.program import Site
from memmodel.tracer.corrections.torch_types import plain_dims
from memmodel.tracer.private.autograd import next_number, number_of
from memmodel.tracer.private.dispatch import tensors_in
from memmodel.tracer.watch.storages import Storages


class Nodes:
    """The nodes of a run; they give storages made in backward their gradients and lines."""

    def __init__(self, storages: Storages) -> None:
        self.storages = storages
        self._made: dict[int, tuple[int, Any, Site | None]] = {}  # node's number -> storage, shape, line of its result
        self._formula = -1, 0  # number of the node that runs, the latest storage before it

    def is_own(self, node: Any, args: Any) -> bool:
        """Whether the first operand was born while this node's formula ran."""
        if node is None:
            return False
        number = number_of(node)
        if self._formula[0] != number:
            self._formula = number, self.storages.last_key
        key = self.storages.key_of(args[0]) if args and isinstance(args[0], Tensor) else None
        return key is not None and key > self._formula[1]

    def remember(self, out: Any, site: Site | None) -> None:
        """Note which node a result of that line belongs to: autograd numbered it just before the operator ran."""
        first = next(iter(tensors_in(out)), None)
        key = None if first is None else self.storages.key_of(first)
        if first is not None and key is not None:
            self._made[next_number() - 1] = key, tuple(first.shape), site

    def attribute(self, node: Any, out: Any, born: range) -> None:
        """Say of storages born in backward whose gradient they are, and which line's backward made them."""
        own = self._made.get(number_of(node))
        line = None if own is None else own[2]
        for x in tensors_in(out):
            key = self.storages.key_of(x)
            if key is not None and key in born:
                # A formula's operator does not say whose gradient it computes: the first input's of that shape.
                of = next((k for k, shape in self._behind(node) if plain_dims(shape) == plain_dims(x.shape)), None)
                if of is not None:
                    self.storages.gradients[key] = of
        if line is not None:
            self.storages.forward_of |= dict.fromkeys(born, line)

    def _behind(self, node: Any) -> Iterator[tuple[int, Any]]:
        """(storage, shape) of the tensors whose gradients a node computes."""
        for after, _ in node.next_functions:
            if after is None:
                continue
            leaf = getattr(after, "variable", None)
            if leaf is not None:
                key = self.storages.key_of(leaf)
                if key is not None:
                    yield key, tuple(leaf.shape)
            elif number_of(after) in self._made:
                yield self._made[number_of(after)][:2]
