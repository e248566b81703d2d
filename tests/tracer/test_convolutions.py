"""The FLOP of convolutions, beside PyTorch's own counter."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import memmodel

CALLS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[int, ...], tuple[int, ...]]] = {
    "patches": (lambda x, w: functional.conv2d(x, w, stride=4), (2, 3, 16, 16), (8, 3, 4, 4)),
    "padded": (lambda x, w: functional.conv2d(x, w, padding=1, dilation=2), (2, 4, 9, 11), (6, 4, 3, 3)),
    "transposed": (lambda x, w: functional.conv_transpose2d(x, w, stride=2), (2, 4, 5, 7), (4, 6, 3, 3)),
    "one dimension": (lambda x, w: functional.conv1d(x, w), (2, 8, 100), (4, 8, 3)),
}


@pytest.mark.parametrize("name", CALLS)
def test_flop_are_those_of_pytorchs_counter(name: str) -> None:
    run, x, w = CALLS[name]
    sizes = {"x": ",".join(map(str, x)), "w": ",".join(map(str, w))}
    found = memmodel.trace(run, sizes, step="train", gpu="A100", formulas=False)
    with FlopCounterMode(display=False) as counter:
        run(torch.zeros(x, requires_grad=True), torch.zeros(w, requires_grad=True)).sum().backward()
    assert found.work.matmul == counter.get_total_flops()
