"""Hold the CPU's time model against measured attention, beside a plain roofline on the same rows.

    python benchmarks/cpu_time.py                          # calibrates first, then measures: a few minutes
    python benchmarks/cpu_time.py --calibration cpu.json   # with what `memmodel calibrate --device cpu` saved
    python benchmarks/cpu_time.py --quick                  # a few cases

The model knows micro-benchmarks only: additions, sums, softmax over rows, products of matrices, page faults, and flash
attention at one length and two head dims without a mask. None of the rows printed went into it.

The roofline is what a plain specification gives: the machine's large square product and its bandwidth on 256 MiB, both
measured, each kernel at the slower of the two and every byte moved once. A time is a median of steps, the fastest of
the rounds over all cases, so that other processes' bursts do not count; an error is predicted / measured - 1.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "validate")]  # also where nothing is installed

from memmodel.attention.case import Case, make_case  # noqa: E402
from memmodel.attention.masks import mask  # noqa: E402
from memmodel.events.program import Launch, Program  # noqa: E402
from memmodel.recorder import record  # noqa: E402
from memmodel.recording import CPU  # noqa: E402
from memmodel.step import time_of  # noqa: E402
from memmodel.timing import Calibration, Machine  # noqa: E402
from memmodel.timing.known import read_calibration  # noqa: E402
from memmodel_validate.calibrate.run import calibrate  # noqa: E402
from memmodel_validate.cpu import cpu, with_cpu_blocks  # noqa: E402
from memmodel_validate.torch_step import attention, fill, inputs, sampled, timed_step  # noqa: E402

SECONDS = 0.4  # of steps in a round of a case
IMPLEMENTATIONS = ("naive", "naive-by-hand", "sdpa-flash")
SHAPES = ((1, 512), (4, 512), (2, 1024), (8, 1024), (1, 2048), (4, 2048), (1, 4096))  # heads, queries
HEAD_DIMS = (16, 32, 64, 128)
QUICK = ((4, 512), (2, 1024), (1, 2048))
PHASES = ("forward", "backward")


class Row(NamedTuple):
    """One phase of one case: seconds measured, by the model and by the roofline."""

    implementation: str
    case: Case
    phase: str
    measured: float
    model: float
    roofline: float


def cases(quick: bool) -> Iterator[tuple[str, Case]]:
    """Implementations and cases: fp32, with and without a causal mask."""
    for name in IMPLEMENTATIONS:
        for heads, seq in QUICK if quick else SHAPES:
            for d in (64,) if quick else HEAD_DIMS:
                for causal in ("none", "causal"):
                    program = "flash" if name == "sdpa-flash" else name
                    case = make_case(program, heads=heads, seq=seq, head_dim=d, dtype_name="fp32", mask=mask(causal))
                    yield name, with_cpu_blocks(case) if program == "flash" else case


def measured(name: str, case: Case) -> dict[str, float]:
    """Seconds of forward and backward: medians of as many steps as SECONDS hold, three at least."""
    torch.manual_seed(0)
    run, given = attention(name, case), inputs(case, "cpu")
    fill(given)
    samples = sampled(lambda: timed_step(given, run, case), warm_up=1, least=3, most=10_000, budget=SECONDS)
    return {phase: median(samples[f"{phase}_time"]) for phase in PHASES}


def fastest(grid: list[tuple[str, Case]], rounds: int) -> list[dict[str, float]]:
    """Of each case the fastest round. A round goes over all cases, so that a case's rounds lie minutes apart."""
    found: list[dict[str, float]] = []
    for number in range(rounds):
        now = []
        for count, (name, case) in enumerate(grid):
            now.append(measured(name, case))
            if sys.stderr.isatty():
                print(f"\rround {number + 1}/{rounds}, case {count + 1}/{len(grid)} ", end="", file=sys.stderr)
        found = (
            [{p: min(old[p], new[p]) for p in PHASES} for old, new in zip(found, now, strict=True)] if found else now
        )
    return found


def roofline(program: Program, phase: str, calibration: Calibration) -> float:
    """Seconds of a phase by two numbers: each kernel's FLOP at the peak or its bytes at the bandwidth."""
    peak, bandwidth = calibration.constants["matmul.fp32"].at(0), calibration.constants["bandwidth"].at(2**28)
    kernels = [event.work for event in program.phases()[phase] if isinstance(event, Launch)]
    return sum(max(float(work.flops) / peak, float(work.hbm_bytes) / bandwidth) for work in kernels)


def rows(quick: bool, calibration: Calibration, rounds: int) -> Iterator[Row]:
    """Every phase of every case."""
    machine, grid = Machine(cpu(), calibration), list(cases(quick))
    for (name, case), seconds in zip(grid, fastest(grid, rounds), strict=True):
        program = record(case, CPU)
        time = time_of(program, machine)
        for phase in PHASES:
            yield Row(name, case, phase, seconds[phase], time.phases[phase], roofline(program, phase, calibration))


def line(row: Row) -> str:
    """A row as it is printed, with the errors of the model and of the roofline."""
    case, errors = row.case, [seconds / row.measured - 1 for seconds in (row.model, row.roofline)]
    return (
        f"{row.implementation:14} {case.heads:2} {case.seq:5} {case.head_dim:4} {case.mask.name:7} {row.phase:8} "
        f"{row.measured * 1e3:6.2f} ms {errors[0]:+7.0%} {errors[1]:+8.0%}"
    )


def summary(found: list[Row]) -> Iterator[str]:
    """Median and 90th percentile of the errors' sizes, by implementation and phase, and of all."""
    yield f"{'group':30} {'rows':>4}  {'model: median':>13} {'p90':>7}  {'roofline: median':>16} {'p90':>7}"
    for name in (*IMPLEMENTATIONS, "naive and by hand", "all"):
        for phase in (*PHASES, "both"):
            chosen = [r for r in found if _in(r, name) and phase in (r.phase, "both")]
            if chosen:
                model, plain = ([abs(getattr(r, by) / r.measured - 1) for r in chosen] for by in ("model", "roofline"))
                yield (
                    f"{name + ' ' + phase:30} {len(chosen):4}  {median(model):13.1%} {_p90(model):7.1%}"
                    f"  {median(plain):16.1%} {_p90(plain):7.1%}"
                )


def _in(row: Row, group: str) -> bool:
    return group == "all" or row.implementation == group or (group[5:8] == " an" and row.implementation != "sdpa-flash")


def _p90(values: list[float]) -> float:
    return float(np.quantile(values, 0.9, method="higher"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", metavar="FILE")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", metavar="FILE", help="save every row")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.calibration:
        calibration = read_calibration(arguments.calibration)
    else:
        _, calibration = calibrate("cpu", arguments.threads, even_if_busy=True)
    found = []
    titles = ("implementation", "h", "n", "d", "mask", "phase", "measured", "model", "roofline")
    print("{:14} {:>2} {:>5} {:>4} {:7} {:8} {:>9} {:>7} {:>8}".format(*titles))
    for row in rows(arguments.quick, calibration, arguments.rounds):
        found.append(row)
        print(line(row), flush=True)
    print(*summary(found), sep="\n")
    if arguments.json:
        saved = [{**row._asdict(), "case": row.case.describe()} for row in found]
        Path(arguments.json).write_text(json.dumps(saved, indent=1))


if __name__ == "__main__":
    main()
