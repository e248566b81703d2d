"""Autograd's nodes: whose result each storage is, and of what the gradient; by the numbers that autograd gives them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from memmodel.program import Site
from memmodel.tracer.rules.kinds import plain_dims

if TYPE_CHECKING:
    from memmodel.tracer.watch.watcher import Watcher


class Nodes:
    """What is known of the nodes of a run; it notes gradients and lines in the watcher."""

    def __init__(self, watcher: "Watcher") -> None:
        self.watcher = watcher
        self._made: dict[int, tuple[int, Any, Site | None]] = {}  # node's number -> storage, shape, line of its result
        self._formula = -1, 0  # number of the node that runs, the latest storage before it

    def is_own(self, node: Any, args: Any) -> bool:
        """Whether the first operand was born while this node's formula ran."""
        if node is None:
            return False
        number = int(node._sequence_nr())
        if self._formula[0] != number:
            self._formula = number, self.watcher.last_key
        key = self.watcher.key_of(args[0]) if args and isinstance(args[0], Tensor) else None
        return key is not None and key > self._formula[1]

    def remember(self, out: Any) -> None:
        """Note which node a result belongs to: autograd numbered it just before the operator ran."""
        first = next((x for x in tree_leaves(out) if isinstance(x, Tensor)), None)
        key = None if first is None else self.watcher.key_of(first)
        if first is not None and key is not None:
            number = torch._C._autograd._get_sequence_nr() - 1
            self._made[number] = key, tuple(first.shape), self.watcher.site()

    def attribute(self, node: Any, out: Any, born: range) -> None:
        """Say of storages born in backward whose gradient they are, and which line's backward made them."""
        own = self._made.get(int(node._sequence_nr()))
        line = None if own is None else own[2]
        for x in tree_leaves(out):
            key = self.watcher.key_of(x) if isinstance(x, Tensor) else None
            if key is not None and key in born:
                of = next((k for k, shape in self._behind(node) if plain_dims(shape) == plain_dims(x.shape)), None)
                if of is not None:
                    self.watcher.gradients[key] = of
        if line is not None:
            self.watcher.forward_of |= dict.fromkeys(born, line)

    def _behind(self, node: Any) -> Iterator[tuple[int, Any]]:
        """(storage, shape) of the tensors whose gradients a node computes."""
        for after, _ in node.next_functions:
            if after is None:
                continue
            leaf = getattr(after, "variable", None)
            if leaf is not None:
                key = self.watcher.key_of(leaf)
                if key is not None:
                    yield key, tuple(leaf.shape)
            elif int(after._sequence_nr()) in self._made:
                yield self._made[int(after._sequence_nr())][:2]
