"""The terms of the time model: each a function from what a kernel does to the ceiling that it meets.

Amounts are bytes, FLOP or operations; rates the same per second. With a datasheet alone a term is the roofline's; a
calibration replaces its rate by a measured one, by size where a curve was measured.
"""

from collections.abc import Iterator, Sequence

from memmodel.dims import Dim
from memmodel.program import Launch
from memmodel.timing.ceiling import Ceiling
from memmodel.timing.machine import Machine, Rate
from memmodel.timing.products import narrow_tiles, padded, quantised, shape_class, tile_menu

IN_FLIGHT_PER_SM = 2048 * 16  # bytes: every thread of an SM waits for one 16-byte load
LATENCY_SECONDS = 0.8e-6  # of HBM under load: 0.8 to 1 us on an H20 (assumption)
_BANDWIDTH = {  # the constants in which a kind of kernel's bandwidth is looked up, its own first
    "elementwise": ("bandwidth",),
    "broadcast": ("bandwidth",),
    # On a CPU these three go element by element, slower than memory by far; elsewhere they move bytes like any kernel.
    "masked_fill": ("masked_fill", "bandwidth"),
    "triangle": ("triangle", "bandwidth"),
    "bernoulli": ("bernoulli", "bandwidth"),
    "reduction": ("reduction", "bandwidth"),
    "argmax": ("argmax", "reduction", "bandwidth"),
    "softmax": ("softmax", "bandwidth"),
    "softmax_backward": ("softmax_backward", "softmax", "bandwidth"),
    "gemm": ("bandwidth",),
    "fused": ("bandwidth",),
}


def bandwidths(launch: Launch) -> tuple[str, ...]:
    """The constants that a launch's bandwidth is looked up in, its own first."""
    return _BANDWIDTH[launch.kind]


def traffic(launch: Launch, machine: Machine) -> Ceiling:
    """HBM traffic at the bandwidth of its kind of kernel and its size.

    Bandwidth is a curve: kernels on few bytes do not fill the memory system (Hockney's t0 + s / bandwidth). Reductions
    have one of their own; softmax moves what its passes move.
    """
    moved = float(launch.work.hbm_bytes)
    if launch.kind == "softmax" or launch.kind == "softmax_backward":
        moved *= softmax_passes(launch, machine)
    for name in bandwidths(launch):
        rate = machine.calibrated(name, moved)
        if rate is not None:
            return Ceiling("HBM", moved, *rate)
    return Ceiling("HBM", moved, *machine.listed("bandwidth"))


def in_flight(launch: Launch, machine: Machine) -> Iterator[Ceiling]:
    """Little's law: SMs x bytes in flight on one / latency bounds the bandwidth of kernels that load by thread.

    Few SMs with fast memory (H20: 78 SMs, 4 TB/s) do not reach it. A measured bandwidth has this in it already.
    """
    by_thread = launch.kind not in ("gemm", "fused")
    if by_thread and machine.constant("bandwidth") is None and "sm_count" in machine.gpu.values:
        rate = machine.gpu.sm_count * IN_FLIGHT_PER_SM / LATENCY_SECONDS
        source = f"SMs x {IN_FLIGHT_PER_SM} B in flight / {LATENCY_SECONDS:g} s of latency"
        yield Ceiling("loads in flight", float(launch.work.hbm_bytes), rate, source)


SOFTMAX_ROW_BYTES = 48 * 1024  # static shared memory of a block: rows up to this stay on chip
SOFTMAX_WARP_ELEMENTS = 1024  # rows up to this are one warp's, in registers


def softmax_passes(launch: Launch, machine: Machine) -> float:
    """How often softmax moves its scores, against once in and once out.

    aten/src/ATen/native/cuda/SoftMax.cu: a row of at most 1024 elements stays in registers, one that fits the 48 KiB of
    static shared memory stays there (cunn_SoftMaxForwardSmem); a longer one is read three times. The second and third
    read hit L2 while the rows being worked on fit it. Backward reads twice what it sums over, in long rows.
    """
    once, again = _softmax_reads(launch)
    return 1.0 + again / once * _missed(float(launch.sizes[1]) * launch.dtype.itemsize, machine) if again else 1.0


def _softmax_reads(launch: Launch) -> tuple[float, float]:
    """Elements that softmax moves once, and those that it reads again, for each of its result."""
    forward, length = launch.kind == "softmax", launch.sizes[1]
    on_chip = length <= SOFTMAX_WARP_ELEMENTS or (forward and length * launch.dtype.itemsize < SOFTMAX_ROW_BYTES)
    return (2.0 if forward else 3.0), (0.0 if on_chip else 2.0 if forward else 1.0)


def reads_again(launch: Launch, machine: Machine) -> float:
    """Seconds in which softmax reads again what L2 holds: a block's second pass begins when its first has ended.

    At L2's listed bandwidth; where none is listed, none. Backward reads again at any length above a warp's, so that its
    rate has it in it.
    """
    if launch.kind != "softmax" or machine.calibration is None or "l2_bandwidth" not in machine.gpu.values:
        return 0.0
    once, again = _softmax_reads(launch)
    return again / once * float(launch.work.hbm_bytes) / machine.gpu.value("l2_bandwidth")


def _missed(row_bytes: float, machine: Machine) -> float:
    """The share of re-reads that miss L2: two blocks of each SM hold a row each; between 0.7 and 1.4 of L2 it rises."""
    values = machine.gpu.values
    if "l2" not in values or "sm_count" not in values:
        return 0.0
    working = machine.gpu.sm_count * 2 * row_bytes * 2
    return min(1.0, max(0.0, (working / machine.gpu.l2_bytes - 0.7) / 0.7))


def matmul(launch: Launch, machine: Machine) -> Iterator[Ceiling]:
    """Matrix products, by type and shape class; on a GPU in whole tiles and waves."""
    if not launch.work.matmul:
        return
    kind = machine.matmul_type(launch.dtype)
    quantity = machine.gpu.peak_quantity(kind)
    name = "tensor cores" if quantity.startswith("tensor") else "fp32 units"
    amount = float(launch.work.matmul)
    if launch.kind == "gemm":
        amount *= tiles_and_waves(launch.sizes, kind, machine)
    yield Ceiling(name, amount, *(_matmul_rate(launch, machine, kind) or machine.listed(quantity)))


def _matmul_rate(launch: Launch, machine: Machine, kind: str) -> Rate | None:
    """The calibrated rate: of its shape class by its thin size, or that of large square matrices."""
    if launch.kind == "gemm":
        name, thin = shape_class(launch.sizes)
        found = machine.calibrated(f"matmul.{kind}.{name}", float(thin))
        if found is not None:
            return found
    return machine.calibrated(f"matmul.{kind}")


def tiles_and_waves(sizes: Sequence[Dim], kind: str, machine: Machine) -> float:
    """How much more a product computes than it must, on a calibrated GPU; 1 where its SMs are not known.

    `sizes` are batch, rows, columns and inner size. A calibrated tile is that of large results, or of narrow ones; of
    the latter the edge counts on any GPU.
    """
    rows, cols, width = (int(machine.number(f"tile.{kind}.{side}", 0)) for side in ("rows", "cols", "thin"))
    name, thin = shape_class(sizes)
    if machine.calibration is None or "sm_count" not in machine.gpu.values:
        return padded(thin, width) if width and name == "values" else 1.0
    known = {"scores": rows and cols and ((rows, cols),), "values": width and narrow_tiles(width)}[name]
    return quantised(sizes, machine.gpu.sm_count, known or tile_menu(kind))


def arithmetic(launch: Launch, machine: Machine) -> Iterator[Ceiling]:
    """Elementwise arithmetic on the fp32 units; left out of what a calibrated bandwidth already holds."""
    if launch.work.vector and machine.calibration is None:
        yield Ceiling("fp32 units", float(launch.work.vector), *machine.listed("vector.fp32"))


def exponentials(launch: Launch, machine: Machine) -> Iterator[Ceiling]:
    """Exponentials on the special-function units: SMs x results per clock x clock.

    The bandwidth of a calibrated softmax has its exponentials in it already.
    """
    if not launch.work.exp or (launch.kind == "softmax" and machine.constant("softmax") is not None):
        return
    rate = machine.calibrated("exp")
    if rate is None and exp_known(machine):
        rate = Rate(machine.gpu.exp_rate, machine.gpu.source("exp_per_clock_per_sm"))
    if rate is not None:
        yield Ceiling("exp units", float(launch.work.exp), *rate)


def exp_known(machine: Machine) -> bool:
    """Whether the GPU's data give a rate of exponentials."""
    return {"boost_clock", "exp_per_clock_per_sm", "sm_count"} <= machine.gpu.values.keys()


def page_faults(launch: Launch, machine: Machine) -> float:
    """Seconds for first writes to fresh pages: on a CPU, large results come from the system page by page.

    glibc gives allocations above its mmap threshold (32 MiB at most) back on free, so each is mapped anew (mallopt(3),
    M_MMAP_THRESHOLD). The rate is of the faults alone: the writes themselves are in the kernel's traffic. A launch that
    writes in place finds its pages mapped.
    """
    rate = machine.calibrated("fault")
    written = float(launch.work.written)
    if rate is None or written < machine.number("fault_from", 0.0) or launch.in_place:
        return 0.0
    return written / rate.value


def broadcasts(launch: Launch, machine: Machine) -> Iterator[Ceiling]:
    """Elements of a kernel that spreads an operand over others: it works out addresses for each, one element a time.

    aten/src/ATen/native/cuda/CUDALoops.cuh: operands that are not all contiguous take the unvectorised loop. In 16 bits
    that, not the memory, is its limit. No datasheet lists the rate: without a calibration there is no such ceiling.
    """
    spreads = launch.kind in ("broadcast", "masked_fill") and bool(launch.sizes)
    rate = machine.calibrated("broadcast") if spreads else None
    if rate is not None:
        yield Ceiling("broadcast loops", float(launch.sizes[0]), *rate)


REGISTER_ROWS = range(2049, 9 * 1024 + 1)  # elements; a block has 1024 threads, and 9 registers of each


def one_by_one(launch: Launch, machine: Machine) -> Iterator[Ceiling]:
    """Elements of a softmax whose threads load one each, where the scores' row fits the registers of a block.

    aten/src/ATen/native/cuda/SoftMax.cu, cunn_SoftMaxForwardReg, since torch 2.7 (pytorch/pytorch#144679); kernels for
    longer rows load vectors. It is taken to be as fast as the loops of `broadcasts`, which go one by one too.
    """
    if launch.kind != "softmax" or launch.sizes[1] not in REGISTER_ROWS or machine.torch < (2, 7):
        return
    rate = machine.calibrated("broadcast")
    if rate is not None:
        yield Ceiling("softmax by element", float(launch.sizes[0] * launch.sizes[1]), *rate)


def fp32_rate(machine: Machine) -> Rate:
    """Single fp32 operations a second: half of the listed peak, which counts a multiply-add as two."""
    value, source = machine.listed(machine.gpu.peak_quantity("fp32", "vector"))
    return Rate(value / 2, source)
