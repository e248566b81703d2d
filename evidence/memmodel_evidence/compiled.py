"""The bandwidth of compiled kernels, as a share of eager elementwise ones. `python -m memmodel_evidence.compiled`.

A compiled call's time less its matrix products and its host's is that of its fused kernel; the share is what that
kernel would take at the elementwise bandwidth over what it took. A table's share is the median over its rows from
n = 4096 on.
"""

from functools import cache
from statistics import median

from memmodel.timing import kernel_times
from memmodel.timing.terms import FUSED
from memmodel_evidence.fits import FITTED_N
from memmodel_evidence.programs import launches, restatable, restated
from memmodel_evidence.records import everything
from memmodel_evidence.times import machine_as_seen
from memmodel_evidence.unseen import itemsize, judged_as_seen, rates_of_gpu


@cache
def tables() -> dict[str, dict[bool, float]]:
    """The share by table, in forward (False) and in backward (True)."""
    found: dict[str, dict[bool, list[float]]] = {}
    for timed, source in judged_as_seen(everything()):
        if (
            timed.run.implementation != "compiled"
            or timed.run.case["seq"] < FITTED_N
            or not restatable(timed.run, source)
        ):
            continue
        machine = machine_as_seen(source, rates_of_gpu(source.gpu_id, source.name, itemsize(timed)))
        kernels = kernel_times(launches(restated(timed.run, source)(), (timed.phase,)), machine)
        fused = sum(kernel.binding.seconds for kernel in kernels if kernel.name.startswith("fused"))
        waits = machine.hosts[1].launches(timed.phase, len(kernels), compiled=True)[0]
        left = timed.seconds - waits - sum(kernel.seconds for kernel in kernels) + fused
        if fused and left > 0:
            gradient = timed.phase == "backward"
            found.setdefault(source.name, {}).setdefault(gradient, []).append(fused / left * FUSED[gradient])
    return {name: {gradient: median(each) for gradient, each in shares.items()} for name, shares in found.items()}


def shares_without(*sources: str) -> dict[bool, float]:
    """The medians over all tables but some."""
    found = {
        gradient: [t[gradient] for name, t in tables().items() if name not in sources and gradient in t]
        for gradient in FUSED
    }
    return {gradient: float(f"{median(each):.2g}") for gradient, each in found.items()}


if __name__ == "__main__":
    for name, shares in tables().items():
        print(f"{name:28}", *(f"{'backward' if back else 'forward'} {share:.2f}" for back, share in shares.items()))
    print(shares_without())
