"""Streams: a block of the caching allocator belongs to the stream that was current when it was allocated.

No kernel runs, so that a stream is a number: the default one is 0, and each that the code or PyTorch makes is the next.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from memmodel.tracer.watch.watcher import Watcher

Replacement = tuple[Any, str, Any]


class Stream:
    """A stream that work is put on."""

    made = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        Stream.made += 1
        self.number = Stream.made

    def record_event(self, event: Any = None) -> Any:
        """An event, which is over at once."""
        return event or Event()

    def query(self) -> bool:
        """Whether its work is done."""
        return True

    def wait_stream(self, _: Any) -> None:
        """Ordering changes no memory."""

    wait_event = wait_stream

    def synchronize(self) -> None:
        """Its work is done."""


class Event:
    """A point in a stream's work."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def record(self, _: Any = None) -> None:
        """It is over at once."""

    wait = record

    def query(self) -> bool:
        """Whether it is over."""
        return True

    def synchronize(self) -> None:
        """It is over."""

    def elapsed_time(self, _: "Event") -> float:
        """Milliseconds: any number serves prints."""
        return 1.0


class Streams:
    """The current stream of a traced run, which it tells the watcher."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        Stream.made = -1  # in each trace, the default stream is number 0
        self.default = Stream()
        self.current = self.default

    @contextmanager
    def on(self, stream: Stream | None) -> Iterator[None]:
        """Within, what is allocated belongs to this stream."""
        before = self.current
        self._switch(stream or before)
        try:
            yield
        finally:
            self._switch(before)

    def _switch(self, stream: Stream) -> None:
        self.current = stream
        self.watcher.stream = stream.number

    def replacements(self) -> Iterator[Replacement]:
        """Streams of the modelled GPU, by its own name and by the CPU's, which PyTorch asks for here."""
        for where in (torch.cpu, torch.cuda):
            yield where, "Stream", Stream
            yield where, "Event", Event
            yield where, "stream", self.on
            yield where, "current_stream", lambda *_: self.current
            yield where, "default_stream", lambda *_: self.default
