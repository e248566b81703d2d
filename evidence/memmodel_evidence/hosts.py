"""The hosts of the scripts on record, from their shortest calls. `python -m memmodel_evidence.hosts` prints them.

At n = 256 kernels are shorter than their launches, so that a call takes its host's time: of its operations and of its
start (`memmodel.timing.host.START`) or, compiled, of the whole call. A script's is the median over its rows.
"""

from collections.abc import Iterator
from functools import cache
from statistics import median

import numpy as np

from memmodel.timing.host import NO_HOST, START, USUAL, Host, Hosts, host_of
from memmodel_evidence.fits import dispatches
from memmodel_evidence.programs import HARNESS, launches, restated
from memmodel_evidence.records import everything
from memmodel_evidence.times import times
from memmodel_validate.ledger import Run, Source

_SLOW = 0.95  # quantile over scripts


@cache
def scripts() -> dict[str, dict[str, float]]:
    """Seconds of the host by source, and by field of `Host`."""
    rows: dict[str, dict[str, list[float]]] = {}
    ledger = everything()
    for run in ledger.runs:
        source = ledger.sources[run.source]
        if dispatches(run) and source.protocol.get("attention", HARNESS) != HARNESS and source.gpu_id != "cpu":
            for field, seconds in _of_run(run, source):
                rows.setdefault(run.source, {}).setdefault(field, []).append(seconds)
    return {name: {field: median(each) for field, each in fields.items()} for name, fields in rows.items()}


def _of_run(run: Run, source: Source) -> Iterator[tuple[str, float]]:
    apart = source.protocol.get("backward_time") == "backward"
    for timed in times(run):
        if timed.phase == "forward" or (timed.phase == "backward" and apart):
            if run.implementation == "compiled":
                yield f"compiled_{timed.phase}", timed.seconds
            else:
                count = len(launches(restated(run, source)(), (timed.phase,)))
                yield timed.phase, timed.seconds / (count + START[timed.phase])


@cache
def hosts_without(source: str = "") -> Hosts:
    """The fastest, the usual and the slowest host by all scripts but one."""
    usual, slow = {}, {}
    for field in Host._fields:
        found = [fields[field] for name, fields in scripts().items() if name != source and field in fields]
        usual[field], slow[field] = nearest(found), float(np.quantile(found, _SLOW))
    return NO_HOST, _rounded(usual), _rounded(slow)


def nearest(found: list[float]) -> float:
    """The number whose mean relative error, |number / value - 1|, is least: the median with weights 1 / value.

    Too long by a factor is a larger error than too short by it.
    """
    values = np.sort(found)
    weights = np.cumsum(1 / values)
    return float(values[np.searchsorted(weights, weights[-1] / 2)])


@cache
def host_of_script(source: str) -> Host | None:
    """A script's own host; None where none of its rows at n = 256 tells."""
    own = scripts().get(source, {})
    return host_of(own.get("forward", USUAL.forward))._replace(**own) if own else None


def _rounded(fields: dict[str, float]) -> Host:
    return Host(**{field: float(f"{seconds:.2g}") for field, seconds in fields.items()})


if __name__ == "__main__":
    for name, fields in scripts().items():
        print(f"{name:28}", *(f"{field} {seconds * 1e6:.1f} us" for field, seconds in fields.items()))
    print(*hosts_without(), sep="\n")
