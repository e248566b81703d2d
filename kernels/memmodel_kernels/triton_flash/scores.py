"""From a product of queries and keys to the exponent of its weight: scale, soft cap, and what fp32 takes besides.

    T = S, or tanh(squeeze S) with a soft cap        P = exp(unit T - LSE)

`unit` is the scale, or the cap c: with squeeze = scale / c, c tanh(scale S / c) is unit T. Then dS gets a factor
1 - T^2, and scale multiplies dQ and dK as without a cap.

A 16-bit kernel scales and subtracts in one FFMA, to base 2. In fp32 that would round at the size of the score, not of
what is left of it: the difference comes first, and its factor log2(e) is one instruction more, of hundreds.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# Triton traces these functions: parameters are tensors, pointers or constexpr; only constexpr is annotated.

from typing import Any, NamedTuple

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)


class Scores(NamedTuple):
    """What T is multiplied by in the exponent, to base e and to base 2, and S before tanh: None without a soft cap."""

    unit: Any
    unit_log2: Any
    squeeze: Any


@triton.jit
def tanh(x, FP32: tl.constexpr):
    """tanh of fp32 numbers. 1 - 2 / (e^2x + 1) errs by 2^-24 absolutely, far below a score's rounding to 16 bits.

    FP32 asks for a small relative error too: the series up to x^11, whose rest is below 2^-24 x for |x| < 1/4.
    """
    b_t = 1.0 - 2.0 / (tl.math.exp2(x * (2.0 * LOG2E)) + 1.0)
    if FP32:
        z = x * x
        b_series = ((((-1382 / 155925 * z + 62 / 2835) * z - 17 / 315) * z + 2 / 15) * z - 1 / 3) * z
        b_t = tl.where(z < 0.0625, x + x * b_series, b_t)
    return b_t


@triton.jit
def capped(b_s, scores, FP32: tl.constexpr):
    """T of products S."""
    if scores.squeeze is not None:
        b_s = tanh(b_s * scores.squeeze, FP32)
    return b_s


@triton.jit
def weights_so_far(b_t, b_max, scores, FP32: tl.constexpr):
    """exp(unit (T - max)) of a block (rows, cols), from the rows' largest T."""
    if FP32:
        b_x = (b_t - b_max[:, None]) * scores.unit_log2
    else:
        b_x = b_t * scores.unit_log2 - (b_max * scores.unit_log2)[:, None]
    return tl.math.exp2(b_x)


@triton.jit
def exponents(b_t, b_lse, scores, FP32: tl.constexpr):
    """unit T - LSE to base 2. b_lse broadcasts against b_t, and is what `load_rows` gives."""
    if FP32:  # noqa: SIM108  (decided by the compiler)
        b_x = (b_t * scores.unit - b_lse) * LOG2E
    else:
        b_x = b_t * scores.unit_log2 - b_lse
    return b_x


@triton.jit
def slope(b_p, b_t, scores):
    """What dP - delta is multiplied by for dT, less the scale: P, with the slope of the cap."""
    if scores.squeeze is not None:
        b_p *= 1.0 - b_t * b_t
    return b_p
