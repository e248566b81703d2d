"""The step after the last, as a copy of it: exact where the last step left no storage behind and freed no older one."""

from collections.abc import Mapping
from typing import Any, TypeVar

from memmodel.events.liveness import step_start
from memmodel.events.program import Alloc, Event, Launch, Program
from memmodel.tracer.watch.owners import Owners

T = TypeVar("T")


class Again:
    """A copy of a program's last step behind it; its storages have keys of their own.

    Attributes:
        program: the events with the copy.
    """

    def __init__(self, program: Program, last_key: int) -> None:
        self._start, self._length = step_start(program), len(program.events)
        step = program.events[self._start :]
        self._keys = {event.key: event.key + last_key for event in step if isinstance(event, Alloc)}
        self._kernels = sum(isinstance(event, Launch) for event in step)
        gradients = {
            self._keys[key]: self._keys.get(of, of) for key, of in program.gradients.items() if key in self._keys
        }
        self.program = program._replace(
            events=[*program.events, *map(self._renamed, step)],
            names=self.of_both(program.names),
            gradients=program.gradients | gradients,
            groups=self.of_both(program.groups),
        )

    def _renamed(self, event: Event) -> Event:
        key: Any = getattr(event, "key", None)
        return event._replace(key=self._keys[key]) if key in self._keys else event  # type: ignore[call-arg]

    def of_both(self, known: Mapping[int, T]) -> dict[int, T]:
        """A mapping by storage, extended to the copy's storages."""
        return {**known, **{self._keys[key]: value for key, value in known.items() if key in self._keys}}

    def uses(self, last: Mapping[int, int]) -> dict[int, int]:
        """Storage -> place of its last use: one step later for what the step uses."""
        later = self._length - self._start
        moved = {self._keys.get(key, key): use + later for key, use in last.items() if use > self._start}
        return {**last, **moved}

    def note_owners(self, owners: Owners) -> None:
        """Say of the copy's storages and kernels which parameters they come from."""
        first = len(owners.launches) - self._kernels
        owners.of = self.of_both(owners.of)
        owners.parts |= {at + self._kernels: part for at, part in owners.parts.items() if at >= first}
        owners.launches += owners.launches[first:]
