"""Memory and work of scaled_dot_product_attention's kernels on CUDA, by arithmetic after PyTorch's source.

Sources: flash_attn/flash_api.cpp (mha_fwd, mha_bwd), transformers/cuda/attention.cu and attention_backward.cu,
mem_eff_attention/kernel_forward.h and kernel_backward.h (workspace_size), cudnn/MHA.cpp.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

import memmodel
from memmodel.report.json import document
from memmodel.rules.attention import Tile, efficient_tile
from memmodel.rules.flash_buffers import splits

SEED = 16  # two int64 without dimensions: seed and offset
FLASH_SEED = 24  # two in one tensor, and one that is not used


def plain(q: Any, k: Any, v: Any) -> Any:
    return sdpa(q, k, v)


def masked(q: Any, k: Any, v: Any, m: Any) -> Any:
    return sdpa(q, k, v, attn_mask=m)


def causal(q: Any, k: Any, v: Any) -> Any:
    return sdpa(q, k, v, is_causal=True)


def grouped(q: Any, k: Any, v: Any) -> Any:
    return sdpa(q, k, v, enable_gqa=True)


def traced(function: Any, *shapes: str, gpu: str = "A100", step: str = "train") -> Any:
    """A trace of inputs q, k, v (all as the first unless given) and m."""
    q, k, v, *mask = shapes if len(shapes) >= 3 else (shapes[0],) * 3 + shapes[1:]
    inputs = dict(zip("qkvm", (q, k, v, *mask), strict=False))
    return memmodel.trace(function, inputs, gpu=gpu, step=step, formulas=False, torch_version="2.13")


def peak(*args: Any, **options: Any) -> int:
    return int(traced(*args, **options).memory.live_peak_bytes)


def operands(b: int, h: int, n: int, d: int, groups: int = 0) -> int:
    """Bytes of q, k, v, the output, its gradient, and dQ, dK, dV in 16 bits."""
    return 2 * b * n * d * (4 * h + 4 * (groups or h))


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("d", "width"), [(96, 96), (128, 128), (160, 192), (224, 256)])
def test_flash_sums_dq_in_head_dims_rounded_to_32_and_above_128_to_64(d: int, width: int) -> None:
    """Its backward also copies dO and O, whose rows are not (b, n, h, d), and keeps two numbers per row."""
    b, h, n = 1, 32, 512
    rows = 4 * b * h * n
    expected = operands(b, h, n, d) + 2 * (2 * b * h * n * d) + 2 * rows + FLASH_SEED + 4 * b * n * h * width
    assert peak(plain, f"{b},{h},{n},{d}:bf16") == expected


def test_flash_with_shared_heads_makes_dk_and_dv_per_query_head() -> None:
    """(1, 32 heads over 8, 16384, 128): 943,718,400 without the copies of dO and O and what follows."""
    b, h, groups, n, d = 1, 32, 8, 16384, 128
    expected = (
        operands(b, h, n, d, groups)
        + 2 * (2 * b * h * n * d)  # copies of dO and O
        + 2 * (2 * b * h * n * d)  # dK and dV per query head
        + 4 * b * h * n * (d + 2)  # dQ in fp32; log-sum-exp and row dots
        + FLASH_SEED
    )
    shared = f"{b},{groups},{n},{d}:bf16"
    assert peak(grouped, f"{b},{h},{n},{d}:bf16", shared, shared) == expected == 943_718_400 + 536_870_936


def test_flash_splits_keys_where_rows_leave_sms_idle() -> None:
    """(1, 8, 1024, 128), an A100: 128 thread blocks for 216 places. In parts s of 8 blocks of keys, waves are filled
    59 % (1, 2), 89 % (3), 79 % (4) and at most 95 % (8): 3 is the first within 85 % of that.
    """
    assert [splits(128, 216, 8), splits(173, 216, 8), splits(1, 216, 8), splits(1, 216, 1)] == [3, 1, 8, 1]
    b, h, n, d, parts = 1, 8, 1024, 128, 3
    expected = 4 * (2 * b * h * n * d) + 4 * b * h * n + FLASH_SEED + parts * 4 * b * h * n * (d + 1)
    assert peak(plain, f"{b},{h},{n},{d}:bf16", step="inference") == expected == 8_421_400 + 12_681_216


@pytest.mark.parametrize(("gpu", "sms"), [("A100", 108), ("H100", 132)])
def test_deterministic_flash_sums_dq_once_per_group_of_thread_blocks(gpu: str, sms: int) -> None:
    b, h, n, d = 1, 32, 1024, 128
    parts = -(-sms // (b * h))
    with deterministic():
        found = traced(plain, f"{b},{h},{n},{d}:bf16", gpu=gpu)
    assert [a.kernel for a in found.attention] == ["flash"]
    expected = operands(b, h, n, d) + 2 * (2 * b * h * n * d) + 4 * b * h * n * (parts * d + 2) + FLASH_SEED
    assert found.memory.live_peak_bytes == expected


def test_efficient_forward_sums_wide_head_dims_in_fp32() -> None:
    """Above 128 in half precision (kNeedsOutputAccumulatorBuffer); not in fp32, whose output is that already."""
    n, d = 64, 256
    operand, mask = 2 * n * d, 2 * n * n
    assert peak(masked, f"1,1,{n},{d}:fp16", f"1,1,{n},{n}:fp16", step="inference") == (
        4 * operand + mask + SEED + 4 * n * d
    )
    assert peak(plain, f"1,1,{n},{d}:fp32", step="inference") == 4 * (2 * operand) + SEED


def test_efficient_backward_sums_dq_by_tile() -> None:
    """On an A100 tiles of 128 x 128 at head dim 128: 4 words of locks and 128 x 128 fp32 sums each."""
    h, n, d = 32, 1024, 128
    dots = 2 * 4 * h * n  # log-sum-exp, and row dots
    workspace = h * (n // 128) * 4 * (4 + 128 * 128)
    copied = 2 * h * n * d  # dO in (b, n, h, d)
    common = operands(1, h, n, d) + dots + workspace + copied + SEED
    shape = f"1,{h},{n},{d}:bf16"
    assert peak(masked, shape, f"1,1,{n},{n}:bool") == common + n * n + 2 * n * n  # the mask, and as numbers to add
    with_gradient = common + 2 * n * n + 2 * h * n * n  # the mask, and its gradient for every head
    assert peak(masked, shape, f"1,1,{n},{n}:bf16") == with_gradient


@pytest.mark.parametrize(
    ("capability", "half", "head_dim", "dropout", "tile"),
    [
        (80, True, 64, False, Tile(64, 64, True)),
        (80, True, 96, False, Tile(128, 128, True)),
        (86, True, 96, False, Tile(128, 64, True)),
        (89, True, 96, True, Tile(64, 64, False)),  # the kernel of 96 columns has no dropout
        (89, True, 128, False, Tile(64, 64, False)),  # 128 x 128 takes 130 KiB of shared memory
        (90, True, 256, False, Tile(128, 64, False)),
        (120, True, 256, False, Tile(128, 64, False)),
        (90, False, 128, False, Tile(128, 64, False)),
        (86, False, 128, False, Tile(64, 64, False)),
        (75, True, 128, False, Tile(128, 64, True)),
        (70, False, 256, False, Tile(64, 64, False)),
    ],
)
def test_tiles_of_efficient_backward(capability: int, half: bool, head_dim: int, dropout: bool, tile: Tile) -> None:
    """cutlassB.h: the first of the list whose columns hold the head dim and whose shared memory the GPU has."""
    assert efficient_tile(capability, half, head_dim, dropout) == tile


def test_efficient_backward_without_registers_to_spare_sums_dk_and_dv_too() -> None:
    """An RTX 4090 at head dim 224, training: tiles of 128 x 64; keys in min(n / 64, 200 / (b h)) parts."""
    h, n, d = 32, 1024, 224
    parts = min(n // 64, 200 // h)
    words = 2 * parts * 64 * 256 + (n // 128) * 4 * (4 + 128 * 64)  # d up to 128s; d in blocks of 64 columns
    expected = operands(1, h, n, d) + 2 * 4 * h * n + 2 * h * n * d + 4 * h * words + SEED
    found = traced(plain, f"1,{h},{n},{d}:bf16", gpu="RTX 4090")
    assert found.memory.live_peak_bytes == expected
    assert [a.kernel for a in found.attention] == ["efficient"]


def test_cudnn_keeps_no_log_sum_exp_in_inference() -> None:
    b, h, n, d = 1, 32, 512, 128
    vector = 2 * b * h * n * d
    assert peak(plain, f"{b},{h},{n},{d}:bf16", gpu="H100", step="inference") == 4 * vector + SEED
    saved = traced(plain, f"{b},{h},{n},{d}:bf16", gpu="H100", step="forward").memory.saved_bytes
    assert saved == vector + 4 * b * h * n + SEED


def test_causal_attention_counts_half_the_pairs() -> None:
    """And one bound for all: in trace and predict, whatever a kernel's tiles. A recorded run took 3.5 ms."""
    b, h, n, d = 4, 32, 8192, 128
    found = traced(causal, f"{b},{h},{n},{d}:bf16", gpu="H100", step="inference")
    products = 2 * 2 * b * h * d * n * (n + 1) // 2
    assert found.work.matmul == products
    assert found.time.seconds == pytest.approx(products / 989.4e12, rel=1e-12)
    assert found.time.seconds < 3.5e-3
    report = memmodel.predict("H100", ["flash", "sdpa"], batch=b, seq=n, mask="causal", phase="inference")
    assert [p.time.seconds for p in report if p.time] == pytest.approx([found.time.seconds] * 2, rel=1e-12)


def test_a_trace_says_which_kernel_and_why() -> None:
    def both(q: Any, k: Any, v: Any, m: Any) -> Any:
        for _ in range(2):
            q = sdpa(q, k, v, attn_mask=m, enable_gqa=True)
        return sdpa(q, k, v, is_causal=True, enable_gqa=True)

    shape, shared = "1,8,128,64:bf16", "1,2,128,64:bf16"
    found = traced(both, shape, shared, shared, "128,128:bool", step="inference")
    first, second = document(found)["attention"]
    assert [first["kernel"], second["kernel"]] == ["math", "flash"]
    assert [len(first["lines"]), len(second["lines"]), second["refused"]] == [1, 1, []]
    assert [x["kernel"] for x in first["refused"]] == ["flash", "efficient"]
    assert first["refused"][1]["remedy"] == "key and value repeated for each query head"
    text = str(found)
    assert text.count("plain operators on test_attention_kernels.py:") == 1
    assert "not flash: it takes no attn_mask; it would take is_causal=True, or no mask" in text
    assert json.dumps(first)


def test_no_kernel_left_by_the_switches_is_refused_with_reasons() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def forced(q: Any, k: Any, v: Any) -> Any:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return sdpa(q, k, v)

    with pytest.raises(memmodel.UsageError, match=r"no backend takes this .*flash: it takes float16 or bfloat16"):
        traced(forced, "1,2,64,64:fp32", step="inference")
