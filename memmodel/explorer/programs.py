"""The programs behind the page: every structure that a step can have, recorded once on symbols.

A program's events do not depend on its sizes, except where a size of one changes what PyTorch copies. What they depend
on is a structure; the sizes then fill in its formulas. Programs, kernels, formulas and names are kept in tables, each
once, and programs refer to them by number.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

import sympy
from sympy import Function, Symbol
from sympy.printing.jscode import JavascriptCodePrinter
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.str import StrPrinter

from memmodel.attention.case import PHASES, Case
from memmodel.attention.masks import Mask
from memmodel.attention.tiles import Tile
from memmodel.base.dtypes import DType, dtype
from memmodel.closed_forms import SYMBOLS, WINDOW
from memmodel.events.groups import groups_of
from memmodel.events.liveness import states, uncounted
from memmodel.events.origin import names
from memmodel.events.program import Free, Launch, Mark, Program, Release, Save
from memmodel.recorder import record
from memmodel.sizes.dims import Dim
from memmodel_kernels.flash import FlashTiles

EAGER = ("naive", "naive-by-hand", "checkpointed", "compiled")
FUSED = ("flash", "flash-deterministic")  # with the backward in one kernel that adds to dQ, and without
OFFERED = ("naive", "naive-by-hand", "flash", "flash-deterministic", "checkpointed", "compiled")
ANY_DTYPE = DType("any", Symbol("s", integer=True, positive=True))  # eager events depend on the size of an item alone
FUSED_DTYPES = ("bf16", "fp32")  # fp16 runs as bf16 does
MASKS = ("none", "causal", "window")
ONES = ("b*h=1", "n=1", "d=1")  # what changes which views are contiguous
RATIO = Symbol("r", integer=True, positive=True)  # query heads that share a key/value head
BLOCKS = Function("blocks", integer=True, positive=True)  # of a causal mask or a window: a function of work.js
PHASE_NAMES = ("inputs", "forward", "backward", "after")
MARK, ALLOC, FREE, SAVE, RELEASE, LAUNCH = range(6)


class CountedMask(Mask):
    """A mask whose blocks are counted when sizes are known, as closed forms exist only for whole tiles."""

    def blocks(self, n: Dim, m: Dim, rows: int, cols: int) -> Dim:
        """A call of the function that counts them; a causal mask is a window of all keys."""
        if not self.causal:
            return super().blocks(n, m, rows, cols)
        return BLOCKS(n, rows, cols, n if self.window is None else self.window)

    def most_keys(self, n: Dim, m: Dim, rows: int, cols: int) -> Dim:
        """Not needed: only the time to expect depends on it."""
        return 1

    most_queries = most_keys


class Structure(NamedTuple):
    """The properties of a case that decide its events.

    `dtype`: "" for any, whose item size is the letter s. `grouped`: whether r > 1. `ones`: those of `ONES` that hold.
    """

    algorithm: str
    phase: str
    mask: str
    dtype: str = ""
    grouped: bool = False
    ones: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its name in the page: "naive train causal grouped n=1", "flash train causal bf16"."""
        return " ".join(filter(None, (*self[:4], "grouped" * self.grouped, *self.ones)))


def structures() -> Iterator[Structure]:
    """All that the page can show."""
    for algorithm, phase, mask, grouped in product(EAGER, PHASES, MASKS, (False, True)):
        for held in product((False, True), repeat=len(ONES)):
            ones = tuple(name for name, holds in zip(ONES, held, strict=True) if holds)
            if not (grouped and "b*h=1" in ones):  # heads that share keys are at least two
                yield Structure(algorithm, phase, mask, "", grouped, ones)
    for structure in product(FUSED, PHASES, MASKS, FUSED_DTYPES, (False, True)):
        yield Structure(*structure)


def symbolic(structure: Structure) -> Case:
    """A case with a letter for every size that is not one, and for the tiles of fused kernels."""
    one_head, one_query, one_dim = (name in structure.ones for name in ONES)
    kv_heads = SYMBOLS["kv_heads"] if structure.grouped else 1 if one_head else SYMBOLS["heads"]
    n, d = (1 if one_query else SYMBOLS["seq"]), (1 if one_dim else SYMBOLS["head_dim"])
    return Case(
        structure.algorithm,
        batch=1 if one_head else SYMBOLS["batch"],
        heads=RATIO * kv_heads if structure.grouped else kv_heads,
        kv_heads=kv_heads,
        seq=n,
        kv_seq=n,
        head_dim=d,
        value_dim=d,
        dtype=dtype(structure.dtype) if structure.dtype else ANY_DTYPE,
        mask=CountedMask(structure.mask != "none", WINDOW if structure.mask == "window" else None),
        phase=structure.phase,
        tiles=_tiles() if structure.algorithm in FUSED else None,
    )


def _tiles() -> FlashTiles:
    """Tiles as letters: their sizes depend on GPU, dtype and head dim, the events do not."""
    found = (Tile(_letter(f"{name}Rows"), _letter(f"{name}Cols")) for name in FlashTiles._fields)
    return FlashTiles(*found)


def _letter(name: str) -> Any:
    return Symbol(name, integer=True, positive=True)


@dataclass
class Tables:
    """The page's data. `keys` maps a structure's key to its program's number; the others are lists by number.

    Attributes:
        programs: each a flat list of numbers: MARK phase, ALLOC formula name group, FREE slot, SAVE slot, RELEASE
            slot, LAUNCH kernel; slots count allocations.
        kernels: a Launch's fields up to `adds_bias`; the dtype's name is "" for the case's own, work, sizes and the
            needed work are numbers of formulas.
        formulas: JavaScript functions of the sizes. names: of tensors. groups: what tensors belong to.
    """

    keys: dict[str, int] = field(default_factory=dict)
    programs: dict[tuple[int, ...], int] = field(default_factory=dict)
    kernels: dict[tuple[Any, ...], int] = field(default_factory=dict)
    formulas: dict[str, int] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)
    groups: dict[str, int] = field(default_factory=dict)
    _known: dict[Any, int] = field(default_factory=dict)
    _launches: dict[tuple[Launch, DType], int] = field(default_factory=dict)

    def add(self, structure: Structure) -> None:
        """Record a structure and put it into the tables."""
        case = symbolic(structure)
        program = tuple(self._numbers(record(case, sites=True), case))
        self.keys[structure.key] = _number(self.programs, program)

    def _numbers(self, program: Program, case: Case) -> Iterator[int]:
        labels, groups, slots = names(program), groups_of(program, program.births()), dict[int, int]()
        for event, _, _, born, *_ in states(program, uncounted):
            if isinstance(event, Mark):
                yield from (MARK, PHASE_NAMES.index(event.phase))
            elif isinstance(event, Launch):
                yield from (LAUNCH, self._kernel(event, case))
            elif born:
                slots[born.key] = len(slots)
                words = _number(self.names, labels[born.key]), _number(self.groups, groups[born.key])
                yield from (ALLOC, self._formula(born.nbytes), *words)
            elif isinstance(event, Free | Save | Release):
                yield from (_SLOT_EVENTS[type(event)], slots[event.key])

    def _kernel(self, launch: Launch, case: Case) -> int:
        if (launch, case.dtype) not in self._launches:
            self._launches[launch, case.dtype] = self._new_kernel(launch, case)
        return self._launches[launch, case.dtype]

    def _new_kernel(self, launch: Launch, case: Case) -> int:
        own = "" if launch.dtype is case.dtype else launch.dtype.name
        work, sizes, needed = (
            tuple(map(self._formula, amounts)) for amounts in (launch.work, launch.sizes, launch.least)
        )
        numbered = launch._replace(work=work, dtype=own, sizes=sizes, needed=needed)  # type: ignore[arg-type]
        return _number(self.kernels, tuple(numbered)[:_KERNEL_FIELDS])

    def _formula(self, expression: Any) -> int:
        if expression not in self._known:
            self._known[expression] = _number(self.formulas, function(expression))
        return self._known[expression]


_KERNEL_FIELDS = Launch._fields.index("ranks")  # the rest is of many GPUs and their streams
_SLOT_EVENTS: dict[type, int] = {Free: FREE, Save: SAVE, Release: RELEASE}


def _number(table: dict[Any, int], entry: Any) -> int:
    """The entry's number in a table; the next one for a new entry."""
    return table.setdefault(entry, len(table))


def tables() -> Tables:
    """Every structure's program."""
    found = Tables()
    for structure in structures():
        found.add(structure)
    return found


class _Printer(JavascriptCodePrinter):  # type: ignore[misc]
    """Whole powers as products, which stay exact below 2^53 where Math.pow need not."""

    def doprint(self, expr: Any, assign_to: None = None) -> str:
        """Plain expressions: what sympy's own needs for arrays and assignments takes longer to import than to print."""
        return str(StrPrinter.doprint(self, expr))

    def _print_Pow(self, expr: Any) -> str:  # noqa: N802 - sympy's name
        if expr.exp.is_Integer and expr.exp > 1:
            return "*".join([self.parenthesize(expr.base, PRECEDENCE["Mul"])] * int(expr.exp))
        return str(super()._print_Pow(expr))


_printer = _Printer({"allow_unknown_functions": True})


def function(expression: Any) -> str:
    """A JavaScript function of the letters in an expression: ({b,h,n})=>2*b*h*n*n."""
    found = sympy.sympify(expression)
    letters = ",".join(sorted(symbol.name for symbol in found.free_symbols))
    code = _printer.doprint(found).replace(" ", "")
    return f"({{{letters}}})=>{code}"
