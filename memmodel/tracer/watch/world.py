"""One rank of a world of many GPUs: torch.distributed's fake process group, streams, and storages that are resized."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple
from unittest import mock

import torch

from memmodel.attention.case import check_size
from memmodel.base.errors import UsageError
from memmodel.models.layout import MOST_GPUS
from memmodel.tracer.corrections import reducer
from memmodel.tracer.private import distributed
from memmodel.tracer.private.chip import Chip
from memmodel.tracer.private.dispatch import address_of
from memmodel.tracer.ranks import Mesh
from memmodel.tracer.watch.streams import Streams
from memmodel.tracer.watch.watcher import Watcher


class World(NamedTuple):
    """A rank among `size` GPUs, `node` of which share a machine."""

    size: int
    rank: int = 0
    node: int = 8
    meshes: tuple[list[Mesh], ...] = ()  # one list, which those are added to that the code makes
    runs: tuple[list[Any], ...] = ()  # one list of the ranks' runs, which this one's is added to

    def seen(self, chip: Chip) -> Chip:
        """A GPU as this rank's code finds it: one of its machine's."""
        return chip._replace(ordinal=self.rank % self.node, gpus=min(self.node, self.size))

    def at(self, rank: int) -> "World":
        """Another rank of it."""
        return self._replace(rank=rank)


def checked_world(size: int, rank: int | None, node: int) -> World:
    """The first or the given rank of a world. Raises UsageError for sizes that make none."""
    if check_size("world", size) > MOST_GPUS:
        raise UsageError(f"world {size}: expected at most {MOST_GPUS} ranks")
    check_size("gpus-per-node", node)
    if rank is not None and rank not in range(size):
        raise UsageError(f"rank {rank} of a world of {size}: expected one from 0 to {size - 1}")
    return World(size, rank or 0, node)


@contextmanager
def in_world(world: World | None, watcher: Watcher) -> Iterator[None]:
    """Within, code runs as that rank's; without a world, as one GPU's."""
    with ExitStack() as stack:
        replacements: list[Any] = [*Streams(watcher).replacements(), *_resizing(watcher)]
        if world is not None:
            distributed.imported()
            stack.enter_context(distributed.fake_group(world.rank, world.size, world.node))
            stack.callback(distributed.forget_groups)
            on_gpu = watcher.device.name == "cuda"
            replacements += distributed.replacements(watcher.unseen, on_gpu, partial(_note_mesh, world))
            replacements += reducer.replacements(on_gpu)
        for where, name, value in replacements:
            stack.enter_context(mock.patch.object(where, name, value, create=not hasattr(where, name)))
        yield


def _note_mesh(world: World, ranks: list[int], shape: Iterable[int], names: Iterable[str]) -> None:
    for meshes in world.meshes:
        meshes.append(Mesh(tuple(ranks), tuple(shape), tuple(names)))


def _resizing(watcher: Watcher) -> Iterator[tuple[Any, str, Any]]:
    resize = torch.UntypedStorage.resize_

    def resized(storage: Any, size: int) -> Any:
        out = resize(storage, size)
        watcher.resized(storage)
        return out

    def data_ptr(storage: Any) -> int:
        return address_of(storage) if storage.nbytes() else 0  # tells which tensors share one, as code asks

    yield torch.UntypedStorage, "resize_", resized
    yield torch.UntypedStorage, "data_ptr", data_ptr
