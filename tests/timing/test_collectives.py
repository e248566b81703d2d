"""Times of collectives: vendor's bounds by hand, NCCL's model against published bandwidths, machines by name."""

from itertools import pairwise

import pytest

from memmodel.base.errors import UsageError
from memmodel.base.files import DATA, read_toml
from memmodel.gpus import gpu_ids, load_gpu
from memmodel.gpus.links import links, node_of
from memmodel.timing.collectives import bus_bandwidth, collective_time
from memmodel_evidence.collectives import published

ROWS = published()
HOPPER = node_of(load_gpu("H100"))
GB = 10**9


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.gpu}-{row.kind}-{row.ranks}-{row.low:g}")
def test_published_bandwidths_are_in_the_interval(row):
    slowest, fastest = (
        bus_bandwidth(row.kind, row.ranks, row.nbytes, seconds) / 1e9 for seconds in (row.time.high, row.time.low)
    )
    assert slowest <= row.low <= row.high <= fastest
    if row.gpu in ("h100-sxm", "a100-80gb-sxm"):
        assert row.expected == pytest.approx((row.low + row.high) / 2, rel=0.05)


@pytest.mark.parametrize(
    ("kind", "ranks", "nodes", "seconds"),
    [
        ("all_gather", 8, 1, 7 / 8 * GB / 450e9),  # seven eighths of the output come in by 18 links of 25 GB/s
        ("reduce_scatter", 8, 1, 7 / 8 * GB / 450e9),
        ("all_reduce", 8, 1, GB / 450e9),  # NVSwitch sums: a GPU sends its buffer and receives the sum
        ("all_to_all", 8, 1, 7 / 8 * GB / 450e9),
        ("send", 2, 1, GB / 450e9),
        ("send", 2, 2, GB / 50e9),
        ("all_gather", 16, 2, 15 / 16 * GB / 500e9),  # 450 GB/s by NVLink and 50 by its port
        ("all_reduce", 16, 2, GB / 400e9),  # half of it twice through 8 ports of 50 GB/s
        ("all_gather", 2, 2, GB / 2 / 50e9),  # one rank a machine has one of its ports
        ("all_to_all", 16, 2, 8 * GB / 2 / 400e9),
    ],
)
def test_at_least_is_bytes_over_the_vendors_rate(kind, ranks, nodes, seconds):
    found = collective_time(kind, ranks, nodes, GB, HOPPER)
    assert found.at_least == pytest.approx(seconds)
    assert found.at_least <= found.low <= found.seconds <= found.high


def test_without_a_switch_that_sums_an_all_reduce_moves_its_buffer_nearly_twice():
    ampere = node_of(load_gpu("A100"))
    assert collective_time("all_reduce", 8, 1, GB, ampere).at_least == pytest.approx(2 * 7 / 8 * GB / 300e9)


def test_small_messages_take_the_latency_of_low_latency_protocols():
    # 8 GPUs, ring, LL: 6.6 us and 14 steps of 0.6 us; a tree of 8 has 6.8 us and 14 of 0.6 us
    found = collective_time("all_reduce", 8, 1, 8, HOPPER)
    assert (found.algorithm, found.protocol) == ("Ring", "LL")
    assert found.seconds == pytest.approx(15.0e-6, rel=1e-3)
    assert collective_time("all_reduce", 8, 1, GB, HOPPER).algorithm == "NVLS"
    assert collective_time("all_reduce", 8, 1, GB, node_of(load_gpu("A100"))).algorithm == "Ring"


def test_time_grows_with_bytes_and_no_collective_of_one_rank_takes_any():
    for kind in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send", "broadcast", "gather"):
        for ranks, nodes in ((2, 1), (8, 1), (3, 1), (16, 2), (4, 4), (256, 32)):
            times = [collective_time(kind, ranks, nodes, 2**power, HOPPER) for power in range(4, 34, 3)]
            assert all(a.at_least <= b.at_least and a.seconds <= b.seconds * 1.0001 for a, b in pairwise(times))
    assert collective_time("all_gather", 1, 1, GB, HOPPER).seconds == 0


def test_every_machine_is_of_known_gpus_and_links_with_sources():
    document = read_toml(DATA, "links.toml")
    named = [id_ for node in document["nodes"].values() for id_ in node["of"]]
    assert len(set(named)) == len(named)
    assert set(named) <= set(gpu_ids())
    assert all(link.source and link.nccl <= link.peak for link in links().values())
    used = {entry[key] for entry in document["links"].values() for key in ("source", "nccl_source")}
    assert used | {node["source"] for node in document["nodes"].values()} == set(document["sources"])


def test_links_and_machines_can_be_given():
    node = node_of(load_gpu("H100"), "8xnvlink-4,4xroce-400", 4)
    assert (node.gpus, node.links, node.ports, node.network.id) == (4, 8, 2, "roce-400")
    assert not node_of(load_gpu("H100"), "pcie-5").switched
    assert node_of(load_gpu("H100"), "pcie-5").named == "8 GPUs on PCIe 5 x16 (64 GB/s one way), 8 x InfiniBand NDR"
    assert node_of(load_gpu("MI300X"), "pcie-5").gpus == 8


@pytest.mark.parametrize(
    ("gpu", "link", "gpus", "part"),
    [
        ("MI300X", None, None, "give --link"),
        ("H100", "nvlink-9", None, "did you mean nvlink-"),
        ("H100", "0xib-ndr", None, "at least one"),
        ("H100", None, 0, "at least 1"),
    ],
)
def test_unknown_links_are_refused(gpu, link, gpus, part):
    with pytest.raises(UsageError, match=part):
        node_of(load_gpu(gpu), link, gpus)


def test_unknown_collectives_are_refused():
    with pytest.raises(UsageError, match="unknown collective"):
        collective_time("all_sum", 8, 1, GB, HOPPER)
