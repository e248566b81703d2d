"""Rates for any GPU: its own measured ones, and for those that it lacks the rates of the GPUs most like it, scaled.

What holds across GPUs is a share: of the bandwidth in reach, of the listed peak of a type, of SMs x clock. Shares of a
peak, cycles and tile sizes of a kernel are its code's, and carry over as they are. Under a power limit the clock falls,
and with it every rate that is not the memory's; lower bounds stay, as short kernels run before the limit acts.

Constants that were fitted to the same rows stand together, and come from one GPU: those of a fused attention kernel, of
thin or of wide products of a type with their tiles, and of elementwise kernels, sums and softmax in fp32 or in 16 bits.
A GPU measured in one of the two types takes the other's from the nearest GPU that has them.
"""

import math
from functools import cache

from memmodel.base.errors import UsageError
from memmodel.gpus import Gpu, load_gpu
from memmodel.timing.calibration import CONSTANTS, Calibration, Constant, Curve
from memmodel.timing.known import community, shipped_ids
from memmodel.timing.nearest import by_likeness, relation
from memmodel.timing.terms import loads_in_flight

RELATED = {"architecture": "same architecture", "other": "another architecture"}
SHARES = ", by shares of the datasheet's rates"
_BY_TYPE = {2: ("matmul.bf16.values", "matmul.fp16.values"), 4: ("matmul.fp32.values", "matmul.tf32.values")}
_ELEMENTWISE = "elementwise"
_FUSED = ("flash", "cudnn")  # how the names of constants of fused attention begin
# Rates of a processor, which no GPU's datasheet scales.
_OF_THE_HOST = ("dispatch", "dispatch_backward", "fault", "fault_from", "exp")


def expected_rates(gpu: Gpu, itemsize: int = 2) -> Calibration:
    """The rates to expect of a GPU, for programs whose elements have `itemsize` bytes."""
    return completed_rates(gpu, community(gpu.id), tuple(shipped_ids()), itemsize)


def completed_rates(gpu: Gpu, own: Calibration | None, others: tuple[str, ...], itemsize: int) -> Calibration:
    """A GPU's own rates, and of `others`, measured GPUs, those that it lacks."""
    measured = [id_ for id_ in by_likeness(gpu, others) if id_ != gpu.id]
    found: list[tuple[dict[str, Constant], str]] = [] if own is None else [(dict(own.constants), gpu.id)]
    found += [(_transferred(gpu, id_), id_) for id_ in measured]
    # Elementwise kernels, sums and softmax are those of the nearest GPU that was measured in this type.
    base, source = next((one for one in found if _measured_in(one[0], itemsize)), found[0])
    constants = {name: constant for name, constant in base.items() if _group(name) == _ELEMENTWISE}
    # A flash kernel is the nearest GPU's, other groups the base's if it has them; what was measured of the GPU itself
    # comes before both.
    measured_here = found[:1] if own is not None else []
    for flash, ordered in ((True, found), (False, [(base, source), *found])):
        for more, _ in (*measured_here, *ordered):
            known = {_group(name) for name in constants}
            of_kind = (name for name in more if name.startswith(_FUSED) == flash and _group(name) not in known)
            constants |= {name: more[name] for name in of_kind}
    if own is not None:
        return own._replace(constants=constants)
    nearest = load_gpu(source)
    name = f"transferred from {nearest.name}, {RELATED[relation(gpu, source)]}{SHARES}"
    return Calibration(name, "transferred", {"gpu_id": gpu.id}, constants)


def _group(name: str) -> str:
    """The constants that stand together with one: they were fitted to the same rows, and come from the same GPU."""
    part, _, rest = name.partition(".")
    if part.startswith(_FUSED):
        return part
    if part in ("matmul", "tile"):
        kind, _, thin = rest.partition(".")
        return kind if not thin else f"{kind} wide" if thin == "wide" else f"{kind} thin"
    return _ELEMENTWISE


def _measured_in(constants: dict[str, Constant], itemsize: int) -> bool:
    return any(name in constants for name in _BY_TYPE.get(itemsize, _BY_TYPE[4]))


def _transferred(gpu: Gpu, measured: str) -> dict[str, Constant]:
    """The constants of a measured GPU as another has them; none where its datasheet lacks what they are shares of."""
    found = {}
    source, calibration = load_gpu(measured), community(measured)
    origin = f"transferred from {source.name}, {RELATED[relation(gpu, measured)]}"
    for name, constant in (calibration.constants if calibration else {}).items():
        value = None if name in _OF_THE_HOST else scaled(name, constant, source, gpu)
        if value is not None:
            found[name] = Constant(value, f"{origin}: {constant.origin}")
    return found


def scaled(name: str, constant: Constant, source: Gpu, gpu: Gpu) -> float | Curve | None:
    """A constant of one GPU as another has it; None where a datasheet lacks what it is a share of.

    No memory is faster than its listed bandwidth.
    """
    ratio = _ratio(name, gpu, source)
    if ratio is None:
        return None
    most = gpu.bandwidth if CONSTANTS[name][0] == "B/s" else math.inf
    if isinstance(constant.value, Curve):
        return Curve((size, min(rate * ratio, most)) for size, rate in constant.value)
    return min(constant.value * ratio, most)


def _ratio(name: str, gpu: Gpu, source: Gpu) -> float | None:
    """The factor of a rate between two GPUs; None where one of them lacks a value."""
    unit, _ = CONSTANTS[name]
    clocks = gpu.sustained / source.sustained
    if name.startswith(_FUSED) and name.endswith(".matmul"):  # a share of the peak, which is at the full clock
        return clocks
    try:
        if unit == "B/s":
            return _in_reach(gpu) / _in_reach(source)
        if unit == "FLOP/s" and name.startswith("matmul."):
            kind = name.split(".")[1]
            return clocks * gpu.peak_by_name(kind) / source.peak_by_name(kind)
        if unit == "op/s" and not name.startswith(_FUSED):
            return clocks * gpu.sm_count * gpu.boost_clock / (source.sm_count * source.boost_clock)
    except UsageError:
        return None
    return None if unit in ("FLOP/s", "op/s") else 1.0


def _in_reach(gpu: Gpu) -> float:
    """Bytes a second that kernels can ask for: of memory's listed bandwidth and the SMs' loads in flight, the less.

    Near where the two are equal both count, as the root of their squares' sum: of 1, 2, 3, 4 and the longer alone, the
    exponent with which fp32 tables of one GPU agree best with the rates of others.
    """
    if "sm_count" not in gpu.values:
        return gpu.bandwidth
    return 1 / math.hypot(1 / gpu.bandwidth, 1 / loads_in_flight(gpu))


@cache  # kernels by the thousand have few sources
def relation_of(source: str) -> str:
    """How the rate of a ceiling was found, from its source in words: "measured", or by a relation of transfers."""
    for kind, words in RELATED.items():
        if f", {words}" in source and "transferred from" in source:
            return kind
    return "measured"
