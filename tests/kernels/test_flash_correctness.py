"""The kernels against fp64, at the error of PyTorch's own arithmetic."""

from dataclasses import replace

import pytest
import torch

from attention_reference import DEVICE, DTYPES, Case, Result, assert_close, philox, upstream
from memmodel_kernels import flash_attention


def flash(case: Case, deterministic: bool = True, seed: int = 0, precision: str | None = None) -> Result:
    q, k, v = case.inputs(seed)
    case.draw()
    o, lse = flash_attention(
        q, k, v, bias=case.added(), causal=case.causal, window=case.window, scale=case.scale, softcap=case.softcap,
        dropout=case.dropout, deterministic=deterministic, precision=precision, return_lse=True,
    )  # fmt: skip
    gradients = torch.autograd.grad((o, lse), (q, k, v), upstream(case))
    return Result(o.detach(), lse.detach(), *gradients)


LENGTHS = [(1, 130), (130, 1), (63, 111), (113, 203), (128, 128)]  # with the table's own tiles; see test_flash_grid
HEAD_DIMS = [16, 32, 40, 59, 64, 80, 111, 96, 128, 160, 192, 256]  # of odd ones, one in each type
WINDOWS = [
    (63, 63, 1, True),
    (63, 111, 17, True),
    (111, 63, 40, True),
    (63, 111, 17, False),
    (150, 150, 100, False),
]


def in_types(*cases: Case) -> list[Case]:
    """Each case in every type on a GPU; in the interpreter, of whose time this takes half, the types go round."""
    return [
        replace(case, dtype=dtype)
        for i, case in enumerate(cases)
        for dtype in (DTYPES if DEVICE == "cuda" else [DTYPES[i % len(DTYPES)]])
    ]


CASES = [  # several heads are the cases of groups and scales
    *in_types(*[Case(h=1, g=1, n=n, m=m, causal=c) for c in (False, True) for n, m in LENGTHS]),
    *in_types(*[Case(h=1, g=1, n=19, m=23, d=d, causal=True) for d in HEAD_DIMS]),
    *in_types(*[Case(b=2, h=h, g=g, n=40, m=70, d=32, causal=True) for h, g in ((4, 2), (3, 1))]),
    *in_types(*[Case(h=1, g=1, n=n, m=m, window=w, causal=c) for n, m, w, c in WINDOWS]),
    *in_types(*[Case(n=40, m=50, d=32, scale=s, causal=True) for s in (-0.3, 0.0, 0.5)]),
]
CAPPED = [
    *in_types(*[Case(h=4, g=2, n=n, m=m, d=32, causal=True, softcap=1.5) for n, m in ((40, 70), (50, 40))]),
    *[Case(n=40, m=50, d=24, window=17, scale=s, softcap=50.0, dtype=torch.float32) for s in (-0.3, 0.0, 15.0)],
]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("case", CAPPED, ids=str)
def test_soft_cap(case: Case, deterministic: bool) -> None:
    """A cap in the midst of the scores and one far above them: tanh near 1, and where it is all but its argument."""
    assert_close(flash(case, deterministic), case)


DROPPED = [
    Case(b=2, h=4, g=2, n=40, m=70, d=32, causal=True, dropout=0.3),
    Case(n=50, m=40, d=24, window=17, softcap=1.5, dropout=0.5, dtype=torch.float32),
]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("case", DROPPED, ids=str)
def test_dropout(case: Case, deterministic: bool) -> None:
    """Plain operators take the very mask that the kernels draw, by Philox written down once more."""
    assert 0.9 < case.kept().float().mean() / (1 - case.dropout) < 1.1
    assert_close(flash(case, deterministic), case)


BIASED = [
    Case(b=2, h=4, g=2, n=40, m=70, d=32, bias=(40, 70)),
    Case(b=2, h=4, g=2, n=40, m=70, d=32, causal=True, bias=(1, 4, 1, 70), softcap=1.5),
    Case(b=2, h=4, g=2, n=50, m=40, d=24, window=17, bias=(2, 1, 50, 40), dtype=torch.float32),
    Case(b=2, h=4, g=2, n=40, m=50, d=32, causal=True, bias=(2, 4, 40, 50), dropout=0.3),
    *in_types(*[Case(n=40, m=50, d=32, scale=s, bias=(1, 2, 40, 50)) for s in (-0.3, 0.0)]),
]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("case", BIASED, ids=str)
def test_bias(case: Case, deterministic: bool) -> None:
    """Broadcast over every dimension but keys, in one or the other case, with all that a call may have besides."""
    assert_close(flash(case, deterministic), case)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_row_whose_bias_leaves_no_key(deterministic: bool) -> None:
    """As a row that sees none: output and gradients 0, LSE -inf. Other rows are as they are without it."""
    case = Case(n=40, m=50, d=32, dtype=torch.float32)
    q, k, v = case.inputs()
    bias = torch.zeros(case.n, case.m, device=DEVICE)
    bias[3] = -torch.inf
    o, lse = flash_attention(q, k, v, bias=bias, deterministic=deterministic, return_lse=True)
    dq, dk, dv = torch.autograd.grad(o.sum(), (q, k, v))
    assert (o[:, :, 3] == 0).all()
    assert (dq[:, :, 3] == 0).all()
    assert lse[:, :, 3].isneginf().all()
    others = [i for i in range(case.n) if i != 3]
    without = flash_attention(q[:, :, others], k, v)
    torch.testing.assert_close(o[:, :, others], without)
    for got, want in zip((dk, dv), torch.autograd.grad(without.sum(), (k, v)), strict=True):
        torch.testing.assert_close(got, want)


def test_philox_of_the_reference() -> None:
    """The known answers of Random123's kat_vectors for a counter and a key of nought."""
    for rounds, answer in ((7, "5f6fb7090d893f644f121f814f730a48"), (10, "6627e8d5e169c58dbc57ac4c9b00dbd8")):
        assert "".join(f"{int(x):08x}" for x in philox((0, 0, 0, 0), 0, rounds)) == answer


def test_dropout_follows_the_generator_of_torch() -> None:
    q, k, v = Case(n=20, m=20, d=16, dtype=torch.float32).inputs()
    torch.manual_seed(1)
    first, second = (flash_attention(q, k, v, dropout=0.5) for _ in range(2))
    torch.manual_seed(1)
    assert torch.equal(flash_attention(q, k, v, dropout=0.5), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_gradients(case: Case) -> None:
    assert_close(flash(case), case)


FUSED = [
    Case(n=63, m=111),
    Case(n=130, m=70, causal=True),
    Case(b=2, h=4, g=2, n=70, m=130, d=128, causal=True),
    Case(n=63, m=111, window=17, d=40),
    Case(h=1, g=1, n=37, m=45, d=128, dtype=torch.float32),
]


@pytest.mark.parametrize("case", FUSED, ids=str)
def test_fused_backward(case: Case) -> None:
    assert_close(flash(case, deterministic=False), case)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # rows of keys that do not exist
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5, 17, 128])
def test_scores_beyond_the_range_of_exp(n: int, deterministic: bool, causal: bool) -> None:
    """Scores in the hundreds: exp of them overflows, the softmax must not. The factor is FlashAttention-2's own."""
    case = Case(n=n, m=n, d=32, scale=15.0, causal=causal)
    assert_close(flash(case, deterministic), case, gradient_factor=5)


def test_fp32_is_exact_unless_asked() -> None:
    """The interpreter multiplies exactly whatever it is asked, a GPU does not: both must be accepted."""
    case = Case(dtype=torch.float32, n=40, m=40)
    assert_close(flash(case), case)
    for precision in ("tf32", "tf32x3"):
        assert flash(case, precision=precision).o.isfinite().all()


@pytest.mark.parametrize("deterministic", [True, False])
def test_lse_alone_can_be_differentiated(deterministic: bool) -> None:
    case = Case(n=20, m=30, d=32, dtype=torch.float32)
    q, k, v = case.inputs()
    _, lse = flash_attention(q, k, v, deterministic=deterministic, return_lse=True)
    dq, dk, dv = torch.autograd.grad(lse.sum(), (q, k, v))
    qd, kd, _ = (x.detach().double().requires_grad_() for x in (q, k, v))
    exact = torch.autograd.grad((qd @ kd.mT * case.d**-0.5).logsumexp(-1).sum(), (qd, kd))
    assert dv.abs().max() == 0
    for got, want in zip((dq, dk), exact, strict=True):
        assert (got - want).abs().max() <= 8 * torch.finfo(torch.float32).eps * want.abs().max()


def test_sinks_are_a_factor_of_the_output() -> None:
    """A logit a head in every row's softmax, from the LSE alone: output and gradients against fp64."""
    case = Case(n=20, m=30, d=32, causal=True, dtype=torch.float32)
    q, k, v = case.inputs()
    sinks = torch.tensor([0.5, -1.0], device=DEVICE, requires_grad=True)

    def with_sinks(o: torch.Tensor, lse: torch.Tensor, sinks: torch.Tensor) -> torch.Tensor:
        return o * (lse - sinks[:, None]).sigmoid()[..., None].to(o.dtype)

    def beside(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sinks: torch.Tensor) -> torch.Tensor:
        scores = (q @ k.mT * case.d**-0.5).masked_fill(~case.visible(), -torch.inf)
        column = sinks[None, :, None, None].expand(1, 2, case.n, 1)
        return torch.cat((scores, column), -1).softmax(-1)[..., :-1] @ v

    got = with_sinks(*flash_attention(q, k, v, causal=True, return_lse=True), sinks)
    doubles = [x.detach().double().requires_grad_() for x in (q, k, v, sinks)]
    exact = beside(*doubles)
    for a, b in zip(
        (got, *torch.autograd.grad(got.sum(), (q, k, v, sinks))),
        (exact, *torch.autograd.grad(exact.sum(), doubles)),
        strict=True,
    ):
        assert (a - b).abs().max() <= 8 * torch.finfo(torch.float32).eps * b.abs().max()
