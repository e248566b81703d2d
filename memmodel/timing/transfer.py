"""Rates for any GPU: its own measured ones, and for those that it lacks the rates of the GPUs most like it, scaled.

What holds across GPUs is a share: of the listed bandwidth, of the listed peak of a type, of SMs x clock. Shares of a
peak, cycles and tile sizes of a kernel are its code's, and carry over as they are.
"""

from functools import cache

from memmodel.errors import UsageError
from memmodel.gpus import Gpu, load_gpu
from memmodel.timing.calibration import CONSTANTS, Calibration, Constant, Curve
from memmodel.timing.known import community, shipped_ids
from memmodel.timing.nearest import by_likeness, relation

RELATED = {"architecture": "same architecture", "other": "another architecture"}
_OF_THE_HOST = ("dispatch", "dispatch_backward", "fault", "fault_from", "exp")


def expected_rates(gpu: Gpu, among: tuple[str, ...] | None = None) -> Calibration:
    """The rates to expect of a GPU. `among`: the measured GPUs to take them from, its own included if it is one."""
    measured = by_likeness(gpu, shipped_ids() if among is None else among)
    own = community(gpu.id) if gpu.id in measured else None
    constants = dict(own.constants) if own else {}
    for id_ in measured:
        for name, constant in _transferred(gpu, id_).items():
            constants.setdefault(name, constant)
    if own:
        return own._replace(constants=constants)
    nearest = load_gpu(measured[0])
    name = f"transferred from {nearest.name}, {RELATED[relation(gpu, nearest.id)]}, by shares of the datasheet's rates"
    return Calibration(name, "transferred", {"gpu_id": gpu.id}, constants)


def _transferred(gpu: Gpu, measured: str) -> dict[str, Constant]:
    """The constants of a measured GPU as another has them; none where its datasheet lacks what they are shares of."""
    found = {}
    source, calibration = load_gpu(measured), community(measured)
    for name, constant in (calibration.constants if calibration else {}).items():
        if name in _OF_THE_HOST or measured == gpu.id:
            continue
        ratio = _ratio(name, gpu, source)
        if ratio is not None:
            origin = f"transferred from {source.name}, {RELATED[relation(gpu, measured)]}: {constant.origin}"
            found[name] = Constant(_scaled(constant, ratio), origin)
    return found


def _scaled(constant: Constant, ratio: float) -> float | Curve:
    if isinstance(constant.value, Curve):
        return Curve((size, rate * ratio) for size, rate in constant.value)
    return constant.value * ratio


def _ratio(name: str, gpu: Gpu, source: Gpu) -> float | None:
    """What a rate is multiplied by between two GPUs; None where one of them lacks a value."""
    unit, _ = CONSTANTS[name]
    try:
        if unit == "B/s":
            return gpu.bandwidth / source.bandwidth
        if unit == "FLOP/s" and name.startswith("matmul."):
            kind = name.split(".")[1]
            return gpu.peak_by_name(kind) / source.peak_by_name(kind)
        if unit == "op/s" and not name.startswith("flash"):
            return gpu.sm_count * gpu.boost_clock / (source.sm_count * source.boost_clock)
    except UsageError:
        return None
    return None if unit in ("FLOP/s", "op/s") else 1.0


def relation_of(source: str) -> str:
    """How the rate of a ceiling was found, from its source in words: "measured", or by a relation of transfers."""
    for kind, words in RELATED.items():
        if f", {words}" in source and "transferred from" in source:
            return kind
    return "measured"


@cache
def rates_of(id_: str) -> Calibration:
    """`expected_rates` of a GPU of the database."""
    return expected_rates(load_gpu(id_))
