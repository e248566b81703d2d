"""Run an operator on recording tensors: play the steps of its rule onto their tape."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from memmodel.base.device import Device
from memmodel.base.errors import UsageError
from memmodel.events.program import Launch
from memmodel.rules.operator import RULES, SHAPES, Call, Freed, NotKnown, Result, Rule, Scratch, Shaper, Spec, rule_of
from memmodel.sizes.dims import Dim, Size, product
from memmodel.tensors.layout import OnChip, Strided, laid_out
from memmodel.tensors.tape import Tape, current
from memmodel.tensors.tensor import Tensor, new


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
    tape = tape or (args[0].storage.tape if args and type(args[0]) is Tensor else _tape_of(args))
    # A second run under selective checkpointing takes back what the first kept, and launches nothing.
    if tape.selected is not None and into is None:
        kept: tuple[Tensor, ...] | None = tape.selected.given_back(op)
        if kept is not None:
            return kept
    mutated = () if into is None else (into,) if isinstance(into, Tensor) else tuple(into)
    rule = RULES.get(op) or _rule(op)
    shaper = SHAPES.get(op) or SHAPES.get(op.rstrip("_"))  # one that is only called in place has none
    call = op, rule, shaper, tape.fused > 0, tape.device, tape.thread, tape.stream
    try:
        known = tuple([x.layout if type(x) is Tensor else _known(x) for x in args])
        written = tuple([x.layout for x in mutated])
        options = tuple([(name, _known(x)) for name, x in named.items()]) if named else ()
        plan = _remembered(*call, known, written, _repeated(args, mutated), options)
    except TypeError:  # sizes that cannot be a key: arrays
        plan = _planned(*call, args, mutated, named)
    if tape.scope.layer is None and (plan.scratch or (plan.results and not after)):
        tape.read_outside.update(tape.layers[key] for key in _storages((*args, *mutated)) if key in tape.layers)
    made = _played(plan, tape, label, "temporary" if temporary else "tensor", after)
    for x in mutated:
        x.storage.version += 1  # backward refuses a saved tensor that was written since
    if tape.selected is not None and not mutated:
        tape.selected.keep(op, made)
    return mutated or made


class _Birth(NamedTuple):
    """An allocation: of the result in a place, with its layout if known, or (None) of scratch, which may be named."""

    place: int | None
    nbytes: Dim
    spec: Spec
    layout: Strided | None = None
    name: str = ""
    role: str = ""


class _Plan(NamedTuple):
    """What an operator does: the number of its results, whether it takes scratch, its name in accounts, its steps."""

    results: int
    scratch: bool
    name: str
    steps: Sequence[_Birth | Freed | Launch | NotKnown]


@lru_cache(maxsize=1 << 14)
def _remembered(
    op: str, rule: Rule, shaper: Shaper | None, fused: bool, device: Device, thread: str, stream: int,
    args: tuple[Any, ...], mutated: tuple[Any, ...], repeated: tuple[int, ...], named: Any,
) -> _Plan:  # fmt: skip
    """`_planned`, for operands as `_known`: layers, chunks and phases ask the same again and again.

    `repeated`: as of `_repeated`.
    """
    tensors: list[Strided] = []

    def operand(x: Any) -> Any:
        if isinstance(x, Strided):
            place = len(tensors)
            first = repeated[place] if repeated else place
            tensors.append(x.copied() if first == place else tensors[first])
            return tensors[-1]
        kind, value, _ = x
        return kind(map(operand, value)) if kind in _LISTS else value

    made, written = tuple(map(operand, args)), tuple(map(operand, mutated))
    return _planned(op, rule, shaper, fused, device, thread, stream, made, written, {n: operand(x) for n, x in named})


def _planned(
    op: str, rule: Rule, shaper: Shaper | None, fused: bool, device: Device, thread: str, stream: int,
    args: Any, mutated: Any, named: Any,
) -> _Plan:  # fmt: skip
    """The results that an operator makes, and the steps of its rule. They depend on nothing but these arguments."""
    if shaper is None and not mutated:
        raise UsageError(f"there is no shape function for the operator {op}: add one in memmodel/rules")
    shapes: Any = [] if mutated or shaper is None else shaper(*args, **named)
    specs = shapes if isinstance(shapes, list) else [shapes]
    # Rules get the layouts of results alone: tensors are made when the steps are played, in their order.
    kind = OnChip if fused else Strided
    results: list[Any] = [kind(*spec) for spec in specs] or list(mutated)
    name = op.strip("_").removesuffix("_data")  # "_softmax_backward_data" is "softmax_backward" in accounts
    steps: list[Any] = []
    unmade = dict(enumerate(specs))
    for step in rule(Call(op, args, named, results, device, mutated)):
        if isinstance(step, Launch):
            steps.append(step._replace(thread=thread, stream=stream))
        elif isinstance(step, Result):
            # RESULTS after a `Result(i)` makes the others: each is made once.
            for place in list(unmade) if step.place < 0 else [step.place]:
                spec = unmade.pop(place)
                nbytes = product(spec.shape) * spec.dtype.itemsize if step.nbytes is None else step.nbytes
                steps.append(_Birth(place, nbytes, spec, _layout_of(spec)))
        elif isinstance(step, Scratch):
            # Inside a fused kernel, and for no bytes, the allocator is not asked.
            if not fused and not (isinstance(step.nbytes, int) and step.nbytes == 0):
                steps.append(_Birth(None, step.nbytes, Spec(step.shape, step.dtype), None, step.name, step.role))
        else:
            steps.append(step)
    return _Plan(len(specs), any(type(step) is _Birth and step.place is None for step in steps), name, steps)


def _layout_of(spec: Spec) -> Strided | None:
    try:
        return laid_out(spec.shape, spec.dtype, spec.strides, 0)
    except TypeError:
        return None


_LISTS = (list, tuple)


def _known(x: Any) -> Any:
    """What a rule can read of an argument, as a key: a layout, or a number, a shape, a name with its type.

    Raises TypeError for what is no key. A key that held a tensor would keep it alive.
    """
    if isinstance(x, Tensor):
        return x.layout
    kind = type(x)
    if kind in _LISTS:
        return kind, tuple([_known(y) for y in x]), ""
    if isinstance(x, Strided):
        raise TypeError
    return kind, x, x.letter if kind is Size else ""  # with its type, since 1, 1.0 and True are equal keys


def _repeated(args: Sequence[Any], mutated: Sequence[Tensor]) -> tuple[int, ...]:
    """For each tensor among the operands the first place of the same one; () if none comes twice."""
    tensors: list[int] = []
    for x in args:
        if type(x) is Tensor:
            tensors.append(id(x))
        elif type(x) in _LISTS:
            tensors += [id(y) for y in x if type(y) is Tensor]
    tensors += map(id, mutated)
    if len(set(tensors)) == len(tensors):
        return ()
    places: dict[int, int] = {}
    return tuple([places.setdefault(number, place) for place, number in enumerate(tensors)])


def _storages(args: Sequence[Any]) -> Iterator[int]:
    """The storages of the tensors among operands."""
    for x in args:
        if isinstance(x, Tensor):
            yield x.storage.key
        elif type(x) in _LISTS:
            yield from _storages(x)


def _played(
    plan: _Plan, tape: Tape, label: str | tuple[str, ...], role: str, after: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Record the steps: make the results, and record scratch and kernels on the tape."""
    made: list[Any] = [None] * plan.results
    scratch: list[int] = []
    before = tape.scope
    for step in plan.steps:
        if type(step) is Launch:
            tape.launch(step)
        elif type(step) is _Birth:
            place, nbytes, spec, layout, name, kind = step
            if place is None:
                key = tape.alloc(nbytes, spec.shape, spec.dtype, name or f"{plan.name} scratch", kind)
                if name and not tape.node:  # the line that calls the operator names its result alone
                    tape.names[key] = name
                scratch.append(key)
                continue
            if after:
                tape.enter(before._replace(layer=tape.layers.get(after[place].storage.key)))
            own = label[place] if isinstance(label, tuple) else label or plan.name
            made[place] = new(tape, spec, own, role, nbytes, layout)
            if after:
                tape.enter(before)
        elif type(step) is Freed:
            tape.free(scratch.pop())
        else:
            tape.unknown[plan.name] = step.words  # type: ignore[union-attr]
    # What is left are locals of the operator, which C++ destroys in reverse.
    while scratch:
        tape.free(scratch.pop())
    return tuple(made)


def _rule(op: str) -> Rule:
    found = rule_of(op)
    if found is None:
        raise UsageError(f"there is no rule for the operator {op}: add one in memmodel/rules (docs/extending.md)")
    return found


def _tape_of(args: Any) -> Tape:
    for x in args:
        if isinstance(x, Tensor):
            return x.storage.tape
        if isinstance(x, list | tuple) and x and isinstance(x[0], Tensor):
            return x[0].storage.tape
    return current()
