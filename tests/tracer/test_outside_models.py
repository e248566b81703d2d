"""Models of other packages, trained two steps: the live peak is that of a real run on this CPU, to the byte.

Skipped where a package is not installed: x-transformers, timm, diffusers, peft, litgpt (`make test-outside`).
"""

import importlib
import os
from collections.abc import Callable, Iterable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from traced_events import traced_events

from memmodel.base.device import CPU
from torch_events import in_order, real_events

pytestmark = [pytest.mark.outside, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

B, N, VOCABULARY = 2, 24, 96
RANDOM_STATE = 5056  # bytes of the CPU's generator, which checkpoints keep on the host
NUMBER = 8  # bytes of one of Python's, of which a trace has none
NUMBERS_OF_PYTHON = 128  # bytes, in lists
Made = tuple[nn.Module, Callable[[], Tensor]]


@pytest.fixture(scope="module", autouse=True)
def torchvision_without_its_operators() -> None:
    """Its wheels for CUDA lack them beside torch for the CPU, and then cannot be imported; no model here runs one."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        pass
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor boxes, Tensor scores, float overlap) -> Tensor")


def tokens() -> Tensor:
    return torch.zeros(B, N, dtype=torch.int64)


def classified(model: Any) -> Made:
    images, labels = torch.zeros(B, 3, 32, 32), torch.zeros(B, dtype=torch.int64)
    return model, lambda: functional.cross_entropy(model(images), labels)


def x_transformer(**options: Any) -> Made:
    package = pytest.importorskip("x_transformers")
    layers = package.Decoder(dim=32, depth=2, heads=4, attn_dim_head=8, **options)
    whole = package.TransformerWrapper(num_tokens=VOCABULARY, max_seq_len=32, attn_layers=layers)
    model, given = package.AutoregressiveWrapper(whole), tokens()
    return model, lambda: model(given)


def vit(checkpoints: bool = False) -> Made:
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 4, "num_classes": 10}
    model = timm.create_model("vit_tiny_patch16_224", **sizes)
    model.set_grad_checkpointing(checkpoints)
    return classified(model)


def swin() -> Made:
    timm = pytest.importorskip("timm")
    sizes = {"img_size": 32, "window_size": 4, "embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}
    return classified(timm.create_model("swin_tiny_patch4_window7_224", num_classes=10, **sizes))


def regnet() -> Made:
    return classified(pytest.importorskip("timm").create_model("regnety_002", num_classes=10))


def unet() -> Made:
    model = pytest.importorskip("diffusers").UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=24, norm_num_groups=8, attention_head_dim=8,
    )  # fmt: skip
    images, times, text = torch.zeros(B, 4, 16, 16), torch.zeros(B, dtype=torch.int64), torch.zeros(B, 7, 24)
    return model, lambda: functional.mse_loss(model(images, times, encoder_hidden_states=text).sample, images)


def lora() -> Made:
    peft = pytest.importorskip("peft")
    from hf_models import LLAMA

    settings = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.1)
    model, given = peft.get_peft_model(LLAMA()[0], settings), tokens()
    return model, lambda: model(input_ids=given, labels=given).loss


def litgpt(name: str = "Llama-2-7b-hf", **options: int) -> Made:
    package = pytest.importorskip("litgpt")
    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_query_groups": 2, "intermediate_size": 48} | options
    lengths = {"block_size": 32, "vocab_size": VOCABULARY, "padded_vocab_size": VOCABULARY}
    model, given = package.GPT(package.Config.from_name(name, **sizes, **lengths)), tokens()
    return model, lambda: functional.cross_entropy(model(given).flatten(0, 1), given.flatten())


MODELS: dict[str, Callable[[], Made]] = {
    "x-transformers": x_transformer,
    "x-transformers, rotary": lambda: x_transformer(rotary_pos_emb=True, attn_flash=True),
    "timm vit": vit,
    "timm vit, checkpoints": lambda: vit(checkpoints=True),
    "timm swin": swin,
    "timm regnet": regnet,
    "diffusers unet": unet,
    "peft lora": lora,
    "litgpt": litgpt,
    # Every token takes every expert: in a real run chance says how many take each, where it is some of them.
    "litgpt mixtral": lambda: litgpt("Mixtral-8x7B-v0.1", n_expert=4, n_expert_per_token=4),
}


def peak(events: Iterable[tuple[str, int, int]]) -> int:
    live = most = 0
    for kind, _, nbytes in events:
        live += 0 if nbytes in (RANDOM_STATE, NUMBER) else nbytes if kind == "alloc" else -nbytes
        most = max(most, live)
    return most


@pytest.mark.parametrize("maker", MODELS.values(), ids=MODELS)
def test_the_peak_of_a_training_step_is_a_real_runs(maker: Callable[[], Made]) -> None:
    maker()  # what packages make when they are imported is no event of a step

    def body(_: Any) -> None:
        model, loss = maker()
        model.train()
        needed = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(needed, foreach=False)
        for _ in range(2):
            loss().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

    assert abs(peak(traced_events(body, CPU)) - peak(in_order(real_events(body)))) < NUMBERS_OF_PYTHON
