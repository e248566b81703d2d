"""Host time of a `flash_attention` call beside the same launches in a bare `torch.autograd.Function`.

    python benchmarks/attention_host.py

No GPU is needed: the launches are described and not run, on CPU tensors of the size of a small layer. What is left is
Python: checks, allocations, descriptors, autograd. All take turns, and each figure is the least of many short rounds:
that of one which no other process interrupts. scaled_dot_product_attention, with its kernel, stands beside them.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # the kernels then accept CPU tensors

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]  # also where nothing is installed

from memmodel_kernels import flash_attention  # noqa: E402
from memmodel_kernels.triton_flash import launch  # noqa: E402
from memmodel_kernels.triton_flash.problem import checked  # noqa: E402

SHAPE = (1, 2, 16, 64)
ROUNDS, CALLS = 400, 10
Call = Callable[[Tensor, Tensor, Tensor], Tensor]


def bare(q: Tensor, k: Tensor, v: Tensor) -> Call:
    """The same launches, without a check, in the smallest autograd function that can hold them."""
    problem = checked(q, k, v, causal=False, window=None)

    class Bare(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            o, lse = launch.forward(q, k, v, problem)
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(q, k, v, o, lse)
            return o, lse

        @staticmethod
        def backward(ctx: Any, do: Tensor, dlse: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
            return launch.backward(do, dlse, *ctx.saved_tensors, problem)

    return lambda q, k, v: Bare.apply(q, k, v)[0]


def microseconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        run()
    return (time.perf_counter() - began) / CALLS * 1e6


def main() -> None:
    torch.set_num_threads(1)
    launch.Launch.run = lambda *_: None  # type: ignore[method-assign]
    q, k, v = (torch.randn(SHAPE, dtype=torch.float16, requires_grad=True) for _ in range(3))
    do = torch.randn(SHAPE, dtype=torch.float16)
    calls: dict[str, Call] = {
        "flash_attention": flash_attention,
        "bare autograd.Function": bare(q, k, v),
        "scaled_dot_product_attention": torch.nn.functional.scaled_dot_product_attention,
    }
    phases: dict[str, Callable[[Call], object]] = {
        "forward": lambda call: call(q, k, v),
        "forward and backward": lambda call: torch.autograd.grad(call(q, k, v), (q, k, v), do),
    }
    for phase, run in phases.items():
        times: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                times[name].append(microseconds(lambda: run(call)))  # noqa: B023
        least = {name: min(of) for name, of in times.items()}
        print(f"{phase}: " + ", ".join(f"{name} {us:.0f} us" for name, us in least.items()))
        ratio = least["flash_attention"] / least["bare autograd.Function"]
        print(f"{phase}: flash_attention / bare autograd.Function = {ratio:.2f}")


if __name__ == "__main__":
    main()
