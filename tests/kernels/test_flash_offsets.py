"""Offsets beyond 2^31 elements: strides so large that 32-bit arithmetic would wrap, on a file with holes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from attention_reference import DEVICE, Case
from memmodel_kernels import flash_attention

pytestmark = pytest.mark.skipif(DEVICE == "cuda", reason="a sparse file stands in for memory: CPU only")


def spread(x: Tensor, strides: tuple[int, int, int], file: Path) -> Tensor:
    """The same values, far apart in a file whose untouched pages take no room."""
    reach = sum((size - 1) * stride for size, stride in zip(x.shape[:3], strides, strict=True)) + x.shape[3]
    storage = torch.UntypedStorage.from_file(str(file), shared=True, nbytes=reach * x.element_size())
    far = torch.empty(0, dtype=x.dtype).set_(storage, 0, x.shape, (*strides, 1))
    return far.copy_(x.detach())


SMALL = Case(b=2, h=2, g=2, n=40, m=40, d=16)
LONG = Case(h=1, g=1, n=300, m=20, d=16)  # more than one block of rows


@pytest.mark.parametrize(
    ("case", "strides"),
    [
        pytest.param(SMALL, (2**31 + 64, 2**12, 16), id="batch"),
        pytest.param(SMALL, (2**12, 2**31 + 64, 16), id="head"),
        pytest.param(SMALL, (2**31 - 64, 2**30, 16), id="only their sum"),
        pytest.param(LONG, (16, 16, 2**23 - 16), id="row"),
    ],
)
def test_far_apart(case: Case, strides: tuple[int, int, int], tmp_path: Path) -> None:
    near = [x.detach().requires_grad_() for x in case.inputs()]
    far = [spread(x, strides, tmp_path / name).requires_grad_() for x, name in zip(near, "qkv", strict=True)]
    results = []
    for q, k, v in (near, far):
        o = flash_attention(q, k, v, causal=True)
        results.append((o, *torch.autograd.grad(o, (q, k, v), torch.ones_like(o))))
    for got, want in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)
