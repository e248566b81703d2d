"""`Function`: an operation with a backward of its own, in the shape of `torch.autograd.Function`."""

from typing import Any

from memmodel.tensors.autograd import Op
from memmodel.tensors.tensor import Tensor


class Function:
    """Subclass with static `forward(ctx, ...)` and `backward(ctx, *grads)`; call with `apply(...)`."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        """Compute the result; `ctx.save_for_backward` keeps tensors, attributes keep anything else."""
        raise NotImplementedError

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        """One gradient, or None, per input."""
        raise NotImplementedError

    @classmethod
    def apply(cls, *inputs: Any) -> Any:
        """Run forward and, where a gradient is asked for, link it into the graph."""
        return _Custom.apply(*inputs, function=cls)


class _Custom(Op):
    """The graph node of a `Function`; it is the `ctx` too."""

    def forward(self, *inputs: Any, function: type[Function]) -> Any:
        """Run the user's forward."""
        self.function = function
        return function.forward(self, *inputs)

    def backward(self, *grads: Any) -> tuple[Any, ...]:
        """Run the user's backward."""
        result = self.function.backward(self, *grads)
        return result if isinstance(result, tuple) else (result,)

    @property
    def name(self) -> str:
        """The function's own name."""
        return f"{self.function.__name__}Backward"

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep tensors for backward."""
        self.save(**{f"saved {i}": tensor for i, tensor in enumerate(tensors)})

    @property
    def needs_input_grad(self) -> tuple[bool, ...]:
        """Which inputs of `apply` a gradient is asked for."""
        return tuple(self.needs)

    def set_materialize_grads(self, _: bool) -> None:
        """Gradients that are missing are None here always."""

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]:
        """What `save_for_backward` kept."""
        return tuple(self.unpacked.values())

    def maybe_clear_saved_tensors(self) -> None:
        """Within `backward`: let go of what was kept, unless the graph is retained. What is unpacked stays."""
        if not self.retained:
            self.release()
            self.unpacked = {}
