"""Which of the tensors that were there before a step (parameters, inputs) each storage and kernel comes from.

The owner of a result is the named tensor among its operands, else the owner of the first operand that has one: the
latest parameter on the way. Operators on lists do so element by element.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from memmodel.program import Launch

if TYPE_CHECKING:
    from memmodel.tracer.watch import Watcher


class Owners:
    """Attributes:
    of: storage -> the named storage it comes from. launches: the same for each kernel, in order.
    """

    def __init__(self, watcher: "Watcher") -> None:
        self.watcher = watcher
        self.of: dict[int, int] = {}
        self.launches: list[int | None] = []

    def note(self, args: Any, out: Any, born: Sequence[int], events: Iterable[Any]) -> None:
        """Note an operator's results and kernels."""
        owner = self._owner(args)
        self.launches += [owner for event in events if isinstance(event, Launch)]
        if not born:
            return
        made = out if isinstance(out, list | tuple) else ()
        lists = [given for given in args if isinstance(given, list | tuple) and len(given) == len(made) > 1]
        if lists:
            for i, each in enumerate(made):
                key = self.watcher.key_of(each) if isinstance(each, Tensor) else None
                self._set([key] if key in born else [], self._owner([given[i] for given in lists]))
        else:
            self._set(born, owner)

    def _set(self, keys: Iterable[int | None], owner: int | None) -> None:
        if owner is not None:
            self.of.update((key, owner) for key in keys if key is not None)

    def _owner(self, args: Any) -> int | None:
        keys = [self.watcher.key_of(x) for x in tree_leaves(args) if isinstance(x, Tensor)]
        named = next((key for key in keys if key in self.watcher.names), None)
        return named or next((self.of[key] for key in keys if key in self.of), None)
