"""The rates of kernels that torch.compile fused. `python -m memmodel_evidence.compiled`.

A compiled call's time less its matrix products and its host's is that of its fused kernels. Their loops over a row bind
where memory is fast: clocks of an SM for an element in forward, bytes of an SM in a clock in backward; GPUs with GDDR,
which memory binds, say nothing of them. For backward before torch 2.8 it is the share of the bandwidth: what they would
take at that of elementwise kernels over what they took. A table's values are medians over its rows from n = 4096 on.
"""

from collections.abc import Iterator
from functools import cache
from statistics import median

from memmodel.timing import Constant, kernel_times
from memmodel.timing.nearest import is_stacked
from memmodel.timing.terms import FUSED, FUSED_FROM
from memmodel_evidence.fits import FITTED_N
from memmodel_evidence.programs import launches, restatable, restated
from memmodel_evidence.records import everything
from memmodel_evidence.times import Timed, machine_as_seen
from memmodel_evidence.unseen import itemsize, judged_as_seen, rates_of_gpu
from memmodel_validate.ledger import Source


@cache
def tables() -> dict[str, dict[str, float]]:
    """By table, its values of the constants of `terms.FUSED`."""
    found: dict[str, dict[str, list[float]]] = {}
    for timed, source in judged_as_seen(everything()):
        long = timed.run.implementation == "compiled" and timed.run.case["seq"] >= FITTED_N
        if long and restatable(timed.run, source):
            for name, value in _of_run(timed, source):
                found.setdefault(source.name, {}).setdefault(name, []).append(value)
    return {name: {constant: median(each) for constant, each in of.items()} for name, of in found.items()}


def _of_run(timed: Timed, source: Source) -> Iterator[tuple[str, float]]:
    machine = machine_as_seen(source, rates_of_gpu(source.gpu_id, source.name, itemsize(timed)))
    kernels = kernel_times(launches(restated(timed.run, source)(), (timed.phase,)), machine)
    fused = [kernel for kernel in kernels if kernel.name.startswith("fused")]
    expected = sum(kernel.binding.seconds for kernel in fused)
    waits = machine.hosts[1].launches(timed.phase, len(kernels), compiled=True)[0]
    took = timed.seconds - waits - (sum(kernel.seconds for kernel in kernels) - expected)
    if took <= 0 or not fused:
        return
    forward = timed.phase == "forward"
    before = not forward and machine.torch < FUSED_FROM
    name = "fused_clocks" if forward else "fused_before" if before else "fused_bytes"
    if before:
        at_default = sum(c.seconds for kernel in fused for c in kernel.ceilings if c.name == "HBM")
        yield name, FUSED[name] * at_default / took
    elif is_stacked(machine.gpu):
        at_default = sum(c.seconds for kernel in fused for c in kernel.ceilings if c.name == "loops over rows")
        yield name, FUSED[name] * (took / at_default if forward else at_default / took)


def constants_without(*sources: str) -> dict[str, Constant]:
    """The medians over all tables but some."""
    others = [of for name, of in tables().items() if name not in sources]
    found = {constant: [of[constant] for of in others if constant in of] for constant in FUSED}
    return {name: Constant(float(f"{median(of):.2g}"), "other tables") for name, of in found.items() if of}


if __name__ == "__main__":
    for name, of in tables().items():
        print(f"{name:28}", *(f"{constant} {value:.2f}" for constant, value in of.items()))
    print(*(f"{name} {constant.at(0.0)}" for name, constant in constants_without().items()))
