"""The part of the model that the page runs, as JavaScript: functions, classes and constants with all that they need.

From what the page calls, names are followed to what they stand for: what memmodel defines is translated in turn (of a
class, the methods that something uses), constants are written out, and the rest must be one of Python's built-ins that
`python.js` has. A rule that changes in Python so changes in the page too; one that the page cannot run is named when
the page is made.
"""

import ast
import builtins
import dataclasses
import inspect
import json
import math
import re
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.resources import files
from itertools import chain
from pkgutil import resolve_name
from types import FunctionType, ModuleType
from typing import Any

from memmodel.explorer.expressions import TranslationError, method_name
from memmodel.explorer.syntax import Syntax, star

_DEFINED = re.compile(r"^(?:const|function\*?|class) (\w+)", re.M)
_METHODS = re.compile(r"^ *(?:get )?\*?(\w+)\(.*\{$|\.(\w+) = ", re.M)
_SAME = frozenset({"add", "at", "fromkeys"})  # methods of sets, arrays and dict that JavaScript has
_ALWAYS = frozenset({"__init__", "__add__", "__str__"})  # methods that are used without being named


def linked(run: Mapping[str, Any], natives: Mapping[Any, str], attributes: Iterable[str] = ()) -> str:
    """The body of a JavaScript function that returns an object of what to `run`, by name.

    `run` holds functions and classes, and constants as "module:name". `natives` are JavaScript instead of the model's
    functions and classes, or constants as "module.name"; that of a base class may be "". `attributes` are those that
    the page itself uses. Raises TranslationError, with the place, for what cannot be JavaScript.
    """
    runtime = files(__package__).joinpath("python.js").read_text(encoding="utf-8")
    by_path = {found if isinstance(found, str) else _path(found): text for found, text in natives.items()}
    linker = _Linker(by_path, set(attributes), frozenset(_DEFINED.findall(runtime)))
    exported = [f"{name}: {linker.root(found)}" for name, found in run.items()]
    code = linker.code()
    known = {*chain(*_METHODS.findall(f"{runtime}\n{code}")), *dir(math), *_SAME}
    if missing := linker.called - known:
        raise TranslationError(f"python.js has no method {', '.join(sorted(missing))}")
    return f"{runtime}\n{code}\nreturn {{...python, {', '.join(exported)}}};"


@cache
def _parsed(module: ModuleType) -> dict[str, Any]:
    """The statements that define functions, classes and annotated constants of a module, by name."""
    body = ast.parse(inspect.getsource(module)).body
    constants = {n.target.id: n for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    return constants | {n.name: n for n in body if isinstance(n, ast.FunctionDef | ast.ClassDef)}


class _Linker:
    """The definitions and constants that the page needs; translating one can add others."""

    def __init__(self, natives: Mapping[str, str], attributes: set[str], taken: frozenset[str]) -> None:
        self.natives, self.attributes, self.taken = natives, attributes, taken
        self.definitions: dict[str, Any] = {}  # JavaScript's name -> function or class
        self._methods: dict[str, list[FunctionType]] = {}  # those of the classes among them, by name
        self.constants: dict[int, tuple[str, Any]] = {}  # id -> name, object
        self.called: set[str] = set()
        self.expressions: dict[str, tuple[ast.expr, ModuleType]] = {}  # name -> what it is, where
        self._texts: dict[str, str] = {}  # by name of a definition
        # By name of a definition: names that were no methods when it was translated, members that nothing used.
        self._unknown: dict[str, set[str]] = {}
        self._unused: dict[str, set[str]] = {}
        self._asked, self._passed_over = set[str](), set[str]()  # the same of the definition under way

    def root(self, found: Any) -> str:
        """The JavaScript name of a function, of a class, or of a constant given as "module:name"."""
        if isinstance(found, str):
            if callable(resolve_name(found)):
                return self.name(resolve_name(found))
            module, _, name = found.partition(":")
            of = import_module(module)
            self.expressions[f"${name}"] = _parsed(of)[name].value, of
            return f"${name}"
        return self.name(found)

    def name(self, obj: Any) -> str:
        """The JavaScript name of a function or class, which is then part of the page."""
        name = f"${obj.__name__}"
        while self.definitions.get(name, obj) is not obj:
            name += "_"
        if name not in self.definitions:
            self.definitions[name] = obj
            for member, method in vars(obj).items() if isinstance(obj, type) else ():
                if isinstance(method, FunctionType) and self.is_own(method):
                    self._methods.setdefault(member, []).append(method)
        return name

    def code(self) -> str:
        """Everything, translated until it names nothing new: classes, bases first, then constants, then functions."""
        values: dict[str, str] = {}
        while stale := [name for name in self.definitions if self._is_stale(name)]:
            for name in stale:
                self._unknown[name] = self._asked = set()
                self._unused[name] = self._passed_over = set()
                self._texts[name] = self._definition(name, self.definitions[name])
            values = {name: self.written(value) for name, value in list(self.constants.values())}
            values |= {
                name: Syntax(_Module(self, of, node)).translated(node) for name, (node, of) in self.expressions.items()
            }
        # Classes, unlike functions, have to stand above their use; a base's __mro__ is shorter than its subclass's.
        classes = {name: obj for name, obj in self.definitions.items() if isinstance(obj, type)}
        ordered = sorted(classes, key=lambda name: len(classes[name].__mro__))
        constants = [f"const {name} = {text};" for name, text in _in_order(values)]
        functions = [self._texts[name] for name in self.definitions if name not in classes]
        return "\n".join([*(self._texts[name] for name in ordered), *constants, *functions])

    def _is_stale(self, name: str) -> bool:
        """Whether a definition is not translated yet, or asked for methods or left members out that are known since."""
        unknown, unused = self._unknown.get(name), self._unused.get(name, set())
        return unknown is None or not (unknown.isdisjoint(self._methods) and unused.isdisjoint(self.attributes))

    def is_own(self, obj: Any) -> bool:
        """Whether a function or class is the model's, and the page has no other for it."""
        return (getattr(obj, "__module__", "") or "").startswith("memmodel") and _path(obj) not in self.natives

    def is_class(self, obj: Any) -> bool:
        """Whether it is a class in JavaScript too: the model's classes, and errors; `int` and `dict` are functions."""
        return isinstance(obj, type) and (self.is_own(obj) or issubclass(obj, Exception))

    def methods(self, name: str) -> list[FunctionType]:
        """Methods of that name of the classes so far."""
        if name not in self._methods:
            self._asked.add(name)
        return self._methods.get(name, [])

    def uses(self, member: str) -> bool:
        """Whether a class needs a member, since something so far names it."""
        if member not in self.attributes | _ALWAYS:
            self._passed_over.add(member)
        return member in self.attributes | _ALWAYS

    def value(self, obj: Any, name: str = "") -> str:
        """An object as JavaScript; one with a name is a constant of the page."""
        if isinstance(obj, ModuleType):
            return obj.__name__
        if callable(obj):
            return self._callable(inspect.unwrap(obj))
        if name and not isinstance(obj, int | float | str | None):
            return self.constants.setdefault(id(obj), (f"${name.rpartition('.')[2]}", obj))[0]
        return self.written(obj)

    def _callable(self, obj: Any) -> str:
        if self.is_own(obj):
            return self.name(obj)
        native = self.natives.get(_path(obj), obj.__name__ if obj.__name__ in self.taken else "")
        if not native:
            raise TranslationError(f"python.js has no {obj.__name__}")
        return native

    def written(self, value: Any) -> str:
        """A constant as JavaScript."""
        if isinstance(value, bool | str | None):
            return json.dumps(value, ensure_ascii=False)
        if isinstance(value, int | float):  # JavaScript has floats alone, whole up to 2^53
            return repr(value if abs(value) < 1 << 53 else float(value)).replace("inf", "Infinity")
        if isinstance(value, Mapping):
            return f"new Dict([{', '.join(f'[{self.value(k)}, {self.value(v)}]' for k, v in value.items())}])"
        if isinstance(value, range):
            return f"range({value.start}, {value.stop})"
        if names := _fields(type(value)):
            return f"new {self.value(type(value))}({', '.join(self.value(getattr(value, name)) for name in names)})"
        if isinstance(value, tuple | list | set | frozenset):
            items = f"[{', '.join(map(self.value, value))}]"
            return items if isinstance(value, tuple | list) else f"new Set({items})"
        raise TranslationError(f"no JavaScript for a {type(value).__name__}")

    def _definition(self, name: str, obj: Any) -> str:
        module = import_module(obj.__module__)
        node = _parsed(module)[obj.__name__]
        try:
            if isinstance(obj, type):
                return f"// {obj.__module__}\n{self._class(name, obj, node, module)}"
            syntax = Syntax(_Module(self, module, node))
            return f"// {obj.__module__}\n{syntax.function(node, f'function{star(node)} {name}')}"
        except TranslationError as error:
            raise TranslationError(f"{_path(obj)}: {error}") from error

    def _class(self, name: str, cls: type, node: ast.ClassDef, module: ModuleType) -> str:
        bases = [self.value(base) for base in cls.__bases__ if self.is_class(base)]
        base = bases[0] if bases else "Tuple" if issubclass(cls, tuple) else "Instance"
        members = (self._member(cls, member, module) for member in node.body)
        body = "\n".join(filter(None, (self._constructor(cls), *members)))
        return f"class {name} extends {base} {{\n{body}\n}}"

    def _constructor(self, cls: type) -> str:
        """The constructor of a class with fields: it sets them in order; those of a NamedTuple are its items."""
        if not (names := _fields(cls)):
            return ""
        defaults = dict(_defaults(cls))
        parameters = (f"{n}$ = {self.value(defaults[n])}" if n in defaults else f"{n}$" for n in names)
        head = f"static fields = {json.dumps(names)};\nconstructor({', '.join(parameters)})"
        if issubclass(cls, tuple):
            getters = (f"get {n}() {{ return this[{i}]; }}" for i, n in enumerate(names))
            items = ", ".join(f"{n}$" for n in names)
            filled = f"super({items});" if len(names) > 1 else f"super(); this.push({items});"  # Array(1) is empty
            return "\n".join([f"{head} {{ {filled} }}", *getters])
        return f"{head} {{ super(); {' '.join(f'this.{n} = {n}$;' for n in names)} }}"

    def _member(self, cls: type, node: ast.stmt, module: ModuleType) -> str:
        """A method, property or constant of a class that something uses; empty for others."""
        if isinstance(node, ast.Assign) and self.uses(name := ast.unparse(node.targets[0])):
            value = self.natives.get(f"{_path(cls)}.{name}") or self.value(vars(cls)[name])
            return f"get {name}() {{ return {value}; }}"
        if not isinstance(node, ast.FunctionDef) or not self.uses(node.name):
            return ""
        name = "constructor" if node.name == "__init__" else method_name(node.name)
        getter = "get " * isinstance(vars(cls)[node.name], property)
        return Syntax(_Module(self, module, node)).function(node, f"{getter}{star(node)}{name}", node.args.args[0].arg)


class _Module:
    """The names that a function sees outside of itself: its module's, and what it imports."""

    def __init__(self, linker: _Linker, module: ModuleType, node: ast.AST) -> None:
        self.linker, self.attributes, self.called = linker, linker.attributes, linker.called
        self.path = module.__name__
        self.scope = ChainMap(_imported(node), vars(module), vars(builtins))

    def target(self, name: str) -> Any:
        """The object behind a name, or behind a module's "module.name"."""
        module, _, member = name.rpartition(".")
        return getattr(self.scope[module], member) if module else self.scope[name]

    def reference(self, name: str) -> str:
        """The JavaScript of a name."""
        return self.linker.natives.get(f"{self.path}.{name}") or self.linker.value(self.target(name), name)

    def constructs(self, name: str) -> bool:
        """Whether a name is called with `new`."""
        return self.linker.is_class(self.target(name))

    def is_method(self, name: str) -> bool:
        """Whether an attribute may be a method."""
        return bool(self.linker.methods(name))

    def parameters(self, name: str, of_method: bool) -> list[str] | None:
        """The parameters of one of the model's functions, in order; None for any other."""
        found: Any = next(iter(self.linker.methods(name)), None) if of_method else inspect.unwrap(self.target(name))
        if not self.linker.is_own(found) or (isinstance(found, type) and issubclass(found, Exception)):
            return None
        return _parameters(found)[int(of_method) :]


@cache
def _parameters(found: Any) -> list[str]:
    return list(inspect.signature(found).parameters)


def _path(obj: Any) -> str:
    return f"{obj.__module__}.{obj.__name__}"


def _fields(cls: type) -> list[str]:
    """The fields of a NamedTuple or dataclass, in order; none for others."""
    return (
        [f.name for f in dataclasses.fields(cls)]
        if dataclasses.is_dataclass(cls)
        else list(getattr(cls, "_fields", ()))
    )


def _defaults(cls: type) -> Iterator[tuple[str, Any]]:
    yield from getattr(cls, "_field_defaults", {}).items()
    for found in dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ():
        if found.default is not dataclasses.MISSING:
            yield found.name, found.default
        elif found.default_factory is not dataclasses.MISSING:
            yield found.name, found.default_factory()


@cache
def _imported(node: ast.AST) -> dict[str, Any]:
    """The names that a function imports in its body, and their objects."""
    found: dict[str, Any] = {}
    for statement in ast.walk(node):
        if isinstance(statement, ast.ImportFrom):
            module = import_module(statement.module or "")
            found |= {alias.asname or alias.name: getattr(module, alias.name) for alias in statement.names}
    return found


def _in_order(constants: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Constants, each behind those that it names."""
    done: set[str] = set()

    def before(name: str) -> Iterator[tuple[str, str]]:
        done.add(name)
        for other in re.findall(r"\$\w+", constants[name]):
            if other in constants and other not in done:
                yield from before(other)
        yield name, constants[name]

    for name in constants:
        if name not in done:
            yield from before(name)
