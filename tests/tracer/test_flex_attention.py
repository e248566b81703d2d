"""flex_attention in traces: the fused kernels' memory and the blocks that they visit, eager and after torch.compile.

Sources: torch/_inductor/kernel/flex/flex_attention.py (buffers; two products of a visited block in forward, seven in
backward), PyTorch's own block masks, made for real.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import and_masks, create_block_mask, flex_attention

import memmodel
from memmodel.tracer.result import Trace

pytestmark = pytest.mark.usefixtures("without_advice")
B, H, N, D = 2, 4, 1024, 64
QKV = dict.fromkeys("qkv", "B,H,N,D:bf16")
AT = {"B": B, "H": H, "N": N, "D": D}
OPERAND, ROWS = 2 * B * H * N * D, 4 * B * H * N  # bytes of a bf16 operand, and of fp32 numbers per row


def causal(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query >= key


def window(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return (query >= key) & (query - key < 200)


def by_head(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return query - key >= 256 * head


def plain(q: Tensor, k: Tensor, v: Tensor) -> Any:
    return flex_attention(q, k, v)


def masked(mask: Any, heads: int | None = None) -> Callable[..., Any]:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Any:
        block_mask = create_block_mask(mask, None, heads, q.shape[2], k.shape[2], device=q.device)
        return flex_attention(q, k, v, block_mask=block_mask)

    return attend


def traced(function: Any, step: str = "train", **options: Any) -> Trace:
    return memmodel.trace(function, QKV, step=step, at=AT, formulas=False, **options)


def blocks_of(mask: Any, heads: int | None = None) -> int:
    """Visited blocks of all heads and sequences, by PyTorch's block mask."""
    made = create_block_mask(mask, None, heads, N, N, device="cpu")
    return int(made.kv_num_blocks.sum() + made.full_kv_num_blocks.sum()) * B * (1 if heads else H)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.compiler)])
@pytest.mark.parametrize("mask", [None, causal], ids=["none", "causal"])
def test_memory_and_work_of_a_training_step(mask: Any, compiled: bool) -> None:
    """Output and log-sum-exp are kept; at the peak of backward three gradients and the row dots stand beside them."""
    function = plain if mask is None else masked(mask)
    found = traced(function, compiled=compiled)
    blocks = B * H * (N // 128) ** 2 if mask is None else blocks_of(mask)
    of_mask = 0 if mask is None else 8 * ((N // 128) ** 2 + N // 128) * 2  # int32 numbers and indices, four of each
    few = 32  # bytes of the block mask that stands for none
    assert found.memory.saved_bytes == pytest.approx(OPERAND + ROWS + of_mask, abs=few)
    assert found.memory.phase_peaks["backward"] == pytest.approx(8 * OPERAND + 2 * ROWS + of_mask, abs=few)
    assert found.work.matmul == 2 * (2 + 7) * blocks * 128 * 128 * D
    assert found.time is not None
    assert not found.unknown


@pytest.mark.parametrize(
    ("mask", "heads"), [(causal, None), (window, None), (by_head, H), (and_masks(causal, window), None)]
)
def test_visited_blocks_are_pytorchs(mask: Any, heads: int | None) -> None:
    found = traced(masked(mask, heads), "inference")
    assert found.work.matmul == 2 * 2 * blocks_of(mask, heads) * 128 * 128 * D
    (kernel,) = [launch for launch in found.program.launches() if launch.name == "flex_attention"]
    positions = torch.meshgrid(*map(torch.arange, (1, heads or 1, N, N)), indexing="ij")
    pairs = int(mask(*positions).sum()) * B * (1 if heads else H)
    assert kernel.least.matmul == 2 * 2 * pairs * D


def test_a_mask_made_before_the_trace_has_its_own_numbers() -> None:
    made = create_block_mask(window, None, None, N, N, device="cpu")
    found = traced(lambda q, k, v: flex_attention(q, k, v, block_mask=made), "inference")
    assert found.work.matmul == 2 * 2 * blocks_of(window) * 128 * 128 * D


def test_documents_that_are_an_input_are_taken_as_one() -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor, documents: Tensor) -> Any:
        def same(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return documents[batch, query] == documents[batch, key]

        mask = and_masks(causal, same)
        block_mask = create_block_mask(mask, q.shape[0], None, q.shape[2], q.shape[2], device=q.device)
        return flex_attention(q, k, v, block_mask=block_mask)

    found = memmodel.trace(attend, QKV | {"documents": "B,N:int64"}, at=AT, formulas=False)
    assert found.work.matmul == 2 * 2 * blocks_of(causal) * 128 * 128 * D
    assert any("one document" in note for note in found.notes)


def test_documents_that_are_known_hide_one_another() -> None:
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Any:
        documents = torch.arange(N) // 256

        def same(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return documents[query] == documents[key]

        block_mask = create_block_mask(same, None, None, N, N, device=q.device)
        return flex_attention(q, k, v, block_mask=block_mask)

    found = traced(attend, "inference")
    assert found.work.matmul == 2 * 2 * B * H * (N // 256) * 2 * 2 * 128 * 128 * D


def test_a_bias_that_the_score_function_reads_learns() -> None:
    """Its gradient is summed in fp32 and cast: relative positions' table (2N - 1,) in bf16."""

    def attend(q: Tensor, k: Tensor, v: Tensor, table: Tensor) -> Any:
        def shifted(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return score + table[query - key + N]

        return flex_attention(q, k, v, score_mod=shifted)

    found = memmodel.trace(attend, QKV | {"table": f"{2 * N}:bf16"}, step="train", at=AT, formulas=False)
    without = traced(plain)
    assert found.memory.saved_bytes == without.memory.saved_bytes
    gradient = {found.program.gradients.get(birth.key) for birth in found.program.births() if birth.shape == (2 * N,)}
    assert len(gradient - {None}) == 1
    assert found.memory.phase_peaks["backward"] - without.memory.phase_peaks["backward"] == 2 * N * (2 + 2 + 4)


@pytest.mark.parametrize("options", [{}, {"kv_heads": 1}])
def test_predict_and_trace_are_one_rule(options: dict[str, int]) -> None:
    predicted = memmodel.predict("A100", "flex", batch=B, heads=H, seq=N, head_dim=D, mask="causal", **options)
    groups = options.get("kv_heads", H)
    made = create_block_mask(causal, None, None, N, N, device="cpu")

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Any:
        return flex_attention(q, k, v, block_mask=made, enable_gqa=groups != H)

    inputs = {"q": "B,H,N,D:bf16", "k": f"B,{groups},N,D:bf16", "v": f"B,{groups},N,D:bf16"}
    found = memmodel.trace(attend, inputs, step="train", at=AT, formulas=False)
    ours = predicted.predictions[0]
    assert found.work == ours.work
    assert found.memory.phase_peaks == ours.memory.phase_peaks
    assert found.memory.saved_bytes == ours.memory.saved_bytes


def test_the_formulas_of_a_causal_mask_are_those_of_its_blocks() -> None:
    found = memmodel.trace(masked(causal), QKV, step="train", at=AT)
    assert found.forms is not None
    b, h, n, d = (found.forms.symbols[x] for x in "BHND")
    blocks = (n / 128) * (n / 128 + 1) / 2
    assert (found.forms.matmul_flops - 2 * 9 * b * h * blocks * 128 * 128 * d).expand() == 0
    other = memmodel.trace(masked(window), QKV, step="train", at=AT)
    assert other.forms is not None
    assert other.forms.matmul_flops is None  # the share of a window depends on the size
