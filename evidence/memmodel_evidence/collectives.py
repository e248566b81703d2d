"""Published bandwidths of collectives beside those to expect: `python -m memmodel_evidence.collectives`."""

import csv
from typing import NamedTuple

from memmodel.gpus import load_gpu
from memmodel.gpus.links import node_of
from memmodel.timing.collectives import CollectiveTime, bus_bandwidth, collective_time
from memmodel_evidence.records import DATA


class Published(NamedTuple):
    """A published bandwidth, nccl-tests' busbw in GB/s: a range, or the same number twice."""

    gpu: str
    link: str
    kind: str
    ranks: int
    nodes: int
    nbytes: int
    low: float
    high: float
    source: str

    @property
    def time(self) -> CollectiveTime:
        """The time to expect."""
        node = node_of(load_gpu(self.gpu), self.link or None)
        return collective_time(self.kind, self.ranks, self.nodes, self.nbytes, node)

    @property
    def expected(self) -> float:
        """The bandwidth to expect, in GB/s."""
        return bus_bandwidth(self.kind, self.ranks, self.nbytes, self.time.seconds) / 1e9


def published() -> list[Published]:
    """All rows."""
    with (DATA / "collectives.csv").open() as file:
        return [
            Published(
                row["gpu"], row["link"], row["kind"], int(row["ranks"]), int(row["nodes"]), int(row["bytes"]),
                float(row["busbw_low_GBps"]), float(row["busbw_high_GBps"]), row["source"],
            )
            for row in csv.DictReader(file)
        ]  # fmt: skip


if __name__ == "__main__":
    for row in published():
        share = f"{row.low / row.expected:.2f} to {row.high / row.expected:.2f}"
        print(f"{row.gpu:14} {row.kind:15} {row.ranks:3} {row.expected:7.1f} GB/s, published over it {share}")
