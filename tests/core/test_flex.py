"""FlexAttention in `predict`: its block mask as PyTorch makes it, and what its kernels allocate.

Sources: torch/_inductor/kernel/flex/flex_attention.py, torch/nn/attention/flex_attention.py.
"""

from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask

import memmodel
from memmodel.attention.case import make_case
from memmodel.attention.masks import Mask
from memmodel.recorder import record
from memmodel_kernels.flex import _seen

MASKS = [Mask(causal=True), *(Mask(True, window, sinks) for window, sinks in ((200, 0), (1, 0), (200, 4), (1, 130)))]


def predicted(**options: Any) -> Any:
    return memmodel.predict("A100", "flex", **options).predictions[0]


def block_mask_of(mask: Mask, n: int, m: int) -> Any:
    return create_block_mask(_seen(mask, m - n), None, None, n, m, device="cpu")


@pytest.mark.parametrize(("n", "m"), [(1024, 1024), (1000, 1000), (300, 1500)])
@pytest.mark.parametrize("mask", MASKS, ids=lambda mask: f"{mask.name}-{mask.window}-{mask.sinks}")
def test_the_block_mask_is_pytorch_s(mask: Mask, n: int, m: int) -> None:
    """Its tensors' bytes, and the blocks that it leaves, each of which is visited whole."""
    theirs = block_mask_of(mask, n, m)
    tensors = [x for x in theirs.as_tuple() if isinstance(x, torch.Tensor)]
    found = predicted(heads=2, seq=n, kv_seq=m, head_dim=64, mask=mask, phase="inference")
    ours = [record for record in found.tensors if "blocks by" in record.name]
    assert sorted(record.nbytes for record in ours) == sorted(x.nbytes for x in tensors)
    visited = int(theirs.kv_num_blocks.sum() + theirs.full_kv_num_blocks.sum())
    assert found.work.matmul == 2 * 2 * visited * 128 * 128 * (64 + 64)


def test_backward_sums_nothing_in_fp32() -> None:
    """(32 heads over 8, 4096, 128): operands and gradients, the log-sum-exp and row dots; no expanded dK and dV."""
    h, groups, n, d = 32, 8, 4096, 128
    operands = 2 * n * d * (4 * h + 4 * groups)
    found = predicted(heads=h, kv_heads=groups, seq=n)
    assert found.memory.live_peak_bytes == operands + 2 * (4 * h * n)
    assert found.memory.saved_bytes == 2 * h * n * d + 4 * h * n


def test_row_maxima_are_allocated_in_inference_too() -> None:
    h, n, d = 4, 512, 64
    found = predicted(heads=h, seq=n, head_dim=d, phase="inference")
    assert found.memory.live_peak_bytes == 4 * (2 * h * n * d) + 2 * (4 * h * n)


def test_the_bound_counts_the_pairs_that_the_mask_leaves() -> None:
    """A window of one key: the diagonal's blocks are computed whole, 128 times what is necessary."""
    mask = Mask(causal=True, window=1)
    (kernel,) = record(make_case("flex", heads=2, seq=1024, head_dim=64, mask=mask, phase="inference")).launches()
    assert kernel.work.matmul == 128 * kernel.least.matmul


@pytest.mark.parametrize(("seq", "groups"), [(1, 8), (100, 4)])
def test_few_queries_split_the_keys(seq: int, groups: int) -> None:
    """get_split_k: 108 SMs // (batch x key heads) x 2 parts, each with an fp32 output and two numbers a row."""
    h, m, d = 32, 8192, 128
    parts = 108 // groups * 2
    rows = 4 * h * seq
    results = 2 * h * seq * d + rows
    expected = 2 * h * seq * d + 2 * (2 * groups * m * d) + results + parts * rows * (d + 2) + rows
    found = predicted(heads=h, kv_heads=groups, seq=seq, kv_seq=m, phase="inference")
    assert found.memory.live_peak_bytes == expected


def test_heads_that_share_by_no_power_of_two_are_not_split() -> None:
    h, groups, m, d = 12, 4, 1024, 64
    found = predicted(heads=h, kv_heads=groups, seq=1, kv_seq=m, head_dim=d, phase="inference")
    assert found.memory.live_peak_bytes == 2 * (2 * h * d) + 2 * (2 * groups * m * d) + 2 * (4 * h)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head_dim": 8}, "from 16"),
        ({"dtype": "fp64"}, "not float64"),
        ({"dropout": 0.1}, "no dropout"),
    ],
)
def test_what_it_refuses(options: dict[str, Any], words: str) -> None:
    with pytest.raises(memmodel.UsageError, match=words):
        predicted(**options)
