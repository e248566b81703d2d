"""A training step: forward, backward, and the optimizer's update, after backward or within it."""

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

from memmodel_kernels.decoder import Decoder, encoded, hidden_states
from memmodel_kernels.namespace import autocast, namespace, same_scope
from memmodel_kernels.optimizers import OPTIMIZERS, Optimizer, States

Loss = Callable[[Decoder, Any, Any], tuple[Any, Any]]


class Batch(NamedTuple):
    """Token indices (b, n), the indices of those that follow them, and what an encoder before a decoder reads."""

    tokens: Any
    targets: Any
    source: Any = None


class Update(NamedTuple):
    """Parameters with the optimizer that updates them, and its states of them.

    Attributes:
        masters, sums: copies of the parameters and sums of their gradients, both in fp32, which the optimizer sees in
            their place (mixed precision as in Megatron-LM); None without.
    """

    optimizer: Optimizer
    parameters: Sequence[Any]
    states: States
    masters: Sequence[Any] | None = None
    sums: Sequence[Any] | None = None

    def gradients(self, without: Collection[int] = ()) -> list[Any]:
        """The gradients that the optimizer sees, but for those of parameters with these ids."""
        seen = [parameter.grad for parameter in self.parameters] if self.sums is None else self.sums
        return [grad for parameter, grad in zip(self.parameters, seen, strict=True) if id(parameter) not in without]

    def run(self) -> None:
        """Update the parameters."""
        self.optimizer.update(self.masters or self.parameters, self.gradients(), *self.states)
        if self.masters and self.sums:
            xp = namespace(self.masters[0])
            xp._foreach_copy_(self.parameters, self.masters)
            xp._foreach_zero_(self.sums)

    def one(self, place: int) -> "Update":
        """The update of one of the parameters."""
        states = [kind[place : place + 1] for kind in self.states]
        return Update(self.optimizer, self.parameters[place : place + 1], states)


def updates_of(
    optimizer: Optimizer, parameters: Sequence[Any], matrices: Sequence[Any], masters: bool = False
) -> list[Update]:
    """The updates of a step, with fresh states; `matrices` are those parameters that are a layer's linear weights."""
    if not optimizer.matrices:
        return [_fresh(optimizer, one, masters) for one in _by_dtype(parameters)]
    hidden = set(map(id, matrices))
    others = [parameter for parameter in parameters if id(parameter) not in hidden]
    return [_fresh(optimizer, matrices, masters)] + [
        _fresh(OPTIMIZERS["adamw"], one, masters) for one in _by_dtype(others)
    ]


def _by_dtype(parameters: Sequence[Any]) -> list[list[Any]]:
    """Parameters of one dtype together, as an optimizer on lists takes them (_group_tensors_by_device_and_dtype)."""
    found: dict[Any, list[Any]] = {}
    for parameter in parameters:
        found.setdefault(parameter.dtype, []).append(parameter)
    return list(found.values())


def _fresh(optimizer: Optimizer, parameters: Sequence[Any], masters: bool) -> Update:
    if not masters:
        return Update(optimizer, parameters, optimizer.fresh(parameters))
    copies, sums = [], []
    for parameter in parameters:
        with same_scope(parameter):
            copies.append(copied(parameter))
            sums.append(parameter.new_zeros(parameter.shape, dtype=namespace(parameter).float32))
    update = Update(optimizer, parameters, optimizer.fresh(copies), copies, sums)
    for parameter, total in zip(parameters, sums, strict=True):
        parameter.register_post_accumulate_grad_hook(adding_to(total))
    return update


def copied(parameter: Any) -> Any:
    """A copy of a parameter in fp32."""
    xp = namespace(parameter)
    copy = parameter.new_empty(parameter.shape, dtype=xp.float32)
    with xp.no_grad():
        return copy.copy_(parameter)


def adding_to(total: Any) -> Callable[[Any], None]:
    """A hook that adds a parameter's gradient to a sum, and drops it."""

    def add(parameter: Any) -> None:
        total.add_(parameter.grad)
        parameter.grad = None

    return add


def update_in_backward(updates: Sequence[Update]) -> None:
    """Update each parameter as soon as its gradient is there, and drop the gradient."""
    for update in updates:
        for place, parameter in enumerate(update.parameters):
            parameter.register_post_accumulate_grad_hook(_updating(update.one(place)))


def _updating(update: Update) -> Callable[[Any], None]:
    def run(parameter: Any) -> None:
        with namespace(parameter).no_grad(), same_scope(parameter):
            update.run()
        parameter.grad = None

    return run


def training_step(
    model: Decoder,
    updates: Sequence[Update],
    batches: Sequence[Batch],
    loss: Loss,
    mark: Callable[[str], None],
    clipping: "Clipping | None" = None,
    keep_logits: bool = False,
    low_precision: Any = None,
    before_backward: Callable[[], None] = lambda: None,
    after_backward: Callable[[], None] = lambda: None,
) -> None:
    """One step over micro-batches; gradients are set to None at its end.

    `updates` is empty where parameters are updated in backward. `mark` is told where phases begin. `keep_logits`:
    whether the caller holds them in backward, as in `out = model(...); out.loss.backward()`. `low_precision`: the dtype
    of autocast around forward and loss. `before_backward` and `after_backward`: what ranks that share gradients do
    before each backward, and after the last.
    """
    for tokens, targets, source in batches:
        mark("forward")
        with nullcontext() if low_precision is None else autocast(tokens, low_precision):
            value, logits = model.around(None, partial(_loss, model, loss, targets, source), tokens)
        if not keep_logits:
            del logits
        mark("backward")
        before_backward()
        value.backward()
    after_backward()
    update_all(updates, mark, clipping)
    mark("after")
    del value
    drop_gradients(updates)


def update_all(updates: Sequence[Update], mark: Callable[[str], None], clipping: "Clipping | None" = None) -> None:
    """Run the updates, after clipping the gradients where `clipping` is given."""
    if updates:
        mark("optimizer")
        with namespace(updates[0].parameters[0]).no_grad():
            if clipping is not None:
                clipping.clip(updates)
            for update in updates:
                update.run()


def drop_gradients(updates: Sequence[Update]) -> None:
    """Set gradients to None."""
    for update in updates:
        for parameter in update.parameters:
            parameter.grad = None


def _loss(model: Decoder, loss: Loss, targets: Any, source: Any, tokens: Any) -> tuple[Any, Any]:
    read = encoded(model, source)  # to the end of the loss, as by the outputs of transformers' classes
    return loss(model, hidden_states(model, tokens, read=read), targets)


class Clipping(NamedTuple):
    """Gradients are clipped by the norm of all ranks'.

    Attributes:
        total: of the square of a rank's norm, the sum over the ranks that have others; None where there are none.
        elsewhere: the ids of parameters that another rank has too, and counts.
    """

    total: Callable[[Any], Any] | None = None
    elsewhere: Collection[int] = ()

    def clip(self, updates: Sequence[Update], most: float = 1.0) -> None:
        """Scale gradients in place so that their norm is at most `most` (torch/nn/utils/clip_grad.py, on lists)."""
        gradients = [gradient for update in updates for gradient in update.gradients()]
        counted = [gradient for update in updates for gradient in update.gradients(self.elsewhere)]
        xp = namespace(gradients[0])
        norms = xp._foreach_norm(counted, 2.0)
        norm = xp.stack([norm.to(gradients[0].device) for norm in norms]).norm(2.0)
        if self.total is not None:
            norm = self.total(norm.pow(2)).sqrt()
        factor = most / (norm + 1e-6)
        # Multiplied also where the factor is 1: to branch, the host would wait for the norm.
        xp._foreach_mul_(gradients, factor.clamp(max=1.0))
