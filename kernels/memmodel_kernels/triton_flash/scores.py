"""From a product of queries and keys to the exponent of its weight: scale, soft cap, bias, and what fp32 takes.

    T = S, or tanh(squeeze S) with a soft cap        P = exp(unit T - LSE)
    X = stretch T + bias, where there is one         P = exp(X - LSE)

`unit` is the scale, or the cap c: with squeeze = scale / c, c tanh(scale S / c) is unit T. Then dS gets a factor
1 - T^2, and scale multiplies dQ and dK as without a cap. With a bias `stretch` is what `unit` is without, which is 1.

A 16-bit kernel scales and subtracts in one FFMA, to base 2. In fp32 that would round at the size of the score, not of
what is left of it: there the difference comes before its factor log2(e). The backward rounds the product unit T as the
forward has done for the LSE, so that the weight of a row's only key is 1 to the last bit.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
# Triton traces these functions: parameters are tensors, pointers or constexpr; only constexpr is annotated.

from typing import Any, NamedTuple

import triton
import triton.language as tl

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)


class Scores(NamedTuple):
    """Factors: of T or X in the exponent, to base e and to base 2; of S before tanh, None without a soft cap.

    The last is of T before a bias is added, and None without one.
    """

    unit: Any
    unit_log2: Any
    squeeze: Any
    stretch: Any


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
def biased(b_t, b_bias, scores):
    """X of T and a block of the bias, in fp32; T without one."""
    if scores.stretch is not None:
        b_t = b_t * scores.stretch + b_bias
    return b_t


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
        # An FFMA with 0 is a product that the compiler does not join with the difference.
        b_x = (tl.fma(b_t, scores.unit, 0.0) - b_lse) * LOG2E
    else:
        b_x = b_t * scores.unit_log2 - b_lse
    return b_x


@triton.jit
def slope(b_p, b_t, scores):
    """What dP - delta is multiplied by for dT, less the scale: P, with the slope of the cap."""
    if scores.squeeze is not None:
        b_p *= 1.0 - b_t * b_t
    return b_p
