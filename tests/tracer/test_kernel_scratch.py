"""What kernels allocate inside, against bytes worked out by hand from PyTorch's source; what is told as not known."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import memmodel
from memmodel.base.device import CUDA
from memmodel.base.dtypes import float32
from memmodel.events.program import Alloc
from memmodel.rules.reduce_scratch import operand, reduction_scratch
from memmodel.tensors.layout import Strided
from memmodel.tracer.specs import inputs_of
from memmodel.tracer.watch.run import Setting, traced

A100 = CUDA.resident_threads


def scratch_of(shape: tuple[int, ...], dims: tuple[int, ...], threads: int = A100) -> tuple[int, int]:
    return reduction_scratch(Strided(shape, float32), dims, 4, threads)


def temporaries(function: Any, step: str = "inference", **inputs: str) -> list[int]:
    """Bytes of scratch, in order."""
    setting = Setting(function, inputs_of(inputs), step, CUDA)
    events = traced(setting, {}).program.events
    return [int(e.nbytes) for e in events if isinstance(e, Alloc) and e.role in ("temporary", "partial")]


def test_a_biass_gradient_reserves_a_blocks_width_per_output() -> None:
    """Worked out by hand after setReduceConfig: (8192, 768) fp32 summed down its columns on an A100.

    4 outputs are read at once: 192 columns of vectors, blocks of 32 by 4 threads, 6 of them across. A thread sums
    8192 / 4 = 2048 rows, so that 2048 / 16 = 128 blocks share a column (less than 1728 / 6). Per output and block a
    block's width of 32 times 4 values is reserved: 4 · 768 · 128 · 128 bytes, and a counter for each of the 6.
    """
    found = scratch_of((8192, 768), (0,))
    assert found == (4 * 768 * 128 * 32 * 4, 4 * 6)
    assert temporaries(lambda x: x.sum(0), x="8192,768") == [*found]
    assert temporaries(lambda x: x.sum((0, 1)), x="8,1024,768") == [*found]


def test_a_biass_gradient_in_a_linear_layer() -> None:
    def layer(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.linear(x, weight, bias)

    found = temporaries(layer, "train", x="8192,64", weight="768,64", bias="768")
    assert found == [4 * 768 * 128 * 32 * 4, 4 * 6]


def test_rows_with_blocks_of_their_own_need_none() -> None:
    """A softmax's row sums: each thread sums 4096 / 32 / 16 = 8 elements."""
    assert scratch_of((64, 4096), (1,)) == (0, 0)
    assert scratch_of((128, 768), (0,)) == (0, 0)


def test_an_odd_number_of_columns_is_read_one_by_one() -> None:
    """767 columns: blocks of 32 by 16 threads, 24 across; 432 fit on the GPU at once, so that 18 share a column."""
    assert scratch_of((8192, 767), (0,)) == (4 * 767 * 18 * 32, 4 * 24)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.data())
def test_views_of_one_matrix_are_one_layout(sizes: list[int], data: Any) -> None:
    """Splitting a dimension, or adding one of size 1, does not change what a kernel sees."""
    x = torch.empty(sizes)
    dims = data.draw(st.lists(st.sampled_from(range(len(sizes))), unique=True, min_size=1))
    plain = operand(Strided(x.shape, float32, x.stride()), dims)
    wider = x.unsqueeze(0)
    assert operand(Strided(wider.shape, float32, wider.stride()), [d + 1 for d in dims]) == plain


def test_the_multiprocessors_bound_the_blocks() -> None:
    few, many = (scratch_of((2**24, 8), (0,), n)[0] for n in (A100 // 4, A100 * 4))
    assert 0 < few < many


def test_embedding_sorts_many_indices_and_sums_them_in_parts() -> None:
    """4096 indices into 1000 rows of 64: at most 1000 segments and 4096 // 10 + 1000 parts of 64 fp32 sums."""

    def embedded(weight: Tensor, places: Tensor) -> Tensor:
        return functional.embedding(places, weight)

    n, segments, parts = 4096, 1000, 409 + 1000
    sorting = [8 * n, 8 * n, 8 * n, 16 * n]  # sorted, their places, places before, the second pair of buffers
    summing = [8 * n, 8, 8 * segments, 8 * segments, 8, 8 * parts, 4 * parts * 64]
    assert temporaries(embedded, "train", weight="1000,64:bf16", places="4096:int64") == sorting + summing
    assert temporaries(embedded, "train", weight="1000,64:bf16", places="3072:int64") == []


def test_indexing_backward_sorts_its_indices() -> None:
    def picked(x: Tensor, places: Tensor) -> Tensor:
        return x[places]

    n = 500
    found = temporaries(picked, "train", x="100,16", places="500:int64")
    assert found == [8 * n, 8 * n, 8 * n, 8 * n, 16 * n]


def test_index_put_that_overwrites_takes_none() -> None:
    def written(x: Tensor, places: Tensor, values: Tensor) -> Tensor:
        return x.index_put((places,), values)

    assert temporaries(written, x="100,16", places="50:int64", values="50,16") == []


@pytest.mark.parametrize("loss", [functional.mse_loss, functional.smooth_l1_loss])
def test_the_scalar_of_a_loss_holds_memory_for_every_element(loss: Any) -> None:
    found = memmodel.trace(lambda x, y: loss(x, y), {"x": "64,32", "y": "64,32"}, step="inference", formulas=False)
    assert found.memory.live_peak_bytes == 4 * 64 * 32 * 4


def test_cross_entropy_takes_none_but_the_reduction_of_nothing() -> None:
    """log_softmax and nll_loss, forward and backward, write into their results."""

    def loss(x: Tensor, classes: Tensor) -> Tensor:
        return functional.cross_entropy(x, classes)

    assert temporaries(loss, "train", x="64,1000", classes="64:int64") == []


def test_cumulative_sums_of_a_mask_come_from_a_copy_in_int64() -> None:
    assert temporaries(lambda x: x.cumsum(-1), x="8,100:bool") == [8 * 8 * 100]
    assert temporaries(lambda x: x.cumsum(-1), x="8,100:int64") == []


@pytest.mark.parametrize(("dtype", "found"), [("bf16", []), ("int32", [8 * 800]), ("bool", [8 * 800])])
def test_sums_in_another_type(dtype: str, found: list[int]) -> None:
    """CUDA reads half precision as it is summed in fp32; integers are copied to int64."""
    wanted = torch.float32 if dtype == "bf16" else None
    assert temporaries(lambda x: x.sum(-1, dtype=wanted), x=f"8,100:{dtype}") == found


def test_layer_norm_copies_a_strided_operand() -> None:
    def norm(x: Tensor) -> Tensor:
        return functional.layer_norm(x.mT, (16,))

    assert temporaries(norm, x="16,32") == [4 * 16 * 32]
    assert temporaries(lambda x: functional.layer_norm(x, (32,)), x="16,32") == []


def test_logsigmoid_keeps_its_input_alone() -> None:
    found = memmodel.trace(functional.logsigmoid, {"input": "64,32"}, step="forward", formulas=False)
    assert found.memory.saved_bytes == 0
    assert found.memory.live_peak_bytes == 2 * 64 * 32 * 4


@pytest.mark.parametrize(
    ("function", "inputs", "operator"),
    [
        (lambda x, w: functional.conv1d(x, w), {"x": "2,8,100", "w": "4,8,3"}, "aten::convolution"),
        (lambda x: x.sort(-1)[0], {"x": "4,5000"}, "aten::sort"),
        (lambda x: x.topk(4)[0], {"x": "4,5000"}, "aten::topk"),
        (lambda x: x.cumsum(0), {"x": "5000"}, "aten::cumsum"),
        (lambda x: torch.fft.fft(x), {"x": "4,64"}, "aten::_fft_r2c"),
        (lambda x: torch.linalg.inv(x), {"x": "64,64"}, "aten::linalg_inv_ex"),
        (lambda x: torch.multinomial(x, 5, replacement=True), {"x": "4,64"}, "aten::multinomial"),
    ],
)
def test_what_is_not_known_is_told(function: Any, inputs: dict[str, str], operator: str) -> None:
    found = memmodel.trace(function, inputs, formulas=False)
    assert "counted as 0" in found.unknown[operator]


def test_what_is_known_is_not_told() -> None:
    def small(x: Tensor) -> Tensor:
        return x.sort(-1)[0].topk(4)[0].cumsum(-1) + torch.linalg.vector_norm(x, dim=-1, keepdim=True)

    assert memmodel.trace(small, {"x": "4,64"}, formulas=False).unknown == {}


@pytest.mark.parametrize(("torch_version", "dtype", "kept"), [
    ("2.13", "fp32", 4 * 1000 * 64 + 4 * 1000),  # the linear layer's input, which is the norm's output; rows
    ("2.8", "fp32", 2 * 4 * 1000 * 64 + 4 * 1000),  # also the normed input, before its weight
])  # fmt: skip
def test_rms_norm_is_one_kernel_since_torch_2_9(torch_version: str, dtype: str, kept: int) -> None:
    norm, linear = torch.nn.RMSNorm(64), torch.nn.Linear(64, 64, bias=False)

    def layer(x: Tensor) -> Any:
        return linear(norm(x))

    inputs = {"x": f"1000,64:{dtype}"}
    found = memmodel.trace(layer, inputs, step="train", torch_version=torch_version, formulas=False)
    assert found.memory.saved_bytes == kept
    assert found.unknown == {}


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_rms_norm_of_mixed_types_takes_plain_operators() -> None:
    norm = torch.nn.RMSNorm(64)
    found = memmodel.trace(norm, {"x": "1000,64:bf16"}, step="forward", torch_version="2.13", formulas=False)
    operators = {e.op for e in found.program.events if isinstance(e, Alloc)}
    assert "_fused_rms_norm" not in operators


def test_formulas_say_where_embedding_sorts() -> None:
    def embedded(weight: Tensor, places: Tensor) -> Tensor:
        return functional.embedding(places, weight)

    inputs = {"weight": "1000,64", "places": "B,N:int64"}
    for sizes, words in (({"B": 8, "N": 1024}, "B·N > 3072"), ({"B": 2, "N": 16}, "B·N ≤ 3072")):
        forms = memmodel.trace(embedded, inputs, step="train", at=sizes).forms
        assert forms is not None
        assert words in forms.region
        again = {"B": sizes["B"] * 2, "N": sizes["N"]}
        found = memmodel.trace(embedded, inputs, step="train", at=again, formulas=False)
        for phase, peak in found.memory.phase_peaks.items():
            assert max(forms.value(branch.expression, again) for branch in forms.peaks[phase]) == peak


def test_what_the_formulas_leave_out_is_noted() -> None:
    linear = torch.nn.Linear(64, 768)
    found = memmodel.trace(linear, {"x": "B,1024,64"}, step="train", at={"B": 8})
    scratch = 4 * 768 * 128 * 32 * 4 + 4 * 6
    assert found.forms is not None
    shown = max(found.forms.value(branch.expression, {"B": 8}) for branch in found.forms.peaks["backward"])
    assert found.memory.phase_peaks["backward"] == shown + scratch
    assert "the formula of the backward peak leaves out 48.00 MiB of scratch" in found.notes


def test_layer_norm_keeps_its_statistics_in_fp32() -> None:
    """layer_norm_kernel.cu: mean and reciprocal deviation of a row are of acc_type, 4 bytes each for half precision."""
    layer = torch.nn.LayerNorm(64).bfloat16()
    found = memmodel.trace(layer, {"x": "3,64:bf16"}, step="forward", formulas=False)
    assert found.memory.saved_bytes == 3 * (4 + 4)
