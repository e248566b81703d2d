"""Models of Hugging Face's classes, trained two steps: the live peak is that of a real run on this CPU, to the byte."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

pytest.importorskip("transformers")

import torch
from hf_models import LLAMA, MODELS, B, Maker, N, text
from torch import Tensor
from traced_events import traced_events

import memmodel
from memmodel.base.device import CPU
from memmodel.events.program import Program
from torch_events import in_order, real_events

pytestmark = [
    pytest.mark.hf,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the library's own code
    pytest.mark.usefixtures("without_advice"),
]


def trained(maker: Maker) -> Callable[[Any], None]:
    def body(_: Any) -> None:
        model, loss = maker()
        optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
        tokens = torch.zeros(B, N, dtype=torch.int64)
        for _ in range(2):
            loss(tokens).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

    return body


def peak(events: Iterable[tuple[str, int, int]]) -> int:
    live = most = 0
    for kind, _, nbytes in events:
        live += nbytes if kind == "alloc" else -nbytes
        most = max(most, live)
    return most


@pytest.mark.parametrize("maker", MODELS.values(), ids=MODELS)
def test_the_peak_of_a_training_step_is_a_real_runs(maker: Maker) -> None:
    body = trained(maker)
    numbers_of_python = 128  # bytes: a trace has none
    assert abs(peak(traced_events(body, CPU)) - peak(in_order(real_events(body)))) < numbers_of_python


def traced_loss(maker: Maker, tokens: int, **options: Any) -> Any:
    model, loss = maker()
    model.to(torch.bfloat16)

    def run(input_ids: Tensor) -> Tensor:
        return loss(input_ids)

    sizes = {"B": B, "N": tokens}
    return memmodel.trace(run, {"input_ids": "B,N:int64"}, at=sizes, step="train", formulas=False, **options)


def squares(program: Program, size: int) -> int:
    """How many tensors have a row and a column for each token."""
    return sum(tuple(birth.shape[-2:]) == (size, size) for birth in program.births())


def test_attention_is_causal_without_a_mask() -> None:
    """transformers leaves the mask out where it can look at positions; of fake tensors it thinks that it cannot."""
    found = traced_loss(LLAMA, 60)
    assert [chosen.kernel for chosen in found.attention] == ["flash"]
    assert squares(found.program, 60) == 0


def test_positions_are_looked_at() -> None:
    """A mask of ones hides nothing; positions that begin anew are those of several sequences, which need a mask."""
    model, _ = LLAMA()
    model.to(torch.bfloat16)

    def padded(input_ids: Tensor) -> Any:
        return model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits

    def packed(input_ids: Tensor) -> Any:
        positions = torch.arange(input_ids.shape[1]).remainder(8)[None].expand(input_ids.shape)
        return model(input_ids=input_ids, position_ids=positions).logits

    def masks(function: Any) -> int:
        return squares(memmodel.trace(function, {"input_ids": "2,60:int64"}, formulas=False).program, 60)

    assert masks(padded) == 0
    assert masks(packed) > 0


def test_experts_run_as_on_the_gpu() -> None:
    """Tokens are counted as integers there, and a product of groups of rows reads each expert's matrices once."""
    maker = text("MixtralForCausalLM", num_key_value_heads=2, head_dim=8, num_local_experts=4, num_experts_per_tok=2)
    found = traced_loss(maker, N, gpu="H100")
    grouped = [launch for launch in found.program.launches() if launch.name == "grouped_mm"]
    rows, hidden, inner = B * N * 2, 32, 48  # each token goes to two experts
    forward = [launch.work.matmul for launch in grouped][:2]
    assert forward == [2 * rows * hidden * 2 * inner, 2 * rows * inner * hidden]
    assert sum(launch.work.matmul for launch in grouped) == 2 * 3 * sum(forward)  # two layers, and twice in backward


def generation(cache: str | None) -> Callable[[Any], None]:
    def body(_: Any) -> None:
        model, _loss = text("LlamaForCausalLM", use_cache=True, eos_token_id=None, pad_token_id=None)()
        given: Any = {"cache_implementation": cache} if cache else {}
        tokens = torch.zeros(B, N, dtype=torch.int64)
        model.eval().generate(tokens, max_new_tokens=5, do_sample=False, **given)  # type: ignore[operator]

    return body


@pytest.mark.parametrize("cache", [None, "static"])
def test_the_peak_of_generation_is_a_real_runs(cache: str | None) -> None:
    body = generation(cache)
    assert abs(peak(traced_events(body, CPU)) - peak(in_order(real_events(body)))) < 128


@pytest.mark.parametrize("cache", [None, "static"])
def test_a_cache_is_told_apart(cache: str | None) -> None:
    """Tokens that the user gives are taken as none that pads or ends a sequence, which is said."""
    model, _ = text("LlamaForCausalLM", use_cache=True, pad_token_id=0)()
    given: Any = {"cache_implementation": cache} if cache else {}

    def run(input_ids: Tensor) -> Any:
        return model.eval().generate(input_ids, max_new_tokens=5, do_sample=False, **given)  # type: ignore[operator]

    found = memmodel.trace(run, {"input_ids": f"{B},{N}:int64"}, formulas=False)
    tokens = N + 5 - 1 if cache else N  # the last one is never read; a cache that grows is the prompt's at the peak
    hidden, layers, keys_and_values, f32 = 32, 2, 2, 4
    assert found.memory.groups["kv_cache"] == B * tokens * layers * keys_and_values * hidden * f32
    assert any(note.startswith("generation: every sequence grows") for note in found.notes)
