"""Our own runs on record, judged by today's model: what `memmodel validate` wrote, here or on another machine."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from memmodel.timing import Calibration
from memmodel.timing.known import local, read_calibration
from memmodel_validate.expected import expected, target
from memmodel_validate.ledger import Run, Source
from memmodel_validate.records import DATA
from memmodel_validate.suite import TIME_PROGRAMS, Trial, case_of
from memmodel_validate.verdict import Verdict, judge


def is_own(source: Source) -> bool:
    """Whether a source is a validation of this package."""
    return source.name.startswith("validate-") and "warm_up" in source.protocol


def machine_name(source: Source) -> str:
    """The GPU, or the processor of a run without one."""
    return source.environment["cpu"] if source.gpu_id == "cpu" else source.gpu


def calibration_of(source: Source) -> Calibration | None:
    """The calibration that was recorded with the runs, else this machine's of that GPU; None where there is none."""
    shipped = DATA / "calibrations" / f"{source.name}.json"
    return read_calibration(shipped) if shipped.exists() else local(source.gpu_id)


def verdicts(runs: list[Run], source: Source) -> Iterator[tuple[Verdict, Mapping[str, float]]]:
    """The verdict on each run that came to an end, and the seconds of a plain roofline by quantity."""
    calibration = calibration_of(source)
    of, plain = (target(source.environment, c) for c in (calibration, _peaks(calibration, source)))
    for run in runs:
        if "failed" not in run.detail:
            trial = _trial(run, source)
            yield judge(trial, run, expected(trial, of)), expected(trial, plain).times or {}


def _peaks(calibration: Calibration | None, source: Source) -> Calibration | None:
    """What a plain roofline knows: a GPU's datasheet; of a processor its square products and largest transfers."""
    if calibration is None or source.gpu_id != "cpu":
        return None
    constants = {n: c for n, c in calibration.constants.items() if n.startswith("matmul.") and n.count(".") == 1}
    bandwidth, products = calibration.constants.get("bandwidth"), constants.get("matmul.fp32")
    if bandwidth is not None:
        constants["bandwidth"] = replace(bandwidth, value=bandwidth.at(math.inf))
    if products is not None:
        constants |= {"flash.flops": products, "flash_backward.flops": products}
    return replace(calibration, constants=constants)


def _trial(run: Run, source: Source) -> Trial:
    """What was run; a search for the longest sequence has a capacity in the place of a sequence."""
    cap = run.case.get("capacity")
    sizes = {"seq": 64, "kv_seq": 64, **run.case}
    case = case_of(sizes, TIME_PROGRAMS.get(run.implementation, "naive"), source.environment["torch"])
    return Trial(str(run.detail.get("name", run.implementation)), run.implementation, case, cap)
