"""memmodel: how much memory attention needs, how long it takes and what limits it, before it runs.

    >>> import memmodel
    >>> print(memmodel.predict(gpu="A100", seq=16384))

Names are imported when they are first used, so that `import memmodel` costs nothing.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import memmodel.report  # noqa: F401 - registers the renderers by name, and imports none of them

__version__ = "0.1.0"

_HOMES = {
    "AllocatorConfig": "memmodel.allocator",
    "Case": "memmodel.attention.case",
    "Gpu": "memmodel.gpus",
    "GpuComparison": "memmodel.gpu_comparison",
    "Mask": "memmodel.attention.masks",
    "Prediction": "memmodel.prediction",
    "Report": "memmodel.prediction",
    "SideBySide": "memmodel.prediction",
    "UsageError": "memmodel.base.errors",
    "compare": "memmodel.gpu_comparison",
    "formulas": "memmodel.closed_forms",
    "load_gpu": "memmodel.gpus",
    "make_case": "memmodel.attention.case",
    "model": "memmodel.models.predict",
    "predict": "memmodel.predictor",
    "sweep": "memmodel.sweeps",
    "threshold": "memmodel.thresholds",
    "trace": "memmodel.tracer.api",
}

if TYPE_CHECKING:
    from memmodel.allocator import AllocatorConfig
    from memmodel.attention.case import Case, make_case
    from memmodel.attention.masks import Mask
    from memmodel.base.errors import UsageError
    from memmodel.closed_forms import formulas
    from memmodel.gpu_comparison import GpuComparison, compare
    from memmodel.gpus import Gpu, load_gpu
    from memmodel.models.predict import model
    from memmodel.prediction import Prediction, Report, SideBySide
    from memmodel.predictor import predict
    from memmodel.sweeps import sweep
    from memmodel.thresholds import threshold
    from memmodel.tracer.api import trace


def _trace_without_torch(*_: Any, **__: Any) -> Any:
    """`memmodel.tracer.api.trace` traces your own PyTorch function; it needs torch, which is not installed here."""
    from memmodel.base.errors import UsageError

    raise UsageError("tracing a function needs PyTorch: pip install torch (its CPU build is enough)")


def __getattr__(name: str) -> Any:
    if name == "trace" and find_spec("torch") is None:
        return _trace_without_torch
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'memmodel' has no attribute {name!r}")


__all__ = [
    "AllocatorConfig",
    "Case",
    "Gpu",
    "GpuComparison",
    "Mask",
    "Prediction",
    "Report",
    "SideBySide",
    "UsageError",
    "__version__",
    "compare",
    "formulas",
    "load_gpu",
    "make_case",
    "model",
    "predict",
    "sweep",
    "threshold",
    "trace",
]


def __dir__() -> list[str]:
    return __all__
