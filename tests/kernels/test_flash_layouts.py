"""Any strides, nothing read outside the tensors, nothing copied, nothing allocated beyond what is documented."""

import pytest
import torch
from torch import Tensor

from attention_reference import DEVICE, Case, Result, assert_close, upstream
from memmodel_kernels import flash_attention
from memmodel_kernels.triton_flash import launch
from memmodel_kernels.triton_flash.problem import band, checked
from new_storages import Allocations

CASE = Case(b=2, h=4, g=2, n=50, m=70, d=40, causal=True)


def run(case: Case, q: Tensor, k: Tensor, v: Tensor, do: Tensor, deterministic: bool = True) -> Result:
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    o, lse = flash_attention(q, k, v, causal=case.causal, deterministic=deterministic, return_lse=True)
    return Result(o.detach(), lse.detach(), *torch.autograd.grad((o, lse), (q, k, v), (do, upstream(case)[1])))


def as_bnhd(x: Tensor) -> Tensor:
    """The same values in (b, n, h, d) order, seen as (b, h, n, d)."""
    return x.detach().transpose(1, 2).contiguous().transpose(1, 2)


def inside_nan(x: Tensor, offset: int) -> Tensor:
    """The same values in the middle of a larger tensor of NaN, `offset` elements from its edges."""
    b, h, n, d = x.shape
    outer = torch.full((b + 1, h + 1, n + 2 * offset, d + 2 * offset), torch.nan, dtype=x.dtype, device=x.device)
    view = outer[:b, 1:, offset : offset + n, offset : offset + d]
    return view.copy_(x.detach())


LAYOUTS = {
    "bnhd": as_bnhd,
    "nan around, aligned": lambda x: inside_nan(x, 8),
    "nan around, unaligned": lambda x: inside_nan(x, 3),
    "last dim strided": lambda x: x.detach().mT.contiguous().mT,
}


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, deterministic: bool) -> None:
    q, k, v, do = (LAYOUTS[layout](x) for x in (*CASE.inputs(), upstream(CASE)[0]))
    assert_close(run(CASE, q, k, v, do, deterministic), CASE)


def test_packed_qkv() -> None:
    case = Case(b=2, n=40, m=40, d=64)
    packed = torch.stack([x.detach().transpose(1, 2) for x in case.inputs()], dim=2)  # (b, n, 3, h, d)
    q, k, v = (x.transpose(1, 2) for x in packed.unbind(2))
    assert_close(run(case, q, k, v, upstream(case)[0]), case)


def test_output_and_gradients_are_laid_out_like_the_inputs() -> None:
    q, k, v = (as_bnhd(x).requires_grad_() for x in CASE.inputs())
    o = flash_attention(q, k, v)
    assert o.stride() == q.stride()
    assert [g.stride() for g in torch.autograd.grad(o.sum(), (q, k, v))] == [x.stride() for x in (q, k, v)]


@pytest.mark.parametrize("deterministic", [True, False])
def test_expanded_upstream_gradient(deterministic: bool) -> None:
    """The gradient of sum() is one element with strides of 0, which the copy engine cannot read."""
    case = Case(n=40, m=50, d=64, dtype=torch.float32)
    q, k, v = case.inputs()
    expanded = torch.autograd.grad(flash_attention(q, k, v, deterministic=deterministic).sum(), (q, k, v))
    o = flash_attention(q, k, v, deterministic=deterministic)
    dense = torch.autograd.grad(o, (q, k, v), torch.ones_like(o))
    for got, want in zip(expanded, dense, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_allocations_are_the_documented_ones(dtype: torch.dtype, deterministic: bool) -> None:
    case = Case(b=2, h=4, g=2, n=30, m=20, d=64, dtype=dtype)
    q, k, v = (x.detach() for x in case.inputs())
    do, _ = upstream(case)
    rows, fp32 = (2, 4, 30), torch.float32
    problem = checked(q, k, v, causal=False, window=None, deterministic=deterministic)
    with Allocations() as forward:
        o, lse = launch.forward(q, k, v, problem)
    assert [made[1:] for made in forward.made] == [(tuple(q.shape), dtype), (rows, fp32)]
    with Allocations() as backward:
        launch.backward(do, None, q, k, v, o, lse, problem)
    dq, dk, dv = ((tuple(x.shape), dtype) for x in (q, k, v))
    dq_sum = (tuple(q.shape), fp32)
    fused = [dk, dv, dq_sum, *([dq] if dtype != fp32 else [])]
    delta = (rows, fp32)
    assert [made[1:] for made in backward.made] == [delta, *([dq, dk, dv] if deterministic else fused)]


def test_copy_engine_is_used_only_where_it_can_be() -> None:
    x = torch.zeros(2, 3, 32, 64, dtype=torch.float16, device=DEVICE)
    assert launch.fits_descriptor(x)
    assert launch.fits_descriptor(as_bnhd(x))
    assert not launch.fits_descriptor(x[..., 1:])  # base not at a multiple of 16 bytes
    assert not launch.fits_descriptor(torch.zeros(1, 1, 8, 59, dtype=torch.float16))  # rows of 118 bytes
    assert not launch.fits_descriptor(x.mT)
    assert not launch.fits_descriptor(x[:1, :1, :1].expand_as(x))
    assert not launch.fits_descriptor(x[:, :, :0])
    assert not launch.streams_by_tma(x.float())


@pytest.mark.parametrize(
    ("n", "m", "causal", "window", "expected"),
    [
        (5, 5, False, None, (None, None)),
        (5, 5, True, None, (None, 0)),
        (5, 9, True, None, (None, 4)),
        (1, 9, True, None, (None, None)),  # a decode step sees every key
        (9, 5, True, None, (None, -4)),
        (5, 5, True, 2, (-1, 0)),
        (5, 5, False, 2, (-1, 1)),
        (5, 5, True, 99, (None, 0)),
        (5, 5, False, 99, (None, None)),
    ],
)
def test_band(n: int, m: int, causal: bool, window: int | None, expected: tuple[int | None, int | None]) -> None:
    assert band(n, m, causal, window) == expected
