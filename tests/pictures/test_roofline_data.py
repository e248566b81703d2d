"""The roofline's numbers are the prediction's and the GPU's."""

from typing import Any

import pytest

from memmodel.base.errors import UsageError
from memmodel.events.liveness import step_launches
from memmodel.gpus import gpu_ids, load_gpu
from memmodel.pictures.roofline import roofline
from memmodel.predictor import predict
from memmodel.recorder import record


def test_points_are_the_predictions_kernels(configured: Any) -> None:
    case, gpu, sizes = configured
    report = predict(gpu, case.algorithm, **sizes)
    shown = roofline(report)
    (prediction,) = report.predictions
    assert prediction.time is not None
    seconds = {kernel.seconds for kernel in prediction.time.kernels}
    assert {point.seconds for point in shown.points} <= seconds
    arithmetic = [k for k in prediction.time.kernels if k.name not in shown.without]
    assert sum(point.launches for point in shown.points) >= len(arithmetic)
    flops = sum(point.flops * point.launches for point in shown.points)
    needed = sum(float(launch.least.flops) for launch in step_launches(record(prediction.case)))
    assert flops == pytest.approx(needed, rel=1e-12)
    if prediction.calibrated is not None:
        expected = {kernel.seconds for kernel in prediction.calibrated.kernels}
        assert {point.expected_seconds for point in shown.points} <= expected


def test_no_kernel_is_above_the_memory_ceiling(configured: Any) -> None:
    """L2 may hold as many bytes as it has; in place, each of them saves a read and a write."""
    case, gpu, sizes = configured
    report = predict(gpu, case.algorithm, **sizes)
    shown = roofline(report)
    for point in shown.points:
        from_memory = point.hbm_bytes - 2 * report.gpu.l2_bytes
        assert point.seconds * (1 + 1e-12) >= from_memory / shown.memory.rate
        assert point.intensity == pytest.approx(point.flops / point.hbm_bytes)


def test_ceilings_are_the_gpus_and_the_balance_point_is_where_they_meet() -> None:
    report = predict("A100", "naive")
    shown = roofline(report)
    rates = {roof.name: roof.rate for roof in shown.roofs}
    assert rates["HBM"] == report.gpu.bandwidth
    assert rates["tensor fp16, bf16"] == 312e12
    assert rates["exp units"] == report.gpu.exp_rate
    assert shown.peak.rate == 312e12
    assert shown.balance == report.gpu.balance_point("bf16") == shown.peak.rate / shown.memory.rate
    flat = [roof.rate for roof in shown.roofs if roof.kind == "compute"]
    assert flat == sorted(flat, reverse=True)
    assert all(roof.source for roof in shown.roofs)


def test_l2_has_a_ceiling_where_its_bandwidth_is_known() -> None:
    slopes = {roof.name: roof.rate for roof in roofline(predict("A100", "naive")).slopes}
    assert slopes == {"HBM": 2039e9, "L2": pytest.approx(5120 * 1410e6, rel=1e-3)}  # bytes per clock x clock
    assert [roof.name for roof in roofline(predict("T4", "naive", dtype="fp16")).slopes] == ["HBM"]


@pytest.mark.parametrize("gpu", gpu_ids())
def test_every_gpu_with_a_peak_has_a_picture(gpu: str) -> None:
    device = load_gpu(gpu)
    report = predict(device, "naive", dtype="fp16")
    if device.peak_quantity("fp16") not in device.values:
        with pytest.raises(UsageError, match="is known for"):
            roofline(report)
        return
    shown = roofline(report)
    assert shown.peak in shown.roofs
    assert shown.gpu == device.name


def test_equal_launches_are_one_point() -> None:
    """Two products make the scores and their gradient, four have a narrow result: of as much work, in other tiles."""
    shown = roofline(predict("A100", "naive"))
    assert [p.launches for p in shown.points if p.kernel == "bmm"] == [2, 4]
    assert len({(p.kernel, p.flops, p.hbm_bytes, p.expected_seconds) for p in shown.points}) == len(shown.points)
    assert shown.without == ("copy",)
