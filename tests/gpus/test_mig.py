"""Slices of a GPU (NVIDIA MIG): named as torch names them, with what nvidia-smi and the user guide list."""

import pytest

import memmodel
from memmodel.base.dtypes import bfloat16
from memmodel.base.errors import UsageError
from memmodel.base.files import DATA, read_toml
from memmodel.gpus import load_gpu
from memmodel.gpus.mig import profiles

DOCUMENT = read_toml(DATA, "mig.toml")
LISTED = [(id_, profile) for id_ in DOCUMENT if id_ not in ("same", "estimated") for profile in DOCUMENT[id_]]


@pytest.mark.parametrize(
    "name",
    ["H100 SXM5 MIG 3g.40gb", "NVIDIA H100 80GB HBM3 MIG 3g.40gb", "h100-sxm-mig-3g.40gb", "h100 sxm mig 3G.40GB"],
)
def test_half_of_an_h100(name: str) -> None:
    """deviceQuery of such an instance shows 2,560 of 5,120 bits of bus and 60 of 132 multiprocessors."""
    whole, half = load_gpu("h100-sxm"), load_gpu(name)
    assert half.id == "h100-sxm-mig-3g.40gb"
    assert half.capacity_bytes == 39.5 * 2**30
    assert half.bandwidth == whole.bandwidth / 2
    assert half.l2_bytes == whole.l2_bytes / 2
    assert half.sm_count == 60
    assert half.peak(bfloat16) == pytest.approx(whole.peak(bfloat16) * 60 / 132)
    assert half.exp_rate == pytest.approx(whole.exp_rate * 60 / 132)
    assert half.value("shared_memory_per_sm") == whole.value("shared_memory_per_sm")


@pytest.mark.parametrize(("id_", "profile"), LISTED)
def test_profiles_agree_with_their_names_and_with_the_whole_gpu(id_: str, profile: str) -> None:
    """Ng.Mgb: N of 7 (or 4) slices of multiprocessors, give or take one group; about M GB; a part of the whole."""
    whole, part = load_gpu(id_), load_gpu(f"{id_} MIG {profile}")
    slices, gigabytes = (int(word) for word in profile.removesuffix("gb").split("g."))
    most = 4 if id_ in ("a30", "rtx-pro-6000-blackwell") else 7
    assert (slices - 1) / most < part.sm_count / whole.sm_count < (slices + 1) / most
    assert part.sm_count <= whole.sm_count
    assert 0.8 * gigabytes * 1e9 < part.capacity_bytes < (gigabytes + 1) * 2**30
    assert part.capacity_bytes <= 1.005 * whole.capacity_bytes if "capacity" in whole.values else True
    assert part.bandwidth <= whole.bandwidth
    assert part.bandwidth / whole.bandwidth >= 0.9 * part.capacity_bytes / (whole.value("marketed_GB") * 2**30)


def test_a_slice_is_slower_and_holds_less() -> None:
    both = memmodel.predict(["h100-sxm", "h100-sxm MIG 3g.40gb"], "naive", seq=12288)
    whole, half = (report["naive"] for report in both)
    assert whole.memory.fits
    assert not half.memory.fits
    assert whole.time is not None
    assert half.time is not None
    assert half.time.seconds > 1.9 * whole.time.seconds  # naive attention is limited by bandwidth
    assert half.calibrated is not None  # by shares of the datasheet's rates
    assert half.calibrated.basis != "community"  # rates fitted to the whole GPU are not its


def test_a_name_of_several_gpus_takes_one_with_that_profile() -> None:
    assert load_gpu("A100 MIG 3g.20gb").id == "a100-40gb-sxm-mig-3g.20gb"
    assert load_gpu("A100 MIG 3g.40gb").id == "a100-80gb-sxm-mig-3g.40gb"
    assert "a100-40gb-pcie" in load_gpu("A100 MIG 3g.20gb").ambiguity
    assert load_gpu("H100 MIG 1g.10gb+me") == load_gpu("h100-sxm MIG 1g.10gb")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("H100 SXM5 MIG 3g.41gb", r"unknown MIG profile of NVIDIA H100 SXM5 80GB '3g.41gb': did you mean 3g.40gb"),
        ("T4 MIG 1g.5gb", r"no MIG profiles are known for NVIDIA T4: .*--gpu-file"),
        ("H101 MIG 3g.40gb", r"unknown GPU 'h101'"),
        ("A100 1g.5gb", r"unknown GPU 'A100 1g.5gb': did you mean 'A100 MIG 1g.5gb'\?"),
    ],
)
def test_unknown_slices_are_one_sentence(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_gpu(name)


def test_a_file_can_start_from_a_slice(tmp_path: object) -> None:
    from pathlib import Path

    file = Path(str(tmp_path)) / "slice.toml"
    file.write_text('base = "A100 MIG 3g.40gb"\nname = "mine"\ncapacity_GiB = 39\n')
    mine = memmodel.gpus.load_gpu_file(file)  # type: ignore[attr-defined]
    assert (mine.capacity_bytes, mine.sm_count, mine.bandwidth) == (39 * 2**30, 42, 2039e9 / 2)


def test_the_same_profiles_of_both_cards() -> None:
    assert profiles("a100-80gb-pcie") == profiles("a100-80gb-sxm") != profiles("a100-40gb-sxm")


def test_unified_memory_counts_what_the_host_takes() -> None:
    """121.69 GiB less the 20.4 GiB that were not free of it: a step of 101 GiB fits, one of 102 does not."""
    spark = memmodel.predict("GB10", "naive", seq=1024)
    assert spark.gpu.memory == "unified"
    room = spark["naive"].memory.room_bytes
    assert room is not None
    assert 101 < room / 2**30 < 102
    assert any("the host shares the memory" in line for line in spark.assumptions)


def test_a_laptop_is_not_the_card_of_its_number() -> None:
    card, laptop = load_gpu("NVIDIA GeForce RTX 4090"), load_gpu("NVIDIA GeForce RTX 4090 Laptop GPU")
    assert (laptop.id, load_gpu("4090 Laptop").id) == ("rtx-4090-laptop", "rtx-4090-laptop")
    assert laptop.sm_count < card.sm_count
    assert laptop.capacity_bytes < card.capacity_bytes
