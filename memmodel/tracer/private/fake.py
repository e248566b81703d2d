"""Tensors without data, and symbolic sizes, without importing torch.compile.

`FakeTensorMode` reads `torch._dynamo.config`, dispatch modes ask `torch._dynamo` to leave them uncompiled, and a shape
environment notes the user's line for each guard, by a list of the compiler's files. Importing all that takes longer
than a trace. So the settings are imported alone, the modes are marked as uncompiled, and guards have no line. Where
anything else imports the compiler, all of it is imported; so it is, at first, on a PyTorch whose private names are not
those used here.
"""

import importlib
import inspect
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
import torch.utils.checkpoint
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from memmodel.tracer.private import torch_2_9

__all__ = [
    "DataDependentOutputException",
    "FakeTensor",
    "FakeTensorMode",
    "expression_of",
    "fake_mode",
    "fake_of",
    "is_fake",
    "shape_environment",
    "symbol",
    "uncompiled",
]

_COMPILER = "torch._dynamo"
_FOLDER = [str(Path(torch.__file__).parent / "_dynamo")]
_VALIDATOR = "torch.fx.experimental.validator"
_MARK = "__dynamo_disable"  # where `torch._disable_dynamo` keeps the uncompiled function


def fake_mode(environment: Any = None, **options: Any) -> FakeTensorMode:
    """A mode whose tensors have no data; with a shape environment their sizes can be symbols."""
    does_without_compiler()
    with _settings_at_hand(), _importable_settings():
        return FakeTensorMode(shape_env=environment, **options)


def shape_environment() -> Any:
    """The environment that makes symbols, one for each size, and keeps the guards."""
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    does_without_compiler()
    with _in_place_of(_VALIDATOR, translation_validation_enabled=lambda: False):
        # Else sizes with equal hints would share one symbol.
        return ShapeEnv(duck_shape=False)


def symbol(environment: Any, letter: str, hint: int) -> torch.SymInt:
    """A size that stands for itself, with a hint."""
    from torch.fx.experimental.symbolic_shapes import DimDynamic

    source = _source(letter)
    expression = environment.create_symbol(hint, source=source, dynamic_dim=DimDynamic.DYNAMIC)
    size: torch.SymInt = environment.create_symintnode(expression, hint=hint, source=source)
    return size


def fake_of(tensor: torch.Tensor) -> torch.Tensor:
    """The fake tensor of a real one under the fake mode that is on; the same one as long as it is held."""
    mode: Any = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
    return mode.fake_tensor_converter.from_real_tensor(mode, tensor, source=_source("constant"))  # type: ignore[no-any-return]


def expression_of(size: torch.SymInt) -> Any:
    """The expression that a size was made with, whatever the shape environment has replaced in it since."""
    return size.node._expr


def is_fake(tensor: Any) -> bool:
    """Whether a tensor has no data."""
    return type(tensor).__module__.startswith("torch._subclasses")  # functional tensors around fake ones too


@cache
def does_without_compiler() -> bool:
    """Whether this PyTorch's private parts are as this file has them: tried once; if not, the compiler is imported."""
    try:
        works = _trial()
    except Exception:  # whatever a name that is gone, or means something else, leads to
        works = False
    if not works:
        for name in (_COMPILER, _VALIDATOR):
            importlib.import_module(name)
    return works


def _trial() -> bool:
    """Tensors without data, and a symbolic size, by the short way: whether they are what they should be."""
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    with _in_place_of(_VALIDATOR, translation_validation_enabled=lambda: False):
        environment = ShapeEnv(duck_shape=False)
    with _marked(FakeTensorMode), _settings_at_hand(), _importable_settings():
        mode = FakeTensorMode(shape_env=environment)
    symbolic = sys.modules[ShapeEnv.__module__]
    with _marked(FakeTensorMode), _without_lines(symbolic), _settings_at_hand(), mode:
        x = torch.empty(symbol(environment, "N", 7), 3)
        grown = torch.cat((x + 1, x))
    rows: Any = grown.shape[0]
    return grown.shape[1] == 3 and str(rows.node.expr).startswith("2*")


@contextmanager
def uncompiled(*modes: type[TorchDispatchMode]) -> Iterator[None]:
    """Within, these modes run without asking the compiler, where that is known how, and guards have no line."""
    symbolic = sys.modules.get("torch.fx.experimental.symbolic_shapes")
    with _marked(*modes) if does_without_compiler() else nullcontext(), _without_lines(symbolic), _settings_at_hand():
        yield


@contextmanager
def _marked(*modes: type[TorchDispatchMode]) -> Iterator[None]:
    # What carries the mark counts as made uncompiled already (torch/_compile.py): nothing asks the compiler.
    marked = [f for f in {*_kept(mode.__torch_dispatch__ for mode in modes), *_references()} if not hasattr(f, _MARK)]
    for function in marked:
        setattr(function, _MARK, function)
    try:
        yield
    finally:
        for function in marked:
            delattr(function, _MARK)


def _without_lines(symbolic: ModuleType | None) -> Any:
    """Guards are not logged, and their place is the first frame outside the module (inside, it would hold itself)."""
    if not hasattr(symbolic, "uninteresting_files") or not hasattr(symbolic, "trace_structured"):
        return nullcontext()
    assert symbolic is not None
    own = {symbolic.__file__}
    return mock.patch.multiple(symbolic, uninteresting_files=lambda: own, trace_structured=lambda *_, **__: None)


def _kept(functions: Iterable[Any]) -> Iterator[Any]:
    """The functions that `torch._disable_dynamo` wraps, among these and those that they wrap."""
    asks = _asks()
    for function in functions:
        while function is not None:
            if getattr(function, "__code__", None) is asks:
                yield inspect.getclosurevars(function).nonlocals["fn"]
            function = getattr(function, "__wrapped__", None)


@cache
def _asks() -> Any:
    from torch._compile import _disable_dynamo

    return _disable_dynamo(lambda: None).__code__


@cache
def _references() -> frozenset[Any]:
    """The wrapped functions among PyTorch's Python decompositions, which fake tensors run, and in checkpointing."""
    from torch._decomp import global_decomposition_table

    operators = (f for table in global_decomposition_table.values() for f in table.values())
    return frozenset(_kept((*operators, *vars(torch.utils.checkpoint).values())))


class _Settings:
    """A stand-in for `torch._dynamo` with its settings; any other attribute imports the compiler."""

    def __init__(self, config: ModuleType) -> None:
        self.config = config

    def disable(self, function: Any, *_: Any, **__: Any) -> Any:
        """The function, which nothing compiles."""
        return function

    def is_dynamo_supported(self) -> bool:
        """The answer to flex_attention's check, which is not compiled here either."""
        return True

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(_COMPILER), name)


@contextmanager
def _settings_at_hand() -> Iterator[None]:
    if "_dynamo" in vars(torch):
        yield
        return
    settings: Any = _Settings(_config())
    torch._dynamo = settings
    try:
        yield
    finally:
        if vars(torch).get("_dynamo") is settings:
            del torch._dynamo


@cache
def _config() -> ModuleType:
    """`torch._dynamo.config` without the package around it."""
    with _in_place_of(_COMPILER, __path__=_FOLDER):
        return importlib.import_module(f"{_COMPILER}.config")


@contextmanager
def _importable_settings() -> Iterator[None]:
    """Within, `import torch._dynamo.config` finds the settings as they are: to read their file takes 10 ms."""
    if _COMPILER in sys.modules:
        yield
        return
    config = _config()
    with _in_place_of(_COMPILER, __path__=_FOLDER):
        sys.modules[config.__name__] = config
        yield


@contextmanager
def _in_place_of(name: str, **contents: Any) -> Iterator[None]:
    """Within, importing a module gives these names alone, unless it is imported already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = module = ModuleType(name)
    vars(module).update(contents)
    try:
        yield
    finally:
        # Modules imported from the stand-in go with it, so that the real package is imported whole later.
        for each in [n for n in sys.modules if f"{n}.".startswith(f"{name}.")]:
            del sys.modules[each]


@cache
def _letters() -> Any:
    """Makes a symbol's source: nowhere but a letter."""
    from torch._guards import GuardSource, Source

    if callable(Source.name):
        return torch_2_9.source

    class Letter(Source):
        def __init__(self, letter: str) -> None:
            vars(self)["letter"] = letter

        @property
        def name(self) -> str:
            return str(vars(self)["letter"])

        @property
        def guard_source(self) -> GuardSource:
            return GuardSource.CONSTANT  # which guards leave alone

    return Letter


def _source(letter: str) -> Any:
    try:
        make = _letters()
    except (ImportError, AttributeError):
        make = torch_2_9.source
    return make(letter)
