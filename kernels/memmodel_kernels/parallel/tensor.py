"""Layers that ranks share: tensor parallelism with or without sequence parallelism, after Megatron-LM.

Of a column-parallel linear layer a rank has some of the output features, of a row-parallel one some of the input
features, so that a pair of them needs one sum over the ranks (Shoeybi et al., 2019, arXiv 1909.08053). With sequence
parallelism the residual stream between them is shared by tokens (Korthikanti et al., 2022, arXiv 2205.05198): a rank
holds (1, b·n / ranks, hidden). It is gathered for a column-parallel layer, which keeps the rank's own tokens for
backward and gathers them again there (megatron/core/tensor_parallel/layers.py,
LinearWithGradAccumulationAndAsyncCommunication; DTensor keeps what it gathered).
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from memmodel_kernels.namespace import functional, namespace
from memmodel_kernels.parallel.group import Group, all_reduced, gather_into, reduce_scattered

Layer = tuple[Any, Any]  # weight (features of this rank, width), and bias or None


class TensorParallel(NamedTuple):
    """Ranks that share each layer; `sequence`: whether they share the tokens of the residual stream too.

    `tokens`: b and n of the batch, which a stream shared by tokens does not show.
    """

    group: Group
    sequence: bool
    tokens: tuple[Any, Any]

    def columns(self, x: Any, layers: Sequence[Layer]) -> list[Any]:
        """Outputs (b, n, features of this rank) of column-parallel layers that read one input."""
        weights, biases = zip(*layers, strict=True)
        function = _functions(namespace(x)).columns
        found = function.apply(x, self, len(layers), *weights, *biases)
        return list(found) if isinstance(found, tuple) else [found]

    def row(self, x: Any, layer: Layer) -> Any:
        """The output of a row-parallel layer, summed; the bias, which every rank has, is added after that."""
        weight, bias = layer
        out = self.summed(functional(x).linear(x, weight))
        return out if bias is None else out + bias

    def summed(self, x: Any) -> Any:
        """The sum over the ranks of x (b, n, hidden): the whole of it, or this rank's tokens."""
        return _functions(namespace(x)).summed.apply(x, self)

    def entered(self, x: Any) -> Any:
        """The whole of x, of which each rank computes a part: its gradient is the sum over the ranks."""
        return _functions(namespace(x)).entered.apply(x, self)

    def own_tokens(self, x: Any) -> Any:
        """The tokens of this rank, of x (b, n, hidden), which all ranks have; x itself without sequence parallelism."""
        return _functions(namespace(x)).own_tokens.apply(x, self) if self.sequence else x

    def gathered(self, x: Any) -> Any:
        """(b, n, hidden) from this rank's tokens (1, b·n / ranks, hidden)."""
        whole = x.new_empty(*self.tokens, x.shape[-1])
        gather_into(whole, x.contiguous(), self.group)
        return whole

    def scattered(self, x: Any) -> Any:
        """The tokens of this rank, of the sum of x (b, n, hidden) over the ranks."""
        return reduce_scattered(x.view(self.group.size, -1, x.shape[-1]), self.group)


class _Functions(NamedTuple):
    columns: Any
    summed: Any
    own_tokens: Any
    entered: Any


@cache
def _functions(xp: Any) -> _Functions:
    base: Any = xp.autograd.Function if xp.__name__ == "torch" else xp.Function

    class ColumnParallel(base):  # type: ignore[misc]
        """x W^T + bias of each layer; the gradient of x is summed over the ranks."""

        @staticmethod
        def forward(ctx: Any, x: Any, tensor: TensorParallel, count: int, *parameters: Any) -> Any:
            weights, biases = parameters[:count], parameters[count:]
            ctx.learns = ctx.needs_input_grad[3 : 3 + count]
            # Frozen weights, as under adapters, take no gradient, and so no input of theirs is kept.
            ctx.save_for_backward(*([x] if any(ctx.learns) else []), *weights)
            ctx.tensor, ctx.biased = tensor, ctx.needs_input_grad[3 + count :]
            whole = tensor.gathered(x) if tensor.sequence else x
            outs = [functional(x).linear(whole, *layer) for layer in zip(weights, biases, strict=True)]
            return tuple(outs) if count > 1 else outs[0]

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            tensor, saved = ctx.tensor, ctx.saved_tensors
            rows = [grad.reshape(-1, grad.shape[-1]) for grad in grads]
            # The dtype of the products, which autocast has made another than that of weights and input.
            weights = [weight.to(rows[0].dtype) for weight in saved[-len(ctx.learns) :]]
            width, tokens, of_x = weights[0].shape[-1], None, None
            if any(ctx.learns):
                whole = tensor.gathered(saved[0]) if tensor.sequence else saved[0]
                tokens = whole.view(-1, width).to(rows[0].dtype)
            if ctx.needs_input_grad[0]:
                # The gradients of one input are added up, and summed over the ranks once.
                of_x = rows[0] @ weights[0]
                for row, weight in zip(rows[1:], weights[1:], strict=True):
                    of_x.addmm_(row, weight)
                of_x = of_x.view(*tensor.tokens, width)
                of_x = tensor.scattered(of_x) if tensor.sequence else all_reduced(of_x, tensor.group)
            of_weights = [row.t() @ tokens if learns else None for row, learns in zip(rows, ctx.learns, strict=True)]
            of_biases = [row.sum(0) if biased else None for row, biased in zip(rows, ctx.biased, strict=True)]
            return of_x, None, None, *of_weights, *of_biases

    class Summed(base):  # type: ignore[misc]
        """The sum over the ranks, whose gradient each of them gets."""

        @staticmethod
        def forward(ctx: Any, x: Any, tensor: TensorParallel) -> Any:
            ctx.tensor = tensor
            if tensor.sequence:
                return tensor.scattered(x)
            # As a view, which PyTorch makes of an input that a function returns (custom_function.cpp).
            return all_reduced(x, tensor.group).view(x.shape)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return ctx.tensor.gathered(grad) if ctx.tensor.sequence else grad, None

    class Entered(base):  # type: ignore[misc]
        """The input itself, or all tokens of it."""

        @staticmethod
        def forward(ctx: Any, x: Any, tensor: TensorParallel) -> Any:
            ctx.tensor = tensor
            return tensor.gathered(x) if tensor.sequence else x.view(x.shape)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            if ctx.tensor.sequence:
                return ctx.tensor.scattered(grad), None
            # The sum is made in place, and the gradient may be another function's too.
            return all_reduced(grad.clone(), ctx.tensor.group), None

    class OwnTokens(base):  # type: ignore[misc]
        """A copy of this rank's tokens."""

        @staticmethod
        def forward(ctx: Any, x: Any, tensor: TensorParallel) -> Any:
            ctx.tensor = tensor
            pieces = x.view(tensor.group.size, -1, x.shape[-1])
            return pieces[tensor.group.rank : tensor.group.rank + 1].clone()

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            return ctx.tensor.gathered(grad), None

    return _Functions(ColumnParallel, Summed, OwnTokens, Entered)
