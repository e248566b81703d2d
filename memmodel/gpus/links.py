"""Links between GPUs and between machines, and the machine that a GPU is usually in (data/links.toml)."""

import re
from functools import cache
from typing import Any, NamedTuple

from memmodel.base.errors import UsageError, unknown
from memmodel.base.files import read_table
from memmodel.gpus.gpu import Gpu

_GB = 1e9
_ASSUMED = "assumed: 8 GPUs on PCIe 4, one InfiniBand HDR"
_GIVEN = "as given"


class Link(NamedTuple):
    """One link or port.

    Attributes:
        id, name: such as "nvlink-4", "NVLink 4". kind: "nvlink", "pcie" or "network".
        peak: the vendor's bytes a second, one way. nccl: those that NCCL plans with. source, nccl_source: in words.
    """

    id: str
    name: str
    kind: str
    peak: float
    nccl: float
    source: str
    nccl_source: str


class Node(NamedTuple):
    """A machine: its GPUs, what joins them, and its network.

    Attributes:
        gpus: that share the machine, or the rack that one NVSwitch fabric spans.
        link: between two GPUs of it; each GPU has `links` of these.
        switched: whether through NVSwitch, which reduces and multicasts by itself from Hopper on.
        network: a port to other machines; the machine has `ports` of these.
        capability: compute capability of the GPUs, 90 for 9.0: NCCL's constants differ by it.
        source: in words; "assumed" in it where servers differ.
    """

    gpus: int
    link: Link
    links: int
    switched: bool
    network: Link
    ports: int
    capability: int
    source: str

    @property
    def assumed(self) -> bool:
        """Whether no source says what such GPUs are usually in."""
        return self.source.startswith("assumed")

    @property
    def named(self) -> str:
        """The machine in words: 8 GPUs on NVLink 4 (450 GB/s one way), 8 x InfiniBand NDR."""
        rate = f"{self.links * self.link.peak / _GB:g} GB/s one way"
        return f"{self.gpus} GPUs on {self.link.name} ({rate}), {self.ports} x {self.network.name}"


def node_of(gpu: Gpu, link: str | None = None, gpus_per_node: int | None = None) -> Node:
    """The machine that a GPU is usually in, or one with other links or another number of GPUs.

    `link` names a link between GPUs, a network or both, with commas between, each with its number before it if that
    is another: "pcie-5", "4xib-ndr", "nvlink-4,4xroce-400". Raises UsageError for unknown names, and where no machine
    of the GPU is known and none is given.
    """
    node = _usual(gpu)
    if node is None:
        if link is None:
            raise UsageError(
                f"which links join GPUs of type {gpu.name} is not known: give --link, such as --link pcie-4,ib-hdr"
            )
        node = Node(8, links()["pcie-4"], 1, False, links()["ib-hdr"], 1, _capability(gpu), _ASSUMED)
    for name in link.split(",") if link else ():
        number, found = _link(name.strip())
        if found.kind == "network":
            node = node._replace(network=found, ports=number or node.ports, source=_GIVEN)
        else:
            of_gpu = number or (node.links if found.kind == node.link.kind else 1)
            switched = node.switched and found.kind == "nvlink"  # NVSwitch joins NVLinks alone
            node = node._replace(link=found, links=of_gpu, switched=switched, source=_GIVEN)
    if gpus_per_node is not None:
        if gpus_per_node < 1:
            raise UsageError(f"gpus per node {gpus_per_node}: expected at least 1")
        share = -(-node.ports * gpus_per_node // node.gpus)  # a machine with fewer GPUs has as many ports for each
        node = node._replace(gpus=gpus_per_node, ports=share if gpus_per_node < node.gpus else node.ports)
    return node


def links() -> dict[str, Link]:
    """Every link, by its id."""
    document = _document()
    return {id_: _of(id_, entry, document["sources"]) for id_, entry in document["links"].items()}


def _usual(gpu: Gpu) -> Node | None:
    """The machine of a GPU by the data."""
    document = _document()
    for entry in document["nodes"].values():
        if gpu.id in entry["of"] or gpu.base in entry["of"]:
            return Node(
                entry["gpus"], links()[entry["link"]], entry["links"], entry["switched"], links()[entry["network"]],
                entry["ports"], _capability(gpu), document["sources"][entry["source"]],
            )  # fmt: skip
    return None


def _capability(gpu: Gpu) -> int:
    major, minor = gpu.compute_capability or (0, 0)
    return 10 * major + minor


def _link(text: str) -> tuple[int | None, Link]:
    """The number and the link of "8xib-ndr"; no number where none is given."""
    parts = re.fullmatch(r"(?:([0-9]{1,6})\s*x\s*)?(.+)", text)
    known = links()
    name = parts[2].casefold() if parts else text
    if parts is None or name not in known:
        raise unknown("link", text, known)
    if parts[1] and int(parts[1]) < 1:
        raise UsageError(f"link {text}: expected at least one of it")
    return int(parts[1]) if parts[1] else None, known[name]


def _of(id_: str, entry: dict[str, Any], sources: dict[str, str]) -> Link:
    return Link(
        id_, entry["name"], entry["kind"], entry["peak"] * _GB, entry["nccl"] * _GB, sources[entry["source"]],
        sources[entry["nccl_source"]],
    )  # fmt: skip


@cache
def _document() -> dict[str, Any]:
    return read_table("links.toml")
