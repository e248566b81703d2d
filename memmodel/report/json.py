"""The JSON form of a report. Its keys are documented in docs/json.md and stable; sizes are bytes, times seconds."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from memmodel.account import TensorRecord
from memmodel.case import SIZES, Case
from memmodel.dtypes import short_name
from memmodel.gpus import Gpu
from memmodel.prediction import Memory, Prediction, Report, Time
from memmodel.work import Work

if TYPE_CHECKING:
    from memmodel.thresholds import Threshold

SCHEMA = 1


def report_dict(report: Report) -> dict[str, Any]:
    """The whole report."""
    return {
        "schema": SCHEMA,
        "gpu": gpu_dict(report.gpu),
        "predictions": [prediction_dict(p) for p in report.predictions],
        "mitigations": [asdict(m) for m in report.mitigations],
        "assumptions": list(report.assumptions),
    }


def gpu_dict(gpu: Gpu) -> dict[str, Any]:
    """A GPU's identity."""
    capability = gpu.compute_capability
    return {
        "id": gpu.id,
        "name": gpu.name,
        "compute_capability": None if capability is None else "{}.{}".format(*capability),
        "taken_as": gpu.ambiguity,
    }


def case_dict(case: Case) -> dict[str, Any]:
    """The configuration: sizes, dtype, mask, phase."""
    return {
        **{size: int(getattr(case, size)) for size in SIZES},
        "dtype": short_name(case.dtype),
        "mask": case.mask.name,
        "window": case.mask.window,
        "dropout": case.dropout,
        "phase": case.phase,
        "chunk": case.chunk,
        "torch": case.torch,
    }


def work_dict(work: Work) -> dict[str, int]:
    """FLOP and operations by kind, and bytes to and from memory, of one step."""
    return {
        "flops": int(work.flops),
        "matmul_flops": int(work.matmul),
        "vector_flops": int(work.vector),
        "exp_ops": int(work.exp),
        "hbm_bytes": int(work.hbm_bytes),
    }


def prediction_dict(prediction: Prediction) -> dict[str, Any]:
    """One algorithm."""
    work = prediction.work
    return {
        "algorithm": prediction.case.algorithm,
        "title": prediction.title,
        "case": case_dict(prediction.case),
        "memory": memory_dict(prediction.memory),
        "work": {
            **work_dict(work),
            "hbm_read_bytes": int(work.read),
            "hbm_written_bytes": int(work.written),
            "l2_bytes": int(work.l2),
            "compulsory_bytes": prediction.compulsory_bytes,
            "intensity": float(work.intensity),
        },
        "time": None if prediction.time is None else time_dict(prediction.time),
        "calibrated_time": None if prediction.calibrated is None else time_dict(prediction.calibrated),
        "tensors": [tensor_dict(record) for record in prediction.tensors],
        "notes": list(prediction.notes),
    }


def memory_dict(memory: Memory) -> dict[str, Any]:
    """Memory in bytes."""
    found = asdict(memory)
    found["context_bytes"] = None if memory.context_bytes is None else list(memory.context_bytes)
    return {**found, "device_bytes": memory.device_bytes}


def time_dict(time: Time) -> dict[str, Any]:
    """Time in seconds, with every kernel's ceilings."""
    return {
        "seconds": time.seconds,
        "phases": time.phases,
        "binding": time.binding,
        "shares": time.shares,
        "basis": time.basis,
        "calibration": time.calibration,
        "kernels": [
            {
                "name": kernel.name,
                "seconds": kernel.seconds,
                "binding": kernel.binding.name,
                "ceilings": {ceiling.name: ceiling.seconds for ceiling in kernel.ceilings},
                "beside": dict(kernel.beside),
            }
            for kernel in time.kernels
        ],
    }


def tensor_dict(record: TensorRecord) -> dict[str, Any]:
    """One row of the account."""
    return {
        "name": record.name,
        "shape": [int(size) for size in record.shape],
        "dtype": short_name(record.dtype),
        "bytes": int(record.nbytes),
        "formula": record.formula,
        "born": record.born,
        "freed": record.freed,
        "where": record.where,
        "kept_by": record.kept_by,
        "at_peak": record.at_peak,
    }


def threshold_dict(threshold: "Threshold", gpu: Gpu) -> dict[str, Any]:
    """The largest size that fits."""
    return {
        "algorithm": threshold.case.algorithm,
        "case": case_dict(threshold.case),
        "gpu": gpu_dict(gpu),
        "over": threshold.over,
        "step": threshold.step,
        "largest": threshold.largest,
        "first_failing": threshold.first_failing,
        "closed_form": threshold.closed_form,
        "memory": None if threshold.memory is None else memory_dict(threshold.memory),
    }


def gpu_values_dict(gpu: Gpu) -> dict[str, Any]:
    """A GPU with every value in SI units and its source."""
    values = {
        quantity: {"value": listed.value, "source": gpu.source(quantity), "note": listed.note}
        for quantity, listed in gpu.values.items()
    }
    balance = gpu.balance_points()
    return {**gpu_dict(gpu), "vendor": gpu.vendor, "arch": gpu.arch, "balance_points": balance, "values": values}
