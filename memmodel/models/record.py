"""Recording a step of a model: its parameters, states and batch, then the step itself, as a program.

The code that runs is that of `memmodel_kernels`; here its tensors are made and named, and the choices become functions.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

from memmodel import recording
from memmodel.events import liveness
from memmodel.events.groups import ACTIVATIONS, COMMUNICATION, GATHERED, GRADIENTS, LOGITS
from memmodel.events.program import Alloc, Program, Save
from memmodel.expansion import Expansion, Irregular, Recording, Repetition, repetition
from memmodel.models import megatron
from memmodel.models.run import generate, train
from memmodel.models.setting import ModelCase
from memmodel.recording import Tape, Tensor
from memmodel.sizes.dims import Dim, Size

_GROUPS = (LOGITS, GATHERED, GRADIENTS, COMMUNICATION)  # parts of a scope that are groups


def record(case: ModelCase) -> Program:
    """The program of a step in the steady state, with the optimizer's states among its inputs.

    Few layers are recorded, and repeated, where the rest are like them.
    """
    expansion, times = _repeated(case)
    with suppress(Irregular):
        if expansion is not None:
            return expansion.program(times)
    return record_in_full(case)


def record_memory(case: ModelCase) -> Program:
    """The program that `record` gives, at half the cost; the work of kernels outside of the layers is that of few."""
    expansion, times = _repeated_memory(case)
    with suppress(Irregular):
        if expansion is not None:
            return expansion.program(times)
    return record_in_full(case)


def moments(case: ModelCase, scratch: bool = True) -> list[Dim]:
    """Live bytes where they can be the peak of the step that `record` gives; not all repeated layers are gone through.

    `scratch`: whether that of reductions is counted too.
    """
    expansion, times = _repeated_memory(case)
    with suppress(Irregular):
        if expansion is not None:
            return expansion.moments(times, scratch)
    return liveness.moments(record_in_full(case), scratch)


def record_in_full(case: ModelCase) -> Program:
    """The program of a step, every layer of it run."""
    return recording_of(case).program


class _Short(NamedTuple):
    """A case of few layers, and one of a period more: the former's is repeated so many `times`."""

    few: ModelCase
    more: ModelCase
    repeats: Repetition
    times: int


def _repeated(case: ModelCase) -> tuple[Expansion | None, int]:
    """The recording of a few layers, and how often one of its periods is to be repeated; None where none can be."""
    short = _shortened(case)
    if short is None:
        return None, 0
    return _expansion(short.few, short.more, short.repeats, isinstance(case.seq, Size)), short.times


def _repeated_memory(case: ModelCase) -> tuple[Expansion | None, int]:
    """`_repeated` for memory alone: a single recording shows it, mostly."""
    short = _shortened(case)
    layout = case.layout
    # Buckets of gradients, where ranks average or share them, hold those of neighbouring layers together.
    in_buckets = layout.batches * layout.cp > 1 and not layout.fully_sharded
    # Sizes with letters are recorded for formulas too: that recording is remembered.
    if short is None or in_buckets or isinstance(case.seq, Size):
        return _repeated(case)
    alone = _alone(short.more, short.repeats)
    return (alone, short.times - 1) if alone is not None else _repeated(case)


def _shortened(case: ModelCase) -> _Short | None:
    """The cases to record in place of one with many layers; None where layers cannot be repeated, or are few."""
    from memmodel_kernels.offloading import KEPT_ON_DEVICE

    layers, repeats, stages = case.arch.layers, repetition(case.arch.kinds()), 1
    if case.layout.virtual_stages > 1 or case.arch.encoder:  # each of them would grow
        return None
    if case.framework == "megatron":  # whose case is that of all stages
        stages = case.layout.stages
        layers //= stages
    elif case.layout.fully_sharded and max(case.layout.pp, case.layout.ep, case.microbatches) > 1:
        # Later backwards gather nothing ahead, unlike the first; of experts, a layer has a unit of their own.
        repeats = repeats._replace(margin=2)
    if case.offload:  # the newest few tensors stay on the device, of as many layers at most
        repeats = repeats._replace(margin=KEPT_ON_DEVICE + 1)
    fewest = repeats.fewest(layers)
    if layers <= fewest + repeats.period:
        return None
    few, more = (
        replace(case, arch=replace(case.arch, layers=stages * count)) for count in (fewest, fewest + repeats.period)
    )
    return _Short(few, more, repeats, (layers - fewest) // repeats.period)


@lru_cache(maxsize=2)
def _expansion(few: ModelCase, more: ModelCase, repeats: Repetition, lettered: bool) -> Expansion | None:
    """The recording of few layers, held to that of a period more; None where layers do not repeat.

    The last two are remembered: a case of more layers asks for the same. `lettered`: whether sizes have letters, which
    equal their numbers.
    """
    try:
        return Expansion(_remembered(few, lettered), _remembered(more, lettered), repeats)
    except Irregular:
        return None


@lru_cache(maxsize=2)
def _alone(more: ModelCase, repeats: Repetition) -> Expansion | None:
    """The memory of a recording with two periods; None where they differ. The last two are remembered."""
    try:
        return Expansion(_remembered(more, False), None, repeats)
    except Irregular:
        return None


@lru_cache(maxsize=2)
def _remembered(case: ModelCase, lettered: bool) -> Recording:
    """A recording of few layers, which is asked for again where alone it does not show what repeats."""
    return recording_of(case)


def recording_of(case: ModelCase) -> Recording:
    """The recording of a step, every layer of it run."""
    with Tape(case.device, sites=False) as tape:
        tape.mark("inputs")
        run = _run(case)
        held = run(recording, case, partial(_label, tape), tape.mark)  # the inputs outlive the step
    del held
    return Recording.of(tape, tape.program._replace(groups=_groups(tape)))


def _run(case: ModelCase) -> Callable[..., Any]:
    if case.framework == "megatron":
        return megatron.train
    return train if case.phase == "train" else generate


def _label(tape: Tape, tensor: Tensor, name: str, group: str) -> None:
    """Remember the name and the group of an input."""
    if name:
        tape.names[tensor.storage.key] = name
    if group:
        tape.groups[tensor.storage.key] = group


def _groups(tape: Tape) -> dict[int, str]:
    """The group of each storage: the one given when it was made, else that of the part of the model that made it."""
    saved = {event.key for event in tape.events if type(event) is Save}
    groups = dict(tape.groups)
    starts = [*tape.scopes, (len(tape.events), tape.scope)]
    for (first, scope), (end, _) in pairwise(starts):
        for event in tape.events[first:end] if scope.part else ():
            # A parameter's gradient, or that of a gathered one, is no part of what the scope computes.
            of = tape.gradients.get(event.key) if type(event) is Alloc else None
            if type(event) is Alloc and of not in tape.names and groups.get(of or 0) != GATHERED:
                if scope.part in _GROUPS:
                    groups[event.key] = scope.part
                elif event.key in saved:
                    groups[event.key] = f"{ACTIVATIONS} {scope.part}"
    return groups
