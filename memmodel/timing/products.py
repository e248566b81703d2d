"""Matrix products on a GPU: the tiles of libraries, and the work that whole tiles and waves add."""

from collections.abc import Iterable, Sequence

from memmodel.sizes.dims import Dim, ceil_div

Tile = tuple[int, int]  # rows and columns of the result that a thread block computes

# NVIDIA CUTLASS, python/cutlass_library/generator.py, whose kernels cuBLAS ships too.
_COMMON: tuple[Tile, ...] = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64))
SIMT_TILES = (*_COMMON, (128, 32), (32, 128))  # GenerateSM80_Simt_f32
TENSOR_TILES = (*_COMMON, (256, 64), (64, 256))  # GenerateSM80_TensorOp_16816, _1688


WIDEST_HEAD = 256  # channels: the widest head that a flash kernel has; attention's products are as thin as a head


def tile_menu(kind: str) -> tuple[Tile, ...]:
    """The tiles for products of an element type: fp32 without TF32 runs on the fp32 units."""
    return SIMT_TILES if kind in ("fp32", "fp64") else TENSOR_TILES


def narrow_tiles(width: int) -> tuple[Tile, ...]:
    """The tile of a narrow result whose columns, or rows, are known: the long side is 128."""
    return (128, width), (width, 128)


def padded(thin: Dim, width: int) -> float:
    """The factor (at least 1) by which whole tiles of `width` exceed a narrow result of `thin` columns."""
    return float(ceil_div(thin, width) * width / thin)


def shape_class(sizes: Sequence[Dim]) -> tuple[str, Dim]:
    """A product's class and thin size: Q K^T has a small inner size, P V and the gradients a narrow result.

    `sizes` are batch, rows, columns and inner size.
    """
    _, m, n, k = sizes
    return ("scores", k) if k <= min(m, n) else ("values", min(m, n))


def quantised(sizes: Sequence[Dim], sms: int, menu: Iterable[Tile]) -> float:
    """The factor (at least 1) by which the best tile's work exceeds the product's: edges, idle SMs in the last wave.

    tiles = batch ceil(m / rows) ceil(n / cols), in ceil(tiles / SMs) waves. A narrow result has few tiles: with one
    head of 4096 queries and head dim 64, at most 64, so that half of an H100's 132 SMs have nothing to do.
    """
    batch, m, n, _ = sizes
    return min(
        float(ceil_div(batch * ceil_div(m, rows) * ceil_div(n, cols), sms) * sms * rows * cols / (batch * m * n))
        for rows, cols in menu
    )
