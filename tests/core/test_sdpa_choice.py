"""Which kernel scaled_dot_product_attention takes: against sdp_utils.cpp written down once more, and PyTorch's choice.

The second writing is by property of the call, not by filter: for each backend, everything that has to hold at once.
"""

import random
from collections import Counter
from typing import Any

import pytest
import torch

from memmodel.base.dtypes import bfloat16, float16, float32, float64
from memmodel.base.errors import UsageError
from memmodel.rules.sdpa import ALL, MATH, Backends, Mask, Refusal, SdpaCall, check, choose

DTYPES = (float16, bfloat16, float32, float64)
ARCHES = (70, 75, 80, 86, 89, 90, 100, 120)
VERSIONS = tuple((2, minor) for minor in range(5, 14))
HEAD_DIMS = (8, 16, 20, 64, 72, 80, 96, 128, 160, 192, 200, 224, 256, 320, 512)


def sampled_calls(count: int) -> list[SdpaCall]:
    """Calls with at most two things out of the ordinary, so that each filter decides some of them."""
    draw = random.Random(20)
    found = []
    for _ in range(count):
        d, n = draw.choice(HEAD_DIMS), draw.choice((1, 16, 128, 1000))
        q = k = v = (2, 8, n, d)
        call = SdpaCall(q, k, v, draw.choice(DTYPES[:3]), needs_grad=draw.random() < 0.5)
        for change in draw.sample(range(12), draw.choice((0, 1, 1, 2))):
            m = draw.choice((0, 1, 64, n))
            call = call._replace(
                **(
                    {"mask": Mask((2, 1, n, call.key[2]), bfloat16)},
                    {"mask": Mask((n, call.key[2]), call.dtype, needs_grad=True)},
                    {"mask": Mask((8, n, call.key[2]), call.dtype)},
                    {"mask": Mask((n, call.key[2]), call.dtype, last_stride=0)},
                    {"dropout": draw.choice((0.1, 0.125, 0.5))},
                    {"key": (2, 2, n, d), "value": (2, 2, n, d), "gqa": draw.random() < 0.8},
                    {"key": (2, 8, m, d), "value": (2, 8, m, d), "causal": draw.random() < 0.5},
                    {"causal": True},
                    {"value": (*call.value[:3], 128)},
                    {"deterministic": True},
                    {"unit_stride": False},
                    {"key": (1, *call.key[1:]), "dtype": float64},
                )[change]
            )
        found.append(call)
    return found


def expected(call: SdpaCall, arch: int, torch_version: tuple[int, int], plain: bool) -> str | None:
    """The backend, from sdp_utils.cpp of that version, by everything that has to hold of a call.

    Which version holds what was also read in the libtorch_cuda.so of its wheel: the filters of each backend, the
    ranges in their messages, and the versions of cuDNN that they compare with. `plain`: whether "math" is on.
    """
    (b, h, n, d), (bk, hk, m, dk), (bv, hv, _, dv) = call.query, call.key, call.value
    newest = {(2, 5): 90, (2, 6): 90, (2, 7): 120}.get(torch_version, 121)
    half = call.dtype in ((float16, bfloat16) if arch >= 80 else (float16,))
    batches, lengths = b == bk == bv, n > 0 and m > 0
    straight = call.unit_stride and (call.mask is None or call.mask.last_stride == 1)
    small_shared_memory = arch in (86, 89, 120)
    untrained = small_shared_memory and call.needs_grad and (192 < d <= 224 or (d > 224 and call.dropout > 0))
    shape = call.mask.shape if call.mask else ()
    fits = call.mask is None or (not call.mask.needs_grad and shape in ((n, m), (2, 1, n, m)))
    widest = 256 if arch == 90 and torch_version >= (2, 8) else 128
    if arch == 100 and torch_version >= (2, 11) and (d, dv) == (192, 128):
        widest = 192
    multiple = (8 if half or call.dtype.itemsize == 2 else 4) if arch >= 80 else (8 if call.dtype.itemsize == 2 else 1)
    several = torch_version == (2, 5) or (m > 1 and (n > 1 if torch_version < (2, 9) else n > 1 or not call.dropout))
    heads = torch_version < (2, 8) or (batches and (h == hk == hv or (call.gqa and h % hk == h % hv == 0)))
    takes = {
        "flash": batches and lengths and straight and half and 80 <= arch <= newest and call.mask is None
        and d == dk == dv <= 256 and not untrained and not (call.causal and n != m)
        and (h == hk == hv or (call.gqa and hk == hv)),
        "efficient": batches and lengths and straight and h == hk == hv and arch <= newest and d == dk
        and d % multiple == dv % multiple == 0 and call.dtype is not float64
        and (call.dtype is not bfloat16 or arch >= 80),
        "cudnn": lengths and straight and half and fits and heads and not call.deterministic and 80 <= arch <= newest
        and max(d, dv) <= widest and d % 8 == dv % 8 == 0 and several
        and (torch_version < (2, 12) or call.dropout * 16 == int(call.dropout * 16)),
        "math": plain,
    }  # fmt: skip
    first = (90, 100) if torch_version in ((2, 9), (2, 11), (2, 12), (2, 13)) else ()  # 2.10's cuDNN is too old
    tried = ["cudnn"] * (arch in first) + ["flash", "efficient", "math", "cudnn"]
    return next((name for name in tried if takes[name]), None)


def test_choices_follow_the_source() -> None:
    """450 calls on 8 architectures by 9 versions, with and without plain operators; hundreds take each kernel."""
    taken: Counter[str] = Counter()
    for call in sampled_calls(450):
        for arch in ARCHES:
            for version in VERSIONS:
                for plain in (True, False):
                    choice = choose(call, Backends(arch, version), ALL if plain else ALL - {MATH})
                    assert choice.backend == expected(call, arch, version, plain), (call, arch, version, plain)
                    taken[str(choice.backend)] += 1
    assert set(taken) == {"flash", "efficient", "cudnn", "math", "None"}
    assert min(taken.values()) > 400


Q = (1, 32, 4096, 128)


@pytest.mark.parametrize(
    ("arch", "changes", "kernel", "refused"),
    [
        (80, {"mask": Mask((1, 1, 4096, 4096), bfloat16, needs_grad=True)}, "efficient", {"flash": "attn_mask"}),
        (90, {"mask": Mask((4096, 4096), bfloat16, needs_grad=True)}, "efficient", {"cudnn": "gradient"}),
        (90, {"deterministic": True}, "flash", {"cudnn": "deterministic"}),
        (90, {"dropout": 0.1}, "flash", {"cudnn": "1/16"}),
        (90, {"dropout": 0.125}, "cudnn", {}),
        (90, {"key": (1, 32, 1, 128), "value": (1, 32, 1, 128)}, "flash", {"cudnn": "one key"}),
        (103, {}, "cudnn", {}),
        (89, {"query": (*Q[:3], 224), "key": (*Q[:3], 224), "value": (*Q[:3], 224), "needs_grad": True}, "efficient",
         {"flash": "does not train a head dim of 224"}),
        (80, {"key": (1, 8, 4096, 128), "value": (1, 8, 4096, 128), "gqa": True, "mask": Mask((4096, 4096), bfloat16)},
         "math", {"flash": "attn_mask", "efficient": "as many key and value heads"}),
    ],
)  # fmt: skip
def test_the_first_reason_of_each_better_kernel(
    arch: int, changes: dict[str, Any], kernel: str, refused: dict[str, str]
) -> None:
    choice = choose(SdpaCall(Q, Q, Q, bfloat16)._replace(**changes), Backends(arch))
    assert choice.backend == kernel
    for name, words in refused.items():
        assert words in choice.refused[name].reason
    assert all(refusal.remedy for refusal in choice.refused.values())


@pytest.mark.parametrize(
    ("changes", "before", "since"),
    [
        ({"key": (1, 8, 4096, 128), "value": (1, 8, 4096, 128), "gqa": True, "mask": Mask((4096, 4096), bfloat16),
          "deterministic": True}, "math", "efficient"),
        ({"query": (*Q[:3], 256), "key": (*Q[:3], 256), "value": (*Q[:3], 256), "needs_grad": True}, "flash", "cudnn"),
        ({"query": (*Q[:3], 200), "key": (*Q[:3], 200), "value": (*Q[:3], 200), "needs_grad": True}, "flash", "flash"),
        ({"query": (1, 32, 1, 128)}, "cudnn", "flash"),
    ],
    ids=["grouped heads", "head dim 256", "head dim 200", "one query"],
)  # fmt: skip
def test_what_torch_2_14_changed_on_a_b200(changes: dict[str, Any], before: str, since: str) -> None:
    """sdp_utils.cpp at 001f694a; the names of its filters are in the wheel of 2.14.1."""
    call = SdpaCall(Q, Q, Q, bfloat16)._replace(**changes)
    assert [choose(call, Backends(100, version)).backend for version in ((2, 13), (2, 14))] == [before, since]


@pytest.mark.parametrize(
    ("head_dims", "changes", "kernels"),
    [
        ((128, 128), {}, ("flash", "flash", "flash")),
        ((512, 512), {}, ("math", "flash", "flash")),  # aotriton_max_hdim: 512 from AOTriton 0.9 on
        ((520, 520), {}, ("math", "math", "math")),
        ((64, 64), {"mask": Mask((4096, 4096), bfloat16)}, ("efficient", "efficient", "efficient")),
        ((64, 64), {"mask": Mask((4096, 4096), float32)}, ("math", "math", "math")),
        ((192, 128), {}, ("math", "math", "efficient")),  # two head dims from AOTriton 0.12 on
        ((60, 60), {"mask": Mask((4096, 4096), bfloat16)}, ("math", "math", "math")),
        ((64, 64), {"dtype": float32}, ("efficient", "efficient", "efficient")),
    ],
)
def test_an_mi300x_takes_what_aotriton_takes(
    head_dims: tuple[int, int], changes: dict[str, Any], kernels: tuple[str, ...]
) -> None:
    """sdp_utils.cpp at 001f694a and before it, USE_ROCM; AOTriton is 0.8 in torch 2.6, 0.11 in 2.12, 0.12 in 2.13."""
    d, e = head_dims
    call = SdpaCall((*Q[:3], d), (*Q[:3], d), (*Q[:3], e), bfloat16)._replace(**changes)
    versions = ((2, 6), (2, 12), (2, 13))
    choices = [choose(call, Backends(80, version, "gfx942")) for version in versions]
    assert tuple(choice.backend for choice in choices) == kernels
    assert choose(call, Backends(gfx="gfx942"), {"cudnn"}).backend is None


@pytest.mark.parametrize(
    ("gfx", "head_dim", "kernels"),
    [
        ("gfx90a", 512, ("math", "flash", "flash", "flash")),
        ("gfx950", 128, ("math", "math", "flash", "flash")),  # "Official support of gfx950/gfx1201": AOTriton 0.10
        ("gfx1100", 128, ("math", "math", "math", "flash")),  # "promoted out of experimental": AOTriton 0.12
        ("gfx1100", 264, ("math", "math", "math", "math")),  # "gfx11xx only support hdim <= 256"
        ("gfx1030", 128, ("math", "math", "math", "math")),
    ],
)
def test_aotriton_has_kernels_for_some_architectures(gfx: str, head_dim: int, kernels: tuple[str, ...]) -> None:
    """check_gpu and isArchExperimentallySupported; AOTriton is 0.8, 0.9, 0.10 and 0.12 in these versions of torch."""
    shape = (*Q[:3], head_dim)
    call = SdpaCall(shape, shape, shape, bfloat16)
    choices = [choose(call, Backends(80, version, gfx)) for version in ((2, 6), (2, 7), (2, 8), (2, 13))]
    assert tuple(choice.backend for choice in choices) == kernels


def test_a_call_that_no_kernel_takes_names_all_reasons() -> None:
    choice = choose(SdpaCall(Q, Q, Q, float64), Backends(80), enabled={"flash", "efficient"})
    assert choice.backend is None
    assert list(choice.refused) == ["flash", "efficient", "math", "cudnn"]
    assert choice.refused["math"] == Refusal("it is switched off", choice.refused["cudnn"].remedy)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask": Mask((4096, 4096), float32)}, "attn_mask of float32 for bfloat16: the efficient kernel"),
        ({"mask": Mask((4096, 4096), bfloat16), "causal": True, "dtype": float64}, "attn_mask and is_causal"),
    ],
)
def test_calls_that_the_chosen_kernel_raises_for(changes: dict[str, Any], words: str) -> None:
    """attention.cu: "invalid dtype for bias"; attention.cpp: "Explicit attn_mask should not be set"."""
    call = SdpaCall(Q, Q, Q, bfloat16)._replace(**changes)
    with pytest.raises(UsageError, match=words):
        check(choose(call, Backends(80)), call)


def test_on_the_cpu_pytorch_takes_the_same() -> None:
    """PyTorch is asked for its own choice (_fused_sdp_choice), on tensors of these shapes."""
    names = {0: "math", 1: "flash"}
    seen = set()
    for call in sampled_calls(450):
        q, k, v = (_tensor(shape, call) for shape in (call.query, call.key, call.value))
        mask = call.mask and torch.zeros(call.mask.shape, dtype=_torch(call.mask.dtype)).requires_grad_(
            call.mask.needs_grad
        )
        theirs = names[torch._fused_sdp_choice(q, k, v, mask, call.dropout, call.causal, enable_gqa=call.gqa)]
        assert choose(call, Backends(0)).backend == theirs, call
        seen.add(theirs)
    assert seen == {"math", "flash"}


def _torch(kind: Any) -> Any:
    return getattr(torch, kind.name)


def _tensor(shape: tuple[int, ...], call: SdpaCall) -> torch.Tensor:
    wide = torch.empty(*shape[:3], shape[3] * (1 if call.unit_stride else 2), dtype=_torch(call.dtype))
    return wide if call.unit_stride else wide[..., ::2]
