"""`memmodel validate`."""

import os
import sys
from typing import Any

from memmodel.base.errors import UsageError, choice
from memmodel.cli.commands import NUMBER, SIZE, option, subcommand
from memmodel.cli.options import json_option
from memmodel.cli.output import print_json, show

_MOST_THREADS = 1024
_DEVICES, _SUITES = ("cpu", "cuda"), ("quick", "full", "parallel")


@subcommand(
    "validate",
    "memmodel validate",
    "memmodel validate --suite full --ledger runs.jsonl",
    "memmodel validate --device cpu --case naive-512 --case chunked-512 --json",
    "memmodel validate --suite parallel --case fsdp-2",
)
@option(
    "--device",
    metavar="DEVICE",
    names="memmodel.cli.validate:_DEVICES",
    help="cpu or cuda. [default: cuda where torch can use a GPU, else cpu]",
)
@option(
    "--suite",
    default="quick",
    show_default=True,
    metavar="SUITE",
    names="memmodel.cli.validate:_SUITES",
    help="quick (a minute or two), full, or parallel: real ranks.",
)
@option("--case", "names", multiple=True, metavar="NAME", help="Only this case, of either suite; repeatable.")
@option("--list", "listed", is_flag=True, help="Print the names of the suite's cases, and run nothing.")
@option(
    "--ledger",
    metavar="FILE",
    help="Where records go, and are taken from when the run is resumed. [default: runs.jsonl in $MEMMODEL_HOME, or in "
    "memmodel/ of the system's place for application data]",
)
@option("--again", is_flag=True, help="Run cases again that are on record for this environment and protocol.")
@option("--calibration", metavar="FILE", help="Rates to predict times by. [default: those of this machine]")
@option("--threads", type=SIZE, help="Threads of PyTorch on a CPU. [default: the calibration's, else 1]")
@option("--timeout", type=NUMBER, default="300", show_default=True, help="Seconds for one case.")
@json_option
def command(
    device: str | None,
    suite: str,
    names: tuple[str, ...],
    listed: bool,
    ledger: str | None,
    again: bool,
    calibration: str | None,
    threads: int | None,
    timeout: float,
    as_json: bool,
) -> int:
    """Run attention for real, and compare with what was predicted.

    Each case runs in its own process, and its record is appended to the ledger as soon as it is finished, so that the
    same command resumes an interrupted run. Memory must agree to the byte, and allocator events in order, for every
    implementation whose program is recorded; exit status 1 means that one did not, or could not be checked.

    torch.compile (modelled for CUDA alone), the allocator's blocks and the search for the longest sequence need a GPU.
    """
    from memmodel.timing.known import home, read_calibration
    from memmodel_validate import validation
    from memmodel_validate.document import document

    device = None if device is None else choice("device", device, _DEVICES)
    if suite == "parallel":
        _check(timeout, threads)
        return _of_ranks(device, names, listed, timeout, as_json)
    if listed:
        return _list(device, suite)
    _check(timeout, threads)
    rates = None if calibration is None else read_calibration(calibration)
    kept = os.path.join(home(), "runs.jsonl") if ledger is None else ledger
    plan = validation.plan(device, suite, names, kept, rates, timeout, again, threads)
    found = _executed(plan)
    if found is None:
        return 130
    if as_json:
        print_json(document(found))
    else:
        from memmodel.report.validation import validation_tables

        show(validation_tables(document(found)))
    return 0 if found.kept else 1


def _executed(plan: Any) -> Any:
    """The finished run; None if it was interrupted, with a message that says how to resume."""
    import signal

    from memmodel.report.validation import Display
    from memmodel_validate.validation import execute

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ended as by Ctrl-C, which stops the worker too
    display = Display(len(plan.trials))
    try:
        with display:
            return execute(plan, display)
    except KeyboardInterrupt:
        sys.stderr.write(
            f"memmodel: interrupted after {display.finished} of {len(plan.trials)} cases, which are in {plan.ledger}; "
            "the same command goes on from there\n"
        )
        return None


def _of_ranks(device: str | None, names: tuple[str, ...], listed: bool, timeout: float, as_json: bool) -> int:
    """Run ranks for real, and compare each with its trace."""
    from memmodel_validate.ranks.cases import rank_cases

    cases = rank_cases(names)
    if listed:
        for case in cases:
            print(case.name)
        return 0
    if sys.platform != "linux":
        raise UsageError("--suite parallel runs on Linux, where the order of threads can be set")
    os.environ["MEMMODEL_DEVICE"] = device or "cpu"
    from memmodel.report.validation import rank_results
    from memmodel_validate.environment import check_torch

    check_torch()
    from memmodel_validate.ranks.comparison import RanksFailedError, compare

    found, failed = [], []
    for case in cases:
        sys.stderr.write(f"{case.name}\n")
        try:
            found += compare(case, timeout)
        except RanksFailedError as error:
            failed.append(str(error))
    if as_json:
        print_json({"ranks": [{**each._asdict(), "equal": each.equal} for each in found], "failed": failed})
    else:
        show(rank_results(found))
        for why in failed:
            print(f"failed: {why}")
    return 0 if not failed and all(each.equal for each in found) else 1


def _list(device: str | None, suite: str) -> int:
    from memmodel_validate.environment import default_device
    from memmodel_validate.suite import trials

    for trial in trials(device or default_device(), suite):
        print(trial.name)
    return 0


def _check(timeout: float, threads: int | None) -> None:
    """Raise UsageError for a timeout or number of threads out of range."""
    if not 0 < timeout < float("inf"):
        raise UsageError(f"timeout {timeout:g}: expected seconds above 0, such as 300")
    if threads is not None and not 1 <= threads <= _MOST_THREADS:
        raise UsageError(f"threads {threads}: expected a whole number from 1 to {_MOST_THREADS}")
