"""Run an operator on recording tensors: play the steps of its rule onto their tape."""

from collections.abc import Sequence
from typing import Any

from memmodel.errors import UsageError
from memmodel.program import Launch
from memmodel.rules.operator import SHAPES, Call, Freed, Result, Rule, Scratch, Spec, Steps, rule_of
from memmodel.tensors.layout import Strided
from memmodel.tensors.tape import Tape, current
from memmodel.tensors.tensor import Tensor, new


class OnChip(Strided):
    """A result inside a fused kernel: in registers or shared memory, so that it costs no HBM traffic."""

    __slots__ = ()
    on_chip = True


def aten(op: str, *args: Any, **options: Any) -> Tensor:
    """Call an operator by ATen's name and return its first result. `options` are those of `several`."""
    return several(op, *args, **options)[0]


def several(
    op: str,
    *args: Any,
    into: Tensor | Sequence[Tensor] | None = None,
    label: str | tuple[str, ...] = "",
    temporary: bool = False,
    tape: Tape | None = None,
    after: Sequence[Tensor] = (),
    **named: Any,
) -> tuple[Tensor, ...]:
    """Call an operator by ATen's name and return all of its results.

    Args:
        op: such as "bmm".
        *args: as in ATen's schema; tensors are recording tensors.
        into: the tensor (or several) that it writes in place; without it, the shape function says what it makes.
        label: name of its results in accounts (a tuple: one for each); by default the operator's.
        temporary: whether the result is a C++ temporary, which dies at the end of its expression.
        tape: the tape to record on; by default that of the operands.
        after: tensors, for an operator on a list: each result is of the layer of its own.
        **named: arguments by their names in the schema.

    Raises UsageError for an operator without a rule.
    """
    tape = tape or _tape_of(args)
    mutated = () if into is None else (into,) if isinstance(into, Tensor) else tuple(into)
    specs = [] if into is not None else _specs(op, args, named)
    kind = OnChip if tape.fused else Strided
    results: list[Any] = [kind(*spec) for spec in specs] or list(mutated)
    steps = _rule(op)(Call(op, args, named, results, tape.device, mutated))
    births = _Births(tape, op, specs, label, "temporary" if temporary else "tensor")
    births.after = after
    made: tuple[Tensor, ...] = births.play(steps)
    for x in mutated:
        x.storage.version += 1
    return mutated or made


class _Births:
    """Plays the steps of a rule: makes the results, and records scratch and kernels on the tape."""

    __slots__ = ("after", "labels", "name", "role", "scratch", "specs", "tape", "tensors")

    def __init__(self, tape: Tape, op: str, specs: list[Spec], label: str | tuple[str, ...], role: str) -> None:
        self.tape, self.specs, self.role = tape, specs, role
        self.name = op.strip("_").removesuffix("_data")
        self.labels = label if isinstance(label, tuple) else (label or self.name,) * len(specs)
        self.tensors: list[Tensor | None] = [None] * len(specs)
        self.scratch: list[int] = []
        self.after: Sequence[Tensor] = ()

    def play(self, steps: Steps) -> Any:
        """Record the steps and return the results."""
        for step in steps:
            if type(step) is Launch:
                self.tape.launch(step)
            elif type(step) is Result:
                self._born(step)
            elif type(step) is Scratch:
                self._take(step)
            elif type(step) is Freed:
                self.tape.free(self.scratch.pop())
            else:
                self.tape.unknown[self.name] = step.words  # type: ignore[union-attr]
        while self.scratch:
            self.tape.free(self.scratch.pop())
        return tuple(self.tensors)

    def _born(self, step: Result) -> None:
        before = self.tape.scope
        for i in range(len(self.specs)) if step.place < 0 else (step.place,):
            if self.after:
                self.tape.enter(before._replace(layer=self.tape.layers.get(self.after[i].storage.key)))
            if self.tensors[i] is None:
                self.tensors[i] = new(self.tape, self.specs[i], self.labels[i], self.role, step.nbytes)
        self.tape.enter(before)

    def _take(self, step: Scratch) -> None:
        if not (self.tape.fused or (isinstance(step.nbytes, int) and step.nbytes == 0)):
            key = self.tape.alloc(step.nbytes, step.shape, step.dtype, step.name or f"{self.name} scratch", step.role)
            self.scratch.append(key)


def _rule(op: str) -> Rule:
    found = rule_of(op)
    if found is None:
        raise UsageError(f"there is no rule for the operator {op}: add one in memmodel/rules (docs/extending.md)")
    return found


def _specs(op: str, args: Any, named: Any) -> list[Spec]:
    made = (SHAPES.get(op) or SHAPES[op.rstrip("_")])(*args, **named)
    return made if isinstance(made, list) else [made]


def _tape_of(args: Any) -> Tape:
    for x in args:
        if isinstance(x, Tensor):
            return x.storage.tape
        if isinstance(x, list | tuple) and x and isinstance(x[0], Tensor):
            return x[0].storage.tape
    return current()
