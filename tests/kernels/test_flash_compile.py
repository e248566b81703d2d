"""Every row of the tile table, compiled for its architecture without a GPU.

Compiling takes minutes, so what was compiled is on record beside this file, for the sources and the compiler that made
it: `python -m memmodel_kernels.triton_flash.report --json > tests/kernels/compiled.json` records it anew, and
MEMMODEL_EXHAUSTIVE=1 compiles every row here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import triton

from memmodel.attention import tiles
from memmodel_kernels.triton_flash import report
from memmodel_kernels.triton_flash.report import ARCHITECTURES, markdown, programs_per_sm

Result = dict[str, Any]
README = Path(report.__file__).parents[1] / "README.md"
MADE_FOR_THIS_TRITON = f"Triton {triton.__version__}" in README.read_text()

# The backward at head dim 256 keeps two 64 x 256 fp32 accumulators beside its operands: with tiles wide enough for
# wgmma (64 keys) the default would spill, so it uses mma.sync there.
WITHOUT_WGMMA = "sm_90 bf16 d256 dkdv+dq"

pytestmark = [pytest.mark.compiler, pytest.mark.timeout(3600)]

RECORD = Path(__file__).with_name("compiled.json")
EVERY_ROW = os.environ.get("MEMMODEL_EXHAUSTIVE") == "1"
# One row of each family, pass and type among them, to hold the record against the compiler in seconds.
SAMPLE = (
    "sm_80 bf16 d128 forward",
    "sm_89 fp32-ieee d64 forward",
    "sm_90 bf16 d64 dkdv+dq",
    "sm_90 bf16 d64 fused",
    "sm_100 bf16 d64 forward",
    "sm_120 fp32-tf32x3 d64 forward",
)


def compiled(*options: str) -> list[Result]:
    """Compile in a process of its own: this one may have imported kernels to interpret."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    environment["TRITON_DEFAULT_FP_FUSION"] = "1"
    command = [sys.executable, "-m", "memmodel_kernels.triton_flash.report", "--json", *options]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    found: list[Result] = json.loads(run.stdout)["rows"]
    return found


@pytest.fixture(scope="module")
def results() -> list[Result]:
    """Every row: as recorded, if the record is of these sources and this compiler; else compiled, for minutes."""
    record = json.loads(RECORD.read_text())
    holds = (record["triton"], record["sources"]) == (report.triton_version(), report.sources())
    found: list[Result] = record["rows"] if holds and not EVERY_ROW else compiled()
    assert [result["name"] for result in found] == [build.name for build in report.builds()]
    return found


def test_the_record_is_what_the_compiler_says(results: list[Result]) -> None:
    names = tuple(next(r["name"] for r in results if r["name"].startswith(start) and r["default"]) for start in SAMPLE)
    assert compiled("--jobs", "1", "--only", *names) == [result for result in results if result["name"] in names]


def failing(results: list[Result], wrong: Any) -> list[str]:
    return [result["name"] for result in results if wrong(result)]


def test_every_architecture_is_there(results: list[Result]) -> None:
    assert {result["arch"] for result in results} == set(ARCHITECTURES)


def test_default_rows_do_not_spill(results: list[Result]) -> None:
    """Not a byte with the Triton that the table was made for; a few, on some architectures, with others."""
    allowed = 0 if MADE_FOR_THIS_TRITON else 32
    assert not failing(results, lambda r: r["default"] and r["spilled"] > allowed)


def test_shared_memory_is_within_the_limit(results: list[Result]) -> None:
    assert not failing(results, lambda r: r["shared"] > tiles.SHARED_LIMIT[r["arch"]])


def test_no_launch_allocates_scratch_memory(results: list[Result]) -> None:
    """Descriptors are made on the host: made on the device, each program would need memory for its own."""
    assert not failing(results, lambda r: r["scratch"])


def test_every_row_fits_on_a_multiprocessor(results: list[Result]) -> None:
    assert not failing(results, lambda r: r["programs_per_sm"] < 1)


def test_shared_memory_formula_is_the_compilers(results: list[Result]) -> None:
    """To the byte with pointers; with TMA, the compiler adds barriers and aligns them."""
    barriers = {False: 0, True: tiles.BARRIERS}
    assert not failing(
        [r for r in results if (r["tma"] or r["arch"] < 90 or not r["half"]) and not r["name"].endswith(" bias")],
        lambda r: not 0 <= r["shared"] - r["shared_model"] <= barriers[r["tma"]],
    )


def test_a_bias_needs_no_more_than_the_formula(results: list[Result]) -> None:
    biased = [r for r in results if r["name"].endswith(" bias")]
    assert len(biased) >= 36
    assert not failing(biased, lambda r: r["shared"] > r["shared_model"] + tiles.BARRIERS * r["tma"])


def test_pointers_instead_of_tma_need_no_more_than_the_formula(results: list[Result]) -> None:
    """Where TMA cannot be used, the same rows run by pointer; the fused one then needs less.

    On sm_100 the tensor cores have barriers of their own.
    """
    barriers = {90: 0, 100: tiles.BARRIERS, 120: 0}
    fallback = [r for r in results if r["arch"] in barriers and r["half"] and not r["tma"]]
    assert len(fallback) >= 24
    assert not failing(fallback, lambda r: r["shared"] > r["shared_model"] + barriers[r["arch"]])


def test_tensor_cores_and_copy_engine_are_used(results: list[Result]) -> None:
    half = [r for r in results if r["half"]]
    assert not failing(half, lambda r: r["tma"] != (r["tma_copies"] > 0))
    assert not failing(half, lambda r: r["arch"] in (80, 89, 120) and not r["mma"])
    hopper = [r for r in half if r["arch"] == 90 and r["default"] and not r["name"].startswith(WITHOUT_WGMMA)]
    assert not failing(hopper, lambda r: not r["wgmma"] or r["mma"])
    assert not failing(half, lambda r: r["arch"] == 100 and not r["tcgen05"])


def test_readme_shows_this_table(results: list[Result]) -> None:
    """Registers belong to a version of the compiler; the rest of the table has to be there under any."""
    readme = README.read_text()
    if MADE_FOR_THIS_TRITON:
        assert markdown(results) in readme, "run: python -m memmodel_kernels.triton_flash.report"
    else:
        assert not failing(results, lambda r: f"| {r['name']} |" not in readme)


@pytest.mark.parametrize(
    ("arch", "registers", "warps", "shared", "expected"),
    [
        (90, 128, 8, 1000, 2),  # registers: 65536 / (128 * 32 * 8)
        (90, 32, 8, 1000, 8),  # warps: 64 / 8
        (90, 32, 4, 100_000, 2),  # shared memory: 233472 / 101024
        (80, 255, 8, 1000, 1),
    ],
)
def test_occupancy_by_hand(arch: int, registers: int, warps: int, shared: int, expected: int) -> None:
    assert programs_per_sm(arch, registers, warps, shared) == expected
