"""The rates of kernels that torch.compile fused. `python -m memmodel_evidence.compiled`.

A compiled call's time less its matrix products and its host's is that of its fused kernels. Their loops over a row bind
where memory is fast: clocks of an SM for an element in forward, bytes of an SM in a clock in backward; GPUs with GDDR,
which memory binds, say nothing of them. For backward before torch 2.8 it is the share of the bandwidth: what they would
take at that of elementwise kernels over what they took. These are of rows whose code was compiled for them; how many
times as long other code takes, for any head dim or in short steps, is by the same table. A table's values are of
medians over its rows from n = 4096 on.
"""

from collections.abc import Iterator
from functools import cache
from statistics import median

from memmodel.timing import Constant, kernel_times
from memmodel.timing.machine import ITS_OWN, CompiledFor, Machine
from memmodel.timing.nearest import is_stacked
from memmodel.timing.terms import FUSED, FUSED_FROM
from memmodel_evidence.fits import FITTED_N
from memmodel_evidence.programs import launches, restatable, restated
from memmodel_evidence.records import everything
from memmodel_evidence.times import Timed, held, machine_as_seen
from memmodel_evidence.unseen import itemsize, judged_as_seen, rates_of_gpu
from memmodel_validate.ledger import Source

_Paces = dict[tuple[str, CompiledFor], list[float]]  # by phase and code


@cache
def tables() -> dict[str, dict[str, float]]:
    """By table, its values of the constants of `terms.FUSED`."""
    paces: dict[str, _Paces] = {}
    machines: dict[str, Machine] = {}
    for timed, source in judged_as_seen(everything()):
        long = timed.run.implementation == "compiled" and timed.run.case["seq"] >= FITTED_N
        if long and restatable(timed.run, source) and list(held(timed.phase, source)) == [timed.phase]:
            machine = machines[source.name] = machine_as_seen(
                timed.run, source, rates_of_gpu(source.gpu_id, source.name, itemsize(timed))
            )
            paces.setdefault(source.name, {}).setdefault((timed.phase, machine.compiled_for), []).append(
                _pace(timed, source, machine)
            )
    return {name: dict(_values(of, machines[name])) for name, of in paces.items()}


def _pace(timed: Timed, source: Source, machine: Machine) -> float:
    """Clocks of an SM that a row's fused kernels took for an element, or in backward for a byte."""
    of_phase = launches(restated(timed.run, source)(), (timed.phase,))
    kernels = kernel_times(of_phase, machine)
    others = sum(kernel.seconds for kernel in kernels if not kernel.name.startswith("fused"))
    waits = machine.hosts[1].launches(timed.phase, len(kernels), compiled=True)[0]
    moved = sum(float(launch.work.hbm_bytes) for launch in of_phase if launch.name.startswith("fused"))
    elements = timed.run.case["batch"] * timed.run.case["seq"] ** 2
    amount = elements if timed.phase == "forward" else moved
    return (timed.seconds - waits - others) * machine.gpu.sm_count * machine.gpu.tensor_clock / amount


def _values(paces: _Paces, machine: Machine) -> Iterator[tuple[str, float]]:
    """A table's constants by the medians of its paces; none of other code where no row had its own."""
    found = {key: median(each) for key, each in paces.items()}
    for (phase, code), pace in found.items():
        forward, own = phase == "forward", found.get((phase, ITS_OWN))
        if own is not None and code.short_rows:
            yield "fused_short" if forward else "fused_short_backward", pace / own
        elif own is not None and forward and code.any_head_dim and is_stacked(machine.gpu):
            yield "fused_any", pace / own
        elif code == ITS_OWN and not forward and machine.torch < FUSED_FROM:
            of_memory = machine.number("bandwidth", machine.gpu.bandwidth) / machine.gpu.sm_count
            yield "fused_before", machine.gpu.tensor_clock / pace / of_memory
        elif code == ITS_OWN and is_stacked(machine.gpu):
            yield ("fused_clocks", pace) if forward else ("fused_bytes", 1 / pace)


def constants_without(*sources: str) -> dict[str, Constant]:
    """The medians over all tables but some."""
    others = [of for name, of in tables().items() if name not in sources]
    found = {constant: [of[constant] for of in others if constant in of] for constant in FUSED}
    return {name: Constant(float(f"{median(of):.2g}"), "other tables") for name, of in found.items() if of}


if __name__ == "__main__":
    for name, of in tables().items():
        print(f"{name:28}", *(f"{constant} {value:.2f}" for constant, value in of.items()))
    print(*(f"{name} {constant.at(0.0)}" for name, constant in constants_without().items()))
