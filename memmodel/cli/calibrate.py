"""`memmodel calibrate`."""

import importlib
import sys
from typing import Any

from memmodel.base.errors import UsageError
from memmodel.cli.commands import SIZE, option, subcommand
from memmodel.cli.options import json_option
from memmodel.cli.output import check_free, force_option, print_json, show


@subcommand(
    "calibrate",
    "memmodel calibrate",
    "memmodel calibrate --device cpu --threads 4 -o cpu.json",
    "memmodel predict --gpu local --seq 16384   # uses it",
)
@option("--device", default=None, metavar="cpu|cuda", help="What to measure. [default: cuda where there is one]")
@option("-o", "--out", metavar="FILE", help="Where to save. [default: where --gpu local looks]")
@force_option
@option("--threads", type=SIZE, default="1", show_default=True, help="Threads of PyTorch, on a CPU.")
@option("--even-if-busy", is_flag=True, help="Measure beside other work; the file says so.")
@json_option
def command(device: str | None, out: str | None, force: bool, threads: int, even_if_busy: bool, as_json: bool) -> None:
    """Measure this machine's rates in about a minute, for expected times."""
    run, store = _harness("run"), _harness("store")
    from memmodel.report.calibration import progress, result
    from memmodel.timing.known import local_path

    if out is not None:
        check_free(out, force)
        store.check_writable(out)
    with progress(sys.stderr) as say:
        gpu, calibration = run.calibrate(device or _default_device(), threads, even_if_busy, say)
    path = out or local_path(gpu.id)
    store.save(calibration, path)
    if as_json:
        print_json(calibration.to_dict())
    else:
        show(result(calibration, gpu, path))


def _harness(name: str) -> Any:
    """A module of `memmodel_validate.calibrate`. Raises UsageError if torch, which it needs, is not installed."""
    try:
        return importlib.import_module(f"memmodel_validate.calibrate.{name}")
    except ModuleNotFoundError as missing:
        if missing.name not in ("torch", "psutil"):
            raise
        raise UsageError(
            f"measuring needs {missing.name}, which is not installed: pip install 'memmodel[torch]'"
        ) from None


def _default_device() -> str:
    return "cuda" if importlib.import_module("torch").cuda.is_available() else "cpu"
