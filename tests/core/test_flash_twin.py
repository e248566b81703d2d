"""FlashAttention's algorithm, run tile by tile on real tensors, equals naive attention: outputs and every gradient."""

import pytest
import torch

from memmodel.attention.masks import Mask
from memmodel.attention.tiles import Tile
from memmodel_kernels import flash, naive
from memmodel_kernels.flash import FlashTiles, flash_forward

SHAPES = [  # b, h, g, n, m, d: odd sizes, shared heads, more keys than queries
    (1, 1, 1, 5, 5, 8),
    (2, 3, 3, 63, 63, 16),
    (1, 4, 2, 65, 111, 16),
    (2, 4, 1, 33, 70, 8),
]
MASKS = [Mask(), Mask(causal=True), Mask(causal=True, window=7)]
TILE = Tile(16, 8)
TILES = FlashTiles(TILE, Tile(8, 16), Tile(16, 16), Tile(8, 8))


def inputs(b: int, h: int, g: int, n: int, m: int, d: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(n * m + d)
    shapes = [(b, h, n, d), (b, g, m, d), (b, g, m, d), (b, h, n, d)]
    return [torch.randn(*s, generator=generator, dtype=torch.float64) for s in shapes]


@pytest.mark.parametrize("deterministic", [True, False], ids=["split", "fused"])
@pytest.mark.parametrize("mask", MASKS, ids=lambda m: m.name)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_naive(shape: tuple[int, ...], mask: Mask, deterministic: bool) -> None:
    q, k, v, dout = inputs(*shape)
    results = []
    for attention in (naive, lambda *qkv: flash(*qkv[:3], mask, TILES, deterministic)):
        leaves = [x.clone().requires_grad_() for x in (q, k, v)]
        out = attention(*leaves, mask)
        out.backward(dout)
        results.append([out, *(leaf.grad for leaf in leaves)])
    for reference, tiled in zip(*results, strict=True):
        # the tiles accumulate in float32: rounding of 2^-24 per operation, a few hundred operations a row
        torch.testing.assert_close(tiled, reference, rtol=0, atol=2**-24 * 300)


@pytest.mark.parametrize("deterministic", [True, False], ids=["split", "fused"])
def test_soft_cap_equals_naive(deterministic: bool) -> None:
    *qkv, dout = inputs(2, 4, 1, 33, 70, 8)
    results = []
    for attention in (naive, lambda *x, softcap: flash(*x, TILES, deterministic, softcap=softcap)):
        leaves = [x.clone().requires_grad_() for x in qkv]
        out = attention(*leaves, Mask(causal=True), softcap=0.5)
        results.append((out, *torch.autograd.grad(out, leaves, dout)))
    for reference, tiled in zip(*results, strict=True):
        torch.testing.assert_close(tiled, reference, rtol=0, atol=2**-24 * 300)


@pytest.mark.parametrize("deterministic", [True, False], ids=["split", "fused"])
def test_packed_sequences_are_each_as_alone(deterministic: bool) -> None:
    lengths, mask = (5, 20, 1), Mask(causal=True, window=7)
    q, k, v, dout = (x[0].transpose(0, 1) for x in inputs(1, 4, 2, 26, 26, 8))  # (tokens, heads, head dim)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    out = flash(*leaves, mask, TILES, deterministic, lengths=lengths)
    packed = (out, *torch.autograd.grad(out, leaves, dout))
    alone = []
    for parts in zip(*(x.split(lengths) for x in (q, k, v, dout)), strict=True):
        *qkv, grad = (x.transpose(0, 1)[None].clone().requires_grad_() for x in parts)
        one = flash(*qkv, mask, TILES, deterministic)
        alone.append([x[0].transpose(0, 1) for x in (one, *torch.autograd.grad(one, qkv, grad))])
    for found, expected in zip(packed, zip(*alone, strict=True), strict=True):
        assert torch.equal(found, torch.cat(expected))


def test_lse_is_the_natural_logarithm_of_the_row_sum() -> None:
    q, k, v, _ = inputs(1, 2, 2, 20, 20, 8)
    _, lse = flash_forward(q, k, v, Mask(), TILE)
    scores = q @ k.mT / 8**0.5
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1), rtol=0, atol=1e-5)


def test_a_row_that_sees_no_key_gives_zero_and_minus_infinity() -> None:
    q, k, v, _ = inputs(1, 1, 1, 6, 4, 8)  # two more queries than keys: the first two see nothing
    out, lse = flash_forward(q, k, v, Mask(causal=True), TILE)
    assert torch.equal(out[0, 0, :2], torch.zeros(2, 8, dtype=torch.float64))
    assert torch.equal(lse[0, 0, :2], torch.full((2,), float("-inf")))
    assert torch.isfinite(out).all()
