"""Decoding as servers run it: its values against PyTorch's, its bytes by arithmetic, its bound by necessary work."""

import math
from typing import Any

import pytest
import torch

from memmodel.attention.case import make_case
from memmodel.attention.masks import NO_MASK, Mask
from memmodel.base.errors import UsageError
from memmodel.cases import cases_of
from memmodel.gpus import load_gpu
from memmodel.predictor import predict
from memmodel.step import room_bytes
from memmodel.thresholds import threshold
from memmodel_kernels import decode

CAUSAL = Mask(causal=True)


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Mask) -> torch.Tensor:
    """Attention in fp64, query heads sharing key heads."""
    k, v = (x.double().repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    scores = q.double() @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    blocked = mask.blocked(torch, q, q.shape[2], k.shape[2])
    scores = scores if blocked is None else scores.masked_fill(blocked, -math.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize(("page", "kind"), [(None, torch.float32), (16, torch.float8_e4m3fn), (24, torch.float32)])
@pytest.mark.parametrize(
    ("h", "g", "n", "m", "d", "e", "mask", "parts"),
    [
        (8, 2, 1, 300, 64, 64, NO_MASK, 1),
        (8, 2, 1, 1300, 64, 64, NO_MASK, 3),
        (6, 3, 4, 1000, 128, 128, CAUSAL, 5),
        (4, 1, 3, 700, 80, 40, Mask(causal=True, window=100), 2),
        (40, 1, 2, 900, 192, 128, CAUSAL, 7),  # several tiles of rows
        (2, 2, 1, 100, 16, 16, NO_MASK, 4),  # parts without a key
    ],
)
def test_values(
    h: int, g: int, n: int, m: int, d: int, e: int, mask: Mask, parts: int, page: int | None, kind: torch.dtype
) -> None:
    torch.manual_seed(m)
    b = 2
    q, new_k, new_v = torch.randn(b, h, n, d), torch.randn(b, g, n, d), torch.randn(b, g, n, e)
    k, v = torch.randn(b, g, m, d).to(kind), torch.randn(b, g, m, e).to(kind)
    k[:, :, m - n :], v[:, :, m - n :] = math.nan, math.nan  # to be written
    whole = [torch.cat((x[:, :, : m - n].float(), new.to(kind).float()), 2) for x, new in ((k, new_k), (v, new_v))]
    table = None
    if page:
        table = torch.randperm(b * -(-m // page)).reshape(b, -1).int()
        k, v = (paged(x, table, page) for x in (k, v))
    found = decode(q, new_k, new_v, k, v, mask, table, m, parts)
    assert (found - exact(q, *whole, mask)).abs().max() < 2e-6


def paged(x: torch.Tensor, table: torch.Tensor, page: int) -> torch.Tensor:
    """A (b, g, m, d) cache in pages (p, g, page, d), where the table says."""
    b, g, m, d = x.shape
    pages = torch.full((table.numel(), g, page, d), math.nan).to(x.dtype)
    for i in range(b):
        for j in range(m):
            pages[table[i, j // page], :, j % page] = x[i, :, j]
    return pages


LLAMA: dict[str, Any] = {"heads": 64, "kv_heads": 8, "head_dim": 128, "seq": 1, "phase": "inference"}  # 3, of 70B


def splits(tiles: int, slots: int, blocks: int) -> int:
    """flash_api.cpp, num_splits_heuristic, by hand: the fewest parts within 85 % of the best filled last wave."""
    if tiles >= 0.8 * slots:
        return 1
    filled = {}
    for s in range(1, min(128, slots, blocks) + 1):
        if s == 1 or math.ceil(blocks / s) != math.ceil(blocks / (s - 1)):
            filled[s] = (tiles * s / slots) / math.ceil(tiles * s / slots)
    return min(s for s in filled if filled[s] >= 0.85 * max(filled.values()))


@pytest.mark.parametrize("m", [1000, 32768, 131072])
@pytest.mark.parametrize("batch", [1, 32, 64])
@pytest.mark.parametrize(("cache", "size"), [(None, 2), ("fp8", 1)])
@pytest.mark.parametrize("page", [None, 16])
def test_bytes(m: int, batch: int, cache: str | None, size: int, page: int | None) -> None:
    """Whole pages of K and V, a number in the table for each; O and its LSE; a part's sums and LSE in fp32."""
    given = {**LLAMA, "kv_seq": m, "batch": batch, "page_size": page, "cache_dtype": cache}
    found = predict("H100", "decode", **given)["decode"].memory
    pages = -(-m // page) if page else 1
    keys = batch * 2 * size * 8 * 128 * (pages * page if page else m)
    table = 4 * batch * pages if page else 0
    rows = batch * 64
    parts = splits(batch * 8, 2 * 132, -(-m // 128))
    sums = 4 * parts * rows * (128 + 1) if parts > 1 else 0
    new_tokens = batch * 2 * 2 * 8 * 128
    assert found.live_peak_bytes == keys + table + 2 * 2 * rows * 128 + 4 * rows + new_tokens + sums
    assert (parts > 1) == (batch < 27)  # eight key heads each: 0.8 of 264 thread blocks at once


def test_a_page_partly_empty_is_whole() -> None:
    """1001 keys take 63 pages of 16, and 16 of 63 and 64: the rest of the last is there too."""
    given = {**LLAMA, "page_size": 64}
    bytes_of = {m: predict("H100", "decode", kv_seq=m, **given)["decode"].memory.live_peak_bytes for m in (961, 1024)}
    assert bytes_of[961] == bytes_of[1024]


@pytest.mark.parametrize(("parts", "more"), [(1, 0), (128, 4 * 128 * 64 * 129)])
def test_parts_can_be_chosen(parts: int, more: int) -> None:
    found = {s: predict("H100", "decode", kv_seq=131072, num_splits=s, **LLAMA)["decode"] for s in (1, parts)}
    assert found[parts].memory.live_peak_bytes - found[1].memory.live_peak_bytes == more
    assert found[parts].time is not None
    assert found[1].time is not None
    assert found[parts].time.seconds == pytest.approx(found[1].time.seconds, rel=1e-3)  # splitting is not necessary


@pytest.mark.parametrize("algorithm", ["decode", "flash"])
def test_the_bound_is_k_and_v_once(algorithm: str) -> None:
    """Llama-3-70B's layer at 128k on an H100: 512 MiB, of which L2 holds 50, against 4 h m d = 4.3 GFLOP."""
    found = predict("H100", algorithm, kv_seq=131072, **LLAMA)[algorithm].time
    assert found is not None
    assert found.binding == "HBM"
    assert found.seconds == pytest.approx((512 - 50) * 2**20 / 3.352e12, rel=1e-3)
    (kernel,) = found.kernels
    products = next(c for c in kernel.ceilings if c.name == "tensor cores")
    assert products.amount == pytest.approx(4 * 64 * 131072 * 128)


def test_a_window_reads_its_keys_alone() -> None:
    """Four new tokens with a window of 4096 see 4099 of 131072 keys, each of them 4096."""
    given = {**LLAMA, "seq": 4, "kv_seq": 131072, "window": 4096}
    work = predict("H100", "decode", **given)["decode"].time
    assert work is not None
    (kernel,) = work.kernels
    ceilings = {c.name: c.amount for c in kernel.ceilings}
    assert ceilings["tensor cores"] == pytest.approx(4 * 64 * 128 * 4 * 4096)
    q, new = 2 * 64 * 4 * 128, 2 * 2 * 8 * 4 * 128
    assert ceilings["L2"] == q + new + 2 * 2 * 8 * 128 * (4099 - 4)  # reads: Q, new and older K and V


@pytest.mark.parametrize("algorithm", ["decode", "flash", "flash-attn", "flash-attn-3"])
def test_keys_that_a_window_hides_from_all_are_not_read(algorithm: str) -> None:
    """A prompt of 512 tokens behind 128k, with a window of 4096: 4607 keys of K and V, 18 MiB, lie in L2."""
    given = {**LLAMA, "seq": 512, "kv_seq": 131072, "window": 4096}
    found = predict("H100", algorithm, **given)[algorithm].time
    assert found is not None
    (kernel,) = (kernel for kernel in found.kernels if kernel.name.startswith("flash"))
    ceilings = {c.name: c.amount for c in kernel.ceilings}
    assert ceilings["HBM"] == 0
    assert ceilings["L2"] == pytest.approx(2 * 128 * (64 * 512 + 2 * 8 * (512 + 4095)), rel=0.02)


def test_the_largest_context_and_batch() -> None:
    """Within a hundredth of the room over K and V's bytes: 4 KiB a key, 512 MiB a sequence of 128k."""
    gpu = load_gpu("H100")
    room = room_bytes(gpu)
    assert room is not None
    (keys,) = (threshold(c, gpu, "kv-seq", 128) for c in cases_of(["decode"], kv_seq=4096, **LLAMA))
    (batch,) = (threshold(c, gpu, "batch") for c in cases_of(["decode"], kv_seq=131072, **LLAMA))
    assert keys.first_failing == keys.largest + 128
    assert 0.99 * room < keys.largest * 2 * 2 * 8 * 128 <= room
    assert batch.largest == room // (512 * 2**20 + 2 * 2 * 64 * 128)


@pytest.mark.parametrize(
    ("like", "layers", "tokens"),
    [
        ("llama-3-70b", 80, 80 * 131072),
        ("gemma-2-9b", 42, 21 * (131072 + 4096)),  # every other layer has a window of 4096
    ],
)
@pytest.mark.parametrize(("given", "size"), [({}, 2), ({"cache_dtype": "fp8"}, 1)])
def test_caches_of_all_layers(like: str, layers: int, tokens: int, given: dict[str, Any], size: int) -> None:
    """40 GiB for Llama-3-70B at 128k in bf16: 80 layers of 8 heads of 128, keys and values."""
    report = predict("H100", "decode", like=like, seq=1, kv_seq=131072, phase="inference", **given)
    heads, dim = {"llama-3-70b": (8, 128), "gemma-2-9b": (8, 256)}[like]
    assert report.model == (like, layers, 2 * size * heads * dim * tokens)
    if (like, size) == ("llama-3-70b", 2):
        assert "one layer of 80; K and V caches of all layers: 40.00 GiB" in str(report)
    (found,) = (
        threshold(case, report.gpu, "kv_seq", 1024, like=like)
        for case in cases_of(["decode"], like=like, seq=1, kv_seq=4096, phase="inference", **given)
    )
    room = room_bytes(report.gpu)
    assert room is not None
    assert found.all_layers is not None
    if like == "llama-3-70b":
        assert found.all_layers == room // (80 * 2 * size * heads * dim) // 1024 * 1024
    else:
        most = (room - 21 * 2 * size * heads * dim * 4096) // (21 * 2 * size * heads * dim)
        assert found.all_layers == most // 1024 * 1024


def test_other_heads_than_the_models_are_not_its_cache() -> None:
    report = predict("H100", "decode", like="llama-3-70b", kv_heads=4, seq=1, kv_seq=4096, phase="inference")
    assert report.model == ("llama-3-70b", 80, None)
    assert predict("H100", "flash", like="bert-base").model == ("bert-base", 12, None)  # an encoder keeps none
    assert predict("H100", "flash", like="llama-3-70b").model == ("llama-3-70b", 80, None)  # training keeps no cache


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"page_size": 0}, "page-size 0: expected a whole number of at least 1"),
        ({"page_size": 2.5}, "page-size 2.5: expected a whole number"),
        ({"num_splits": 129}, "num-splits 129: flash-attention reads the keys in at most 128 parts"),
        ({"num_splits": 9}, "num-splits 9: 1000 keys are 8 blocks of 128, which is the most parts"),
        ({"cache_dtype": "int3"}, "cache dtype 'int3'"),
        ({"window": 1001}, "window 1001 with 1000 keys"),
        ({"dtype": "fp64"}, "its kernels take fp16, bf16 and fp32"),
    ],
)
def test_senseless_caches_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        predict("H100", "decode", kv_seq=1000, **LLAMA, **given)


def test_pages_are_decodings_alone() -> None:
    with pytest.raises(UsageError, match="naive with pages of 16 keys: pages, cache types and splits are decode's"):
        predict("H100", page_size=16)


def test_eager_operators_repeat_the_cache() -> None:
    """And `decode` is what would take less."""
    report = predict("H100", "decode-eager", kv_seq=32768, **LLAMA)
    keys = 2 * 2 * 8 * 32768 * 128
    assert report["decode-eager"].memory.live_peak_bytes > 8 * keys
    assert [m.change for m in report.mitigations] == ["decoding with a KV cache"]
    assert make_case("decode").cache == report["decode-eager"].case.cache
