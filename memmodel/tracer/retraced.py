"""Advice that needs another trace of the changed function, together with the advice read off the events."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from memmodel.base.errors import UsageError
from memmodel.events.liveness import phase_peaks
from memmodel.events.program import Program
from memmodel.tracer.advice import Advice, advice
from memmodel.tracer.by_hand import Finder, Rewriter, under
from memmodel.tracer.job import Job
from memmodel.tracer.target import Script
from memmodel.tracer.watch.run import Setting, Traced, traced


def advice_of(job: Job, found: Traced, labels: Mapping[int, str]) -> list[Advice]:
    """Changes on the events, and those that are traced again; most first."""
    peaks = phase_peaks(found.program)
    before = peaks["peak"]
    tips = [] if job.compiled else advice(found.program, labels, found.last_use)
    for change, setting in _rewritten(job, found.program, peaks):
        try:
            after = phase_peaks(job.run(setting, job.sizes).program)["peak"]
        except UsageError:
            continue
        if after < before:
            tips.append(Advice(change, after, before - after, "by a trace"))
    return sorted(tips, key=lambda tip: -tip.less_bytes)


def _rewritten(job: Job, program: Program, peaks: Mapping[str, int]) -> list[tuple[str, Setting]]:
    """(change, what to trace) of changes to the whole function."""
    setting, function = job.setting, job.setting.function
    found = []
    # A checkpoint computes all again before backward, which then holds no less than it did: it lowers forward alone.
    if setting.step == "train" and peaks["forward"] > peaks["backward"] and _parameters_known(function):
        change = f"{_line_of(function)}checkpoint the whole function"
        found.append((change, setting._replace(function=_checkpointed(function))))
    found += _library_softmax(job, program)
    shapes = [x.shape(job.sizes) for x in setting.inputs]
    names_ = [x.name[:1] for x in setting.inputs]
    if names_ == ["q", "k", "v"] and all(len(s) == 4 for s in shapes) and setting.step != "own":
        fused = torch.nn.functional.scaled_dot_product_attention
        change = f"{_line_of(function)}scaled_dot_product_attention(q, k, v), where it computes no more than that"
        found.append((change, setting._replace(function=lambda q, k, v: fused(q, k, v))))
    return found


def _library_softmax(job: Job, program: Program) -> list[tuple[str, Setting]]:
    """The function with the library's softmax where it writes softmax out."""
    setting = job.setting._replace(iterations=1)
    # A second trace is made only of code that has such kernels.
    if job.compiled or not {"exp", "div"} <= {launch.name.rstrip("_") for launch in program.launches()}:
        return []
    if not _parameters_known(setting.function):
        return []
    finder = Finder()
    traced(setting._replace(function=under(finder, setting.function)), job.sizes)
    rewrite = finder.rewrite()
    if not rewrite.ends:
        return []
    where = ", ".join(map(str, rewrite.lines))
    changed = setting._replace(function=under(Rewriter(rewrite), setting.function))
    return [(f"line {where}: torch.softmax(x, dim) instead of exp(x - max) / sum", changed)]


def _line_of(function: Callable[..., Any]) -> str:
    """The line where a function begins, as the beginning of a sentence; "" for one that is not the user's Python."""
    called = function.forward if isinstance(function, torch.nn.Module) else function
    code = getattr(inspect.unwrap(called), "__code__", None)
    return f"line {code.co_firstlineno}: " if code is not None else ""


def _parameters_known(function: Callable[..., Any]) -> bool:
    if isinstance(function, Script):  # loaded within its trace: nothing goes around what is not there yet
        return False
    try:
        inspect.signature(function)
    except (TypeError, ValueError):  # a builtin that does not say
        return False
    return True


def _checkpointed(function: Callable[..., Any]) -> Callable[..., Any]:
    from torch.utils.checkpoint import checkpoint

    def wrapped(**arguments: Any) -> Any:
        return checkpoint(function, use_reentrant=False, **arguments)

    called = function.forward if isinstance(function, torch.nn.Module) else function
    wrapped.__signature__ = inspect.signature(called)  # type: ignore[attr-defined]
    return wrapped
