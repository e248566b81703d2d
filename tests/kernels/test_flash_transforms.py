"""What PyTorch does to a call: torch.func, forward mode, second derivatives, autocast, dispatch modes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from attention_reference import DEVICE, Case
from memmodel.base.errors import UsageError
from memmodel_kernels import flash_attention

pytestmark = pytest.mark.compiler

CASE = Case(b=1, h=2, g=2, n=9, m=9, d=16, dtype=torch.float32)
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v)


def squared(attention: Attention, k: Tensor, v: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda q: attention(q, k, v).square().sum()


def vjp_of(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    _, pullback = torch.func.vjp(attention, q, k, v)
    return torch.stack(pullback(torch.ones_like(q)))


REVERSE: dict[str, Callable[[Attention, Tensor, Tensor, Tensor], Tensor]] = {
    "grad": lambda f, q, k, v: torch.func.grad(squared(f, k, v))(q),
    "vjp": vjp_of,
    "vmap": lambda f, q, k, v: torch.func.vmap(f, (0, None, None))(torch.stack([q, 2 * q, -q]), k, v),
    "vmap of grad": lambda f, q, k, v: torch.func.vmap(torch.func.grad(squared(f, k, v)))(torch.stack([q, 2 * q])),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # SDPA's own, under vmap
@pytest.mark.parametrize("transform", REVERSE)
def test_reverse_mode_transforms_are_those_of_sdpa(transform: str) -> None:
    inputs = [x.detach() for x in CASE.inputs()]
    got, want = (REVERSE[transform](f, *inputs) for f in (flash_attention, sdpa))
    torch.testing.assert_close(got, want)


def test_jacrev() -> None:
    """Backward with mapped upstream gradients and inputs that are not mapped."""
    q, k, v = (x.detach()[:, :1, :2, :3] for x in CASE.inputs())
    got, want = (torch.func.jacrev(f, (0, 1, 2))(q, k, v) for f in (flash_attention, plain))
    torch.testing.assert_close(got, want)


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


def dual(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with forward_ad.dual_level():
        return flash_attention(forward_ad.make_dual(q, q), k, v)


def dual_in_a_mode(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with FlopCounterMode(display=False):
        return dual(q, k, v)


def twice(q: Tensor, k: Tensor, v: Tensor) -> Any:
    q.requires_grad_()
    (gradient,) = torch.autograd.grad(flash_attention(q, k, v).square().sum(), q, create_graph=True)
    return torch.autograd.grad(gradient.sum(), q)


def many_at_once(q: Tensor, k: Tensor, v: Tensor) -> Any:
    o = flash_attention(q.requires_grad_(), k, v)
    return torch.autograd.grad(o, q, torch.ones_like(o).expand(2, *o.shape), is_grads_batched=True)


REFUSED: dict[str, tuple[Callable[[Tensor, Tensor, Tensor], Any], str]] = {
    "jvp": (lambda q, k, v: torch.func.jvp(flash_attention, (q, k, v), (q, k, v)), "no forward-mode derivative"),
    "jacfwd": (lambda q, k, v: torch.func.jacfwd(flash_attention)(q, k, v), "no forward-mode derivative"),
    "dual numbers": (dual, "no forward-mode derivative: use reverse mode"),
    "dual numbers in a mode": (dual_in_a_mode, "no forward-mode derivative"),
    "hessian": (lambda q, k, v: torch.func.hessian(squared(flash_attention, k, v))(q), "no forward-mode derivative"),
    "second derivative": (twice, "no second derivative"),
    "gradients at once": (many_at_once, r"use torch\.func\.vmap over torch\.func\.vjp"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # from inside torch.func
@pytest.mark.parametrize("case", REFUSED)
def test_derivatives_that_do_not_exist_are_refused(case: str) -> None:
    derive, message = REFUSED[case]
    with pytest.raises(UsageError, match=message):
        derive(*(x.detach() for x in CASE.inputs()))


def test_saved_tensors_may_come_back_in_another_layout() -> None:
    """Hooks on saved tensors may return any tensor of equal values; the kernels read the LSE without strides."""
    q, k, v = CASE.inputs()

    def spread(x: Tensor) -> Tensor:
        return torch.stack([x.detach(), x.detach()], -1)[..., 0]

    with torch.autograd.graph.saved_tensors_hooks(spread, lambda x: x):
        o = flash_attention(q, k, v)
    want = torch.autograd.grad(flash_attention(q, k, v).sum(), (q, k, v))
    for got, expected in zip(torch.autograd.grad(o.sum(), (q, k, v)), want, strict=True):
        torch.testing.assert_close(got, expected)


HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter has no bf16


def test_autocast_is_followed_as_sdpa_follows_it() -> None:
    q, k, v = CASE.inputs()
    with torch.autocast(DEVICE, dtype=HALF):
        mixed = flash_attention(q.to(HALF), k, v)
        o, reference = flash_attention(q, k, v), scaled_dot_product_attention(q, k, v)
        with torch.autocast(DEVICE, enabled=False):
            assert flash_attention(q, k, v).dtype == torch.float32
    assert mixed.dtype == o.dtype == reference.dtype == HALF
    assert torch.equal(mixed, o)
    gradients = torch.autograd.grad(o.float().sum(), (q, k, v))
    assert [x.dtype for x in gradients] == [torch.float32] * 3
    in_half = [x.detach().to(HALF).requires_grad_() for x in (q, k, v)]
    by_hand = torch.autograd.grad(flash_attention(*in_half).float().sum(), in_half)
    for got, want in zip(gradients, by_hand, strict=True):
        assert torch.equal(got, want.float())


def test_autocast_leaves_fp64_alone() -> None:
    with torch.autocast(DEVICE, dtype=HALF), pytest.raises(UsageError, match=r"torch.float64 is not supported"):
        flash_attention(*(x.detach().double() for x in CASE.inputs()))


def test_a_dispatch_mode_sees_one_operator() -> None:
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func.name())
            return func(*args, **(kwargs or {}))

    with Watch():
        flash_attention(*CASE.inputs())
    assert "memmodel::flash_attention" in seen
