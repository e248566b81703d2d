"""memmodel: how much memory attention needs, how long it takes and what limits it, before it runs.

    >>> import memmodel
    >>> print(memmodel.predict(gpu="A100", seq=16384))

Names are imported when they are first used, so that `import memmodel` costs nothing.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
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
else:

    def trace(fn: Any, inputs: Any = (), **options: Any) -> Any:
        """The memory of your own PyTorch function; see `memmodel.tracer.api.trace` for the arguments. Needs torch."""
        with _frozen_garbage_collector():
            try:
                run = import_module("memmodel.tracer.api").trace
            except ModuleNotFoundError as error:
                if error.name != "torch":
                    raise
                from memmodel.base.errors import UsageError

                raise UsageError(
                    "tracing a function needs PyTorch: pip install torch (its CPU build is enough)"
                ) from None
            return run(fn, inputs, **options)


@contextmanager
def _frozen_garbage_collector() -> Iterator[None]:
    """Exclude objects that exist now from garbage collection: torch's are so many that a full pass takes 0.1 s."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def __getattr__(name: str) -> Any:
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
