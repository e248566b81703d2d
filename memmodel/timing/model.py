"""The time of kernels and steps: each kernel's slowest ceiling and launch, one after another behind the host.

With a datasheet alone there is no host, and the sum over kernels is a roofline per kernel and a lower bound, in which a
launch is one ceiling more; with a calibration it is the full model.
"""

import math
from collections.abc import Iterable, Sequence

from memmodel.events.program import Launch
from memmodel.timing.ceiling import LAUNCH_SECONDS, KernelTime, at_slowest
from memmodel.timing.fused import flash_time, is_flash
from memmodel.timing.machine import Machine
from memmodel.timing.terms import (
    arithmetic,
    broadcasts,
    exponentials,
    from_l2,
    in_flight,
    loops,
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
        *loops(launch, machine),
        *one_launch(launch, machine),
    )
    if machine.calibration is None:
        return at_slowest(launch.name, ceilings, {})
    beside = {"launch": machine.number("launch", LAUNCH_SECONDS)}
    other = {"page faults": page_faults(launch, machine), "reads from L2": reads_again(launch, machine)}
    beside = {**{name: seconds for name, seconds in other.items() if seconds}, **beside}
    return at_slowest(launch.name, ceilings, beside)


def kernel_times(
    launches: Iterable[Launch], machine: Machine, known: dict[Launch, KernelTime] | None = None
) -> tuple[KernelTime, ...]:
    """Every kernel's time, in order. Equal launches, as of a model's layers, are computed once.

    `known`: those of the machine so far, which the new ones are added to.
    """
    known, listed = {} if known is None else known, list(launches)
    # By id first: layers that are alike share their launches, which take longer to compare.
    times = {
        number: known.get(launch) or known.setdefault(launch, kernel_time(launch, machine))
        for number, launch in {id(launch): launch for launch in listed}.items()
    }
    return tuple([times[id(launch)] for launch in listed])


def step_seconds(phase: str, kernels: tuple[KernelTime, ...], machine: Machine, compiled: bool = False) -> float:
    """A phase's time: until its last kernel ends, behind the usual host."""
    return queued(kernels, machine.hosts[1].launches(phase, len(kernels), compiled))


def queued(kernels: Sequence[KernelTime], launches: Sequence[float], factor: float = 1.0) -> float:
    """When the last kernel ends: each starts at its launch, or when the one before has ended.

    `launches` are seconds from the start; `factor` multiplies the kernels' own seconds.
    """
    end = 0.0
    for kernel, launch in zip(kernels, launches, strict=True):
        end = (end if end > launch else launch) + factor * kernel.seconds  # `max` takes longer: there are many kernels
    return end


def step_interval(
    phase: str,
    kernels: tuple[KernelTime, ...],
    machine: Machine,
    factor: float,
    compiled: bool = False,
) -> tuple[float, float]:
    """The ends of a phase's interval: its kernels' time over and times a factor (at least 1), a fast and a slow host.

    The kernels' and the host's deviations are taken as independent: together they are the root of their squares' sum.
    """
    fast, usual, slow = (host.launches(phase, len(kernels), compiled) for host in machine.hosts)
    expected = queued(kernels, usual)
    # The kernels' deviation behind the usual host, and the host's with the usual kernels.
    ends = [
        math.hypot(queued(kernels, usual, scale) - expected, queued(kernels, host) - expected)
        for host, scale in ((fast, 1 / factor), (slow, factor))
    ]
    return expected - ends[0], expected + ends[1]
