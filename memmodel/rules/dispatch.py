"""Run an operator on recording tensors: what its rule says, onto their tape."""

from typing import Any

from memmodel.errors import UsageError
from memmodel.program import Launch
from memmodel.rules.operator import SHAPES, Call, Freed, NotKnown, Result, Scratch, Spec, rule_of
from memmodel.tensors.layout import Strided
from memmodel.tensors.tape import Tape, current
from memmodel.tensors.tensor import Tensor, new


class OnChip(Strided):
    """A result inside a fused kernel: it lives in registers or shared memory, so that only its arithmetic counts."""

    __slots__ = ()
    on_chip = True


def aten(
    op: str,
    *args: Any,
    into: Tensor | None = None,
    label: str | tuple[str, ...] = "",
    temporary: bool = False,
    tape: Tape | None = None,
    **named: Any,
) -> Tensor:
    """Call an operator by ATen's name; its result.

    Args:
        op: such as "bmm".
        *args: as in ATen's schema; tensors are recording tensors.
        into: the tensor that it writes in place; without, it makes what its shape function says.
        label: what accounts call its results (a tuple: each of them), where not by the operator's name.
        temporary: whether C++ drops the result at the end of the expression.
        tape: where it is recorded, for an operator without a tensor among its operands.
        **named: arguments by their names in the schema.

    Raises UsageError for an operator without a rule.
    """
    return several(op, *args, into=into, label=label, temporary=temporary, tape=tape, **named)[0]


def several(
    op: str,
    *args: Any,
    into: Tensor | None = None,
    label: str | tuple[str, ...] = "",
    temporary: bool = False,
    tape: Tape | None = None,
    **named: Any,
) -> tuple[Tensor, ...]:
    """`aten` for an operator of several results: all of them."""
    found = rule_of(op)
    if found is None:
        raise UsageError(f"there is no rule for the operator {op}: add one in memmodel/rules (docs/extending.md)")
    tape = tape or _tape_of(args)
    specs = [] if into is not None else _specs(op, args, named)
    kind = OnChip if tape.fused else Strided
    results: list[Any] = [kind(*spec) for spec in specs] or [into]
    labels = (label,) * len(specs) if label and isinstance(label, str) else label or (_name(op),) * len(specs)
    role = "temporary" if temporary else "tensor"
    made: dict[int, Tensor] = {}
    scratch: list[int] = []
    for step in found(Call(op, args, named, results, tape.device, () if into is None else (into,))):
        if type(step) is Launch:
            tape.launch(step)
        elif type(step) is Result:
            for i in range(len(specs)) if step.place < 0 else (step.place,):
                if specs and i not in made:
                    made[i] = new(tape, specs[i], labels[i], role, step.nbytes)
        elif type(step) is Scratch:
            if not (tape.fused or (isinstance(step.nbytes, int) and step.nbytes == 0)):
                scratch.append(tape.alloc(step.nbytes, step.shape, step.dtype, f"{_name(op)} scratch", "temporary"))
        elif type(step) is Freed:
            tape.free(scratch.pop())
        else:
            assert type(step) is NotKnown
            tape.unknown[op] = step.words
    while scratch:
        tape.free(scratch.pop())
    if into is not None:
        into.storage.version += 1
        return (into,)
    return tuple(made[i] for i in range(len(specs)))


def _name(op: str) -> str:
    return op.strip("_").removesuffix("_data")


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
