"""One program, three number systems: ints, arrays and symbols agree; and what must hold for every configuration."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memmodel.algorithms import ALGORITHMS
from memmodel.allocator import AllocatorConfig, CachingAllocator
from memmodel.allocator.cublas import workspace
from memmodel.attention.case import SIZES, Case, make_case
from memmodel.attention.masks import Mask
from memmodel.attention.scores import UNCHANGED
from memmodel.base.device import CUDA
from memmodel.base.dtypes import bfloat16, float32
from memmodel.closed_forms import SYMBOLS, formulas
from memmodel.events.account import account
from memmodel.events.liveness import phase_peaks, saved_bytes
from memmodel.events.program import Alloc, Free, Launch
from memmodel.events.replay import replay
from memmodel.events.work import Work
from memmodel.recorder import record, supported
from memmodel.sweeps import sweep


@st.composite
def cases(draw: st.DrawFn, smallest: int = 1) -> Case:
    size = st.integers(smallest, 70)
    kv_heads = draw(st.integers(smallest, 4))
    seq = draw(size)
    keys = seq + draw(st.sampled_from([0, 0, 5]))
    algorithm = draw(st.sampled_from(sorted(ALGORITHMS)))
    cached, chooses = ALGORITHMS[algorithm].cached, ALGORITHMS[algorithm].chooses
    phase = "inference" if cached else draw(st.sampled_from(["inference", "forward", "train"]))
    masks = [Mask()] if cached else [Mask(), Mask(causal=True), Mask(causal=True, window=(keys + 1) // 2)]
    case = make_case(
        algorithm,
        batch=draw(size),
        heads=kv_heads * draw(st.sampled_from([1, 2, 3])),
        kv_heads=kv_heads,
        seq=seq,
        kv_seq=keys,
        head_dim=draw(size) * (8 if chooses else 1),
        dtype_name=draw(st.sampled_from([bfloat16, float32])),
        mask=draw(st.sampled_from(masks)),
        dropout=draw(st.sampled_from([0.0, 0.1])) if ALGORITHMS[algorithm].dropout else 0.0,
        phase=phase,
        chunk=draw(st.integers(16, 64)),
    )
    return case if not chooses or supported(case) else replace(case, algorithm="sdpa", scores=UNCHANGED)


def readings(case: Case) -> dict[str, Any]:
    program = record(case)
    work = sum((e.work for e in program.events if isinstance(e, Launch)), start=Work())
    return {
        "live_peak_bytes": phase_peaks(program)["peak"],
        "saved_bytes": saved_bytes(program),
        "flops": work.flops,
        "hbm_bytes": work.hbm_bytes,
    }


@given(cases())
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_what_holds_for_every_configuration(case: Case) -> None:
    program = record(case)
    live: dict[int, int] = {}
    for event in program.events:
        if isinstance(event, Alloc):
            assert event.nbytes > 0
            assert event.key not in live
            live[event.key] = event.nbytes
        elif isinstance(event, Free):
            assert event.key in live
            del live[event.key]
    peaks = phase_peaks(program)
    assert peaks["peak"] >= saved_bytes(program)
    for expandable in (False, True):
        allocator = CachingAllocator(config=AllocatorConfig(expandable_segments=expandable))
        result = replay(program, allocator, workspace("2.13", (8, 0)), steps=3)
        for phase in ("forward", "backward") if case.phase == "train" else ("forward",):
            usage = result.last(phase)
            assert usage.allocated_peak >= peaks[phase]
            assert usage.reserved_peak >= usage.allocated_peak
        assert result.out_of_memory is None


@given(cases())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_the_account_at_the_peak_adds_up_to_the_peak(case: Case) -> None:
    program = record(case.lettered(), sites=True)
    assert sum(row.nbytes for row in account(program) if row.at_peak) == phase_peaks(program)["peak"]


@given(cases())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_an_array_element_equals_its_int(case: Case) -> None:
    if case.algorithm == "decode-eager":
        return
    columns = {name: np.array([getattr(case, name)] * 2) for name in SIZES}
    columns["batch"] = np.array([case.batch, case.batch + 3])
    swept = sweep(case, columns)
    for index in range(2):
        single = readings(replace(case, batch=int(columns["batch"][index])))
        assert {name: column[index] for name, column in swept.results.items()} == single


@given(cases(smallest=2))
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_a_symbol_substituted_equals_its_int(case: Case) -> None:
    tiled = case.algorithm.startswith("flash")
    chooses = ALGORITHMS[case.algorithm].chooses
    if case.algorithm in ("chunked", "decode", "decode-eager") or chooses or (tiled and case.mask.causal):
        return  # these hold in a region of their own, tested below
    if case.mask.window is not None:
        return
    forms = formulas(case)
    values = {SYMBOLS[name]: getattr(case, name) for name in SIZES}
    single = readings(case)

    def number(expression: Any) -> int:
        return int(sympy.sympify(expression).subs(values))

    peaks = {phase: max(number(b.expression) for b in branches) for phase, branches in forms.peaks.items()}
    assert max(peaks.values()) == single["live_peak_bytes"]
    assert number(forms.saved) == single["saved_bytes"]
    assert number(forms.flops) == single["flops"]
    assert number(forms.hbm_bytes) == single["hbm_bytes"]


def test_chunked_and_causal_flash_formulas_hold_in_their_regions() -> None:
    chunked = make_case("chunked", batch=3, heads=5, seq=64, head_dim=7, chunk=16, phase="train")
    forms = formulas(chunked)
    values = {SYMBOLS[name]: getattr(chunked, name) for name in SIZES}
    peaks = [int(b.expression.subs(values)) for branches in forms.peaks.values() for b in branches]
    assert max(peaks) == readings(chunked)["live_peak_bytes"]
    causal = make_case("flash", batch=3, heads=5, seq=512, head_dim=16, mask=Mask(causal=True))
    assert (
        int(formulas(causal).flops.subs({SYMBOLS[n]: getattr(causal, n) for n in SIZES})) == readings(causal)["flops"]
    )


@pytest.mark.parametrize("phase", ["inference", "train"])
@pytest.mark.parametrize("mask", [Mask(), Mask(causal=True)], ids=lambda mask: mask.name)
@pytest.mark.parametrize("algorithm", [name for name, x in ALGORITHMS.items() if x.chooses and not x.latent])
def test_formulas_of_library_kernels_hold_for_multiples_of_their_tiles(algorithm: str, mask: Mask, phase: str) -> None:
    case = make_case(algorithm, batch=4, heads=32, seq=1920, head_dim=64, mask=mask, phase=phase)
    case = replace(case, device=CUDA._replace(capability=90 if algorithm == "flash-attn-3" else 80))
    forms = formulas(case)
    found = {"saved_bytes": forms.saved, "flops": forms.flops, "hbm_bytes": forms.hbm_bytes}
    peaks = max(forms.value(b.expression, case) for branches in forms.peaks.values() for b in branches)
    assert {name: forms.value(x, case) for name, x in found.items()} | {"live_peak_bytes": peaks} == readings(case)


@pytest.mark.parametrize("algorithm", ["naive", "naive-by-hand", "flash", "compiled"])
def test_exactly_one_branch_of_a_peak_wins_its_region(algorithm: str) -> None:
    """The winning branch by its condition is the largest, at sizes on both sides of n = d."""
    forms = formulas(make_case(algorithm, seq=64, phase="train"))
    for n, d in ((4096, 64), (64, 64), (16, 128), (3, 200)):
        values = {SYMBOLS["batch"]: 2, SYMBOLS["heads"]: 3, SYMBOLS["seq"]: n, SYMBOLS["head_dim"]: d}
        for branches in forms.peaks.values():
            largest = max(b.expression.subs(values) for b in branches)
            winners = [b for b in branches if b.wins is None or b.wins.subs(values) == sympy.true]
            assert winners
            assert {b.expression.subs(values) for b in winners} == {largest}


def test_sweeps_beyond_int64_stay_exact() -> None:
    case = make_case("naive", batch=512, heads=256, seq=2**24, head_dim=256)
    columns = {name: np.array([getattr(case, name)] * 2) for name in SIZES}
    swept = sweep(case, columns)
    assert swept.results["flops"][0] == readings(case)["flops"] > 2**63
