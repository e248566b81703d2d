"""The tile table of the attention kernels, by architecture, dtype, head dim and pass.

The kernels and the model that predicts them read this one table. The first row of a key is the default, the others are
the choices of tuning; nothing else is ever launched. Every row was compiled for its architecture; the defaults spill no
register.

Architectures are compute capabilities as one number: 90 is 9.0.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from memmodel.base.dtypes import DType, float32
from memmodel.base.errors import UsageError

Pass = Literal["forward", "dkdv", "dq", "fused"]
FORWARD: Pass = "forward"
DKDV: Pass = "dkdv"
DQ: Pass = "dq"
FUSED: Pass = "fused"

# What a kernel may have beside a mask, and whose rows are not always those without.
Extra = Literal["softcap", "packed", "dropout", "bias"]
SOFTCAP: Extra = "softcap"
PACKED: Extra = "packed"
DROPOUT: Extra = "dropout"
BIAS: Extra = "bias"

# Passes that share a launch, and therefore a row of the table and its warps and stages.
LAUNCHES: tuple[tuple[Pass, ...], ...] = ((FORWARD,), (DKDV, DQ), (FUSED,))

MAX_HEAD_DIM = 256


class Tile(NamedTuple):
    """A block of `rows` queries by `cols` keys; `warps` per program and `stages` of the pipeline are Triton's."""

    rows: int
    cols: int
    warps: int = 8
    stages: int = 2


Row = tuple[Tile, ...]

# Architecture -> that whose rows it uses: it has the same tensor cores, and no more shared memory.
FAMILY = {80: 80, 86: 89, 87: 80, 89: 89, 90: 90, 100: 100, 103: 100, 120: 120, 121: 120}

# Most shared memory a program may have, bytes: CUDA C++ Programming Guide, technical specifications per compute
# capability, "maximum amount of shared memory per thread block".
SHARED_LIMIT = {
    80: 166_912,
    86: 101_376,
    87: 166_912,
    89: 101_376,
    90: 232_448,
    100: 232_448,
    103: 232_448,
    120: 101_376,
    121: 101_376,
}

# 16-bit types: (family, largest padded head dim) -> pass -> tiles.
_HALF: dict[tuple[int, int], dict[Pass, Row]] = {
    (80, 64): {
        FORWARD: (Tile(128, 64, 4, 3), Tile(128, 64, 8, 3)),
        DKDV: (Tile(32, 64, 4, 2), Tile(32, 128, 8, 2)),
        DQ: (Tile(64, 32, 4, 2), Tile(128, 32, 8, 2)),
        FUSED: (Tile(32, 64, 8, 2),),
    },
    (80, 128): {
        FORWARD: (Tile(128, 32, 8, 2), Tile(64, 64, 4, 2)),
        DKDV: (Tile(64, 64, 8, 2),),
        DQ: (Tile(64, 64, 8, 2),),
        FUSED: (Tile(16, 64, 8, 2),),
    },
    (80, 256): {
        FORWARD: (Tile(64, 32, 8, 2), Tile(64, 64, 8, 2)),
        DKDV: (Tile(32, 32, 8, 2),),
        DQ: (Tile(32, 32, 8, 2),),
    },
    (89, 64): {
        FORWARD: (Tile(128, 64, 8, 3), Tile(128, 64, 4, 3)),
        DKDV: (Tile(32, 64, 4, 2), Tile(32, 128, 8, 2)),
        DQ: (Tile(64, 32, 4, 2), Tile(128, 32, 8, 2)),
        FUSED: (Tile(32, 64, 8, 2),),
    },
    (89, 128): {
        FORWARD: (Tile(128, 32, 8, 2), Tile(64, 64, 4, 2)),
        DKDV: (Tile(64, 64, 8, 2), Tile(32, 64, 8, 2)),
        DQ: (Tile(64, 64, 8, 2), Tile(64, 32, 8, 2)),
        FUSED: (Tile(16, 64, 8, 2),),
    },
    (89, 256): {
        FORWARD: (Tile(64, 32, 8, 2),),
        DKDV: (Tile(32, 32, 8, 2),),
        DQ: (Tile(32, 32, 8, 2),),
    },
    (90, 64): {
        FORWARD: (Tile(128, 128, 8, 2), Tile(128, 64, 8, 3), Tile(128, 64, 4, 3)),
        DKDV: (Tile(64, 128, 8, 2), Tile(64, 64, 4, 2)),
        DQ: (Tile(128, 64, 8, 2), Tile(64, 64, 4, 2)),
        FUSED: (Tile(64, 128, 8, 2), Tile(64, 64, 8, 2)),
    },
    (90, 128): {
        FORWARD: (Tile(128, 128, 8, 2), Tile(128, 64, 8, 2), Tile(128, 64, 8, 3), Tile(128, 128, 8, 3)),
        DKDV: (Tile(64, 128, 8, 2), Tile(64, 64, 8, 2), Tile(32, 128, 8, 2), Tile(64, 128, 8, 3)),
        DQ: (Tile(128, 64, 8, 2), Tile(64, 64, 8, 2), Tile(128, 32, 8, 2), Tile(128, 64, 8, 3)),
        FUSED: (Tile(64, 64, 8, 2), Tile(32, 128, 8, 2), Tile(32, 64, 8, 2)),
    },
    (90, 256): {
        FORWARD: (Tile(128, 64, 8, 2), Tile(64, 64, 8, 2)),
        DKDV: (Tile(32, 32, 8, 2), Tile(32, 64, 8, 2)),
        DQ: (Tile(32, 32, 8, 2), Tile(64, 32, 8, 2)),
    },
    (100, 64): {
        FORWARD: (Tile(128, 128, 8, 2), Tile(128, 64, 4, 3), Tile(128, 32, 8, 2)),
        DKDV: (Tile(64, 128, 8, 2),),
        DQ: (Tile(128, 64, 8, 2),),
        FUSED: (Tile(64, 128, 8, 2),),
    },
    (100, 128): {
        FORWARD: (Tile(128, 64, 8, 2), Tile(128, 128, 8, 2), Tile(128, 32, 8, 2)),
        DKDV: (Tile(64, 128, 8, 2),),
        DQ: (Tile(128, 64, 8, 2),),
        FUSED: (Tile(64, 128, 8, 2), Tile(32, 128, 8, 2)),
    },
    (100, 256): {
        FORWARD: (Tile(64, 64, 8, 2), Tile(128, 64, 8, 2)),
        DKDV: (Tile(32, 64, 8, 2),),
        DQ: (Tile(64, 32, 8, 2),),
        FUSED: (Tile(32, 64, 8, 2),),
    },
    (120, 64): {
        FORWARD: (Tile(128, 64, 8, 3), Tile(128, 128, 8, 2)),
        DKDV: (Tile(64, 32, 4, 2), Tile(32, 64, 4, 2)),
        DQ: (Tile(32, 64, 4, 2), Tile(64, 32, 4, 2)),
        FUSED: (Tile(16, 64, 4, 2),),
    },
    (120, 128): {
        FORWARD: (Tile(128, 64, 8, 2), Tile(64, 64, 4, 2), Tile(64, 64, 8, 2)),
        DKDV: (Tile(64, 64, 8, 2),),
        DQ: (Tile(64, 64, 8, 2),),
    },
    (120, 256): {
        FORWARD: (Tile(64, 32, 8, 2),),
        DKDV: (Tile(32, 32, 8, 2),),
        DQ: (Tile(32, 32, 8, 2),),
    },
}

# Rows that spill, or take other shared memory than the formula says, with any extra, as only what is beside the scores,
# or goes by pointer, differs.
_PLAIN: dict[tuple[int, int], dict[Pass, Row]] = {
    (80, 64): {FORWARD: (Tile(128, 64, 4, 3),)},
    (89, 128): {DKDV: (Tile(64, 64, 8, 2),), DQ: (Tile(64, 64, 8, 2),)},
    (90, 128): {
        DKDV: (Tile(64, 128, 8, 2), Tile(64, 64, 8, 2), Tile(64, 128, 8, 3)),
        DQ: (Tile(128, 64, 8, 2), Tile(64, 64, 8, 2), Tile(128, 64, 8, 3)),
        FUSED: (Tile(64, 64, 8, 2),),
    },
    (100, 128): {FUSED: (Tile(64, 128, 8, 2),)},
    (120, 128): {FORWARD: (Tile(128, 64, 8, 2), Tile(64, 64, 4, 2))},
}

# Rows that serve with these extras where the others spill; a later entry takes the place of an earlier one. Where none
# does (an empty row), the deterministic form serves.
_SERVING: dict[tuple[Extra, ...], dict[tuple[int, int], dict[Pass, Row]]] = {
    (DROPOUT,): {
        (90, 128): {FORWARD: (Tile(128, 64, 8, 2), Tile(128, 64, 8, 3))},
        (100, 64): {FORWARD: (Tile(128, 32, 8, 2),)},
        (100, 128): {FORWARD: (Tile(128, 32, 8, 2),)},
    },
    (PACKED, SOFTCAP): {
        (90, 128): {FORWARD: (Tile(128, 64, 8, 2),), FUSED: (Tile(32, 64, 8, 2),)},
        (90, 256): {FORWARD: (Tile(64, 64, 8, 2),)},
        (100, 64): {FUSED: (Tile(32, 128, 8, 2),)},
        (120, 128): {DKDV: (Tile(32, 64, 8, 2),), DQ: (Tile(64, 32, 8, 2),)},
    },
    (PACKED, DROPOUT): {
        (90, 64): {
            FORWARD: (Tile(128, 64, 8, 3),),
            DKDV: (Tile(32, 64, 4, 2),),
            DQ: (Tile(64, 32, 4, 2),),
            FUSED: (Tile(32, 128, 8, 2),),
        },
        (90, 128): {FUSED: (Tile(16, 64, 8, 2),)},
        (90, 256): {FORWARD: (Tile(64, 32, 8, 2),)},
        (100, 64): {
            DKDV: (Tile(64, 64, 8, 2),),
            DQ: (Tile(64, 64, 8, 2),),
            FUSED: (Tile(32, 128, 8, 2),),
        },
        (100, 256): {FUSED: (Tile(16, 64, 8, 2),)},
        (120, 128): {DKDV: (Tile(32, 64, 8, 2),), DQ: (Tile(64, 32, 8, 2),)},
        (120, 256): {FORWARD: (Tile(64, 16, 8, 2),)},
    },
    (BIAS,): {
        (80, 64): {DKDV: (Tile(64, 32, 4, 2),), DQ: (Tile(32, 64, 4, 2),), FUSED: (Tile(16, 64, 4, 2),)},
        (80, 128): {FUSED: ()},
        (89, 64): {
            FORWARD: (Tile(128, 32, 8, 2),),
            DKDV: (Tile(32, 32, 4, 2),),
            DQ: (Tile(32, 32, 4, 2),),
            FUSED: (Tile(16, 64, 4, 2),),
        },
        (89, 128): {FUSED: ()},
        (90, 256): {DKDV: (Tile(16, 32, 8, 2),), DQ: (Tile(32, 16, 8, 2),)},
        (100, 256): {DKDV: (Tile(16, 64, 8, 2),), DQ: (Tile(64, 16, 8, 2),)},
        (120, 256): {DKDV: (Tile(16, 16, 8, 2),), DQ: (Tile(16, 16, 8, 2),)},
    },
}

# fp32 is multiplied by FMA units ("ieee") or by tensor cores ("tf32", "tf32x3"). Both take small tiles that fit
# every architecture. Keys without a tensor-core tile run as "ieee": every tile that was tried spilled registers.
_IEEE: dict[int, dict[Pass, Row]] = {
    64: {
        FORWARD: (Tile(64, 32, 8, 2),),
        DKDV: (Tile(32, 32, 8, 2),),
        DQ: (Tile(32, 32, 8, 2),),
        FUSED: (Tile(16, 16, 4, 2),),
    },
    128: {
        FORWARD: (Tile(32, 16, 8, 2),),
        DKDV: (Tile(16, 16, 8, 2),),
        DQ: (Tile(16, 16, 8, 2),),
        FUSED: (Tile(16, 16, 8, 2),),
    },
    256: {
        FORWARD: (Tile(16, 16, 8, 2),),
        DKDV: (Tile(16, 16, 8, 2),),
        DQ: (Tile(16, 16, 8, 2),),
    },
}
_TF32: dict[int, dict[Pass, Row]] = {
    64: {
        FORWARD: (Tile(32, 32, 4, 2),),
        DKDV: (Tile(32, 32, 8, 2),),
        DQ: (Tile(32, 32, 8, 2),),
    },
    128: {
        FORWARD: (Tile(32, 16, 8, 2),),
    },
    256: {},
}


def padded(head_dim: int) -> int:
    """The head dim that a kernel computes with: the next power of two, at least a matrix instruction's 16.

    Raises UsageError for one above MAX_HEAD_DIM.
    """
    if not 1 <= head_dim <= MAX_HEAD_DIM:
        raise UsageError(f"head dim {head_dim} is not supported: 1 to {MAX_HEAD_DIM} are")
    return max(16, 1 << (head_dim - 1).bit_length())


def family(arch: int) -> int:
    """The architecture whose rows `arch` uses. Raises UsageError for one without rows."""
    if arch not in FAMILY:
        known = ", ".join(f"sm_{a}" for a in FAMILY)
        raise UsageError(f"sm_{arch} is not supported: there are tiles for {known}")
    return FAMILY[arch]


def rows(
    arch: int,
    dtype: DType,
    head_dim: int,
    passes: tuple[Pass, ...],
    precision: str = "ieee",
    limit: int | None = None,
    extras: tuple[Extra, ...] = (),
) -> tuple[Row, ...]:
    """Rows for `passes` of one launch, the default first; each row has one tile per pass.

    Only rows whose shared memory is within `limit` bytes (by default the architecture's) are returned, and that do not
    spill with these extras. Raises UsageError if there are none.
    """
    by_pass = _table(arch, dtype, head_dim, precision, extras)
    if not all(by_pass.get(p) for p in passes):
        raise UsageError(f"there is no {'/'.join(passes)} tile for sm_{arch}, {dtype}, head dim {head_dim}")
    every = tuple(zip(*(by_pass[p] for p in passes), strict=True))
    room = SHARED_LIMIT[arch] if limit is None else limit
    needs = [shared_bytes(arch, dtype, head_dim, passes, row, precision, extras) for row in every]
    found = tuple(row for row, need in zip(every, needs, strict=True) if need <= room)
    if not found:
        raise UsageError(
            f"the {'/'.join(passes)} kernel for sm_{arch}, {dtype}, head dim {head_dim} needs {min(needs)} bytes of "
            f"shared memory per program: {room} are available"
        )
    return found


def tile(
    arch: int,
    dtype: DType,
    head_dim: int,
    pass_: Pass,
    precision: str = "ieee",
    *,
    extras: tuple[Extra, ...] = (),
) -> Tile:
    """Return the default tile of one pass."""
    return rows(arch, dtype, head_dim, (pass_,), precision, extras=extras)[0][0]


def supports(
    arch: int, dtype: DType, head_dim: int, pass_: Pass, precision: str = "ieee", extras: tuple[Extra, ...] = ()
) -> bool:
    """Whether the table has a tile for this pass."""
    return bool(_table(arch, dtype, head_dim, precision, extras).get(pass_))


def ceilings() -> tuple[int, ...]:
    """Head dims at which the table changes: a row is for padded head dims up to its own."""
    return tuple(_IEEE)


def launches(
    arch: int, dtype: DType, head_dim: int, precision: str = "ieee", extras: tuple[Extra, ...] = ()
) -> Iterator[tuple[Pass, ...]]:
    """Passes of each launch that the table has tiles for."""
    by_pass = _table(arch, dtype, head_dim, precision, extras)
    return (passes for passes in LAUNCHES if all(by_pass.get(p) for p in passes))


def _table(arch: int, dtype: DType, head_dim: int, precision: str, extras: tuple[Extra, ...] = ()) -> dict[Pass, Row]:
    ceiling = max(64, padded(head_dim))
    if dtype == float32:
        return _IEEE[ceiling] if precision == "ieee" else _TF32[ceiling]
    key = family(arch), ceiling
    spilling = _PLAIN.get(key, {}) if extras else {}
    found = {p: tuple(tile for tile in row if tile not in spilling.get(p, ())) for p, row in _HALF[key].items()}
    for some, serving in _SERVING.items():
        if all(extra in extras for extra in some):
            found = {**found, **serving.get(key, {})}
    return found


def shared_bytes(
    arch: int,
    dtype: DType,
    head_dim: int,
    passes: tuple[Pass, ...],
    row: Row,
    precision: str = "ieee",
    extras: tuple[Extra, ...] = (),
) -> int:
    """Shared memory of one program in bytes: the largest of the launch's passes.

    It leaves out the copy engine's barriers and their alignment, at most BARRIERS bytes. With a bias it is the most:
    its blocks come through buffers, or share the room of others.
    """
    return max(
        _shared_bytes(family(arch), dtype, padded(head_dim), p, t, precision)
        + ((t.stages - 1) * t.rows * t.cols * dtype.itemsize if BIAS in extras else 0)
        for p, t in zip(passes, row, strict=True)
    )


BARRIERS = 1152  # buffers start at multiples of 1 KiB; each barrier is 8 bytes


def _shared_bytes(whose: int, dtype: DType, d: int, pass_: Pass, t: Tile, precision: str) -> int:
    """Bytes of resident blocks, of streamed blocks (a buffer per stage), and of data exchanged between threads."""
    size = dtype.itemsize
    q_block, k_block = t.rows * d * size, t.cols * d * size
    by_key = pass_ in (DKDV, FUSED)
    # An asynchronous matrix instruction still reads the oldest buffer while the newest is being filled.
    buffers = t.stages if _asynchronous(whose, dtype, pass_, t) else t.stages - 1
    stays = 2 * k_block if by_key else (1 if pass_ == FORWARD else 2) * q_block
    streams = buffers * 2 * (q_block if by_key else k_block)
    return stays + streams + _crossing(whose, dtype, d, pass_, t, precision)


def _asynchronous(whose: int, dtype: DType, pass_: Pass, t: Tile) -> bool:
    """Whether the products run as wgmma (sm_90) or tcgen05 (sm_100): 16-bit, at least 64 rows of output."""
    return whose in (90, 100) and dtype != float32 and _height(pass_, t) >= 64


def _height(pass_: Pass, t: Tile) -> int:
    """Rows of a program's accumulator: keys if it owns a key block, else queries."""
    return t.cols if pass_ in (DKDV, FUSED) else t.rows


def _crossing(whose: int, dtype: DType, d: int, pass_: Pass, t: Tile, precision: str) -> int:
    """Bytes exchanged between threads: per-row statistics, probabilities, operands in a second layout."""
    size = dtype.itemsize
    probabilities = t.rows * t.cols * size
    dq_sum = t.rows * d * 4
    statistics = 2 * t.rows * 4 if pass_ in (DKDV, FUSED) else 0
    if dtype == float32 and precision == "ieee":
        row_scale = t.rows * 4 if pass_ == FORWARD else 0
        return statistics + row_scale + (max(probabilities, dq_sum) if pass_ == FUSED else probabilities)
    if dtype == float32:
        # tf32x3 keeps the two halves of each operand that stays.
        return statistics + (t.rows * d * size + 2 * probabilities if pass_ == FORWARD else 2 * t.cols * d * size)
    if _asynchronous(whose, dtype, pass_, t) and whose == 100:
        # tcgen05 wants each operand of a product in its own layout: those used in two roles are there twice.
        twice = {FORWARD: 0, DKDV: 2 * t.rows, FUSED: 2 * t.rows, DQ: t.cols}[pass_] * d * size
        return statistics + twice + (probabilities + dq_sum if pass_ == FUSED else 0)
    if _asynchronous(whose, dtype, pass_, t):
        # Of fewer rows than 16 a warp, the warps split the columns, and a product over these needs all of them.
        crosses = pass_ == FUSED or (pass_ == DKDV and _height(pass_, t) < 16 * t.warps)
        return statistics + (probabilities if crosses else 0) + (dq_sum if pass_ == FUSED else 0)
    # mma.sync splits the output's columns over the warps when it is wider than tall; the probabilities then have to
    # cross from the warps that made them to the warps that use them.
    crossing = probabilities if _height(pass_, t) < d else 0
    if pass_ != FUSED:
        return statistics + crossing
    # K in its second role, and what the copy engine of sm_120 takes from there.
    return statistics + t.cols * d * size + dq_sum + (probabilities if whose == 120 else 0)
