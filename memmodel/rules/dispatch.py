"""Run an operator on recording tensors: play the steps of its rule onto their tape."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from memmodel.base.device import Device
from memmodel.base.dtypes import DType
from memmodel.base.errors import UsageError
from memmodel.events.program import Launch
from memmodel.rules.operator import SHAPES, Call, Freed, Result, Rule, Scratch, Shaper, Spec, Step, rule_of
from memmodel.sizes.dims import Dim, Shape, Size
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
        after: tensors, for an operator on a list: each result belongs to the layer of the tensor in its place.
        **named: arguments by their names in the schema.

    Raises UsageError for an operator without a rule.
    """
    tape = tape or _tape_of(args)
    # A second run under selective checkpointing takes back what the first kept, and launches nothing.
    if tape.selected is not None and into is None:
        kept: tuple[Tensor, ...] | None = tape.selected.given_back(op)
        if kept is not None:
            return kept
    mutated = () if into is None else (into,) if isinstance(into, Tensor) else tuple(into)
    call = op, _rule(op), _shaper(op), bool(tape.fused), tape.device
    try:
        operands = tuple(_described((*args, *mutated)))
        described = operands[: len(args)], operands[len(args) :]
        specs, steps = _remembered(*call, *described, tuple((name, _number(x)) for name, x in named.items()))
    except TypeError:  # sizes that cannot be a key: arrays, letters
        specs, steps = _asked(*call, args, mutated, named)
    player = _StepPlayer(tape, op, specs, label, "temporary" if temporary else "tensor")
    player.after = after
    made: tuple[Tensor, ...] = player.play(steps)
    for x in mutated:
        x.storage.version += 1  # backward refuses a saved tensor that was written since
    if tape.selected is not None and not mutated:
        tape.selected.keep(op, made)
    return mutated or made


@lru_cache(maxsize=1 << 14)
def _remembered(
    op: str, rule: Rule, shaper: Shaper | None, fused: bool, device: Device, args: Any, mutated: Any, named: Any
) -> tuple[list[Spec], Sequence[Step]]:
    """`_asked`, for operands as `_described`: layers, chunks and phases ask the same again and again."""
    operands: list[Any] = []
    for x in (*args, *mutated):
        operands.append(operands[x[1]] if x[0] is _SAME else x[1] if x[0] is not None else _operand(*x[1:]))
    count = len(args)
    return _asked(op, rule, shaper, fused, device, tuple(operands[:count]), tuple(operands[count:]), dict(named))


def _asked(
    op: str, rule: Rule, shaper: Shaper | None, fused: bool, device: Device, args: Any, mutated: Any, named: Any
) -> tuple[list[Spec], Sequence[Step]]:
    """The results that an operator makes, and the steps of its rule. They depend on nothing but these arguments."""
    if shaper is None and not mutated:
        raise UsageError(f"there is no shape function for the operator {op}: add one in memmodel/rules")
    made: Any = [] if mutated or shaper is None else shaper(*args, **named)
    specs = made if isinstance(made, list) else [made]
    # Rules get the layouts of results alone: tensors are made when the steps are played, in their order.
    kind = OnChip if fused else Strided
    results: list[Any] = [kind(*spec) for spec in specs] or list(mutated)
    return specs, tuple(rule(Call(op, args, named, results, device, mutated)))


_SAME = "same"


def _described(operands: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The properties of operands that a rule can read, as keys: layouts, numbers, and which are the same tensor.

    Raises TypeError for what is no key: sizes with letters, which equal their numbers and print otherwise, and lists.
    """
    found: list[tuple[Any, ...]] = []
    ids = [id(x) for x in operands]
    for i, x in enumerate(operands):
        if not isinstance(x, Strided):
            found.append((type(x), _number(x)))  # with its type, since 1, 1.0 and True are equal keys
        elif ids.index(ids[i]) < i:
            found.append((_SAME, ids.index(ids[i])))
        else:
            if Size in map(type, x.shape):
                raise TypeError
            found.append((None, x.shape, x.dtype, x.kept_strides, x.offset, x.on_chip))
    return found


def _number(x: Any) -> Any:
    """A number, a shape, a name or a dtype; a key that held a tensor would keep it alive."""
    if isinstance(x, Size | Strided) or (isinstance(x, tuple) and any(isinstance(y, Size | Strided) for y in x)):
        raise TypeError
    return x


def _operand(shape: Shape, dtype: DType, strides: Shape | None, offset: Dim, on_chip: bool) -> Strided:
    return (OnChip if on_chip else Strided)(shape, dtype, strides, offset)


class _StepPlayer:
    """Plays the steps of a rule: makes the results, and records scratch and kernels on the tape."""

    __slots__ = ("after", "labels", "name", "role", "scratch", "specs", "tape", "tensors")

    def __init__(self, tape: Tape, op: str, specs: list[Spec], label: str | tuple[str, ...], role: str) -> None:
        self.tape, self.specs, self.role = tape, specs, role
        self.name = op.strip("_").removesuffix("_data")  # "_softmax_backward_data" is "softmax_backward" in accounts
        self.labels = label if isinstance(label, tuple) else (label or self.name,) * len(specs)
        self.tensors: list[Tensor | None] = [None] * len(specs)
        self.scratch: list[int] = []
        self.after: Sequence[Tensor] = ()

    def play(self, steps: Iterable[Step]) -> Any:
        """Record the steps and return the results."""
        for step in steps:
            if type(step) is Launch:
                self.tape.launch(step)
            elif type(step) is Result:
                self._make(step)
            elif type(step) is Scratch:
                self._allocate(step)
            elif type(step) is Freed:
                self.tape.free(self.scratch.pop())
            else:
                self.tape.unknown[self.name] = step.words  # type: ignore[union-attr]
        # What is left are locals of the operator, which C++ destroys in reverse.
        while self.scratch:
            self.tape.free(self.scratch.pop())
        return tuple(self.tensors)

    def _make(self, step: Result) -> None:
        before = self.tape.scope
        # RESULTS after a `Result(i)` makes the others: each is made once.
        for i in range(len(self.specs)) if step.place < 0 else (step.place,):
            if self.after:
                self.tape.enter(before._replace(layer=self.tape.layers.get(self.after[i].storage.key)))
            if self.tensors[i] is None:
                self.tensors[i] = new(self.tape, self.specs[i], self.labels[i], self.role, step.nbytes)
        self.tape.enter(before)

    def _allocate(self, step: Scratch) -> None:
        nbytes = step.nbytes
        if not (self.tape.fused or (isinstance(nbytes, int) and nbytes == 0)):
            key = self.tape.alloc(nbytes, step.shape, step.dtype, step.name or f"{self.name} scratch", step.role)
            if step.name and not self.tape.node:  # the line that calls the operator names its result alone
                self.tape.names[key] = step.name
            self.scratch.append(key)


def _rule(op: str) -> Rule:
    found = rule_of(op)
    if found is None:
        raise UsageError(f"there is no rule for the operator {op}: add one in memmodel/rules (docs/extending.md)")
    return found


def _shaper(op: str) -> Shaper | None:
    """The shape function of an operator; one that is only called in place has none."""
    return SHAPES.get(op) or SHAPES.get(op.rstrip("_"))


def _tape_of(args: Any) -> Tape:
    for x in args:
        if isinstance(x, Tensor):
            return x.storage.tape
        if isinstance(x, list | tuple) and x and isinstance(x[0], Tensor):
            return x[0].storage.tape
    return current()
