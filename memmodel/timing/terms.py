"""The terms of the time model: each a function from a launch to the ceiling that it meets.

Amounts are bytes, FLOP or operations; rates the same per second. A datasheet gives the roofline's rate; a calibration
replaces it by a measured one, at the launch's size where a curve was measured.

With a datasheet alone the time is a lower bound, so that amounts are those that no kernel can do without
(`Launch.least`): a tile's padding, passes over a row again and bytes that L2 may hold count only in an expected time.
"""

from collections.abc import Iterator, Sequence

from memmodel.events.program import Launch
from memmodel.gpus import Gpu
from memmodel.sizes.dims import Dim
from memmodel.timing.ceiling import LAUNCH_SECONDS, Ceiling
from memmodel.timing.machine import Machine, Rate
from memmodel.timing.products import WIDEST_HEAD, narrow_tiles, padded, quantised, shape_class, tile_menu

IN_FLIGHT_PER_SM = 2048 * 16  # bytes: every thread of an SM waits for one 16-byte load
LATENCY_SECONDS = 0.8e-6  # of HBM under load: 0.8 to 1 us on an H20 (assumption)
_BANDWIDTH = {  # kind of kernel -> the constants of its bandwidth; the first that is calibrated counts
    "elementwise": ("bandwidth",),
    "broadcast": ("bandwidth",),
    # CPU kernels of these three handle one element at a time, far slower than memory; GPUs' are bound by it.
    "masked_fill": ("masked_fill", "bandwidth"),
    "triangle": ("triangle", "bandwidth"),
    "bernoulli": ("bernoulli", "bandwidth"),
    "reduction": ("reduction", "bandwidth"),
    "argmax": ("argmax", "reduction", "bandwidth"),
    "softmax": ("softmax", "bandwidth"),
    "softmax_backward": ("softmax_backward", "softmax", "bandwidth"),
    "gemm": ("bandwidth",),
    "fused": ("bandwidth",),
    "collective": ("bandwidth",),
}


def bandwidths(launch: Launch) -> tuple[str, ...]:
    """The constants of a launch's bandwidth, in order of preference."""
    return _BANDWIDTH[launch.kind]


def traffic(launch: Launch, machine: Machine) -> Ceiling:
    """HBM traffic at the bandwidth for this kind of kernel and number of bytes.

    Bandwidth is a curve, since kernels on few bytes do not fill the memory system (Hockney's t0 + s / bandwidth).
    Softmax's traffic includes the passes that miss L2.
    """
    if machine.calibration is None:
        return Ceiling("HBM", beyond_l2(launch, machine), *machine.listed("bandwidth"))
    moved = float(launch.work.hbm_bytes)
    if launch.kind == "softmax" or launch.kind == "softmax_backward":
        moved *= softmax_passes(launch, machine)
    for name in bandwidths(launch):
        rate = machine.calibrated(name, moved)
        if rate is not None:
            return Ceiling("HBM", moved, rate.value * _share(launch, machine), rate.source)
    return Ceiling("HBM", moved, *machine.listed("bandwidth"))


# Softmax and what the compiler fused with it. Medians over 9 recorded tables (`memmodel_evidence.compiled`): of torch
# 2.5 and 2.6, and of 2.10 and 2.11, to which the versions between are taken to belong. Loops over a row, for its
# maximum with an index, its sum and its result, take longer than memory where this is fast. The first three are of code
# compiled for the call's own sizes, the others how many times as long it takes else (`machine.CompiledFor`).
FUSED = {
    **{"fused_before": 0.72, "fused_clocks": 1.1, "fused_bytes": 17.0},
    **{"fused_any": 1.2, "fused_short": 1.5, "fused_short_backward": 1.2},
}
FUSED_FROM = (2, 8)
# Elements of a row in one step of its loops, as torch/_inductor/runtime/triton_heuristics.py lays them out: as many as
# the row has at the length that the code was compiled at, at most 1024 or 2048.
LONG_STEP = 1024
_ROW_SUMS = 0.72  # share of the bandwidth of flash attention's sums of dO * O, with which its constants were fitted


def _share(launch: Launch, machine: Machine) -> float:
    """The share of the bandwidth of elementwise kernels that a kernel over rows reaches; others have none."""
    if _fused_softmax(launch):
        share = 1.0 if machine.torch >= FUSED_FROM else _fused("fused_before", machine)
        return share / _short_steps(launch, machine)
    return _ROW_SUMS if launch.kind == "fused" and launch.sizes and not launch.work.matmul else 1.0


def loops(launch: Launch, machine: Machine) -> Iterator[Ceiling]:
    """A fused softmax's loops over a row, through which an SM works at a rate of its own.

    In forward so many clocks an element; in backward so many bytes a clock since torch 2.8, before which it has a share
    of the bandwidth instead (`_share`). No bound, so not with a datasheet alone: another version may need fewer.
    """
    known = machine.calibration is not None and {"sm_count", "tensor_clock"} <= machine.gpu.values.keys()
    if not (known and _fused_softmax(launch)) or (launch.gradient and machine.torch < FUSED_FROM):
        return
    name = "fused_bytes" if launch.gradient else "fused_clocks"
    value, found = _fused(name, machine), machine.constant(name)
    origin, clocks = found.origin if found else "9 recorded tables", machine.gpu.sm_count * machine.gpu.tensor_clock
    clocks /= _short_steps(launch, machine)
    if launch.gradient:
        source = f"{value:g} bytes a clock of an SM: {origin}"
        yield Ceiling("loops over rows", float(launch.work.hbm_bytes), clocks * value, source)
    else:
        programs, _, _, rows, columns = launch.sizes
        code = machine.compiled_for
        value *= _fused("fused_any", machine) if code.any_head_dim and not code.short_rows else 1.0
        source = f"{value:g} clocks of an SM an element: {origin}"
        yield Ceiling("loops over rows", float(programs * rows * columns), clocks / value, source)


def _short_steps(launch: Launch, machine: Machine) -> float:
    """How many times as long a fused softmax takes that loops over its rows in the short steps of other lengths."""
    if not machine.compiled_for.short_rows:
        return 1.0
    return _fused("fused_short_backward" if launch.gradient else "fused_short", machine)


def _fused(name: str, machine: Machine) -> float:
    return machine.number(name, FUSED[name])


def _fused_softmax(launch: Launch) -> bool:
    return launch.name == "fused softmax"


def beyond_l2(launch: Launch, machine: Machine) -> float:
    """Bytes that must cross HBM's bus even if L2 holds what it can: all but one L2 of them.

    A line that stays in L2 from one kernel to the next one that touches it saves one crossing, a read or a write, and
    at most an L2 of lines stay. In place it saves both. A step that repeats meets its own lines again, as the runs of
    benchmarks do. Without a known L2 all bytes cross.
    """
    kept = machine.gpu.l2_bytes if "l2" in machine.gpu.values else 0
    return max(float(launch.least.hbm_bytes) - kept * (2 if launch.in_place else 1), 0.0)


L2_BYTES_PER_CLOCK = 64  # that an SM gets from L2: Nsight Compute, l1tex__m_xbar2l1tex_read_bytes at its peak


def from_l2(launch: Launch, machine: Machine) -> Iterator[Ceiling]:
    """The bytes read, or written if more, over the SMs' ports to L2: the limit of kernels whose data L2 holds."""
    if machine.calibration is None and {"boost_clock", "sm_count"} <= machine.gpu.values.keys():
        rate = machine.gpu.sm_count * L2_BYTES_PER_CLOCK * machine.gpu.boost_clock
        amount = max(float(launch.least.read), float(launch.least.written))
        yield Ceiling("L2", amount, rate, f"{L2_BYTES_PER_CLOCK} B per clock and SM x SMs x boost clock")


def in_flight(launch: Launch, machine: Machine) -> Iterator[Ceiling]:
    """Little's law: SMs x bytes in flight on one / latency bounds the bandwidth of kernels that load by thread.

    Few SMs with fast memory (H20: 78 SMs, 4 TB/s) do not reach its peak. A measured bandwidth includes this limit.
    """
    by_thread = launch.kind not in ("gemm", "fused")
    if by_thread and machine.constant("bandwidth") is None and "sm_count" in machine.gpu.values:
        source = f"SMs x {IN_FLIGHT_PER_SM} B in flight / {LATENCY_SECONDS:g} s of latency"
        yield Ceiling("loads in flight", beyond_l2(launch, machine), loads_in_flight(machine.gpu), source)


def loads_in_flight(gpu: Gpu) -> float:
    """Bytes a second that the SMs' loads deliver, as many as can be in flight at once."""
    return gpu.sm_count * IN_FLIGHT_PER_SM / LATENCY_SECONDS


SOFTMAX_ROW_BYTES = 48 * 1024  # static shared memory of a block: shorter rows stay on chip
SOFTMAX_WARP_ELEMENTS = 1024  # rows up to this are one warp's, in registers


def softmax_passes(launch: Launch, machine: Machine) -> float:
    """The traffic of softmax, in multiples of one read and one write of its scores.

    aten/src/ATen/native/cuda/SoftMax.cu: a row of at most 1024 elements stays in registers, one that fits the 48 KiB of
    static shared memory stays there (cunn_SoftMaxForwardSmem); a longer one is read three times. The second and third
    read hit L2 as long as the rows in work fit there. Backward reads the operands of its sum twice, in long rows.
    """
    once, again = _softmax_reads(launch)
    return 1.0 + again / once * _missed(float(launch.sizes[1]) * launch.dtype.itemsize, machine) if again else 1.0


def _softmax_reads(launch: Launch) -> tuple[float, float]:
    """Elements moved once and elements read again, per element of softmax's result."""
    forward, length = launch.kind == "softmax", launch.sizes[1]
    on_chip = length <= SOFTMAX_WARP_ELEMENTS or (forward and length * launch.dtype.itemsize < SOFTMAX_ROW_BYTES)
    return (2.0 if forward else 3.0), (0.0 if on_chip else 2.0 if forward else 1.0)


def reads_again(launch: Launch, machine: Machine) -> float:
    """Seconds of softmax's re-reads from L2, at its listed bandwidth (0 without one).

    They do not overlap: a block's second pass begins when its first has ended. Backward has none here, as its
    calibrated rate includes them: it re-reads rows of every length above a warp's.
    """
    if launch.kind != "softmax" or machine.calibration is None or "l2_bandwidth" not in machine.gpu.values:
        return 0.0
    once, again = _softmax_reads(launch)
    return again / once * float(launch.work.hbm_bytes) / machine.gpu.value("l2_bandwidth")


def _missed(row_bytes: float, machine: Machine) -> float:
    """The share of re-reads that miss L2: it rises from 0 to 1 as two rows per SM grow from 0.7 to 1.4 of L2."""
    values = machine.gpu.values
    if "l2" not in values or "sm_count" not in values:
        return 0.0
    working = machine.gpu.sm_count * 2 * row_bytes * 2
    return min(1.0, max(0.0, (working / machine.gpu.l2_bytes - 0.7) / 0.7))


def matmul(launch: Launch, machine: Machine) -> Iterator[Ceiling]:
    """Matrix products, at the rate of their dtype and shape class, in whole tiles and waves on a GPU."""
    if not launch.least.matmul:
        return
    kind = machine.matmul_type(launch.dtype)
    quantity = machine.gpu.peak_quantity(kind)
    name = "tensor cores" if quantity.startswith("tensor") else "fp32 units"
    amount = float(launch.least.matmul)
    if launch.kind == "gemm":
        amount *= tiles_and_waves(launch.sizes, kind, machine)
    yield Ceiling(name, amount, *(_matmul_rate(launch, machine, kind) or machine.listed(quantity)))


def _matmul_rate(launch: Launch, machine: Machine, kind: str) -> Rate | None:
    """The calibrated rate for the shape class and thin size, or else for large square matrices.

    Rates of thin products are of attention: they say nothing of those that are wider than any head.
    """
    if launch.kind != "gemm":
        return machine.calibrated(f"matmul.{kind}")
    name, thin = shape_class(launch.sizes)
    of_thin = machine.calibrated(f"matmul.{kind}.{name}", float(thin))
    of_wide = machine.calibrated(f"matmul.{kind}.wide") or machine.calibrated(f"matmul.{kind}")
    return (of_wide or of_thin) if thin > WIDEST_HEAD else (of_thin or of_wide)


def tiles_and_waves(sizes: Sequence[Dim], kind: str, machine: Machine) -> float:
    """The factor (at least 1) of work that tiles and waves add on a calibrated GPU; 1 if its SM count is not known.

    `sizes` are batch, rows, columns and inner size. Without the number of SMs, only the edge of a narrow result's
    calibrated tile counts.
    """
    rows, cols, width = (int(machine.number(f"tile.{kind}.{side}", 0)) for side in ("rows", "cols", "thin"))
    name, thin = shape_class(sizes)
    if machine.calibration is None or "sm_count" not in machine.gpu.values:
        return padded(thin, width) if width and name == "values" else 1.0
    known = {"scores": rows and cols and ((rows, cols),), "values": width and narrow_tiles(width)}[name]
    return quantised(sizes, machine.gpu.sm_count, known or tile_menu(kind))


def arithmetic(launch: Launch, machine: Machine) -> Iterator[Ceiling]:
    """Elementwise arithmetic on the fp32 units; none with a calibration, whose bandwidths include it."""
    if launch.least.vector and machine.calibration is None:
        yield Ceiling("fp32 units", float(launch.least.vector), *machine.listed("vector.fp32"))


def exponentials(launch: Launch, machine: Machine) -> Iterator[Ceiling]:
    """Exponentials on the special-function units: SMs x results per clock x clock.

    A calibrated softmax has none: its bandwidth includes them.
    """
    if not launch.least.exp or (launch.kind == "softmax" and machine.constant("softmax") is not None):
        return
    rate = machine.calibrated("exp")
    if rate is None and exp_known(machine):
        rate = Rate(machine.gpu.exp_rate, machine.gpu.source("exp_per_clock_per_sm"))
    if rate is not None:
        yield Ceiling("exp units", float(launch.least.exp), *rate)


def exp_known(machine: Machine) -> bool:
    """Whether the datasheet gives a rate of exponentials."""
    return {"boost_clock", "exp_per_clock_per_sm", "sm_count"} <= machine.gpu.values.keys()


def one_launch(launch: Launch, machine: Machine) -> Iterator[Ceiling]:
    """The shortest time from the start of a kernel to that of the next, which other limits hide (not calibrated)."""
    if machine.calibration is None:
        yield Ceiling("launch", 1.0, 1 / LAUNCH_SECONDS, f"{LAUNCH_SECONDS:g} s a kernel, assumed")


def page_faults(launch: Launch, machine: Machine) -> float:
    """Seconds of page faults, when a CPU kernel first writes to a large result.

    glibc returns allocations above its mmap threshold (32 MiB at most) to the system when they are freed, so that each
    is mapped anew (mallopt(3), M_MMAP_THRESHOLD). The rate counts the faults alone: the writes are in the kernel's
    traffic. The pages of an in-place launch are mapped already.
    """
    rate = machine.calibrated("fault")
    written = float(launch.work.written)
    if rate is None or written < machine.number("fault_from", 0.0) or launch.in_place:
        return 0.0
    return written / rate.value


def broadcasts(launch: Launch, machine: Machine) -> Iterator[Ceiling]:
    """Elements of a kernel that broadcasts an operand: it computes an address for each, one element at a time.

    aten/src/ATen/native/cuda/CUDALoops.cuh: operands that are not all contiguous take the unvectorised loop. In
    16-bit types this, not memory, is its limit. No datasheet lists the rate: without a calibration there is no ceiling.
    """
    spreads = launch.kind in ("broadcast", "masked_fill") and bool(launch.sizes)
    rate = machine.calibrated("broadcast") if spreads else None
    if rate is not None:
        yield Ceiling("broadcast loops", float(launch.sizes[0]), *rate)


REGISTER_ROWS = range(2049, 9 * 1024 + 1)  # elements: a block has 1024 threads, each with 9 registers for the row


def one_by_one(launch: Launch, machine: Machine) -> Iterator[Ceiling]:
    """Elements of a softmax that loads them one at a time, for rows that fit the registers of a block.

    aten/src/ATen/native/cuda/SoftMax.cu, cunn_SoftMaxForwardReg, since torch 2.7 (pytorch/pytorch#144679); kernels for
    longer rows load vectors. Its rate is assumed to be that of `broadcasts`, which also handle one element at a time.
    """
    if launch.kind != "softmax" or launch.sizes[1] not in REGISTER_ROWS or machine.torch < (2, 7):
        return
    rate = machine.calibrated("broadcast")
    if rate is not None:
        yield Ceiling("softmax by element", float(launch.sizes[0] * launch.sizes[1]), *rate)


def fp32_rate(machine: Machine) -> Rate:
    """fp32 instructions a second: half of the listed peak, which counts a multiply-add as two operations."""
    value, source = machine.listed(machine.gpu.peak_quantity("fp32", "vector"))
    return Rate(value / 2, source)
