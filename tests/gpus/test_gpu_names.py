"""Names: exact after folding, never by substring, never two ids."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memmodel.base.errors import UsageError
from memmodel.base.files import DATA, read_toml
from memmodel.gpus import Gpu, all_gpus, gpu_ids, load_gpu
from memmodel.gpus.names import ids_named, normal, spellings

DOCUMENT = read_toml(DATA, "gpu_names.toml")
KNOWN = {normal(name) for name in spellings()}


def test_no_name_maps_to_two_ids() -> None:
    owners: dict[str, set[str]] = defaultdict(set)
    for id_, names in DOCUMENT["names"].items():
        for name in (id_, *names):
            owners[normal(name)].add(id_)
    assert {name: ids for name, ids in owners.items() if len(ids) > 1} == {}
    assert not {normal(family) for family in DOCUMENT["families"]} & set(owners), "a family hides an exact name"


@pytest.mark.parametrize("gpu", [pytest.param(gpu, id=gpu.id) for gpu in all_gpus()])
def test_id_and_display_name_find_the_gpu(gpu: Gpu) -> None:
    for name in (gpu.id, gpu.name):
        assert load_gpu(name) == gpu
        assert load_gpu(name).ambiguity == ""


# Left: what torch.cuda.get_device_name() prints, and what people type.
@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("Tesla T4", "t4"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", "a10g"),
        ("A10G", "a10g"),
        ("NVIDIA A40", "a40"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb-sxm"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb-sxm"),
        ("A100-SXM4-80GB", "a100-80gb-sxm"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb-pcie"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb-pcie"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("H100 80GB HBM3", "h100-sxm"),
        ("h100_80gb_hbm3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("H20", "h20"),
        ("NVIDIA H200", "h200-sxm"),
        ("H200", "h200-sxm"),
        ("H200 NVL", "h200-nvl"),
        ("NVIDIA GH200 480GB", "gh200-96gb"),
        ("B200", "b200"),
        ("GB200", "gb200"),
        ("NVIDIA B300 SXM6 AC", "b300"),
        ("GB300", "gb300"),
        ("4090", "rtx-4090"),
        ("RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("GeForce RTX 4090", "rtx-4090"),
        ("V100-32GB", "v100-sxm2-32gb"),
        ("AMD Instinct MI300X", "mi300x"),
        ("Orin", "jetson-agx-orin-64gb"),
    ],
)
def test_name_means_exactly_one_gpu(name: str, id_: str) -> None:
    assert ids_named(name) == (id_,)


# A part of a known name, or a known name with more: a substring match would accept each of them.
@pytest.mark.parametrize(
    "name",
    [
        "L",
        "L40SX",
        "A4000",
        "T400",
        "A1000",
        "A10G2",
        "H2",
        "B20",
        "B30",
        "GB20",
        "A",
        "100",
        "MI250",
        "RTX 6000",
    ],
)
def test_near_names_of_other_gpus_are_unknown(name: str) -> None:
    with pytest.raises(UsageError, match="unknown GPU"):
        load_gpu(name)


@pytest.mark.parametrize(
    "trap",
    [
        ("l4", "l40", "l40s"),
        ("a10", "a10g", "a100"),
        ("h20", "h200", "gh200"),
        ("b200", "gb200"),
        ("b300", "gb300"),
    ],
    ids="-".join,
)
def test_names_inside_one_another_stay_apart(trap: tuple[str, ...]) -> None:
    taken = [load_gpu(name).id for name in trap]
    assert len(set(taken)) == len(trap)
    assert all(id_.startswith(name) for id_, name in zip(taken, trap, strict=True) if name != "a100")


def test_family_name_takes_the_first_and_says_so() -> None:
    gpu = load_gpu("A100")
    assert gpu.id == "a100-80gb-sxm"
    expected = "A100 taken as NVIDIA A100 80GB SXM; also a100-80gb-pcie, a100-40gb-sxm, a100-40gb-pcie"
    assert gpu.ambiguity == expected
    assert gpu == load_gpu("a100-80gb-sxm")  # how it was asked for is no part of what it is


@pytest.mark.parametrize(
    ("family", "id_"), [("H100", "h100-sxm"), ("V100", "v100-sxm2-16gb"), ("A100-40GB", "a100-40gb-sxm")]
)
def test_other_families(family: str, id_: str) -> None:
    assert load_gpu(family).id == id_
    assert load_gpu(family).ambiguity.startswith(f"{family} taken as ")


def test_families_name_known_ids_and_offer_a_choice() -> None:
    for family, ids in DOCUMENT["families"].items():
        assert len(ids) > 1, family
        assert set(ids) <= set(gpu_ids()), family


def test_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown GPU 'RTX 4080': did you mean .*4090.*--gpu-file"):
        load_gpu("RTX 4080")
    with pytest.raises(UsageError, match=r"unknown GPU 'H101': did you mean H100"):
        load_gpu("H101")


def slips(name: str) -> st.SearchStrategy[str]:
    """`name` with a character dropped, doubled, replaced or added: what a person mistypes."""
    place = st.integers(0, len(name) - 1)
    letter = st.sampled_from("abglstx0123489 -_")
    return st.one_of(
        place.map(lambda i: name[:i] + name[i + 1 :]),
        place.map(lambda i: name[:i] + name[i] + name[i:]),
        st.builds(lambda i, c: name[:i] + c + name[i + 1 :], place, letter),
        st.builds(lambda i, c: name[:i] + c + name[i:], st.integers(0, len(name)), letter),
    )


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.sampled_from(spellings()).flatmap(slips), st.text(max_size=12)))
def test_any_string_is_an_exact_name_or_an_error(name: str) -> None:
    if normal(name) in KNOWN:
        assert load_gpu(name).id in gpu_ids()
    else:
        with pytest.raises(UsageError, match="unknown GPU"):
            load_gpu(name)


@given(st.sampled_from(spellings()), st.sampled_from(["", "NVIDIA ", "nvidia_"]), st.sampled_from(" -_"))
def test_case_brand_and_separators_make_no_difference(name: str, brand: str, separator: str) -> None:
    written = brand + name.removeprefix("NVIDIA ").upper().replace(" ", separator).replace("-", separator)
    assert ids_named(written) == ids_named(name)
