"""FlashAttention's time: pipes with an overlap factor, exact block counts under masks, waves of programs.

A program visits the blocks that its mask allows. A block takes its longest pipe's time, plus the part of the others
that is not hidden behind it: max + (1 - overlap) (sum - max). Shah et al., "FlashAttention-3" (2024), section 3, count
the same cycles: products on the tensor cores, 16 exponentials a clock and SM, fp32 arithmetic around them.
"""

from collections.abc import Iterator

from memmodel.base.errors import UsageError
from memmodel.events.program import Launch
from memmodel.sizes.dims import ceil_div
from memmodel.timing.ceiling import LAUNCH_SECONDS, Ceiling, KernelTime, at_slowest
from memmodel.timing.machine import Machine, Rate
from memmodel.timing.terms import fp32_rate, traffic

SHARED_BYTES_PER_CLOCK = 128  # of one SM: 32 banks of 4 bytes (CUDA C++ Programming Guide)
GRID = 5  # numbers per grid in a launch's sizes; see `memmodel.events.program.Launch`
_PROLOGUE_TILE = 128 * 128  # elements of the tile that the calibrated prologue is for


def is_flash(launch: Launch) -> bool:
    """Whether a launch is a fused attention kernel: it walks blocks and multiplies matrices."""
    return launch.kind == "fused" and bool(launch.work.matmul) and len(launch.sizes) >= GRID


def constants_of(launch: Launch, machine: Machine) -> str:
    """The prefix of the launch's calibrated constants: forward, backward and decoding have different ones.

    cuDNN's attention has its own, where they are known.
    """
    if launch.name == "flash_decoding":
        return launch.name
    of_cudnn = launch.name.startswith("cudnn") and machine.constant("cudnn.matmul") is not None
    return ("cudnn" if of_cudnn else "flash") + ("_backward" if launch.gradient else "")


def flash_time(launch: Launch, machine: Machine) -> KernelTime:
    """The time of a fused attention kernel from a calibration's constants and the datasheet.

    Raises UsageError without such constants: a time at the peak would be a bound, not an expectation.
    """
    prefix = constants_of(launch, machine)
    if machine.constant(f"{prefix}.matmul") is None and machine.constant(f"{prefix}.flops") is None:
        how = "" if prefix == "flash_decoding" else ": `memmodel calibrate` on such a GPU measures them"
        raise UsageError(f"the calibration has no {prefix}.* constants{how}")
    pipes = [*_pipes(launch, machine, prefix)]
    memory = traffic(launch, machine)
    longest = max(pipe.seconds for pipe in pipes)
    rest = sum(pipe.seconds for pipe in pipes) - longest
    exposed = (1 - machine.number(f"{prefix}.overlap", 1.0)) * rest
    whole = _scheduled(launch, machine, prefix, longest + exposed)
    beyond = max(whole - max(longest, memory.seconds), 0.0)  # seconds that the slowest ceiling does not cover
    exposed = min(exposed, beyond)  # where memory is slowest, it hides what the pipes do not hide of each other
    beside = {"no overlap": exposed, "waves": beyond - exposed, "launch": machine.number("launch", LAUNCH_SECONDS)}
    return at_slowest(launch.name, (*pipes, memory), beside)


def _pipes(launch: Launch, machine: Machine, prefix: str) -> Iterator[Ceiling]:
    """Tensor cores, shared memory, and the exponentials with the arithmetic around them."""
    work, gpu = launch.work, machine.gpu
    products = float(work.matmul)
    kind = machine.matmul_type(launch.dtype)
    measured = machine.calibrated(f"{prefix}.flops")
    if measured is not None:
        yield Ceiling("products", products, *measured)
        yield Ceiling("exponentials", float(work.exp), *(machine.calibrated(f"{prefix}.exp") or measured))
        return
    yield Ceiling("tensor cores", products, *_product_rate(machine, prefix, kind))
    if {"sm_count", "tensor_clock"} <= gpu.values.keys():
        yield shared_memory(launch, machine, prefix)
    softmax = _softmax_rate(launch, machine, prefix)
    if softmax is not None:
        yield Ceiling("exp and fp32 units", float(work.exp), *softmax)


def _product_rate(machine: Machine, prefix: str, kind: str) -> Rate:
    """The kernel's share of the peak, but no more than the GPU's best matrix product: power limits both.

    A kernel with an older instruction has a lower peak (`flop_per_clock`): newer GPUs run mma.sync, but no faster.
    """
    gpu = machine.gpu
    peak = machine.listed(gpu.peak_quantity(kind)).value
    of_instruction = machine.number(f"{prefix}.flop_per_clock", 0.0)
    if of_instruction and {"sm_count", "tensor_clock"} <= gpu.values.keys():
        peak = min(peak, of_instruction * gpu.sm_count * gpu.tensor_clock)
    share = machine.number(f"{prefix}.matmul", 1.0)
    best = machine.calibrated(f"matmul.{kind}")
    if best is not None and best.value < peak * share:
        return best
    return Rate(peak * share, f"{share:.3f} of the peak: {_origin(machine, prefix)}")


def _origin(machine: Machine, prefix: str) -> str:
    found = machine.constant(f"{prefix}.matmul")
    return found.origin if found else ""


def shared_memory(launch: Launch, machine: Machine, prefix: str) -> Ceiling:
    """Operands read from shared memory: each group of `warp_rows` rows reads the other operand whole.

    A product of 2 m n k FLOP reads m / warp_rows times n k elements. mma.sync: a program's four row-warps share its
    rows; wgmma: 64 rows go together (PTX ISA, wgmma.mma_async).
    """
    gpu = machine.gpu
    rows = machine.number(f"{prefix}.warp_rows", 0.0) or float(launch.sizes[3]) / 4
    amount = float(launch.work.matmul) * launch.dtype.itemsize / (2 * rows)
    rate = SHARED_BYTES_PER_CLOCK * gpu.sm_count * gpu.tensor_clock
    return Ceiling("shared memory", amount, rate, "128 B per clock and SM x SMs x tensor clock")


def _softmax_rate(launch: Launch, machine: Machine, prefix: str) -> Rate | None:
    """Exponentials a second, each with its fp32 arithmetic on top, at the tensor clock; None where it is not known."""
    calibrated = machine.calibrated(f"{prefix}.exp")
    if calibrated is not None:
        return calibrated
    values = machine.gpu.values
    if not {"sm_count", "exp_per_clock_per_sm", "tensor_clock", "boost_clock"} <= values.keys():
        return None
    gpu, work = machine.gpu, launch.work
    slower = gpu.tensor_clock / gpu.boost_clock  # both rates are the boost clock's; products lower it
    seconds = float(work.exp) / gpu.exp_rate + float(work.vector) / fp32_rate(machine).value
    return Rate(float(work.exp) / seconds * slower, gpu.source("exp_per_clock_per_sm"))


def _scheduled(launch: Launch, machine: Machine, prefix: str, body: float) -> float:
    """Seconds until the last program ends, for programs of `body` seconds in all on a full machine.

    Programs of equal length run in ceil(programs / SMs) waves. Unequal ones start as SMs become free: their mean load
    per SM, plus part of the longest at the end (all of it if started in order, about half if longest first).
    """
    gpu = machine.gpu
    if not {"sm_count", "tensor_clock"} <= gpu.values.keys():
        return body
    sms = gpu.sm_count
    cycles = machine.number(f"{prefix}.prologue", 0.0)
    grids = [launch.sizes[i : i + GRID] for i in range(0, len(launch.sizes), GRID)]
    blocks = float(sum(grid[1] for grid in grids))
    # `body` is of all SMs together, always busy; here it is dealt out to programs, block by block.
    block = body * sms / blocks if blocks else 0.0  # seconds of one block on one SM
    total = longest = 0.0
    uniform = len(grids) == 1
    for programs, of_all, of_longest, rows, cols in grids:
        prologue = cycles * float(rows * cols) / _PROLOGUE_TILE / gpu.tensor_clock
        total += float(of_all) * block + float(programs) * prologue
        longest = max(longest, float(of_longest) * block + prologue)
        uniform = uniform and of_all == programs * of_longest
    if uniform:
        return float(ceil_div(grids[0][0], sms)) * longest
    return max(longest, total / sms + machine.number(f"{prefix}.tail", 0.5) * longest)
