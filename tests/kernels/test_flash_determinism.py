"""The deterministic backward repeats bit for bit; the other is allowed not to."""

import pytest
import torch

from attention_reference import DEVICE, Case, upstream
from memmodel_kernels import flash_attention

REPEATS = 50 if DEVICE == "cuda" else 5
ON_GPU = [
    Case(b=60, n=n, m=m, d=64, causal=causal, dtype=torch.bfloat16)
    for n, m in ((1, 239), (239, 1), (3, 799), (799, 3), (257, 257))
    for causal in (False, True)
]
# The interpreter runs one program after another: this shows only that nothing uninitialised is read.
ON_CPU = [Case(h=1, g=1, n=n, m=m, d=16, causal=True) for n, m in ((39, 1), (3, 57))]


@pytest.mark.parametrize("case", ON_GPU if DEVICE == "cuda" else ON_CPU, ids=str)
def test_repeats_bit_for_bit(case: Case) -> None:
    q, k, v = case.inputs()
    do, _ = upstream(case)

    def once() -> tuple[torch.Tensor, ...]:
        o, lse = flash_attention(q, k, v, causal=case.causal, return_lse=True)
        return (o, lse, *torch.autograd.grad(o, (q, k, v), do))

    first = once()
    for _ in range(REPEATS - 1):
        for again, before in zip(once(), first, strict=True):
            assert torch.equal(again, before)
