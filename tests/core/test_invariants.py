"""Five hundred random configurations: one by one, as arrays and as formulas they are the same; more is never less.

That the explorer's page computes the same is held by a thousand states in a browser (tests/pages).
"""

import random
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from memmodel.attention.case import SIZES, Case, make_case
from memmodel.attention.masks import Mask
from memmodel.cases import on_gpu
from memmodel.closed_forms import Formulas, formulas
from memmodel.events.liveness import phase_peaks, saved_bytes
from memmodel.events.work import Work
from memmodel.gpus import load_gpu
from memmodel.predictor import predict_case
from memmodel.recorder import record
from memmodel.step import fits
from memmodel.sweeps import QUANTITIES, sweep
from memmodel.thresholds import resized, threshold
from memmodel.timing.known import community

ALGORITHMS = ("naive", "naive-by-hand", "flash", "checkpointed", "compiled")
KINDS = list(product(ALGORITHMS, ("inference", "train"), ("bf16", "fp32"), (False, True)))  # the last: causal
OF_A_KIND = 13  # 40 kinds, 520 configurations
GPUS = ("A100", "H100", "B200")


def random_cases(kind: tuple[str, str, str, bool]) -> list[Case]:
    """Configurations of one kind; sequences are whole tiles, as the formulas of flash attention under a mask ask."""
    algorithm, phase, dtype, causal = kind
    drawn = random.Random(repr(kind))
    cases = []
    for _ in range(OF_A_KIND):
        kv_heads = drawn.randint(2, 12)
        sizes = {
            "batch": drawn.randint(2, 33),
            "heads": kv_heads * 4,
            "kv_heads": kv_heads,
            "seq": 128 * drawn.randint(1, 64),
            "head_dim": 128 if algorithm == "flash" else 8 * drawn.randint(4, 20),
        }
        mask = Mask(causal=True) if causal else None
        cases.append(make_case(algorithm, **sizes, phase=phase, dtype_name=dtype, mask=mask))  # type: ignore[arg-type]
    return cases


def readings(case: Case) -> dict[str, int]:
    program = record(case)
    work = sum((launch.work for launch in program.launches()), start=Work())
    numbers = (phase_peaks(program)["peak"], saved_bytes(program), work.flops, work.hbm_bytes)
    return dict(zip(QUANTITIES, map(int, numbers), strict=True))


def as_arrays(cases: list[Case]) -> dict[str, Any]:
    columns = {name: np.array([getattr(case, name) for case in cases]) for name in SIZES}
    return sweep(cases[0], columns).results


def by_formula(forms: Formulas, case: Case) -> dict[str, int]:
    peak = max(forms.value(b.expression, case) for branches in forms.peaks.values() for b in branches)
    rest = (forms.value(expression, case) for expression in (forms.saved, forms.flops, forms.hbm_bytes))
    return dict(zip(QUANTITIES, (int(peak), *map(int, rest)), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind)))
def test_ints_arrays_and_formulas_are_the_same(kind: Any) -> None:
    cases = random_cases(kind)
    alone = [readings(case) for case in cases]
    found = as_arrays(cases)
    assert [{name: int(column[i]) for name, column in found.items()} for i in range(len(cases))] == alone
    forms = formulas(cases[0])
    assert [by_formula(forms, case) for case in cases] == alone


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind)))
def test_more_of_a_size_never_takes_less(kind: Any) -> None:
    """By arrays, which the test above holds to single configurations."""
    cases = random_cases(kind)
    before = as_arrays(cases)
    for over in ("batch", "heads", "seq"):
        more = as_arrays([resized(case, over, 2 * getattr(case, over)) for case in cases])
        assert all((more[name] >= before[name]).all() for name in QUANTITIES), over


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind)))
def test_no_time_to_expect_is_below_the_bound(kind: Any) -> None:
    for case, name in zip(random_cases(kind), GPUS * OF_A_KIND, strict=False):
        gpu = load_gpu(name)
        (sized,) = on_gpu([case], gpu)
        found = predict_case(sized, gpu, calibration=community(gpu.id))
        assert found.time is not None
        if found.calibrated is not None:
            assert found.time.seconds <= found.calibrated.seconds, case.describe()


@pytest.mark.slow
@pytest.mark.parametrize("over", ["seq", "batch", "heads", "kv_seq"])
@pytest.mark.parametrize("kind", KINDS[::3], ids=lambda kind: "-".join(map(str, kind)))
def test_max_is_right_on_both_sides(kind: Any, over: str) -> None:
    case, gpu = random_cases(kind)[0], load_gpu("A100")
    if over == "kv_seq":
        case = replace(case, seq=128)
    found = threshold(case, gpu, over, step=16 if over == "seq" else 1)
    sides = [(found.largest, True)] * bool(found.largest) + [(found.first_failing, False)]
    for size, expected in sides:
        assert size is not None
        (sized,) = on_gpu([resized(case, over, size)], gpu)
        assert fits(record(sized), sized.torch, gpu) is expected
