"""The frontier's walls are those of `memmodel max`, and its search finds any wall."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memmodel.base.errors import UsageError
from memmodel.base.search import last_true
from memmodel.cases import cases_of, on_gpu
from memmodel.gpus import load_gpu
from memmodel.models.capacity import model_threshold
from memmodel.models.catalogue import listed
from memmodel.models.choices import model_case
from memmodel.models.families import architecture_of
from memmodel.models.program import program_of
from memmodel.pictures.frontier import frontier, heat_map, model_frontier
from memmodel.report.model import model_threshold_table
from memmodel.step import device_of, memory_of
from memmodel.thresholds import resized, threshold


@given(last=st.integers(0, 5000), end=st.integers(1, 5000), guess=st.integers(0, 6000))
def test_the_search_finds_the_wall_from_any_guess(last: int, end: int, guess: int) -> None:
    tried = []

    def runs(count: int) -> bool:
        assert 1 <= count <= end
        tried.append(count)
        return count <= last

    assert last_true(runs, end, guess) == min(last, end)
    assert len(tried) == len(set(tried)) <= 2 * end.bit_length() + 2


@pytest.mark.parametrize(("gpu", "algorithm"), [("A100", "naive"), ("H100", "flash"), ("T4", "compiled")])
def test_walls_are_the_thresholds(gpu: str, algorithm: str) -> None:
    device = load_gpu(gpu)
    cases = cases_of([algorithm], dtype="fp16")
    (line,) = frontier(cases, [device], sizes=(1, 3, 16)).lines
    for found in line.walls:
        sized = resized(on_gpu(cases, device)[0], "batch", found.size)
        assert threshold(sized, device, "seq", 128).largest == found.largest


def test_walls_against_heads_with_groups() -> None:
    device = load_gpu("A100")
    cases = cases_of(["naive"], heads=32, kv_heads=8)
    (line,) = frontier(cases, [device], "heads", (4, 16, 64)).lines
    for found in line.walls:
        sized = resized(on_gpu(cases, device)[0], "heads", found.size)
        assert threshold(sized, device, "seq", 128).largest == found.largest


def test_nothing_fits_where_the_inputs_do_not() -> None:
    (line,) = frontier(cases_of(["naive"], head_dim=256, heads=1 << 20), [load_gpu("T4")], sizes=(1, 64)).lines
    assert [found.largest for found in line.walls] == [0, 0]


@pytest.mark.parametrize(
    ("against", "sizes", "words"),
    [
        ("seq", (1, 2), "unknown size 'seq'"),
        ("batch", (2, 1), "expected rising sizes"),
        ("batch", (), "expected rising sizes"),
        ("heads", (1, 2), "expected multiples of 4"),
    ],
)
def test_wrong_sizes_are_refused(against: str, sizes: tuple[int, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        frontier(cases_of(["naive"], heads=32, kv_heads=8), [load_gpu("A100")], against, sizes)


def test_a_map_agrees_with_its_wall_and_with_itself() -> None:
    shown = heat_map(cases_of(["naive"])[0], load_gpu("A100"), sizes=(1, 4, 16))
    walls = {found.size: found.largest for found in shown.line.walls}
    assert {cell.fits for cell in shown.cells} == {True, False}
    for cell in shown.cells:
        assert cell.fits == (cell.seq <= walls[cell.size])
        assert cell.fits == (cell.reserved_peak_bytes <= shown.capacity_bytes)
    assert all(seq % 128 == 0 for seq in shown.seqs)


def test_a_models_step_fits_at_its_wall_and_not_beyond():
    sizes = {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8}
    arch = architecture_of({**sizes, "model_type": "llama", "num_attention_heads": 16}, "config.json")
    gpu = load_gpu("T4")
    found = model_frontier(model_case(arch, dtype="fp16"), [gpu], sizes=(2, 8), step=256)
    for wall in found.lines[0].walls:
        at = model_case(arch, dtype="fp16", batch=wall.size, seq=wall.largest)
        for more, fits in ((0, True), (256, False)):
            case = replace(at, seq=wall.largest + more, device=device_of(gpu))
            assert memory_of(program_of(case), case.torch, gpu).fits is fits
    with pytest.raises(UsageError, match="expected rising sizes"):
        model_frontier(model_case(arch), [gpu], sizes=(8, 2))


def test_a_table_of_positions_ends_before_the_memory():
    """GPT-2 has 1,024 rows of positions, a step of 1.8 GiB; 64 sequences of that length are beyond a T4."""
    gpt2, gpus = model_case(listed("gpt2").architecture), [load_gpu("A100"), load_gpu("T4")]
    for gpu, ends in zip(gpus, (True, False), strict=True):
        found = model_frontier(gpt2, [gpu], sizes=(64,))
        assert found.most == 1024
        assert (found.lines[0].walls[0].largest == 1024) is ends
        assert ("at 1,024 tokens the model's table of positions ends" in str(found)) is ends
    assert "none: positions end" in str(model_threshold_table([model_threshold(gpt2, gpus[0], "seq")]))
