"""Whole models: what they are made of, where their configurations come from, and the memory and time of their steps.

The package is also the function `memmodel.model(...)`, which is `memmodel.model.predict.model`.
"""

import sys
from types import ModuleType
from typing import Any


class _Front(ModuleType):
    """A package that can be called."""

    def __call__(self, *names: Any, **options: Any) -> Any:
        from memmodel.model.predict import model

        return model(*names, **options)


sys.modules[__name__].__class__ = _Front
