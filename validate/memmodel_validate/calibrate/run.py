"""Calibrate a machine: the measurements, in order, with progress."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from memmodel.base.errors import UsageError, choice
from memmodel.gpus import Gpu
from memmodel.timing import Calibration, Constant, Machine
from memmodel.timing.calibration import CONSTANTS
from memmodel_validate.calibrate import bandwidths, faults, flash_cpu, flash_cuda, machine, overheads, products, tiles
from memmodel_validate.calibrate.clock import Clock, CudaClock, threads
from memmodel_validate.calibrate.samples import faster

DEVICES = ("cpu", "cuda")
MOST_THREADS = 1024
Found = Iterable[tuple[str, Constant]]
Step = tuple[str, Callable[[Mapping[str, Constant]], Found]]  # its name, and a measurement from constants so far
Say = Callable[[str, int, int], None]  # called at the start of a step with its name, number from 0, and their count


def calibrate(
    device: str = "cpu", thread_count: int = 1, even_if_busy: bool = False, say: Say = lambda *_: None
) -> tuple[Gpu, Calibration]:
    """Measure this machine's ceilings, in about a minute. Raises UsageError if it is busy or lacks the device."""
    device = choice("device", device, DEVICES, "cuda is an NVIDIA GPU")
    if not 1 <= thread_count <= MOST_THREADS:
        raise UsageError(f"--threads {thread_count}: expected 1 to {MOST_THREADS}, the threads that PyTorch will use")
    gpu = machine.device_of(device)
    notes = _busy_notes(device, even_if_busy)
    found: dict[str, Constant] = {}
    before = machine.clocks(device)
    with threads(thread_count):
        steps = list(cpu_steps(gpu, notes) if device == "cpu" else cuda_steps(gpu, notes))
        for number, (name, measure) in enumerate(steps):
            say(name, number, len(steps))
            for constant, value in measure(found):
                found[constant] = better(constant, found.get(constant), value)
    about = machine.description(gpu, device, thread_count)
    if before:
        about |= {"clocks_before": before, "clocks_after": machine.clocks(device)}
    return gpu, Calibration(f"{gpu.name}, this machine", "local", about, found, tuple(notes))


def better(name: str, before: Constant | None, now: Constant) -> Constant:
    """A constant measured for the first time, or the better of two measurements.

    Flash attention's constants are fitted together, so that they are measured once.
    """
    return now if before is None or name.startswith("flash") else faster(before, now, CONSTANTS[name][0])


def _busy_notes(device: str, even_if_busy: bool) -> list[str]:
    reason = machine.reason_busy(device)
    if reason and not even_if_busy:
        raise UsageError(f"the machine is busy ({reason}), which would be measured too: wait, or add --even-if-busy")
    return [f"made on a busy machine: {reason}"] if reason else []


def cpu_steps(gpu: Gpu, notes: list[str]) -> Iterator[Step]:
    """Steps on a CPU: each measurement twice, half a minute apart, since other processes disturb single ones."""
    clock = Clock()
    for again in ("", " again"):
        yield f"fresh pages{again}", lambda _: _faults(clock)  # first, while nothing else has filled the heap
        for name, measure in (*_overhead_steps(clock), *_row_steps(clock), *_product_steps(clock, gpu)):
            yield f"{name}{again}", measure
        yield f"exponentials{again}", lambda _: [("exp", bandwidths.measure_exp(clock))]
    yield "flash attention", lambda _: _if_possible(flash_cpu.flash_constants(clock), notes)


def cuda_steps(gpu: Gpu, notes: list[str]) -> Iterator[Step]:
    """Steps on a GPU; products come first, to bring clocks to their sustained rate. `notes` gets kernels' names."""
    clock = CudaClock()
    yield "kernel names", lambda _: _tiles(notes)
    yield from _product_steps(clock, gpu)
    yield from _overhead_steps(clock)
    yield from _row_steps(clock)
    yield "flash attention", lambda known: _if_possible(flash_cuda.flash_constants(gpu, clock, known), notes)


def _overhead_steps(clock: Clock) -> Iterator[Step]:
    yield (
        "operations",
        lambda _: [
            ("launch", overheads.launch(clock)),
            ("dispatch", overheads.dispatch(clock.device)),
            ("dispatch_backward", overheads.dispatch_backward(clock.device)),
        ],
    )


def _row_steps(clock: Clock) -> Iterator[Step]:
    for kind in bandwidths.KINDS:
        if clock.device in kind.devices.split():

            def measure(known: Mapping[str, Constant], kind: bandwidths.Kind = kind) -> Found:
                return [(kind.name, bandwidths.measure_curve(kind, clock, known["launch"].at(0.0)))]

            yield kind.name.replace("_", " "), measure


def _product_steps(clock: Clock, gpu: Gpu) -> Iterator[Step]:
    for kind in products.TYPES[clock.device]:

        def measure(known: Mapping[str, Constant], kind: str = kind) -> Found:
            on = Machine(gpu, Calibration("so far", "local", {}, dict(known)))
            yield f"matmul.{kind}", products.square(kind, clock, on)
            yield f"matmul.{kind}.scores", products.scores(kind, clock, on)
            yield f"matmul.{kind}.values", products.values(kind, clock, on)

        yield f"products in {kind}", measure


def _faults(clock: Clock) -> Found:
    size = faults.fault_from()
    if size is not None:
        yield "fault_from", size
        yield "fault", faults.fault_rate(clock)


def _if_possible(found: Found, notes: list[str]) -> Found:
    """Flash attention's constants; a note where they cannot be had, as the others are of use without them."""
    try:
        return list(found)
    except (UsageError, ImportError) as reason:
        notes.append(f"no constants of flash attention: {reason}")
        return []


def _tiles(notes: list[str]) -> Found:
    for kind in products.TYPES["cuda"]:
        kernel = tiles.product_kernel(kind)
        notes.append(f"products in {kind}: {kernel}")
        tile = tiles.tile_of(kernel)
        if tile is not None:
            for side, size in zip(("rows", "cols"), tile, strict=True):
                yield f"tile.{kind}.{side}", Constant(float(size), "the kernel's name")
