"""Calibrations made up for tests: of a CPU, with round numbers."""

import json
from pathlib import Path

import pytest

from memmodel.timing import Calibration, Constant, Curve

NUMBERS = {
    "launch": 1e-6,
    "fault": 2e9,
    "fault_from": 32.0 * 2**20,
    "exp": 1e9,
    "matmul.fp32": 1e11,
    "flash.flops": 1e11,
    "flash.exp": 2e9,
    "flash.overlap": 0.0,
}
CURVES = {
    "bandwidth": Curve(((1e6, 1e11), (1e8, 4e10))),
    "softmax": Curve(((1e6, 2e10), (1e8, 1.8e10))),
    "matmul.fp32.scores": Curve(((16.0, 5e10), (128.0, 9e10))),
}


@pytest.fixture
def calibration() -> Calibration:
    constants = {name: Constant(value, "made up", 0.01) for name, value in {**NUMBERS, **CURVES}.items()}
    return Calibration("a CPU", "local", {"gpu_id": "cpu", "torch": "2.13.0+cpu"}, constants)


@pytest.fixture
def file(calibration: Calibration, tmp_path: Path) -> Path:
    path = tmp_path / "cpu.json"
    path.write_text(json.dumps(calibration.to_dict()))
    return path
