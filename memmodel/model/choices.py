"""A checked `ModelCase` from what people give."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from memmodel.case import check_size
from memmodel.cublas import parse_torch_version
from memmodel.dtypes import dtype
from memmodel.errors import UsageError, choice, shortened, unknown
from memmodel.model.architecture import Architecture
from memmodel.model.setting import CHECKPOINTS, LOSSES, PHASES, ModelCase

_SIZES = ("batch", "seq", "chunks", "accumulate")
_FLAGS = ("clip", "fused_norms")


def model_case(arch: Architecture, **given: Any) -> ModelCase:
    """The case of a model and the fields of `ModelCase` that are given (None: left out), with its dtype by name.

    Raises UsageError for a value that is not one of the field's, and for choices that exclude each other.
    """
    known = [field.name for field in fields(ModelCase) if field.name not in ("arch", "device")]
    for name in given:
        if name not in known:
            raise unknown("setting", name, known)
    values = {name: _checked(name, value) for name, value in given.items() if value is not None}
    case = ModelCase(arch, **values)
    _check_together(case)
    return case


def _checked(name: str, value: Any) -> Any:
    if name in _SIZES:
        return check_size(name, value)
    if name in _FLAGS:
        return _flag(name, value)
    if name == "dtype":
        return dtype(value)
    if name == "dropout":
        return _probability(value)
    if name == "torch":
        parse_torch_version(value)
        return value
    names = _names(name)
    return choice(name, value, names) if names else value


def _names(field: str) -> Iterable[str]:
    """The names that a field takes; none for a field that is not a name."""
    if field == "optimizer":
        from memmodel_kernels.optimizers import OPTIMIZERS

        return OPTIMIZERS
    if field == "attention":
        from memmodel.algorithms import ALGORITHMS

        return ("sdpa", *(name for name in ALGORITHMS if name != "decode"))
    return {"phase": PHASES, "checkpoint": CHECKPOINTS, "loss": LOSSES}.get(field, ())


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{name} {shortened(value)}: expected True or False")
    return value


def _probability(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1:
        raise UsageError(f"dropout {value}: expected a probability from 0 to below 1, such as 0.1")
    return float(value)


def _check_together(case: ModelCase) -> None:
    if case.arch.positions == "learned" and case.seq > case.arch.max_pos:
        raise UsageError(
            f"seq {case.seq}: {case.arch.name} has learned positions for {case.arch.max_pos} tokens, give at most that"
        )
