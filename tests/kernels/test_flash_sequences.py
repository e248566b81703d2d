"""Packed sequences: each is as it is alone, bit for bit, whatever lies beside it."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from memmodel.attention.tiles import DKDV, DQ, FORWARD, FUSED, Tile
from memmodel.base.errors import UsageError
from memmodel_kernels import flash_attention, flash_attention_varlen
from memmodel_kernels.triton_flash.choice import forced

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TILE = Tile(32, 16, 4, 2)
QUERIES = [5, 0, 40, 1]  # shorter and longer than a block, none, one
KEYS = [5, 3, 23, 33]  # fewer and more than queries: rows without keys, causal masks at the bottom right


@pytest.fixture(autouse=True)
def small_blocks() -> Iterator[None]:
    with forced((FORWARD,), (TILE,)), forced((DKDV, DQ), (TILE, TILE)), forced((FUSED,), (TILE,)):
        yield


def offsets(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(DEVICE, torch.int32)


def packed(n: int, m: int, h: int = 2, g: int = 1, d: int = 24, dtype: torch.dtype = torch.float16) -> list[Tensor]:
    """Queries, keys and values of packed sequences, and gradients of the output and of the LSE."""
    generator = torch.Generator().manual_seed(0)
    shapes = (n, h, d), (m, g, d), (m, g, d), (n, h, d)
    q, k, v, do = (torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes)
    dlse = torch.randn(h, n, generator=generator).to(DEVICE)
    return [q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), do, dlse]


@pytest.mark.parametrize("deterministic", [True, False])
def test_dropout_of_packed_sequences_is_that_of_a_batch(deterministic: bool) -> None:
    """Two sequences of 20 tokens draw the numbers that a batch of two draws."""
    q, k, v, do, _ = packed(40, 40, h=4, g=2)
    results = []
    for in_batch in (True, False):
        leaves = [x.detach().requires_grad_() for x in (q, k, v)]
        torch.manual_seed(0)
        if in_batch:
            rows = (x.view(2, 20, -1, 24).transpose(1, 2) for x in leaves)
            o = flash_attention(*rows, dropout=0.5, deterministic=deterministic).transpose(1, 2).reshape(40, 4, 24)
        else:
            cu = offsets([20, 20])
            o = flash_attention_varlen(*leaves, cu, cu, 20, 20, dropout=0.5, deterministic=deterministic)
        results.append((o, *torch.autograd.grad(o, leaves, do)))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("causal", "window", "softcap", "dtype", "deterministic"),
    [  # each mask with each backward, and with 16 bits or a window, a cap and fp32
        (False, None, None, torch.float16, False),
        (True, None, None, torch.float16, True),
        (False, 9, 1.5, torch.float32, True),
        (True, 9, 1.5, torch.float32, False),
    ],
)
def test_each_sequence_is_as_it_is_alone(
    causal: bool, window: int | None, softcap: float | None, dtype: torch.dtype, deterministic: bool
) -> None:
    """The output, the LSE and all gradients, against calls with a batch of one."""
    options = {"causal": causal, "window": window, "softcap": softcap, "deterministic": deterministic}
    q, k, v, do, dlse = packed(sum(QUERIES), sum(KEYS), dtype=dtype)
    lengths = offsets(QUERIES), offsets(KEYS)
    o, lse = flash_attention_varlen(q, k, v, *lengths, max(QUERIES), max(KEYS), return_lse=True, **options)
    dq, dk, dv = torch.autograd.grad((o, lse), (q, k, v), (do, torch.where(lse.isfinite(), dlse, 0.0)))
    for (a, b), (c, e) in zip(*(pairwise(x.tolist()) for x in lengths), strict=True):
        alone = [
            x[i:j].detach().transpose(0, 1)[None].requires_grad_() for x, i, j in ((q, a, b), (k, c, e), (v, c, e))
        ]
        one, one_lse = flash_attention(*alone, return_lse=True, **options)
        upstream = do[a:b].transpose(0, 1)[None], torch.where(one_lse.isfinite(), dlse[:, a:b][None], 0.0)
        gradients = torch.autograd.grad((one, one_lse), alone, upstream)
        expected = [one, *gradients]
        found = [x[i:j].transpose(0, 1)[None] for x, i, j in ((o, a, b), (dq, a, b), (dk, c, e), (dv, c, e))]
        for x, y in zip(found, expected, strict=True):
            assert torch.equal(x, y)
        assert torch.equal(lse[:, a:b][None], one_lse)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of rows that are NaN
def test_sequences_do_not_see_one_another() -> None:
    """Infinities and NaN beside a sequence, and behind the last, do not reach it."""
    q, k, v, do, _ = packed(60, 60)
    cu = offsets([20, 20])  # the last 20 rows belong to none
    with torch.no_grad():
        for x in (q, k, v):
            x[20:40] = torch.nan
            x[40:] = torch.inf
    o = flash_attention_varlen(q, k, v, cu, cu, 20, 20)
    gradients = torch.autograd.grad(o, (q, k, v), do)
    for x in (o, *gradients):
        assert x[:20].isfinite().all()
        assert x[20:40].isnan().all()


def test_operator() -> None:
    """Fake tensors, autograd's registration and the schema."""
    q, k, v, *_ = packed(12, 14, d=16)
    cu = offsets([5, 7]), offsets([6, 8])
    heads = [x.detach().transpose(0, 1)[None].requires_grad_() for x in (q, k, v)]
    arguments = (*heads, True, None, None, None, True, None, [7, 8], 0.0, *cu)
    torch.library.opcheck(torch.ops.memmodel.flash_attention.default, arguments)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q": 4}, "need 3 dimensions"),
        ({"cu_seqlens_q": [0, 12]}, "int32 tensor"),
        ({"cu_seqlens_k": torch.tensor([0, 14])}, "int32 tensor"),
        ({"cu_seqlens_k": torch.tensor([0, 6, 14], dtype=torch.int32)}, "one offset more"),
        ({"max_seqlen_q": 0}, "max_seqlen_q=0"),
        ({"max_seqlen_k": True}, "max_seqlen_k=True"),
    ],
)
def test_refusals(changes: dict[str, object], words: str) -> None:
    q, k, v, *_ = packed(12, 14, d=16)
    given = {"q": q, "k": k, "v": v, "cu_seqlens_q": offsets([12]), "cu_seqlens_k": offsets([14])}
    given |= {"max_seqlen_q": 12, "max_seqlen_k": 14, **changes}
    if changes == {"q": 4}:
        given["q"] = q[None]
    with pytest.raises(UsageError, match=words):
        flash_attention_varlen(**given)
