"""The time of kernels and steps: the sum over kernels of the slowest ceiling, or the host's dispatch if it is longer.

T = max(sum of dispatch, sum over kernels of launch + max over ceilings). With a datasheet alone this is a roofline per
kernel and a lower bound, in which a launch is one ceiling more; with a calibration, the full model.
"""

from collections.abc import Iterable

from memmodel.program import Launch
from memmodel.timing.ceiling import LAUNCH_SECONDS, KernelTime
from memmodel.timing.fused import flash_time, is_flash
from memmodel.timing.machine import Machine
from memmodel.timing.terms import (
    arithmetic,
    broadcasts,
    exponentials,
    from_l2,
    in_flight,
    matmul,
    one_by_one,
    one_launch,
    page_faults,
    reads_again,
    traffic,
)


def kernel_time(launch: Launch, machine: Machine) -> KernelTime:
    """A kernel's ceilings on a machine, and the seconds beside them."""
    if machine.calibration is not None and is_flash(launch):
        return flash_time(launch, machine)
    ceilings = (
        traffic(launch, machine),
        *from_l2(launch, machine),
        *in_flight(launch, machine),
        *matmul(launch, machine),
        *arithmetic(launch, machine),
        *exponentials(launch, machine),
        *broadcasts(launch, machine),
        *one_by_one(launch, machine),
        *one_launch(launch, machine),
    )
    if machine.calibration is None:
        return KernelTime(launch.name, ceilings, {})
    beside = {"launch": machine.number("launch", LAUNCH_SECONDS)}
    other = {"page faults": page_faults(launch, machine), "reads from L2": reads_again(launch, machine)}
    beside = {**{name: seconds for name, seconds in other.items() if seconds}, **beside}
    return KernelTime(launch.name, ceilings, beside)


def kernel_times(launches: Iterable[Launch], machine: Machine) -> tuple[KernelTime, ...]:
    """Every kernel's time, in order. Equal launches, as of a model's layers, are computed once."""
    known: dict[Launch, KernelTime] = {}
    return tuple(known.get(launch) or known.setdefault(launch, kernel_time(launch, machine)) for launch in launches)


def step_seconds(phase: str, kernels: tuple[KernelTime, ...], machine: Machine) -> float:
    """A phase's time: its kernels one after the other, or the host's dispatch of them where that takes longer."""
    return max(sum(kernel.seconds for kernel in kernels), len(kernels) * machine.hosts[1].dispatch(phase))


def step_interval(
    phase: str, kernels: tuple[KernelTime, ...], machine: Machine, factors: tuple[float, float]
) -> tuple[float, float]:
    """The ends of a phase's interval: factors of its kernels' time, and a fast and a slow host."""
    seconds = sum(kernel.seconds for kernel in kernels)
    fast, _, slow = machine.hosts
    return (
        max(seconds * factors[0], len(kernels) * fast.dispatch(phase)),
        max(seconds * factors[1], len(kernels) * slow.dispatch(phase)),
    )
