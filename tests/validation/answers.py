"""A worker that answers without torch: what the model predicts, as if it had been measured."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from memmodel_validate.environment import CPU_PROTOCOL, CUDA_PROTOCOL, source
from memmodel_validate.events import packed
from memmodel_validate.predictions import predict_trial, target
from memmodel_validate.suite import GRID, Trial, case_of, trials
from memmodel_validate.validation import Plan

CPU = {"gpu": "none", "gpu_id": "cpu", "compute_capability": "", "torch": "2.13.0", "triton": "", "driver": "",
       "cpu": "a processor", "threads": "2", "python": "3.11.7"}  # fmt: skip
H100 = {**CPU, "gpu": "NVIDIA H100 80GB HBM3", "gpu_id": "h100-sxm", "compute_capability": "9.0"}
Job = dict[str, Any]
Answer = Callable[[Job, float], Job]


def plan(path: Path, *names: str, environment: dict[str, str] | None = None, suite: str = "quick") -> Plan:
    """A plan for a machine that is not there."""
    here = environment or CPU
    device = "cpu" if here["gpu_id"] == "cpu" else "cuda"
    protocol = CPU_PROTOCOL if device == "cpu" else CUDA_PROTOCOL
    of = target(here, None, None if device == "cpu" else 80 << 30)
    return Plan(tuple(trials(device, suite, names)), of, source(here, protocol), str(path), 10.0)


def as_predicted(of: Plan) -> Answer:
    """Answers equal to the model's."""

    def answer(job: Job, timeout: float) -> Job:
        trial = Trial(job["name"], job["implementation"], case_of(job["case"], job["algorithm"]))
        if job["do"] == "fit":
            longest = predict_trial(replace(trial, cap=job["cap"]), of.target).boundary
            assert longest is not None
            return {"runs": trial.case.seq <= longest[0], "grid": GRID}
        model = predict_trial(trial, of.target)
        measured: Job = {name: ["B", [nbytes]] for name, nbytes in model.memory.items()}
        phases = ("forward", "backward") if trial.case.phase == "train" else ("forward",)
        measured |= {f"{phase}_time": ["s", [0.002, 0.001, 0.003, 0.002]] for phase in phases}
        if of.target.device == "cuda":
            measured["context"] = ["B", [500 << 20]]
        return {"measured": measured, "events": packed(model.events or ())}

    return answer


class Watched:
    """Remembers how trials ended."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, str]] = []

    def begins(self, trial: Trial, number: int, of: int) -> None:
        """A trial begins."""

    def ends(self, trial: Trial, how: str) -> None:
        """A trial ended."""
        self.ended.append((trial.name, how))
