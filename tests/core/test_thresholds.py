"""The largest size that fits is exactly that, on both sides; and the closed form is near it."""

from dataclasses import replace

import pytest

from memmodel.attention.case import make_case
from memmodel.base.errors import UsageError
from memmodel.cases import cases_of
from memmodel.events.liveness import phase_peaks
from memmodel.gpus import load_gpu
from memmodel.recorder import record
from memmodel.report.console import text
from memmodel.report.tables import threshold_table
from memmodel.step import fits, room_bytes
from memmodel.thresholds import resized, threshold


@pytest.mark.parametrize("over", ["seq", "batch", "heads", "kv_seq", "head_dim"])
@pytest.mark.parametrize("algorithm", ["naive", "flash", "checkpointed"])
@pytest.mark.parametrize("gpu", ["T4", "A100-40GB"])
def test_largest_fits_and_next_does_not(gpu: str, algorithm: str, over: str) -> None:
    device = load_gpu(gpu)
    case = make_case(algorithm, batch=2, heads=8, kv_heads=4, seq=2048, head_dim=64, dtype_name="fp16")
    found = threshold(case, device, over)
    largest = resized(case, over, found.largest)
    assert fits(record(largest), largest.torch, device)
    if (over, algorithm) == ("head_dim", "flash"):
        assert (found.largest, found.first_failing) == (256, None)  # its kernels' last, and it fits
        return
    assert found.first_failing is not None
    after = resized(case, over, found.first_failing)
    assert not fits(record(after), after.torch, device)


def test_steps_are_multiples() -> None:
    case = make_case("naive", heads=8, seq=2048)
    found = threshold(case, load_gpu("A100"), step=64)
    assert found.largest % 64 == 0
    assert found.first_failing == found.largest + 64


@pytest.mark.parametrize("algorithm", ["naive", "naive-by-hand", "flash"])
@pytest.mark.parametrize("kv_heads", [8, 2])
@pytest.mark.parametrize("over", ["seq", "batch", "heads", "kv_seq"])  # head dim: next test, flash pads it
def test_the_closed_form_is_where_the_live_peak_meets_the_room(algorithm: str, over: str, kv_heads: int) -> None:
    device = load_gpu("A100")
    case = make_case(algorithm, batch=2, heads=8, kv_heads=kv_heads, seq=4096, head_dim=128)
    found = threshold(case, device, over)
    room = room_bytes(device)
    assert room is not None
    assert found.closed_form is not None
    at = phase_peaks(record(resized(case, over, found.closed_form)))["peak"]
    beyond = phase_peaks(record(resized(case, over, found.closed_form + found.step)))["peak"]
    assert at <= room < beyond
    assert found.largest <= found.closed_form


def test_the_largest_head_dim_by_the_closed_form() -> None:
    """At the end of backward of naive attention: q, k, v, dout, output and dv of n x d, and four matrices of n x n."""
    h, n = 8, 4096
    found = threshold(make_case("naive", heads=h, seq=n, head_dim=128), load_gpu("A100"), "head-dim")
    room = room_bytes(load_gpu("A100"))
    assert room is not None
    assert found.over == "head_dim"
    assert found.case.head_dim == found.case.value_dim == found.largest
    three = 9 * n * 2 * h  # later, q, k, v, dout, output, dq, dk, dv and another are n x d: they win for large d
    assert found.closed_form == room // three


def test_keys_are_counted_apart_from_queries() -> None:
    """A cache of m tokens, one new token: k and v of m keys (and twice as a new cache is written) in two bytes each."""
    case = make_case("decode", heads=8, seq=1, kv_seq=64, head_dim=64, phase="inference")
    found = threshold(case, load_gpu("T4"), "kv_seq", step=64)
    assert found.case.seq == 1
    assert found.case.kv_seq == found.largest
    room = room_bytes(load_gpu("T4"))
    assert room is not None
    assert 2 * 2 * 8 * 64 * found.largest <= room


@pytest.mark.parametrize(("over", "seq", "kv_seq"), [("seq", 64, 128), ("kv_seq", 1000, 4096)])
def test_a_causal_mask_keeps_a_key_for_each_query(over: str, seq: int, kv_seq: int) -> None:
    from memmodel.attention.masks import mask

    case = make_case("naive", seq=seq, kv_seq=kv_seq, mask=mask("causal", None))
    found = threshold(case, load_gpu("A100"), over, step=64)
    assert found.case.seq <= found.case.kv_seq
    if over == "seq":
        assert (found.largest, found.first_failing) == (kv_seq, None)


def test_a_cache_too_small_for_its_queries_is_none() -> None:
    from memmodel.attention.masks import mask

    case = make_case("naive", batch=4096, heads=64, seq=65536, mask=mask("causal", None))
    found = threshold(case, load_gpu("T4"), "kv_seq")
    assert (found.largest, found.first_failing) == (0, 65536)


def test_heads_are_counted_in_whole_groups() -> None:
    case = make_case("naive", heads=64, kv_heads=8, seq=4096)
    device = load_gpu("A100")
    found = threshold(case, device, "heads", step=12)
    assert found.step == 24  # the least multiple of 12 heads and of groups of 64 / 8
    assert found.first_failing == found.largest + 24
    assert found.case.heads == found.largest
    assert found.case.kv_heads == found.largest // 8
    assert found.memory is not None
    inputs = 2 * 4096 * 128 * (2 * found.largest + 2 * found.case.kv_heads)  # q and dout, k and v, in bf16
    assert found.memory.live_peak_bytes > inputs


def test_a_size_that_never_fits() -> None:
    case = make_case("naive", batch=4096, heads=64, seq=65536)
    found = threshold(case, load_gpu("T4"), "heads")
    assert found.largest == 0
    assert found.memory is None


def test_unknown_size_and_unknown_capacity() -> None:
    case = make_case("naive")
    with pytest.raises(UsageError, match="unknown size 'rows'"):
        threshold(case, load_gpu("A100"), "rows")
    with pytest.raises(UsageError, match="capacity"):
        threshold(case, load_gpu("B100"))


@pytest.mark.slow
def test_sizes_below_the_largest_may_fail_and_the_table_says_so() -> None:
    """Of chunked attention, by fragmentation: blocks of a short last chunk fit into no block of the others."""
    gpu, (case,) = load_gpu("T4"), cases_of(["chunked"], dtype="fp16")
    found = threshold(case, gpu)
    smaller = (replace(found.case, seq=n, kv_seq=n) for n in range(found.largest - 1024, found.largest, 128))
    assert not all(fits(record(one), one.torch, gpu) for one in smaller)
    assert "chunked: smaller sizes may fail too" in text(threshold_table([found])).replace("\n", " ")
