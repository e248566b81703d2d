"""The settings string, held to PyTorch's own parser where that is installed."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memmodel.allocator import AllocatorConfig
from memmodel.errors import UsageError
from memmodel.snapshot.alloc_conf import parse_alloc_conf

MiB = 1 << 20

GOOD: list[tuple[str, dict[str, Any]]] = [
    ("", {}),
    ("expandable_segments:True", {"expandable_segments": True}),
    ("expandable_segments:True,expandable_segments:False", {}),
    ("max_split_size_mb:128", {"max_split_size": 128 * MiB}),
    (" max_split_size_mb : 128 , ", {"max_split_size": 128 * MiB}),
    ("max_non_split_rounding_mb:50", {"max_non_split_rounding": 50 * MiB}),
    ("large_segment_size_mb:12", {"large_segment": 12 * MiB}),
    ("max_split_size_mb:16,large_segment_size_mb:12", {"large_segment": 12 * MiB, "max_split_size": 16 * MiB}),
    ("roundup_power2_divisions:8", {"roundup_power2_divisions": 8}),
    ("roundup_power2_divisions:1", {}),
    ("roundup_power2_divisions:[256:4,>:4]", {"roundup_power2_divisions": 4}),
    ("backend:native,pinned_num_register_threads:4", {}),
]
BAD = [
    ("expandable_segment:True", "unknown allocator setting 'expandable_segment': did you mean expandable_segments"),
    ("expandable_segments:true", "expected True or False"),
    ("expandable_segments", "expected key:value"),
    ("max_split_size_mb:", "expected key:value"),
    ("max_split_size_mb:19", "expected at least 20"),
    ("max_split_size_mb:-1", "expected a whole number"),
    ("max_split_size_mb:1.5", "expected a whole number"),
    ("max_split_size_mb:30,large_segment_size_mb:40", "expected at least 40, the size of large segments"),
    ("max_non_split_rounding_mb:4", "expected at least 20"),
    ("large_segment_size_mb:10", "expected more than 10"),
    ("roundup_power2_divisions:3", "expected powers of two"),
    ("roundup_power2_divisions:0", "expected powers of two"),
    ("roundup_power2_divisions:[3:4]", "expected powers of two"),
    ("roundup_power2_divisions:[256:4", "expected a closing bracket"),
    ("roundup_power2_divisions:[256]", "expected entries such as 256:4"),
    ("garbage_collection_threshold:1.5", "expected a number between 0 and 1"),
    ("garbage_collection_threshold:nan", "expected a number between 0 and 1"),
    ("backend:cudaMallocAsync", "only backend:native is modelled"),
]


@pytest.mark.parametrize(("text", "fields"), GOOD)
def test_settings_mean_what_they_say(text: str, fields: dict[str, Any]) -> None:
    assert parse_alloc_conf(text).config == AllocatorConfig(**fields)


@pytest.mark.parametrize(("text", "message"), BAD)
def test_wrong_settings_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        parse_alloc_conf(text)


DIFFERENT = "backend:cudaMallocAsync", "max_split_size_mb:-1", "expandable_segment:True"  # torch reads these


@pytest.mark.parametrize("text", [t for t, _ in GOOD] + [t for t, _ in BAD if t not in DIFFERENT])
def test_torch_refuses_what_is_refused_here(text: str) -> None:
    torch = pytest.importorskip("torch")
    parse = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if parse is None:
        pytest.skip("this torch has no parser without a GPU")
    reset = "large_segment_size_mb:20,max_split_size_mb:1000000,max_non_split_rounding_mb:20"
    parse(reset)  # its sizes stay from one call to the next
    refused_here = refused(parse_alloc_conf, text, UsageError)
    unchecked = ("pinned", "garbage_collection_threshold:nan")
    if not any(part in text for part in unchecked):
        assert refused(parse, text, Exception) == refused_here
    parse(reset)


def refused(parse: Any, text: str, error: type[Exception]) -> bool:
    try:
        parse(text)
    except error:
        return True
    return False


@pytest.mark.parametrize(
    ("requested", "block"),
    [
        (700 * 1024, 704 * 1024),  # below 256 MiB as the first entry says: steps of 512 KiB / 8 = 64 KiB
        (300 * MiB, 320 * MiB),  # from 256: steps of 256 MiB / 8 = 32 MiB
        (600 * MiB, 768 * MiB),  # from 512: steps of 512 MiB / 2 = 256 MiB
        (1025 * MiB, 1025 * MiB),  # from 1024: off
        (5000 * MiB, 5120 * MiB),  # all above: steps of 4096 MiB / 4 = 1024 MiB
    ],
)
def test_divisions_differ_by_interval(requested: int, block: int) -> None:
    config = parse_alloc_conf("roundup_power2_divisions:[256:8,512:2,1024:0,2048:4,>:4]").config
    assert config.block_size(requested) == block


@given(requested=st.integers(1, 1 << 37), steps=st.sampled_from([2, 4, 8, 16]))
def test_the_same_divisions_in_every_interval_are_the_plain_setting(requested: int, steps: int) -> None:
    listed = parse_alloc_conf(f"roundup_power2_divisions:[1:{steps},>:{steps}]").config
    assert listed.block_size(requested) == AllocatorConfig(roundup_power2_divisions=steps).block_size(requested)


def test_what_is_not_modelled_is_said() -> None:
    (note,) = parse_alloc_conf("garbage_collection_threshold:0.8").notes
    assert note.startswith("garbage_collection_threshold is not modelled")
    assert parse_alloc_conf("pinned_use_background_threads:True").notes == ()


@given(text=st.text(st.sampled_from("expandable_segments:True,[]>0123 max_split_size_mb"), max_size=40))
def test_any_text_is_settings_or_a_sentence(text: str) -> None:
    assert refused(parse_alloc_conf, text, UsageError) in (True, False)
