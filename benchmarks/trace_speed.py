"""How long a trace takes: the first after torch is imported, a second, and a training step of a GPT by its layers.

    python benchmarks/trace_speed.py [LAYERS ...]

Each in a process of its own; seconds of wall clock and of this process's CPU, and the most memory that it held.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "tracer")]
SIZES = {"B": 8, "H": 12, "N": 4096, "D": 64}
LAYERS = (2, 12, 32)
RUNS = 3
FIRST_S, GPT_S = 2.0, 60.0


def timed(action: Callable[[], object]) -> dict[str, float]:
    """Wall-clock and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def naive() -> dict[str, Any]:
    """Import torch, then trace naive attention's training step twice."""

    def imported() -> None:
        import torch  # noqa: F401

    def traced() -> None:
        from traced_functions import INPUTS, three_names

        import memmodel

        memmodel.trace(three_names, INPUTS, step="train", at=SIZES)

    return {name: timed(action) for name, action in (("torch", imported), ("first", traced), ("second", traced))}


def gpt(layers: int) -> dict[str, Any]:
    """Trace a training step with AdamW."""
    from gpt import AT, TOKENS, training_step

    import memmodel

    step = training_step(layers)
    return {"gpt": timed(lambda: memmodel.trace(step, TOKENS, step="own", at=AT))}


def alone(code: str) -> dict[str, Any]:
    """What a function of this file returns in a fresh process, with its peak memory."""
    done = subprocess.run([sys.executable, __file__, "--run", code], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def line(name: str, times: list[dict[str, float]], target: float | None = None) -> str:
    """The run with the least CPU time."""
    best = min(times, key=lambda t: t["cpu"])
    aim = "" if target is None else f"   target {target:g} s"
    return f"{name:34} {best['wall']:6.2f} s wall {best['cpu']:6.2f} s CPU{aim}"


def main() -> None:
    """Print the table."""
    found = [alone("naive()") for _ in range(RUNS)]
    print(line("import torch", [f["torch"] for f in found]))
    print(line("first trace, naive training step", [f["first"] for f in found], FIRST_S))
    print(line("second trace of it", [f["second"] for f in found]))
    for layers in map(int, sys.argv[1:] or LAYERS):
        one = alone(f"gpt({layers})")
        print(line(f"training step, {layers} layers", [one["gpt"]], GPT_S), f"  {one['peak_mib']:.0f} MiB held")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        result = eval(sys.argv[2])  # one of the calls that `main` writes
        print(json.dumps(result | {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
    else:
        main()
