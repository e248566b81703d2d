import pytest

from memmodel import recording
from memmodel.base.errors import UsageError


class Blocked(recording.Function):
    """A function whose gradient stops."""

    @staticmethod
    def forward(ctx: object, x: recording.Tensor) -> recording.Tensor:
        return recording.randn(*x.shape)

    @staticmethod
    def backward(ctx: object, grad: recording.Tensor) -> None:
        return None


class Asked(recording.Function):
    """Notes which gradients are asked for."""

    @staticmethod
    def forward(ctx: object, *inputs: recording.Tensor) -> recording.Tensor:
        assert ctx.needs_input_grad == (True, False)  # type: ignore[attr-defined]
        return recording.randn(4)

    @staticmethod
    def backward(ctx: object, grad: recording.Tensor) -> tuple[None, None]:
        assert ctx.needs_input_grad == (True, False)  # type: ignore[attr-defined]
        return None, None


def test_a_leaf_without_a_gradient_keeps_none() -> None:
    with recording.Tape():
        x = recording.randn(4, requires_grad=True)
        Blocked.apply(x).sum().backward()
        assert x.grad is None


def test_nodes_that_kept_nothing_run_again_and_others_do_not() -> None:
    with recording.Tape():
        x = recording.randn(4, requires_grad=True)
        total = (x + 1).sum()  # neither keeps a tensor
        total.backward()
        total.backward()
        kept = x.exp().sum()  # exp keeps its result
        kept.backward()
        with pytest.raises(UsageError, match="retain_graph=True"):
            kept.backward()


def test_a_function_knows_which_gradients_are_asked_for() -> None:
    with recording.Tape():
        x, y = recording.randn(4, requires_grad=True), recording.randn(4)
        Asked.apply(x, y).sum().backward()
