"""What PEFT's comparison on MetaMathQA runs: training steps whose lengths vary, and what they reserve.

Source: huggingface/peft@5d602fdb, method_comparison/MetaMathQA/run.py and utils.py. Samples come in buckets of 20
batches, each sorted from long to short and cut at 768 tokens. Every tenth step ends with `empty_cache`, which keeps the
segments that gradients lie in: these are dropped where the next step begins. What a step returned, its logits and its
cache of keys and values, stays until the next one has returned.

The lengths are not published. Here they are log-normal around the mean that is (4,198,051 tokens of 20,000 samples),
with a spread that gives the mean of allocated bytes that is printed, since these grow with the padded lengths.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np

from memmodel.allocator import CachingAllocator
from memmodel.allocator.cublas import Workspace
from memmodel.allocator.replay import FREE, KEEP, MALLOC, Blocks, Request, serve
from memmodel.events.program import Alloc, Free, Launch, Mark, Program, Save
from memmodel.models.program import memory_program
from memmodel.models.setting import ModelCase

_MEAN, _SPREAD, _LONGEST = 4_198_051 / 20_000, 0.45, 768  # tokens; of their logarithm; tokens
_BATCHES, _EMPTIED = 20, 10


def lengths(buckets: int, batch: int) -> Iterator[int]:
    """The length of each batch, which is that of its longest sample."""
    drawn = np.random.default_rng(0).lognormal(np.log(_MEAN) - _SPREAD**2 / 2, _SPREAD, (buckets, _BATCHES * batch))
    for bucket in np.sort(np.minimum(drawn, _LONGEST), axis=1)[:, ::-1]:
        yield from bucket[::batch].astype(int).tolist()


class Reserved(NamedTuple):
    """Bytes: the most that was reserved, and the means of what was reserved and allocated when steps ended."""

    most: int
    mean: float
    allocated: float


class _Step(NamedTuple):
    """The requests of a step: before the first one, until it has returned, after that, and what frees its results."""

    setup: list[Request]
    forward: list[Request]
    rest: list[Request]
    results: list[Request]
    gradients: list[Request]


def reserved(case: ModelCase, workspace: Workspace, buckets: int) -> Reserved:
    """What a run of so many buckets reserves."""
    allocator, ends = CachingAllocator(), []
    blocks: Blocks = {}
    step_of = cache(lambda length: _step(replace(case, seq=length), workspace))
    last = _Step([], [], [], [], [])
    for number, length in enumerate(lengths(buckets, int(case.batch)), 1):
        step = _Step(*([_of_step(request, number) for request in part] for part in step_of(length)))
        for requests in (step.setup if number == 1 else [], last.gradients, step.forward, last.results, step.rest):
            for _ in serve(requests, allocator, blocks):
                pass
        ends.append((allocator.reserved, allocator.allocated))
        if number % _EMPTIED == 0:
            allocator.empty_cache()
        last = step
    means = np.mean(ends, axis=0)
    return Reserved(allocator.reserved_peak, float(means[0]), float(means[1]))


def _of_step(request: Request, number: int) -> Request:
    """The request with a step's own name of a storage that the step makes."""
    action, key, nbytes, stream = request
    return Request(action, (number, key), nbytes, stream) if isinstance(key, int) else request


def _step(case: ModelCase, workspace: Workspace) -> _Step:
    program = memory_program(case)
    found, phase, births = _Step([], [], [], [], []), "", 0
    outlives = _outliving(program, case)
    names: dict[int, str] = {}  # of storages that all steps share, in the order of their births
    for event in program.events:
        if isinstance(event, Mark) and (phase or event.phase == "forward"):
            phase = event.phase
        made = found.forward if phase == "forward" else found.rest if phase else found.setup
        if isinstance(event, Alloc):
            births += 1
            if not phase:
                names[event.key] = f"storage {births}"
            made.append(Request(MALLOC, names.get(event.key, event.key), event.nbytes, event.stream))
        elif isinstance(event, Free):
            late = found.results if event.key in outlives else found.gradients if phase == "after" else made
            late.append(Request(FREE, names.get(event.key, event.key)))
        elif isinstance(event, Launch) and event.cublas:
            made.extend(Request(KEEP, name, nbytes) for name, nbytes, _ in workspace.taken(event))
    return found


def _outliving(program: Program, case: ModelCase) -> set[int]:
    """The storages that a step returns: its logits, and the keys and values that attention saves."""
    size = case.dtype.itemsize
    logits = case.batch * case.seq * case.arch.vocab * size
    kept = case.batch * case.seq * case.arch.kv_heads * case.arch.head_dim * size
    saved = {e.key for e in program.events if isinstance(e, Save) and e.node.startswith("Sdpa")}
    births = [event for event in program.events if isinstance(event, Alloc)]
    first = next(e.key for e in births if e.nbytes == logits and program.groups.get(e.key, "").startswith("logits"))
    return {first} | {e.key for e in births if e.key in saved and e.nbytes == kept}
