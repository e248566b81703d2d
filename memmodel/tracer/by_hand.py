"""Softmax that the code writes out, exp(x - max) / sum: found as the code runs, and run again as the library's.

Two modes. `Finder` follows the chain from call to call; a chain whose parts are used elsewhere too does not count.
`Rewriter` runs the same calls: where a chain begins it makes the library's softmax, which takes the place of the
quotient; everything between is computed unseen.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from memmodel.tracer.private.dispatch import modes_on, tensors_in, tree_leaves
from memmodel.tracer.watch.watcher import Watcher, is_users

_MAXIMUM, _QUOTIENT = {"max", "amax"}, {"div", "__truediv__", "true_divide"}
_DIFFERENCE, _POWER = {"sub", "__sub__", "subtract"}, {"exp", "exp_"}
_SAME = {"detach", "unsqueeze"}


@dataclass(eq=False)
class Chain:
    """One softmax: numbers of the calls that it is made of, its dimension, the line where it ends."""

    calls: list[int]
    dim: int | None
    line: int = 0
    spoiled: bool = False


@dataclass
class Rewrite:
    """The calls to change, by their numbers."""

    begins: dict[int, Chain] = field(default_factory=dict)
    inside: set[int] = field(default_factory=set)
    ends: dict[int, Chain] = field(default_factory=dict)

    @property
    def lines(self) -> list[int]:
        """The lines where softmax is written out."""
        return sorted({chain.line for chain in self.ends.values()})


class Finder(TorchFunctionMode):
    """Follows the calls; `rewrite()` is what it found."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self._roles: dict[int, tuple[str, Chain, Any]] = {}  # by id: what a tensor is, and of what
        self._held: list[Any] = []  # so that no id comes twice
        self._complete: list[Chain] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.calls += 1
        out = func(*args, **kwargs)
        if tensors_in(out):
            self._held.append((args, out))
            self._follow(getattr(func, "__name__", ""), args, kwargs, out)
        return out

    def _follow(self, name: str, args: Any, kwargs: Any, out: Any) -> None:
        first = args[0] if args else None
        role, chain, of = self._roles.get(id(first), ("", None, None))
        second = self._roles.get(id(args[1]), ("", None, None)) if len(args) > 1 else ("", None, None)
        dim = kwargs.get("dim", args[1] if len(args) > 1 and isinstance(args[1], int) else None)
        found: tuple[str, Chain, Any] | None = None
        if name in _MAXIMUM and dim is not None and not role:
            found = "max", Chain([], dim), first
        elif name in _SAME and role in ("max", "sum") and chain:
            found = role, chain, of
        elif name in _DIFFERENCE and second[0] == "max" and second[2] is first and second[1]:
            found = "difference", second[1], first
        # Softmax is also written without its maximum.
        elif name in _POWER and role in ("", "difference"):
            found = "powers", chain or Chain([], None), first
        elif name == "sum" and role == "powers" and chain and dim is not None and chain.dim in (None, dim):
            chain.dim = dim
            found = "sum", chain, first
        elif name in _QUOTIENT and role == "powers" and second[0] == "sum" and second[1] is chain and chain:
            chain.calls.append(self.calls)
            chain.line = _line()
            self._complete.append(chain)
            return
        if found:
            found[1].calls.append(self.calls)
            tensor = out if isinstance(out, Tensor) else out[0]
            self._roles[id(tensor)] = found
            return
        self.used((args, kwargs))

    def used(self, out: Any) -> None:
        """A part that other code has, or that the function hands out, spoils its chain."""
        for x in tree_leaves(out):
            if id(x) in self._roles:
                self._roles[id(x)][1].spoiled = True

    def rewrite(self) -> Rewrite:
        """The chains that are complete and used for nothing else."""
        found = Rewrite()
        for chain in self._complete:
            if not chain.spoiled:
                found.begins[chain.calls[0]] = chain
                found.inside |= set(chain.calls)
                found.ends[chain.calls[-1]] = chain
        return found


class Rewriter(TorchFunctionMode):
    """Runs the calls of a rewrite as the library's softmax."""

    def __init__(self, rewrite: Rewrite) -> None:
        super().__init__()
        self.calls = 0
        self._rewrite = rewrite
        self._results: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if self.calls in self._rewrite.begins:
            chain = self._rewrite.begins[self.calls]
            assert chain.dim is not None  # as of its sum
            self._results[id(chain)] = torch.softmax(args[0], chain.dim)
        if self.calls in self._rewrite.ends:
            return self._results.pop(id(self._rewrite.ends[self.calls]))
        if self.calls in self._rewrite.inside:
            with _unseen(), torch.no_grad():
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


@contextmanager
def _unseen() -> Iterator[None]:
    watcher = next(mode for mode in modes_on() if isinstance(mode, Watcher))
    with watcher.unseen():
        yield


def _line() -> int:
    frame = sys._getframe(1)
    while frame.f_back is not None and not is_users(frame):
        frame = frame.f_back
    return frame.f_lineno


def under(mode: TorchFunctionMode, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, run within a mode."""
    called = function.forward if isinstance(function, torch.nn.Module) else function

    def wrapped(**arguments: Any) -> Any:
        with mode:
            out = function(**arguments)
        if isinstance(mode, Finder):
            mode.used(out)
        return out

    wrapped.__signature__ = inspect.signature(called)  # type: ignore[attr-defined]
    return wrapped
