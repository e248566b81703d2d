"""Groups of the bytes of a peak: parameters, gradients, optimizer, activations by module, and the rest.

A group is a word of `GROUPS`, or one followed by a detail, as in "activations layers.*.mlp". Whoever makes a program
says in `Program.groups` what it knows of a storage; the rest follows from the events.
"""

from collections.abc import Collection, Iterable, Mapping

from memmodel.events.liveness import at_peak
from memmodel.events.program import Alloc, Program, Save

PARAMETERS = "parameters"
GRADIENTS = "gradients"
OPTIMIZER = "optimizer"
ACTIVATIONS = "activations"
LOGITS = "logits"
KV_CACHE = "kv_cache"
TEMPORARY = "temporary"
WORKSPACE = "workspace"
COMMUNICATION = "communication"
GROUPS = (
    PARAMETERS,
    GRADIENTS,
    OPTIMIZER,
    ACTIVATIONS,
    LOGITS,
    KV_CACHE,
    TEMPORARY,
    WORKSPACE,
    COMMUNICATION,
)
GATHERED = f"{PARAMETERS} gathered"  # from shards, while they are needed
INPUTS = f"{ACTIVATIONS} inputs"


def kind_of(group: str) -> str:
    """The first word of a group, which is one of `GROUPS`."""
    return group.partition(" ")[0]


def groups_at_peak(program: Program, peak: int | None = None) -> dict[str, int]:
    """Group -> bytes alive at the live peak of the last step, in the order of `GROUPS`. Sizes must be ints.

    `peak`: its bytes, where they are known.
    """
    _, alive = at_peak(program, peak)
    return by_group(program, (birth for birth in program.births() if birth.key in alive))


def by_group(program: Program, births: Iterable[Alloc]) -> dict[str, int]:
    """Group -> bytes of these storages of a program, in the order of `GROUPS`, the largest first within one."""
    listed, found = list(births), dict[str, int]()
    groups = groups_of(program, listed)
    for birth in listed:
        group = groups[birth.key]
        found[group] = found.get(group, 0) + int(birth.nbytes)
    return dict(sorted(found.items(), key=lambda item: (GROUPS.index(kind_of(item[0])), -item[1])))


def groups_of(program: Program, births: Iterable[Alloc]) -> dict[int, str]:
    """The group of each of these storages of a program, by its key."""
    saved = {event.key for event in program.events if type(event) is Save}
    inputs = program.inputs()
    return {birth.key: group_of(program, birth.key, saved, inputs) for birth in births}


def group_of(program: Program, key: int, saved: Collection[int], inputs: Collection[int]) -> str:
    """The group of a storage: as its maker says, else by what it is to autograd.

    `saved`: the storages that autograd saves at some time. `inputs`: those that are there before the first step.
    """
    said, of = program.groups.get(key), program.gradients.get(key)
    if said is not None:
        return said
    target = None if of is None else program.groups.get(of)
    if target is not None and kind_of(target) == COMMUNICATION:
        return target  # the gradient of what was received
    if of is not None and (of in inputs or of in program.names or kind_of(target or "") == PARAMETERS):
        return GRADIENTS
    if key in inputs:
        return INPUTS
    if target is not None and kind_of(target) == LOGITS:
        return target
    if of is not None:  # of a result on the way to a leaf: it lives for a moment
        return TEMPORARY
    return ACTIVATIONS if key in saved else TEMPORARY


def by_kind(groups: Mapping[str, int]) -> dict[str, int]:
    """The groups added up by their first words."""
    found: dict[str, int] = {}
    for group, nbytes in groups.items():
        found[kind_of(group)] = found.get(kind_of(group), 0) + nbytes
    return found
