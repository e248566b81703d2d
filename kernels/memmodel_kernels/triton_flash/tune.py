"""Tuning: time the rows of the tile table on the GPU at hand and remember the fastest.

Only rows of the table take part, so whatever is chosen has been compiled and checked. A call never tunes: tuning is
asked for, before anything is timed, and its choices hold for this process and, written to a file, for the next.
"""

import json
from pathlib import Path

import torch
import triton
from torch import Tensor

from memmodel.attention import tiles
from memmodel.attention.tiles import Pass, Row, Tile
from memmodel.base.errors import UsageError
from memmodel_kernels.triton_flash import choice, launch
from memmodel_kernels.triton_flash.problem import Problem, checked


def tune(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    window: int | None = None,
    deterministic: bool = True,
    precision: str | None = None,
) -> dict[tuple[Pass, ...], Row]:
    """Choose the tiles for calls like this one, forward and backward; returns what was chosen.

    Every row is run on the given tensors, with the L2 cache flushed before each of its runs.
    """
    if not q.is_cuda:
        raise UsageError(f"tuning times kernels on a GPU: the tensors are on {q.device}")
    problem = checked(q, k, v, causal, window, None, precision, deterministic)
    o, lse = launch.forward(q, k, v, problem)
    do = torch.randn_like(o)

    def forward() -> None:
        launch.forward(q, k, v, problem)

    def backward() -> None:
        launch.backward(do, None, q, k, v, o, lse, problem)

    fused = not deterministic and choice.has(problem, tiles.FUSED)
    runs = {(tiles.FORWARD,): forward, ((tiles.FUSED,) if fused else (tiles.DKDV, tiles.DQ)): backward}
    return {passes: _fastest(problem, passes, run) for passes, run in runs.items()}


def _fastest(problem: Problem, passes: tuple[Pass, ...], run: object) -> Row:
    timed = []
    for row in choice.rows(problem, passes):
        with choice.forced(passes, row):
            timed.append((triton.testing.do_bench(run, quantiles=[0.5]), row))
    _, best = min(timed, key=lambda pair: float(pair[0]))
    choice.choose(problem, passes, best)
    return best


def save(path: Path) -> None:
    """Write this process's choices to `path`, with the machine that they hold for."""
    choices = [{"key": key, "tiles": row} for key, row in choice.chosen.items()]
    path.write_text(json.dumps({"machine": _machine(), "choices": choices}, indent=1) + "\n")


def load(path: Path) -> bool:
    """Take over choices saved on the same GPU with the same Triton; False, and nothing taken, for another."""
    saved = json.loads(path.read_text())
    if saved["machine"] != _machine():
        return False
    for entry in saved["choices"]:
        *fields, passes = entry["key"]
        choice.chosen[*fields, tuple(passes)] = tuple(Tile(*numbers) for numbers in entry["tiles"])
    return True


def _machine() -> dict[str, str]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {"gpu": gpu, "triton": str(triton.__version__)}
