"""The constants of this project's Triton kernels on a GPU, fitted to their times without a mask."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import log
from statistics import median

from memmodel.attention.case import Case, make_case
from memmodel.cases import on_gpu
from memmodel.events.program import Launch
from memmodel.gpus import Gpu
from memmodel.recorder import record
from memmodel.timing import Calibration, Constant, Machine, kernel_times
from memmodel_validate.calibrate.clock import Clock

HEAD_DIMS = (64, 128)
LENGTHS = (1024, 2048, 4096, 8192)
TOKENS, HIDDEN = 16384, 2048  # batch x queries, heads x head dim: as in the FlashAttention papers
Timed = tuple[tuple[Launch, ...], float]  # the kernels of a phase, and their seconds together
# Constant -> the start of its search, its first step, and its bounds.
SEARCH: dict[str, tuple[float, float, float, float]] = {
    "matmul": (0.7, 0.1, 0.05, 1.0),
    "overlap": (0.5, 0.25, 0.0, 1.0),
    "prologue": (1000.0, 1000.0, 0.0, 50000.0),
}


def flash_constants(gpu: Gpu, clock: Clock, known: Mapping[str, Constant]) -> Iterator[tuple[str, Constant]]:
    """flash.* and flash_backward.*: matmul, overlap and prologue; the backward hides nothing."""
    timed = [_timed(case, clock) for case in on_gpu(list(cases()), gpu)]
    for index, (phase, prefix, held) in enumerate(
        (("forward", "flash", {}), ("backward", "flash_backward", {"overlap": 0.0}))
    ):
        rows = [phases[index] for phases in timed]
        origin = f"Triton flash {phase}, bf16, head dims 64 and 128, no mask, n {LENGTHS[0]} to {LENGTHS[-1]}"
        for name, value in fit(rows, gpu, prefix, known, held).items():
            yield f"{prefix}.{name}", Constant(value, "taken as 0" if name in held else origin)


def cases() -> Iterator[Case]:
    """The timed cases: the same number of tokens and width of the model at each head dim and length."""
    for d in HEAD_DIMS:
        for n in LENGTHS:
            yield make_case("flash", batch=TOKENS // n, heads=HIDDEN // d, seq=n, head_dim=d, dtype_name="bf16")


def fit(
    rows: Sequence[Timed], gpu: Gpu, prefix: str, known: Mapping[str, Constant], held: Mapping[str, float]
) -> dict[str, float]:
    """The constants that bring the model closest to measured times: least squares of the logarithm of their ratio."""
    free = {name: start for name, (start, *_) in SEARCH.items() if name not in held}

    def error(values: Mapping[str, float]) -> float:
        machine = _machine(gpu, prefix, known, {**values, **held})
        return sum(log(predicted(launches, machine) / seconds) ** 2 for launches, seconds in rows)

    return {**compass(error, free), **held}


def predicted(launches: Sequence[Launch], machine: Machine) -> float:
    """Seconds of some kernels one after the other."""
    return sum(time.seconds for time in kernel_times(launches, machine))


def compass(error: Callable[[Mapping[str, float]], float], start: Mapping[str, float]) -> dict[str, float]:
    """The minimum of `error` within the bounds of SEARCH by compass search: a step each way, halved where none helps.

    (Kolda, Lewis and Torczon, "Optimization by direct search", 2003.) Needs no gradient, which max() has not.
    """
    best, least = dict(start), error(start)
    steps = {name: SEARCH[name][1] for name in start}
    for _ in range(200):
        tries = [
            {**best, name: min(max(best[name] + sign * step, SEARCH[name][2]), SEARCH[name][3])}
            for name, step in steps.items()
            for sign in (1, -1)
        ]
        errors = [error(values) for values in tries]
        if min(errors) < least:
            least = min(errors)
            best = tries[errors.index(least)]
        elif all(step < SEARCH[name][1] * 1e-3 for name, step in steps.items()):
            break
        else:
            steps = {name: step / 2 for name, step in steps.items()}
    return best


def _machine(gpu: Gpu, prefix: str, known: Mapping[str, Constant], values: Mapping[str, float]) -> Machine:
    tried = {f"{prefix}.{name}": Constant(value, "tried") for name, value in values.items()}
    return Machine(gpu, Calibration("fit", "local", {}, {**known, **tried}))


def _timed(case: Case, clock: Clock) -> tuple[Timed, Timed]:
    """Forward and backward of a case: what the model records, and seconds."""
    import torch

    from memmodel_kernels import flash_attention

    shape = tuple(int(size) for size in (case.batch, case.heads, case.seq, case.head_dim))
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    upstream = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        forward = clock.samples(lambda: flash_attention(q, k, v, deterministic=False), 0.3)
    out = flash_attention(q, k, v, deterministic=False)
    backward = clock.samples(lambda: torch.autograd.grad(out, (q, k, v), upstream, retain_graph=True), 0.5)
    phases = record(case).phases()
    kernels = [tuple(e for e in phases[name] if isinstance(e, Launch)) for name in ("forward", "backward")]
    return (kernels[0], median(forward)), (kernels[1], median(backward))
