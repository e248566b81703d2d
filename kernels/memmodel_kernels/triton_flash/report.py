"""Compile every row of the tile table and tabulate what each costs.

    python -m memmodel_kernels.triton_flash.report            # a Markdown table
    python -m memmodel_kernels.triton_flash.report --json     # the same as JSON, with what it holds for

Causal kernels at the largest head dim of each row: the most registers and shared memory that the row can take.
"""

import argparse
import ast
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from memmodel.attention import tiles
from memmodel.attention.tiles import BIAS, DROPOUT, PACKED, SOFTCAP, Extra, Pass, Row
from memmodel.base.dtypes import DType, bfloat16, float32, short_name

# Registers, warps and shared memory of one multiprocessor (CUDA C++ Programming Guide, as in memmodel.attention.tiles).
REGISTERS_PER_SM = 65_536
WARPS_PER_SM = {80: 64, 89: 48, 90: 64, 100: 64, 120: 48}
DRIVER_SHARED = 1024  # bytes per block that the driver keeps
ARCHITECTURES = tuple(WARPS_PER_SM)
CAP, DROPPED = 50.0, 0.1  # any: they are arguments of the kernels
ALONE: tuple[tuple[Extra, ...], ...] = ((SOFTCAP,), (PACKED,), (DROPOUT,), (BIAS,))


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
    extras: tuple[Extra, ...] = ()

    @property
    def shared_model(self) -> int:
        """Shared memory by the table's formula, bytes."""
        how = self.passes, self.row, self.precision, self.extras
        return tiles.shared_bytes(self.arch, self.dtype, self.head_dim, *how)

    @property
    def name(self) -> str:
        """`sm_90 bf16 d128 forward 128x128 8w 2s`."""
        kind = short_name(self.dtype) if self.dtype != float32 else f"fp32-{self.precision}"
        shape = "+".join(f"{t.rows}x{t.cols}" for t in self.row)
        first = self.row[0]
        return (
            f"sm_{self.arch} {kind} d{self.head_dim} {'+'.join(self.passes)} {shape} {first.warps}w {first.stages}s"
            + ("" if self.tma or self.arch < 90 or self.dtype == float32 or self.extras else " pointers")
            + "".join(f" {extra}" for extra in self.extras)
        )


def builds(architectures: tuple[int, ...] = ARCHITECTURES) -> Iterator[Build]:
    """Every row of the table, and 16-bit defaults with one extra each.

    Packed sequences are read by pointer. On sm_90, defaults also as they run without TMA.
    """
    for arch in architectures:
        for dtype, precision in ((bfloat16, "tf32"), (float32, "ieee"), (float32, "tf32x3")):
            tma = arch >= 90 and dtype != float32
            for head_dim in tiles.ceilings():
                which = arch, dtype, head_dim
                for passes in tiles.launches(*which, precision):
                    for i, row in enumerate(tiles.rows(*which, passes, precision)):
                        yield Build(arch, dtype, precision, head_dim, passes, row, i == 0, tma)
                        if tma and arch == 90 and i == 0:
                            yield Build(arch, dtype, precision, head_dim, passes, row, False, False)
                    for extras in ALONE if dtype != float32 else ():
                        if passes in tiles.launches(*which, precision, extras):
                            row = tiles.rows(*which, passes, precision, extras=extras)[0]
                            how = True, tma and PACKED not in extras, extras
                            yield Build(arch, dtype, precision, head_dim, passes, row, *how)


def compiled(build: Build) -> dict[str, Any]:
    """Compile one row; returns its Binary's fields, the formula's shared memory and the occupancy."""
    from memmodel_kernels.triton_flash import offline

    binary = offline.compile_launch(_launch(build), build.arch)
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


def _launch(build: Build) -> Any:
    """The launch of a row, as a call would make it: causal, sizes that no alignment helps, tensors without data.

    Rows of a bias are aligned: others are read number by number, and need registers for it.
    """
    import torch

    from memmodel_kernels.triton_flash import launch
    from memmodel_kernels.triton_flash.launch import Beside
    from memmodel_kernels.triton_flash.problem import Problem
    from memmodel_kernels.triton_flash.sequences import Sequences

    capped, packed, dropped, biased = (extra in build.extras for extra in (SOFTCAP, PACKED, DROPOUT, BIAS))
    b, h, g, n, m, d = 3, 6, 2, 4099, 4112 if biased else 4106, build.head_dim
    kind, device = getattr(torch, build.dtype.name), torch.device("meta")
    extras = CAP if capped else None, packed, DROPPED if dropped else 0.0, biased
    arithmetic = d**-0.5, build.precision, build.dtype, device, True, *extras
    problem = Problem(b, h, g, n, m, d, None, 0 if packed else m - n, *arithmetic)
    sequences = Sequences(*torch.empty(2, b + 1, dtype=torch.int32, device=device)) if packed else None
    batch = 1 if packed else b
    q, o, do, dq = (torch.empty(batch, h, n, d, dtype=kind, device=device) for _ in range(4))
    k, v, dk, dv = (torch.empty(batch, g, m, d, dtype=kind, device=device) for _ in range(4))
    lse, delta = (torch.empty(batch, h, n, device=device) for _ in range(2))
    seed = torch.empty(1, dtype=torch.int64, device=device) if dropped else None
    bias = torch.empty(1, h, n, m, dtype=kind, device=device) if biased else None
    how = problem, build.row, build.tma, Beside(sequences, seed, bias)
    if build.passes == (tiles.FORWARD,):
        return launch.forward_launch(q, k, v, o, lse, *how)
    if build.passes == (tiles.FUSED,):
        return launch.fused_launch(q, k, v, do, dk, dv, dq.float(), lse, delta, *how)
    return launch.split_launch(q, k, v, do, dq, dk, dv, lse, delta, *how)


def programs_per_sm(arch: int, registers: int, warps: int, shared: int) -> int:
    """Programs resident on one multiprocessor: registers come in units of 256 per warp."""
    per_warp = -(-registers * 32 // 256) * 256
    room = tiles.SHARED_LIMIT[arch] + DRIVER_SHARED
    return min(REGISTERS_PER_SM // (per_warp * warps), WARPS_PER_SM[arch] // warps, room // (shared + DRIVER_SHARED))


def compile_all(wanted: list[Build], jobs: int | None = None) -> list[dict[str, Any]]:
    """Compile these rows, in `jobs` processes (one per core unless given); by 1 in this one."""
    if jobs == 1:
        return [compiled(build) for build in wanted]
    with ProcessPoolExecutor(jobs or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        return list(pool.map(compiled, wanted))


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


def recorded(results: list[dict[str, Any]]) -> str:
    """The results as JSON, a row a line, with the compiler and the sources that they belong to."""
    rows = ",\n".join(json.dumps(result) for result in results)
    return f'{{"triton": "{triton_version()}", "sources": "{sources()}", "rows": [\n{rows}\n]}}'


def triton_version() -> str:
    """Return the version of the compiler."""
    import triton

    return str(triton.__version__)


def sources() -> str:
    """Fingerprint of the code that decides what is compiled, but for comments and docstrings."""
    digest = hashlib.sha256()
    for name in ("blocks", "schedule", "scores", "sequences", "dropout", "forward", "backward", "launch"):
        tree = ast.parse(Path(__file__).with_name(f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
                node.body.pop(0)
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of Markdown")
    parser.add_argument("--arch", type=int, nargs="+", default=list(ARCHITECTURES), choices=ARCHITECTURES)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="only the rows of these names")
    parser.add_argument("--jobs", type=int, help="processes (default: one per core)")
    options = parser.parse_args()
    wanted = [build for build in builds(tuple(options.arch)) if not options.only or build.name in options.only]
    results = compile_all(wanted, options.jobs)
    print(recorded(results) if options.json else markdown(results))


if __name__ == "__main__":
    main()
