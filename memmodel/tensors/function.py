"""`Function`: an operation whose backward is written by hand, like `torch.autograd.Function`."""

from typing import Any

from memmodel.tensors.autograd import Op
from memmodel.tensors.tensor import Tensor


class Function:
    """Subclass with static `forward(ctx, ...)` and `backward(ctx, *grads)`; call with `apply(...)`."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        """Compute the result; save tensors by `ctx.save_for_backward`, anything else as attributes of `ctx`."""
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """One gradient, or None, per input."""
        raise NotImplementedError

    @classmethod
    def apply(cls, *inputs: Any) -> Any:
        """Run forward and, if an input requires a gradient, link the result into the graph."""
        return _Custom.apply(*inputs, function=cls)


class _Custom(Op):
    """The graph node of a `Function`, which its methods get as `ctx`."""

    by_hand = True

    def forward(self, *inputs: Any, function: type[Function]) -> Any:
        """Run the user's forward."""
        self.function = function
        self.name = f"{function.__name__}Backward"
        return function.forward(self, *inputs)

    def backward(self, *grads: Any) -> tuple[Any, ...]:
        """Run the user's backward."""
        result = self.function.backward(self, *grads)
        return result if isinstance(result, tuple) else (result,)

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Save tensors for backward."""
        self.save(**{f"saved {i}": tensor for i, tensor in enumerate(tensors)})

    @property
    def needs_input_grad(self) -> tuple[bool, ...]:
        """For each input of `apply`, whether it requires a gradient."""
        return tuple(self.needs)

    def set_materialize_grads(self, _: bool) -> None:
        """Does nothing: missing gradients are always None here."""

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]:
        """The tensors passed to `save_for_backward`."""
        return tuple(self.unpacked.values())

    def maybe_clear_saved_tensors(self) -> None:
        """Within `backward`: free the saved tensors, unless the graph is retained."""
        if not self.retained:
            self.release()
            self.unpacked = {}
