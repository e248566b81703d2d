"""Compile every row of the tile table and tabulate what each costs.

    python -m memmodel_kernels.triton_flash.report            # a Markdown table
    python -m memmodel_kernels.triton_flash.report --json     # the same as JSON, one object per row

Causal kernels at the largest head dim of each row: the most registers and shared memory that the row can take.
"""

import argparse
import dataclasses
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from memmodel import tiles
from memmodel.dtypes import DType, bfloat16, float32, short_name
from memmodel.tiles import Pass, Row

# Registers, warps and shared memory of one multiprocessor (CUDA C++ Programming Guide, as in memmodel.tiles).
REGISTERS_PER_SM = 65_536
WARPS_PER_SM = {80: 64, 89: 48, 90: 64, 100: 64, 120: 48}
DRIVER_SHARED = 1024  # bytes per block that the driver keeps
ARCHITECTURES = tuple(WARPS_PER_SM)


@dataclass(frozen=True, slots=True)
class Build:
    """One row of the table, to be compiled: `row` holds one tile per pass of the launch."""

    arch: int
    dtype: DType
    precision: str
    head_dim: int
    passes: tuple[Pass, ...]
    row: Row
    default: bool
    tma: bool

    @property
    def shared_model(self) -> int:
        """Shared memory by the table's formula, bytes."""
        return tiles.shared_bytes(self.arch, self.dtype, self.head_dim, self.passes, self.row, self.precision)

    @property
    def name(self) -> str:
        """`sm_90 bf16 d128 forward 128x128 8w 2s`."""
        kind = short_name(self.dtype) if self.dtype != float32 else f"fp32-{self.precision}"
        shape = "+".join(f"{t.rows}x{t.cols}" for t in self.row)
        first = self.row[0]
        return (
            f"sm_{self.arch} {kind} d{self.head_dim} {'+'.join(self.passes)} {shape} {first.warps}w {first.stages}s"
            + ("" if self.tma or self.arch < 90 or self.dtype == float32 else " pointers")
        )


def builds(architectures: tuple[int, ...] = ARCHITECTURES) -> Iterator[Build]:
    """Every row of the table; on sm_90, also the default rows as they run when TMA cannot."""
    for arch in architectures:
        for dtype, precision in ((bfloat16, "tf32"), (float32, "ieee"), (float32, "tf32x3")):
            tma = arch >= 90 and dtype != float32
            for head_dim in tiles.ceilings():
                for passes in tiles.launches(arch, dtype, head_dim, precision):
                    for i, row in enumerate(tiles.rows(arch, dtype, head_dim, passes, precision)):
                        yield Build(arch, dtype, precision, head_dim, passes, row, i == 0, tma)
                        if tma and arch == 90 and i == 0:
                            yield Build(arch, dtype, precision, head_dim, passes, row, False, False)


def compiled(build: Build) -> dict[str, Any]:
    """Compile one row; returns its Binary's fields, the formula's shared memory and the occupancy."""
    from memmodel_kernels.triton_flash import offline

    kernel, constants, boxes = _launch(build)
    binary = offline.compile_kernel(
        kernel,
        constants,
        arch=build.arch,
        dtype=short_name(build.dtype),
        warps=build.row[0].warps,
        stages=build.row[0].stages,
        boxes=boxes if build.tma else {},
    )
    return {
        "name": build.name,
        "arch": build.arch,
        "default": build.default,
        "tma": build.tma,
        "half": build.dtype != float32,
        **dataclasses.asdict(binary),
        "shared_model": build.shared_model,
        "programs_per_sm": programs_per_sm(build.arch, binary.registers, build.row[0].warps, binary.shared),
    }


def _launch(build: Build) -> tuple[Any, dict[str, Any], dict[str, tuple[int, int]]]:
    """(kernel, constants, TMA boxes) of a row, as `launch.py` would pass them."""
    from memmodel_kernels.triton_flash.forward import forward_kernel
    from memmodel_kernels.triton_flash.fused import fused_kernel
    from memmodel_kernels.triton_flash.split import split_kernel

    d = tiles.padded(build.head_dim)
    first, *rest = build.row
    constants: dict[str, Any] = {
        "D": build.head_dim, "BLOCK_D": d, "LEFT": False, "RIGHT": True, "TMA": build.tma, "PRECISION": build.precision,
    }  # fmt: skip
    if build.passes == (tiles.FORWARD,):
        constants |= {"ROWS": first.rows, "COLS": first.cols, "FLIP": False}
        return forward_kernel, constants, {"k": (first.cols, d), "v": (first.cols, d)}
    streamed = {"q_stream": (first.rows, d), "do_stream": (first.rows, d)}
    if build.passes == (tiles.FUSED,):
        constants |= {"ROWS": first.rows, "COLS": first.cols}
        return fused_kernel, constants, {**streamed, "dq_sum": (first.rows, d)}
    (dq,) = rest
    constants |= {
        "DKDV_ROWS": first.rows, "DKDV_COLS": first.cols, "DQ_ROWS": dq.rows, "DQ_COLS": dq.cols,
    }  # fmt: skip
    return split_kernel, constants, {**streamed, "k_stream": (dq.cols, d), "v_stream": (dq.cols, d)}


def programs_per_sm(arch: int, registers: int, warps: int, shared: int) -> int:
    """Programs resident on one multiprocessor: registers come in units of 256 per warp."""
    per_warp = -(-registers * 32 // 256) * 256
    room = tiles.SHARED_LIMIT[arch] + DRIVER_SHARED
    return min(REGISTERS_PER_SM // (per_warp * warps), WARPS_PER_SM[arch] // warps, room // (shared + DRIVER_SHARED))


def compile_all(architectures: tuple[int, ...] = ARCHITECTURES, jobs: int | None = None) -> list[dict[str, Any]]:
    """Compile every row, in `jobs` processes (one per core unless given)."""
    with ProcessPoolExecutor(jobs or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        return list(pool.map(compiled, builds(architectures), chunksize=4))


COLUMNS = {
    "row": "name",
    "default": "default",
    "registers": "registers",
    "spilled B": "spilled",
    "shared B": "shared",
    "formula B": "shared_model",
    "programs/SM": "programs_per_sm",
}


def markdown(results: list[dict[str, Any]]) -> str:
    """Tabulate the results, one line per row of the tile table."""
    lines = [" | ".join(["", *COLUMNS, ""]).strip(), "|" + " --- |" * len(COLUMNS)]
    for result in results:
        cells = [str(result[field]).replace("True", "yes").replace("False", "") for field in COLUMNS.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument("--arch", type=int, nargs="+", default=list(ARCHITECTURES), choices=ARCHITECTURES)
    parser.add_argument("--jobs", type=int, help="processes (default: one per core)")
    options = parser.parse_args()
    results = compile_all(tuple(options.arch), options.jobs)
    print(json.dumps(results, indent=1) if options.json else markdown(results))


if __name__ == "__main__":
    main()
