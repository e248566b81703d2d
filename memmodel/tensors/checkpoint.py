"""Activation checkpointing (non-reentrant): save only the inputs, and recompute the rest when backward needs it.

Source: torch/utils/checkpoint.py (_checkpoint_hook, _recomputation_hook). The second run stops as soon as the last
tensor is saved (early stop), so an operation after it is not repeated.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import ReferenceType, ref

from memmodel.tensors.autograd import Saved, enable_grad, saved_tensors_hooks, show_to_hooks
from memmodel.tensors.tape import Tape, current
from memmodel.tensors.tensor import Tensor

_NODE = "CheckpointBackward"


class _Stop(Exception):  # noqa: N818 (it is no error)
    """Raised in the second run once the last saved tensor is recomputed."""


class _Empty:
    """The tensor without elements, on the host, that PyTorch saves with the inputs; hooks see it."""

    is_leaf = requires_grad = True

    def numel(self) -> int:
        """No elements."""
        return 0

    def element_size(self) -> int:
        """Bytes of an element."""
        return 4


class _Input:
    """A tensor that a checkpointed call gets: saved, as any other, for the second run."""

    def __init__(self, tensor: Tensor) -> None:
        self.saved = Saved(tensor, _NODE)
        self.requires_grad, self.grad_fn = tensor.requires_grad, tensor.grad_fn

    def unpack(self) -> Tensor:
        """The tensor with its history, which tells autocast that it is no leaf."""
        tensor = self.saved.unpack().alias()
        tensor.requires_grad, tensor.grad_fn = self.requires_grad, self.grad_fn
        return tensor


Policy = Callable[[str], bool]  # whether the results of an operator, by ATen's name, are kept


class Selected:
    """The results that a selective checkpoint keeps in its first run, and gives back in its second.

    Source: torch/utils/checkpoint.py (_CachingTorchDispatchMode, _CachedTorchDispatchMode).
    """

    def __init__(self, policy: Callable[[], Policy]) -> None:
        self.policy = policy
        self.keeps: Policy = policy()
        self.kept: list[tuple[Tensor, ...]] = []
        self.second = False

    def keep(self, op: str, made: tuple[Tensor, ...]) -> None:
        """First run: keep the results of an operator that is to be kept."""
        if not self.second and self.keeps(op):
            self.kept.append(tuple(x.alias() for x in made))
            for x in made:
                x.storage.tape.save(x.storage.key, _NODE)

    def given_back(self, op: str) -> tuple[Tensor, ...] | None:
        """Second run: the results that the first kept, in order."""
        return self.kept.pop(0) if self.second and self.keeps(op) else None

    @contextmanager
    def run(self, tape: Tape, second: bool = False) -> Iterator[None]:
        """Inside, operators are kept or given back."""
        self.second, self.keeps = second, self.policy()
        before, tape.selected = tape.selected, self
        try:
            yield
        finally:
            tape.selected = before


class _Place:
    """What the first run saves in a tensor's place: as long as it lives, some node needs the tensor."""

    def __init__(self, number: int) -> None:
        self.number = number


class _Frame:
    """One checkpointed call: the places of tensors that its first run saved, and those that its second recomputed."""

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], selected: Selected | None, tape: Tape
    ) -> None:
        self.function, self.selected, self.tape, self.autocast = function, selected, tape, tape.autocast
        show_to_hooks(_Empty())
        self.args = [_Input(arg) if isinstance(arg, Tensor) else arg for arg in args]
        self.places: list[ReferenceType[_Place]] = []
        self.recomputed: dict[int, Tensor] | None = None

    def selecting(self, second: bool = False) -> AbstractContextManager[None]:
        """The context of a run."""
        return nullcontext() if self.selected is None else self.selected.run(self.tape, second)

    def pack(self, _: Tensor) -> _Place:
        """First run: save the tensor's index in its place."""
        place = _Place(len(self.places))
        self.places.append(ref(place))
        return place

    def unpack(self, place: _Place) -> Tensor:
        """Backward: recompute at the first request, then return each tensor once, so that it can be freed."""
        if self.recomputed is None:
            self.recomputed = {}
            try:
                with (
                    self.selecting(second=True),
                    saved_tensors_hooks(self.repack, lambda tensor: tensor),
                    enable_grad(),
                    self.tape.casting(self.autocast),
                ):
                    self.function(*(arg.unpack() if isinstance(arg, _Input) else arg for arg in self.args))
            except _Stop:
                pass
        return self.recomputed.pop(place.number)

    def repack(self, tensor: Tensor) -> Tensor:
        """Second run: keep the tensor, if its node is still there, and stop after the last."""
        assert self.recomputed is not None
        number = len(self.places) - self.remaining
        if self.places[number]() is not None:
            self.recomputed[number] = tensor
            tensor.storage.tape.save(tensor.storage.key, _NODE)
        self.remaining -= 1
        if self.remaining == 0:
            raise _Stop
        return tensor

    remaining: int = 0


def checkpoint(
    function: Callable[..., Any], *args: Any, use_reentrant: bool = False, policy: Callable[[], Policy] | None = None
) -> Any:
    """Call `function(*args)`, saving only `args` for backward, and the results of operators that a `policy` chooses.

    `policy` makes a fresh policy for each run. Raises UsageError for `use_reentrant=True`.
    """
    if use_reentrant:
        from memmodel.base.errors import UsageError

        raise UsageError("checkpoint(use_reentrant=True) is not modelled: pass use_reentrant=False")
    if not current().grad_enabled:
        return function(*args)
    frame = _Frame(function, args, Selected(policy) if policy else None, current())
    with frame.selecting(), saved_tensors_hooks(frame.pack, frame.unpack):
        result = function(*args)
    frame.remaining = len(frame.places)
    return result
