"""Published memory of models, beside what the model says of the same runs: `python -m memmodel_evidence.models`."""

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from memmodel.allocator import CachingAllocator
from memmodel.allocator.cublas import workspace
from memmodel.base.files import read_toml
from memmodel.events.program import Program
from memmodel.events.replay import replay
from memmodel.gpus import load_gpu
from memmodel.models.catalogue import listed
from memmodel.models.choices import model_case
from memmodel.models.kv_cache import cache_bytes
from memmodel.models.predict import times_of
from memmodel.models.program import kernels_of, program_of
from memmodel.models.quantization import weight_bytes
from memmodel.models.setting import ModelCase
from memmodel.step import STEPS, device_of, room_bytes
from memmodel.timing.transfer import expected_rates
from memmodel_evidence.harnesses import cross_entropy as losses
from memmodel_evidence.harnesses import varied_lengths
from memmodel_evidence.records import DATA

UNITS = {"B": 1, "MiB": 1 << 20, "GiB": 1 << 30}


class Figure(NamedTuple):
    """A published figure, and the model's.

    Attributes:
        source, what: where it was published, and of which run. measured, predicted: bytes.
        within: the per cent that the model promises; None where it promises nothing. note: what else to know.
    """

    source: str
    what: str
    measured: float
    predicted: int
    within: float | None
    note: str

    @property
    def error(self) -> float:
        """Predicted over measured, less one, in per cent."""
        return 100 * (self.predicted / self.measured - 1)

    @property
    def holds(self) -> bool:
        """Whether the figure is as near as promised; true where nothing is."""
        return self.within is None or abs(self.error) <= self.within


@cache
def figures() -> tuple[Figure, ...]:
    """Every published figure that can be judged."""
    return tuple(map(_figure, runs().values()))


@cache
def runs() -> dict[str, dict[str, Any]]:
    """Every published run that can be judged, by its source and name, with what holds for all runs of the source."""
    return {
        f"{source} {run['what']}": {
            **of,
            **run,
            "source": source,
            "setting": {**of.get("setting", {}), **run.get("setting", {})},
        }
        for source, of in read_toml(str(DATA), "models.toml").items()
        for run in of["run"]
    }


def _figure(run: dict[str, Any]) -> Figure:
    measured = float(run["printed"]) * UNITS[run["unit"]]
    predicted = _PREDICTED[run["kind"]](run)
    return Figure(run["source"], run["what"], measured, predicted, run.get("within"), run.get("note", ""))


class Speed(NamedTuple):
    """A published step's seconds, and the model's; `name` of the run, and the id of its GPU."""

    name: str
    gpu: str
    measured: float
    predicted: float

    @property
    def error(self) -> float:
        """Predicted over measured, less one, in per cent."""
        return 100 * (self.predicted / self.measured - 1)


@cache
def speeds() -> tuple[Speed, ...]:
    """Every published run whose tokens a second are printed."""
    return tuple(_speed(name) for name, run in runs().items() if "tokens_a_second" in run)


def _speed(name: str) -> Speed:
    run = runs()[name]
    case, gpu = _case(run), load_gpu(run["gpu"])
    kernels = kernels_of(program_of(case), case.microbatches)
    _, time, missing = times_of(kernels, case, gpu, expected_rates(gpu, case.dtype.itemsize))
    assert time is not None, missing
    measured = int(case.batch) * int(case.seq) / float(run["tokens_a_second"])
    return Speed(name, gpu.id, measured, time.seconds)


def left_out() -> dict[str, str]:
    """Published runs that are not modelled, and why."""
    sources = read_toml(str(DATA), "models.toml")
    return {f"{name}, {run}": why for name, of in sources.items() for run, why in of.get("left_out", {}).items()}


def _program(run: dict[str, Any]) -> Program:
    return program_of(_case(run))


def _case(run: dict[str, Any]) -> ModelCase:
    case = model_case(listed(run["model"]).architecture, torch=run["torch"], **run["setting"])
    return replace(case, device=device_of(load_gpu(run["gpu"])))


def _allocated(run: dict[str, Any]) -> int:
    return _peak(run, _program(run), "allocated_peak", STEPS)


def _reserved(run: dict[str, Any]) -> int:
    """With an empty cache before the step, as after `torch.cuda.empty_cache`."""
    return _peak(run, _program(run), "reserved_peak", 1)


def _reserved_of_run(run: dict[str, Any]) -> int:
    """The most, or with `statistic` the mean, of a run whose lengths vary, with the cache emptied every few steps."""
    return round(float(getattr(_run_of_lengths(run["source"], run["of"]), run["statistic"])))


@cache
def _run_of_lengths(source: str, of: str) -> varied_lengths.Reserved:
    run = runs()[f"{source} {of}"]
    return varied_lengths.reserved(_case(run), workspace(run["torch"], load_gpu(run["gpu"]).compute_capability), 5)


def _peak(run: dict[str, Any], program: Program, statistic: str, steps: int) -> int:
    gpu = load_gpu(run["gpu"])
    found = replay(program, CachingAllocator(room_bytes(gpu)), workspace(run["torch"], gpu.compute_capability), steps)
    return int(max(getattr(usage, statistic) for _, usage in found.phases))


def _kept(run: dict[str, Any]) -> int:
    """Weights, the cache of all tokens, and the workspace of the one thread that multiplies.

    With AutoAWQ's modules, each layer holds the turns of all positions too, in complex numbers of 64 bits
    (awq/modules/fused/attn.py, RoPE).
    """
    arch, quantize = listed(run["model"]).architecture, run.get("quantize", "none")
    if run.get("head_apart"):
        arch = replace(arch, tied=False)  # transformers 4.51 holds the tied head of an fp8 checkpoint twice
    of_cublas = workspace(run["torch"], load_gpu(run["gpu"]).compute_capability).nbytes
    turns = arch.layers * run["seq"] * arch.head_dim // 2 * 8 if run.get("rotary_tables") else 0
    return int(sum(weight_bytes(arch, quantize).values()) + cache_bytes(arch, run["seq"]) + of_cublas + turns)


def _cross_entropy(run: dict[str, Any]) -> int:
    return _peak(run, losses.cross_entropy(run["by"], run["tokens"], run["vocabulary"]), "allocated_peak", 1)


def _fused_cross_entropy(run: dict[str, Any]) -> int:
    return _peak(run, losses.fused_cross_entropy(run["by"], run["tokens"], run["vocabulary"]), "allocated_peak", 1)


_PREDICTED = {
    "allocated": _allocated,
    "reserved": _reserved,
    "reserved_of_run": _reserved_of_run,
    "kept": _kept,
    "cross_entropy": _cross_entropy,
    "fused_cross_entropy": _fused_cross_entropy,
}


def markdown() -> str:
    """The table of docs/model.md: a row a source and kind of promise, with the largest error."""
    lines = [
        "| source | runs | promised within | median error | largest error |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    kinds = dict.fromkeys((figure.source, figure.within) for figure in figures())
    for source, within in kinds:
        errors = sorted(abs(figure.error) for figure in figures() if (figure.source, figure.within) == (source, within))
        promised = "-" if within is None else f"{within:g} %"
        median = errors[len(errors) // 2]
        lines.append(f"| {source} | {len(errors)} | {promised} | {median:.2f} % | {errors[-1]:.2f} % |")
    return "\n".join(lines)


def main() -> int:
    """Print every figure; 1 where a promise does not hold."""
    for figure in figures():
        measured, predicted = figure.measured / UNITS["GiB"], figure.predicted / UNITS["GiB"]
        promised = "" if figure.within is None else f"within {figure.within:g} %"
        numbers = f"{measured:9.3f} {predicted:9.3f} GiB {figure.error:+6.2f} %"
        print(f"{figure.source:10} {figure.what:32} {numbers} {promised}")
        if figure.note:
            print(f"{'':11}{figure.note}")
    for speed in speeds():
        print(f"{speed.name:42} {speed.measured:9.3f} {speed.predicted:9.3f} s   {speed.error:+6.2f} %")
    for run, why in left_out().items():
        print(f"not judged: {run}: {why}")
    return 0 if all(figure.holds for figure in figures()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
