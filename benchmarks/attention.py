"""Time the flash attention kernels beside PyTorch's own on the GPU at hand, in one command.

    python benchmarks/attention.py --out results/          # everything, under ten minutes on an H200
    python benchmarks/attention.py --quick                 # a few cases

What is done, in this order:

1. Correctness gate: every row of the tile table for this GPU, forward and backward, against fp64. One wrong result ends
   the run with status 1 and no time is printed.
2. Ceilings of this GPU: bf16 matmul and device-to-device copy, on random data.
3. Per case: tiles are tuned (outside the timed region, on other data), each backend's output is checked against fp64 on
   one head, then all backends are timed in turn, round by round, so that a change of clocks hits them alike.

Each run is timed with events on a cold L2 (256 MB are overwritten before it), behind a spin kernel that keeps the GPU
busy while the host enqueues: device time, without launch overhead. The backward is the whole of it: delta, zero-fill
and conversion included. Backends of scaled_dot_product_attention are forced, never left to its choice. FLOP follow
the convention of the FlashAttention papers: 4 b h n^2 d forward, half of it if causal, 2.5 times as many backward.

Exit status: 0 done, 1 a wrong result, 2 no GPU.
"""

import argparse
import contextlib
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels"), str(ROOT / "benchmarks")]  # also where nothing is installed

from attention_report import Case, Timing, describe, markdown  # noqa: E402

from memmodel.attention import tiles  # noqa: E402
from memmodel_kernels import flash_attention  # noqa: E402
from memmodel_kernels.triton_flash import choice, tune  # noqa: E402
from memmodel_kernels.triton_flash.problem import checked  # noqa: E402

DEVICE, DTYPE = "cuda", torch.bfloat16
TOKENS = 16_384  # b * n, as in the FlashAttention papers
HIDDEN = 2_048  # h * d
GATE_LENGTH = 1_000  # not a multiple of any tile
FLUSH_BYTES = 256 * 2**20
SPIN_CYCLES = 1_500_000  # about a millisecond: longer than the host takes to enqueue a backward pass
ROUNDS, RUNS = 5, 4
SCORE_LIMIT_BYTES = 40e9  # skip the backends that store scores above this
SDPA = {
    "FLASH": SDPBackend.FLASH_ATTENTION,
    "CUDNN": SDPBackend.CUDNN_ATTENTION,
    "EFFICIENT": SDPBackend.EFFICIENT_ATTENTION,
    "MATH": SDPBackend.MATH,
}
STORES_SCORES = ("MATH", "naive")

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def inputs_of(case: Case, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and the upstream gradient: random normal."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    q, k, v, do = (torch.randn(case.shape, generator=generator, device=DEVICE, dtype=DTYPE) for _ in range(4))
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_(), do


def naive(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Attention that stores its scores, op by op."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if causal:
        n, m = scores.shape[-2:]
        hidden = torch.ones(n, m, dtype=torch.bool, device=q.device).triu(m - n + 1)
        scores = scores.masked_fill(hidden, -torch.inf)
    return scores.softmax(-1) @ v


def backends(causal: bool) -> dict[str, Attention]:
    """Every implementation under its name."""

    def forced(backend: SDPBackend) -> Attention:
        def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel([backend]):
                return scaled_dot_product_attention(q, k, v, is_causal=causal)

        return attention

    return {
        "ours": lambda q, k, v: flash_attention(q, k, v, causal=causal),
        "ours fused": lambda q, k, v: flash_attention(q, k, v, causal=causal, deterministic=False),
        **{name: forced(backend) for name, backend in SDPA.items()},
        "naive": lambda q, k, v: naive(q, k, v, causal),
    }


def errors(attention: Attention, case: Case, inputs: tuple[Tensor, ...]) -> dict[str, float]:
    """Error over PyTorch's bf16 error, both against fp64, on the first head: 2 is allowed for o, 3 for gradients."""
    *qkv, do = (x[:1, :1].detach() for x in inputs)
    results = []
    for dtype, function in (
        (torch.float64, lambda q, k, v: naive(q, k, v, case.causal)),
        (DTYPE, lambda q, k, v: naive(q, k, v, case.causal)),
        (DTYPE, attention),
    ):
        leaves = [x.to(dtype).requires_grad_() for x in qkv]
        o = function(*leaves)
        results.append((o, *torch.autograd.grad(o, leaves, do.to(dtype))))
    exact, own, got = results
    return {
        name: float((g - e).abs().max().nan_to_num(torch.inf) / (o - e).abs().max())
        for name, g, o, e in zip(("o", "dq", "dk", "dv"), got, own, exact, strict=True)
    }


def wrong(found: dict[str, float]) -> bool:
    return any(not error <= (2 if name == "o" else 3) for name, error in found.items())


def gate() -> tuple[list[dict[str, Any]], bool]:
    """Run every row of the table; returns what was found and whether all of it is right."""
    found, right = [], True
    for d in tiles.ceilings():
        for causal in (False, True):
            case = Case(1, 1, GATE_LENGTH, d, causal)
            inputs = inputs_of(case, seed=1)
            problem = checked(*inputs[:3], causal, None, None, None)
            for passes in tiles.LAUNCHES:
                if passes == (tiles.FUSED,) and not choice.has(problem, tiles.FUSED):
                    continue
                deterministic = passes != (tiles.FUSED,)
                for row in choice.rows(problem, passes):
                    with choice.forced(passes, row):
                        ratio = errors(
                            lambda q, k, v: flash_attention(q, k, v, causal=causal, deterministic=deterministic),  # noqa: B023
                            case,
                            inputs,
                        )
                    right &= not wrong(ratio)
                    found.append({"d": d, "causal": causal, "passes": passes, "row": describe(row), "ratio": ratio})
                    if wrong(ratio):
                        print(f"WRONG: head dim {d}, causal {causal}, {'+'.join(passes)} {describe(row)}: {ratio}")
    return found, right


def once(run: Callable[[], object], flush: Tensor) -> float:
    """Milliseconds of one run on a cold L2, behind a spin kernel that hides the host's time to enqueue it."""
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    flush.zero_()
    torch.cuda._sleep(SPIN_CYCLES)
    start.record()
    run()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop))


def ceilings(flush: Tensor) -> dict[str, float]:
    """Matmul rate (TFLOP/s) and copy bandwidth (GB/s, bytes read plus bytes written) of this GPU, on random data."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(2**29, device="cuda")
    target = torch.empty_like(source)
    for _ in range(3):
        a @ b
        target.copy_(source)
    matmul = statistics.median(once(lambda: a @ b, flush) for _ in range(20))
    copy = statistics.median(once(lambda: target.copy_(source), flush) for _ in range(20))
    return {"matmul_TFLOPps": 2 * 8192**3 / matmul / 1e9, "copy_GBps": 2 * source.nbytes / copy / 1e6}


def measure(case: Case, flush: Tensor) -> Iterator[Timing]:
    """Time every backend on one case, forward and backward."""
    tuned = inputs_of(case, seed=2)
    chosen = tune.tune(*tuned[:3], causal=case.causal) | tune.tune(*tuned[:3], causal=case.causal, deterministic=False)
    q, k, v, do = inputs_of(case, seed=3)
    runs: dict[tuple[str, str], Callable[[], object]] = {}
    timings: dict[tuple[str, str], Timing] = {}
    for name, attention in backends(case.causal).items():
        reason = unavailable(name, attention, case, (q, k, v, do))
        for phase in ("forward", "backward"):
            if phase == "forward" and name == "ours fused":
                continue
            timings[name, phase] = Timing(case, phase, name, tile_of(name, phase, chosen), skipped=reason)
        if reason:
            continue
        runs[name, "forward"] = lambda f=attention: f(q, k, v)
        o = attention(q, k, v)
        runs[name, "backward"] = lambda o=o: torch.autograd.grad(o, (q, k, v), do, retain_graph=True)
    runs.pop(("ours fused", "forward"), None)
    for run in runs.values():  # module load and compilation stay out of the numbers
        run()
    for _ in range(ROUNDS):
        for key, run in runs.items():
            timings[key].runs_ms += [once(run, flush) for _ in range(RUNS)]
    yield from timings.values()


def unavailable(name: str, attention: Attention, case: Case, inputs: tuple[Tensor, ...]) -> str:
    """Why this backend is not timed here; "" if it is. A wrong result of ours ends the run."""
    b, h, n, _ = case.shape
    if name in STORES_SCORES and 3 * 4.0 * b * h * n * n > SCORE_LIMIT_BYTES:
        return "its scores would take too much memory"
    try:
        ratio = errors(attention, case, inputs)
    except RuntimeError as error:
        return str(error).splitlines()[0][:100]
    if name.startswith("ours") and wrong(ratio):
        raise SystemExit(f"WRONG: {case}, {name}: {ratio}")
    return ""


def tile_of(name: str, phase: str, chosen: dict[tuple[tiles.Pass, ...], tiles.Row]) -> str:
    if not name.startswith("ours"):
        return ""
    passes = (tiles.FORWARD,) if phase == "forward" else (tiles.DKDV, tiles.DQ) if name == "ours" else (tiles.FUSED,)
    return describe(chosen[passes]) if passes in chosen else ""


def environment() -> dict[str, Any]:
    return {
        "gpu": torch.cuda.get_device_name(),
        "capability": torch.cuda.get_device_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "triton": triton.__version__,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def clocks() -> dict[str, str]:
    """SM and memory clock, power, temperature and what throttles, as nvidia-smi tells; read only."""
    fields = "clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_throttle_reasons.active"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
        out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout
        return dict(zip(fields.split(","), (x.strip() for x in out.splitlines()[0].split(",")), strict=True))
    return {}


def cases(quick: bool) -> list[Case]:
    lengths = (2048,) if quick else (512, 1024, 2048, 4096, 8192, 16384)
    return [
        Case(TOKENS // n, HIDDEN // d, n, d, causal) for d in (64, 128) for causal in (False, True) for n in lengths
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the flash attention kernels beside PyTorch's.")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for attention.json and attention.md")
    parser.add_argument("--quick", action="store_true", help="n = 2048 only")
    parser.add_argument("--budget", type=float, default=540.0, help="seconds after which no further case is begun")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("There is no GPU here that PyTorch can use: nothing was measured.")
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    machine = environment()
    print(f"{machine['gpu']}, torch {machine['torch']}, Triton {machine['triton']}", flush=True)
    rows, right = gate()
    record: dict[str, Any] = {"environment": machine, "gate": rows, "clocks": [clocks()]}
    file = options.out / "attention.json"
    if not right:
        file.write_text(json.dumps(record, indent=1))
        print("A result is wrong: no time was measured.")
        return 1
    print(f"correct: {len(rows)} rows of the tile table ({time.monotonic() - began:.0f} s)", flush=True)
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    record["ceilings"] = ceilings(flush)
    timings: list[Timing] = []
    for case in cases(options.quick):
        if time.monotonic() - began > options.budget:
            print(f"out of time: {case} and those after it were not measured")
            break
        timings += measure(case, flush)
        record["clocks"].append(clocks())
        done = {f"{t.backend} {t.phase}": round(t.median_ms, 3) for t in timings if t.case == case and t.runs_ms}
        print(f"{case.shape} {'causal' if case.causal else ''} ms: {done}", flush=True)
        record["timings"] = [asdict(t) for t in timings]
        file.write_text(json.dumps(record, indent=1))
    heading = (
        f"{machine['gpu']}, torch {machine['torch']}, Triton {machine['triton']}, cuDNN {machine['cudnn']}; bf16, "
        f"{TOKENS} tokens, hidden size {HIDDEN}; cold L2, device time, median [least, most] of {ROUNDS * RUNS} runs."
    )
    table = markdown(timings, record["ceilings"], heading)
    (options.out / "attention.md").write_text(table)
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
