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


MANY = Case(b=3, h=3, g=3, n=20, m=20, d=16)
LONG = Case(h=1, g=1, n=400, m=20, d=16)  # the last block of queries starts at row 384


# Strides that fit in 32 bits themselves: their product with the index is what does not.
@pytest.mark.parametrize(
    ("case", "strides"),
    [
        pytest.param(MANY, (2**30 + 64, 2**12, 16), id="batch"),
        pytest.param(MANY, (2**12, 2**30 + 64, 16), id="head"),
        pytest.param(MANY, (2**32 + 64, 2**12, 16), id="stride"),
        pytest.param(LONG, (16, 16, 2**23 - 64), id="row"),
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
