"""Attention by the libraries' own kernels, in `predict`: bytes by arithmetic from what their sources allocate.

Sources of PyTorch: flash_attn/flash_api.cpp (mha_fwd, mha_bwd), transformers/cuda/attention.cu and
attention_backward.cu, mem_eff_attention/kernel_forward.h and kernel_backward.h (workspace_size). Of the packages:
Dao-AILab/flash-attention v2.8.3, csrc/flash_attn/flash_api.cpp and flash_attn/flash_attn_interface.py; hopper/
flash_api.cpp and flash_attn_interface.py.
"""

import random
from dataclasses import replace
from typing import Any

import pytest

import memmodel
from memmodel.attention.case import make_case
from memmodel.attention.masks import Mask
from memmodel.base.device import CUDA
from memmodel.base.dtypes import bool_
from memmodel.cases import on_gpu
from memmodel.recorder import recorded
from memmodel.report.json import document
from memmodel.rules.sdpa import Backends, SdpaCall, choose
from memmodel.rules.sdpa import Mask as AttentionMask

FLASH_SEED = 24  # two 8-byte numbers in one tensor, and one that is not used
SEED = RNG = 16


def predicted(algorithm: str, gpu: str = "A100", **options: Any) -> Any:
    return memmodel.predict(gpu, algorithm, **options).predictions[0]


def test_sdpa_flash_with_shared_heads() -> None:
    """(1, 32 heads over 8, 16384, 128) in training: what the flash kernel of SDPA adds to its operands."""
    h, groups, n, d = 32, 8, 16384, 128
    vector, shared = 2 * h * n * d, 2 * groups * n * d
    operands = 4 * vector + 4 * shared  # q, k, v, the output, its gradient, and dQ, dK, dV
    copies = 2 * vector  # dO and O in (b, n, h, d) order
    expanded = 2 * vector  # dK and dV per query head, before the sum over a group
    sums = 4 * h * n * (d + 2)  # dQ in fp32, log-sum-exp and row dots
    found = predicted("sdpa-flash", heads=h, kv_heads=groups, seq=n)
    assert found.memory.live_peak_bytes == operands + copies + expanded + sums + FLASH_SEED


@pytest.mark.parametrize(("gpu", "parts"), [("A100", 3), ("H100", 2)])
def test_sdpa_flash_splits_keys_where_rows_leave_sms_idle(gpu: str, parts: int) -> None:
    """(1, 8, 1024, 128): 128 thread blocks for two places an SM, 8 blocks of keys.

    108 SMs: waves filled to 59 % by parts of 1 and 2, 89 % of 3, at most 95 % of 8, of which 3 is within 85 %. 132 SMs:
    48 %, 97 % (2): the first within 85 % of it is 2.
    """
    h, n, d = 8, 1024, 128
    accumulated = parts * 4 * h * n * (d + 1)
    expected = 4 * (2 * h * n * d) + 4 * h * n + FLASH_SEED + accumulated
    found = predicted("sdpa-flash", gpu, heads=h, seq=n, phase="inference")
    assert found.memory.live_peak_bytes == expected


def test_sdpa_efficient_sums_wide_head_dims_in_fp32() -> None:
    n, d = 64, 256
    found = predicted("sdpa-efficient", heads=1, seq=n, head_dim=d, dtype="fp16", phase="inference")
    assert found.memory.live_peak_bytes == 4 * (2 * n * d) + SEED + 4 * n * d


def test_sdpa_efficient_takes_a_mask_as_numbers_and_a_workspace_in_backward() -> None:
    """A window is a bool mask (n, m) that becomes numbers; tiles of 128 x 128 in fp32 with 4 words of locks each."""
    h, n, d = 32, 1024, 128
    vector = 2 * h * n * d
    mask = 2 * n * n  # in bf16; the bool one has gone
    workspace = h * (n // 128) * 4 * (4 + 128 * 128)
    copied = vector  # dO in (b, n, h, d) order
    expected = 8 * vector + copied + 2 * 4 * h * n + workspace + SEED + mask
    found = predicted("sdpa", heads=h, seq=n, mask="window", window=256)
    assert found.attention[0].kernel == "efficient"
    assert found.memory.live_peak_bytes == expected


def test_plain_operators_compute_half_precision_in_fp32() -> None:
    """Kept for backward: probabilities, scaled Q, scaled K and V, all in fp32, and not q, k and v themselves."""
    h, n, d = 4, 256, 64
    found = predicted("sdpa-math", heads=h, seq=n, head_dim=d, phase="forward")
    assert found.memory.saved_bytes == 4 * h * n * n + 3 * 4 * h * n * d


def operands(h: int, groups: int, n: int, d: int) -> int:
    """q, k, v, the output, its gradient, and dQ, dK, dV in 16 bits, of one sequence."""
    return 2 * n * d * (4 * h + 4 * groups)


def test_flash_attn_with_shared_heads_makes_dk_and_dv_per_query_head() -> None:
    """943,718,400 without these two and the state of the random generator."""
    h, groups, n, d = 32, 8, 16384, 128
    sums = 4 * h * n * (d + 2)  # dQ; log-sum-exp and row dots
    expanded = 2 * (2 * h * n * d)
    found = predicted("flash-attn", heads=h, kv_heads=groups, seq=n)
    assert operands(h, groups, n, d) + sums == 943_718_400
    assert found.memory.live_peak_bytes == 943_718_400 + expanded + RNG == 943_718_400 + 268_435_472


@pytest.mark.parametrize(("gpu", "sms"), [("A100", 108), ("H100", 132)])
def test_flash_attn_deterministic_sums_dq_once_per_group_of_thread_blocks(gpu: str, sms: int) -> None:
    h, n, d = 32, 16384, 128
    parts = (sms + h - 1) // h
    found = predicted("flash-attn-deterministic", gpu, heads=h, seq=n).memory.live_peak_bytes
    assert found == operands(h, h, n, d) + 4 * h * n * (parts * d + 2) + RNG
    assert gpu != "A100" or found == 2_151_677_968


@pytest.mark.parametrize(("gpu", "sms"), [("A100", 108), ("H100", 132)])
def test_deterministic_algorithms_sum_dq_once_per_group_of_thread_blocks(gpu: str, sms: int) -> None:
    """(1, 32, 4096, 128) in training: 4 and 5 sums; cuDNN, which comes first on an H100, refuses."""
    h, n, d = 32, 4096, 128
    parts = (sms + h - 1) // h
    found = predicted("sdpa", gpu, heads=h, seq=n, deterministic=True)
    assert found.attention[0].kernel == "flash"
    copies = 2 * (2 * h * n * d)
    expected = operands(h, h, n, d) + copies + 4 * h * n * (parts * d + 2) + FLASH_SEED
    assert found.memory.live_peak_bytes == expected == {"A100": 605_028_376, "H100": 672_137_240}[gpu]


def test_packed_sequences_have_a_block_of_rows_more_each() -> None:
    """mha_varlen_bwd: row dots and dQ of all tokens and 128 a sequence; expanded dK and dV; offsets of sequences."""
    b, h, groups, n, d = 3, 32, 8, 1000, 128
    tokens = b * n
    rows = tokens + 128 * b
    expanded = 2 * (2 * tokens * h * d)
    numbers = 4 * h * (tokens + rows)  # log-sum-exp; row dots
    offsets = 4 * (b + 1)
    found = predicted("flash-attn-varlen", batch=b, heads=h, kv_heads=groups, seq=n, mask="causal")
    assert found.memory.live_peak_bytes == (
        b * operands(h, groups, n, d) + 4 * rows * h * d + expanded + numbers + RNG + offsets
    )
    assert found.work.matmul == 14 * b * h * n * (n + 1) // 2 * d


def test_unlike_lengths_are_packed_or_padded() -> None:
    """Packed, their tokens and pairs count; other algorithms run a batch in which each has the longest's length."""
    lengths, h, groups, d = (100, 2000, 512, 4000), 32, 8, 128
    tokens, b = sum(lengths), len(lengths)
    vector, shared = 2 * tokens * h * d, 2 * tokens * groups * d
    found = predicted("flash-attn-varlen", heads=h, kv_heads=groups, lengths=lengths, mask="causal")
    accumulated = 4 * (tokens + 128 * b) * h * (d + 1)
    operands = 4 * vector + 4 * shared + 2 * vector
    assert found.memory.live_peak_bytes == operands + accumulated + 4 * h * tokens + RNG + 4 * (b + 1)
    assert found.work.exp == 2 * h * sum(n * (n + 1) // 2 for n in lengths)  # in forward and in backward
    ours = predicted("flash-deterministic", heads=h, kv_heads=groups, lengths=lengths, mask="causal")
    assert ours.memory.live_peak_bytes == operands - 2 * vector + 2 * 4 * h * tokens + 4 * (b + 1)  # delta beside LSE
    assert ours.work.exp >= 3 * h * sum(n * (n + 1) // 2 for n in lengths)  # dK and dV, and dQ again
    padded = [predicted("naive", heads=h, **sizes) for sizes in ({"lengths": lengths}, {"batch": b, "seq": 4000})]
    assert padded[0].memory == padded[1].memory


def test_flash_attn_keeps_padded_operands() -> None:
    """A head dim of 100 is padded to 104: the copies, the padded output, the log-sum-exp and the random state."""
    h, n = 4, 256
    found = predicted("flash-attn", heads=h, seq=n, head_dim=100, phase="forward")
    assert found.memory.saved_bytes == 4 * (2 * h * n * 104) + 4 * h * n + RNG


def test_flash_attn_3_sums_in_whole_tiles() -> None:
    """Causal, head dim 128 on Hopper: tiles of 64 queries, and of 128 keys for the shared dK and dV."""
    h, groups, n, d = 32, 8, 1000, 128
    rows, keys = 64 * 16, 128 * 8
    sums = 4 * h * rows * d + 2 * (4 * groups * keys * d)
    numbers = 2 * (4 * h * rows) + 4 * h * n  # row dots, log-sum-exp in base 2, log-sum-exp
    counters = 4 * 16 * h
    found = predicted("flash-attn-3", "H100", heads=h, kv_heads=groups, seq=n, mask="causal")
    assert found.memory.live_peak_bytes == operands(h, groups, n, d) + sums + numbers + counters


def test_flash_attn_3_in_fp8_writes_bf16() -> None:
    """mha_fwd: operands of a byte, an output of two, the log-sum-exp; twice the rate of bf16 on the tensor cores."""
    h, n, d = 32, 16384, 128
    wide, narrow = (
        predicted("flash-attn-3", "H100", heads=h, seq=n, head_dim=d, phase="inference", dtype=dtype)
        for dtype in ("bf16", "fp8")
    )
    assert narrow.memory.live_peak_bytes == h * n * d * (3 * 1 + 2) + 4 * h * n
    assert wide.memory.live_peak_bytes == h * n * d * (3 * 2 + 2) + 4 * h * n
    assert narrow.time is not None
    assert narrow.time.seconds == pytest.approx(4 * h * n * n * d / 1978.9e12, rel=0.01)
    assert narrow.calibrated is None


@pytest.mark.parametrize("algorithm", ["flash-attn", "flash-attn-3"])
@pytest.mark.parametrize(("window", "pairs"), [(None, 300 * 1000 - 300 * 299 // 2), (64, 300 * 64)])
def test_the_packages_align_their_masks_at_the_bottom_right(algorithm: str, window: int | None, pairs: int) -> None:
    """The last of 300 queries sees the last of 1000 keys: no mask is made, and the pairs that it leaves count."""
    found = predicted(
        algorithm, "H100", heads=2, seq=300, kv_seq=1000, head_dim=64, phase="inference", mask="causal", window=window
    )
    assert found.work.matmul == 2 * 2 * 2 * pairs * 64
    assert not any(tensor.name == "allowed" for tensor in found.tensors)


@pytest.mark.parametrize(
    ("algorithm", "gpu", "options", "words"),
    [
        ("flash-attn", "V100", {}, "compute capability 8.0: this GPU has 7.0"),
        ("flash-attn", "A100", {"dtype": "fp32"}, "fp16 and bf16, not float32"),
        ("flash-attn", "A100", {"head_dim": 264}, "up to 256"),
        ("flash-attn", "RTX 4090", {"head_dim": 256, "dropout": 0.1}, "does not train a head dim of 256"),
        ("flash-attn-3", "A100", {}, "for Hopper"),
        ("flash-attn-3", "H100", {"dropout": 0.1}, "no dropout"),
        ("flash-attn-3", "H100", {"head_dim": 100}, "multiples of 8"),
        ("flash-attn-3", "H100", {"head_dim": 72, "dtype": "fp8", "phase": "inference"}, "multiples of 16"),
        ("flash-attn-3", "H100", {"dtype": "fp8"}, "no backward"),
    ],
)
def test_what_the_packages_refuse(algorithm: str, gpu: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(memmodel.UsageError, match=words):
        predicted(algorithm, gpu, **options)


def drawn(count: int) -> list[dict[str, Any]]:
    draw = random.Random(40)
    found = []
    for _ in range(count):
        groups, n = draw.choice((1, 2, 8)), draw.choice((1, 64, 1000))
        found.append(
            {
                "batch": 2,
                "kv_heads": groups,
                "heads": groups * draw.choice((1, 1, 4)),
                "seq": n,
                "kv_seq": draw.choice((n, n, 1024)),
                "head_dim": draw.choice((8, 20, 64, 72, 96, 128, 160, 200, 256, 320, 512)),
                "dtype_name": draw.choice(("bf16", "fp16", "fp32", "fp64")),
                "mask": draw.choice((Mask(), Mask(causal=True), Mask(causal=True, window=1))),
                "dropout": draw.choice((0.0, 0.1, 0.125)),
                "phase": draw.choice(("inference", "train")),
            }
        )
    return found


def test_predictions_take_the_kernel_that_the_rules_choose() -> None:
    """400 cases on 8 architectures and 4 versions; the call is described anew from the case."""
    taken = set()
    for index, sizes in enumerate(drawn(400)):
        arch = (70, 75, 80, 86, 89, 90, 100, 120)[index % 8]
        for version in ("2.6", "2.8", "2.11", "2.13"):
            device = CUDA._replace(capability=arch)
            case = replace(make_case("sdpa", torch=version, **sizes), device=device)
            b, h, g, n, m, d = (sizes[x] for x in ("batch", "heads", "kv_heads", "seq", "kv_seq", "head_dim"))
            causal = case.mask.causal and case.mask.window is None
            given = case.mask.causal and not (causal and n in (1, m))
            call = SdpaCall((b, h, n, d), (b, g, m, d), (b, g, m, d), case.dtype)._replace(
                dropout=sizes["dropout"], causal=causal and n == m, gqa=h != g, needs_grad=sizes["phase"] == "train"
            )
            if given:
                call = call._replace(mask=AttentionMask((n, m), bool_))
            major, minor = version.split(".")
            expected = choose(call, Backends(arch, (int(major), int(minor))))
            assert recorded(case).choices == [expected], (arch, version, sizes)
            taken.add(expected.backend)
    assert taken == {"flash", "efficient", "cudnn", "math"}


def test_a_prediction_says_which_kernel_and_why() -> None:
    found = predicted("sdpa", heads=8, kv_heads=2, seq=512, mask="window", window=64)
    shown = document(memmodel.predict("A100", "sdpa", heads=8, kv_heads=2, seq=512, mask="window", window=64))
    (chosen,) = shown["predictions"][0]["attention"]
    assert chosen["kernel"] == found.attention[0].kernel == "math"
    assert [x["kernel"] for x in chosen["refused"]] == ["flash", "efficient"]
    assert chosen["refused"][1]["remedy"] == "key and value repeated for each query head"


def test_a_kernel_that_refuses_the_case_is_refused_with_its_reason() -> None:
    with pytest.raises(memmodel.UsageError, match=r"flash: it takes float16 or bfloat16, not float32 \(it would take"):
        predicted("sdpa-flash", dtype="fp32")


def test_what_is_not_known_is_said() -> None:
    assert any("workspace of cuDNN" in note for note in predicted("sdpa", "H100", seq=512).notes)
    for algorithm in ("sdpa", "flash-attn", "flex"):
        assert any("AMD Instinct MI300X" in note for note in predicted(algorithm, "MI300X", seq=512).notes)
    assert on_gpu([make_case("sdpa")], memmodel.load_gpu("MI300X"))[0].device.capability == 80


def test_alibi_costs_the_packages_a_slope_per_head() -> None:
    """Their kernels read slopes in fp32; scaled_dot_product_attention is given numbers for each head and key."""
    h, n = 32, 1024
    slopes = 4 * h
    with_slopes, without = (predicted("flash-attn", heads=h, seq=n, bias=bias) for bias in ("alibi", None))
    assert with_slopes.memory.live_peak_bytes == without.memory.live_peak_bytes + slopes
    sdpa = predicted("sdpa", heads=h, seq=n, bias="alibi")
    assert sdpa.attention[0].kernel == "efficient"
    assert {tensor.nbytes for tensor in sdpa.tensors if tensor.name == "ALiBi slopes"} == {slopes}


def test_the_gradient_of_a_bias_is_made_for_every_sequence() -> None:
    """Efficient attention: (b, h, n, m) for a bias (1, h, n, m), which is then summed over b, in a second tensor."""
    b, h, n = 4, 8, 768
    learned, fixed = (predicted("sdpa", batch=b, heads=h, seq=n, bias=bias) for bias in ("learned", "fixed"))
    scores = 2 * h * n * n
    made = [t.nbytes for t in learned.tensors if t.nbytes in (b * scores, scores)]
    assert sorted(made) == [scores, scores, b * scores]  # the bias, its gradient, and that of all sequences
    assert learned.memory.live_peak_bytes - fixed.memory.live_peak_bytes == b * scores


@pytest.mark.parametrize("shape", ["b,1", "b,h", "1,1"])
def test_a_bias_per_sequence_is_summed_over_the_heads_that_share_it(shape: str) -> None:
    """Efficient attention makes its gradient for every head and sequence; a sum of another shape is one tensor more."""
    b, h, n = 4, 8, 768
    pairs, letters = 2 * n * n, {"1": 1, "b": b, "h": h}
    outer = [letters[letter] for letter in shape.split(",")]
    own = pairs * outer[0] * outer[1]
    learned = predicted("sdpa", batch=b, heads=h, seq=n, bias="learned", bias_shape=shape)
    made = sorted(t.nbytes for t in learned.tensors if t.nbytes in (own, pairs * b * h))
    assert made == ([own, own] if shape == "b,h" else [own, own, pairs * b * h])


def test_decoding_over_latents_reads_them_once() -> None:
    """FlashMLA: 576 channels a token are keys, 512 of them values; parts of the keys leave sums in fp32.

    flash_api.cpp: 132 SMs by two tiles of 64 of the 128 heads are 66 parts, and one more for each sequence.
    """
    b, h, m, d, e = 4, 128, 32768, 576, 512
    found = predicted("flash-mla", "H100", like="deepseek-v3", phase="inference", batch=b, seq=1, kv_seq=m)
    latents, queries, outputs, rows = 2 * b * m * d, 2 * b * h * d, 2 * b * h * e, 4 * b * h
    parts = (b + 132 // 2) * h * 4 * (e + 1)
    plan = 4 * (b * m // 64) + 4 * 66 * 8 + 4 * (b + 1)
    new = 2 * b * d
    assert found.memory.live_peak_bytes == latents + queries + outputs + rows + parts + plan + new
    assert found.work.matmul == 2 * b * h * m * (d + e)


def test_a_soft_cap_is_three_operators_or_none() -> None:
    """Written out, backward keeps what tanh made; in the kernels it is done in registers."""
    h, n = 8, 512
    capped, plain = (predicted("naive", heads=h, seq=n, softcap=cap, phase="forward").memory for cap in (50, None))
    assert capped.saved_bytes - plain.saved_bytes == 2 * h * n * n
    for algorithm in ("flash", "flash-deterministic", "flash-attn", "flex"):
        capped, plain = (predicted(algorithm, heads=h, seq=n, softcap=cap) for cap in (50, None))
        assert capped.memory.live_peak_bytes == plain.memory.live_peak_bytes
        assert capped.work.matmul == plain.work.matmul


@pytest.mark.parametrize(
    ("algorithm", "options", "words"),
    [
        ("flash", {"bias": "learned"}, "flash with learned bias: not modelled; choose naive"),
        ("flash-attn", {"bias": "fixed"}, "flash-attn with bias: not modelled"),
        ("sdpa", {"softcap": 50.0}, "sdpa with soft cap 50: not modelled; choose naive"),
        ("naive", {"bias": "relative"}, "unknown bias 'relative'"),
        ("naive", {"bias": "fixed", "bias_shape": "2,h"}, "unknown bias-shape '2,h'"),
        ("naive", {"bias": "alibi", "bias_shape": "b,h"}, "it is of a tensor"),
        ("naive", {"lengths": "10,x"}, "size x: expected a whole number"),
        ("naive", {"lengths": [0, 5]}, "lengths 0: expected a whole number of at least 1"),
        ("naive", {"lengths": [5, 7], "batch": 3}, "leave out --batch"),
        ("flash-mla", {"phase": "inference"}, "one head of 576 channels, 512 of them the values"),
        ("naive", {"softcap": -1.0}, "softcap -1.0: expected a number from 1e-06 to"),
        ("flash-attn", {"softcap": 50.0, "dropout": 0.1}, "together with dropout"),
    ],
)
def test_changes_of_scores_that_are_refused(algorithm: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(memmodel.UsageError, match=words):
        predicted(algorithm, **options)
