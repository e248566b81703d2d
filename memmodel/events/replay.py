"""Replay a program through the caching allocator: allocated and reserved bytes by phase or event, out of memory."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from memmodel.allocator import CachingAllocator, OutOfMemory
from memmodel.allocator.cublas import Taken, Workspace
from memmodel.allocator.replay import FREE, KEEP, MALLOC, Blocks, Request, serve
from memmodel.events.program import STATE, Alloc, Free, Launch, Mark, Program


class Usage(NamedTuple):
    """Allocator statistics of a phase in bytes: at its start, the peaks in it, and at its end."""

    allocated_start: int
    allocated_peak: int
    reserved_peak: int
    allocated_end: int
    reserved_end: int


class Replay(NamedTuple):
    """Usage by phase, in order and once per step; the request that did not fit, if any; releases of the cache."""

    phases: tuple[tuple[str, Usage], ...]
    out_of_memory: OutOfMemory | None
    retries: int

    def last(self, phase: str) -> Usage:
        """The last phase of that name: the steady state, after the cache has warmed up."""
        return next(usage for name, usage in reversed(self.phases) if name == phase)


class _Phase(NamedTuple):
    """A phase as allocator requests; `seen[i]` is the number of requests up to and including event i."""

    name: str
    requests: list[Request]
    seen: list[int]


def replay(program: Program, allocator: CachingAllocator, workspace: Workspace, steps: int = 1) -> Replay:
    """Serve the program's requests; those from the first "forward" on are repeated for `steps` steps.

    `reserved` depends on earlier steps, since the cache takes two to settle: a step that leaves the allocator as it
    found it is not served again. Peaks are reset at each mark; the replay stops at the first request that does not fit.
    """
    blocks: Blocks = {}
    phases: list[tuple[str, Usage]] = []
    before, step = _phases(program, workspace)
    _serve_phases(before, allocator, blocks, phases)
    found = allocator.free_blocks()
    for served in range(1, steps + 1):
        retries = allocator.retries
        _serve_phases(step, allocator, blocks, phases)
        left = allocator.free_blocks()
        if left == found and allocator.retries == retries:
            phases.extend(phases[len(phases) - len(step) :] * (steps - served))
            break
        found = left
    return Replay(tuple(phases), allocator.failed, allocator.retries)


def _serve_phases(
    served: list[_Phase], allocator: CachingAllocator, blocks: Blocks, phases: list[tuple[str, Usage]]
) -> None:
    """Serve phases, and add their usage to `phases`, until a request does not fit."""
    for name, requests, _ in served:
        if allocator.failed is not None:
            break
        start = allocator.allocated
        if phases:  # peaks of the first phase are those since the allocator's own reset
            allocator.reset_peak()
        deque(serve(requests, allocator, blocks), maxlen=0)
        usage = Usage(start, allocator.allocated_peak, allocator.reserved_peak, allocator.allocated, allocator.reserved)
        phases.append((name, usage))


def replay_by_event(
    program: Program, allocator: CachingAllocator, workspace: Workspace, steps: int = 1
) -> list[tuple[int, int]]:
    """(allocated, reserved) bytes at each event of the last of `steps`, from the "forward" mark on.

    A workspace that is freed after its kernel counts at that kernel.
    """
    blocks: Blocks = {}
    before, step = _phases(program, workspace)
    for _, requests, _ in (*before, *step * (steps - 1)):
        deque(serve(requests, allocator, blocks), maxlen=0)
    found = []
    for _, requests, seen in step:
        after = [(allocator.allocated, allocator.reserved), *serve(requests, allocator, blocks)]
        found += [after[count] for count in seen]
    return found


def _phases(program: Program, workspace: Workspace) -> tuple[list[_Phase], list[_Phase]]:
    """The phases before the first "forward", and those from there on, which make one step.

    Before it are also the first step, where the optimizer makes its states then, and these states.
    """
    make: Callable[[type[Request], Any], Request] = tuple.__new__  # half the time of Request(...), for every request
    current, states = _Phase("start", [], []), _Phase("inputs", [], [])
    phases, kept = [current], set[str]()
    for event in program.events:
        taken: Sequence[Taken] = ()
        if type(event) is Mark:
            current = _Phase(event.phase, [], [])
            phases.append(current)
        elif type(event) is Alloc:
            request = make(Request, (MALLOC, event.key, event.nbytes, event.stream))
            (states.requests if event.role == STATE else current.requests).append(request)
        elif type(event) is Free:
            current.requests.append(make(Request, (FREE, event.key, 0, 0)))
        elif type(event) is Launch and event.cublas:
            taken = [one for one in workspace.taken(event) if one.name not in kept]
            current.requests.extend([Request(KEEP, name, nbytes) for name, nbytes, _ in taken])
        current.seen.append(len(current.requests))
        for name, _, per_call in taken:
            if per_call:  # given back after the kernel
                current.requests.append(Request(FREE, name))
            else:  # no later kernel asks for it
                kept.add(name)
    first = next((i for i, phase in enumerate(phases) if phase.name == "forward"), len(phases))
    before, step = phases[:first], phases[first:]
    return [*before, *step, states] if states.requests else before, step
