"""The storages of a run by number, and what is known of them."""

from torch import Tensor

from memmodel.events.program import Site
from memmodel.tracer.private.dispatch import address_of, storage_of


class Storages:
    """Gives each storage a key, by which events name it.

    Attributes:
        names: storage -> what it is called. gradients: storage -> the storage whose gradient it is.
        forward_of: storage made in backward -> the line whose backward it is.
        last_key: of the latest storage.
    """

    def __init__(self) -> None:
        self.names: dict[int, str] = {}
        self.gradients: dict[int, int] = {}
        self.forward_of: dict[int, Site] = {}
        self.last_key = 0
        self._keys: dict[int, int] = {}  # address -> key, of what is alive

    def key_of(self, tensor: Tensor) -> int | None:
        """The key of a tensor's storage, if it is known."""
        return self._keys.get(address_of(storage_of(tensor)))

    def _new_key(self) -> int:
        self.last_key += 1
        return self.last_key
