"""Functions that a trace must refuse, or take with care: each does something of its own."""

import random
import sys
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def picks_by_mask(x: Tensor) -> Tensor:
    return x[x > 0]


def packs(x: Tensor) -> Any:
    return nn.utils.rnn.pack_padded_sequence(x[:, :, None], x[0].long(), batch_first=True)


def steps_by_lbfgs(x: Tensor) -> None:
    layer = nn.Linear(8, 1)

    def closure() -> Any:
        loss = layer(x).sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        torch.optim.LBFGS(layer.parameters()).step(closure)


def sparse(x: Tensor) -> Tensor:
    return x.to_sparse() @ x


def nests(x: Tensor) -> Tensor:
    return torch.nested.nested_tensor([x, x[:2]], layout=torch.jagged) * 2


def draws(x: Tensor) -> Tensor:
    for _ in range(random.randint(1, 50)):
        x = x * 2
    return x


def draws_by_numpy(x: Tensor) -> Tensor:
    return torch.cat([x] * int(np.random.randint(1, 1000)))


@torch.cuda.nvtx.range("annotated")
def annotated(x: Tensor) -> Tensor:
    with torch.cuda.nvtx.range("inner"):
        y = x * 2
    torch.cuda.nvtx.mark("done")
    torch.cuda.synchronize()
    return y


def scaled_by_numpy(x: Tensor) -> Tensor:
    return x / np.sqrt(x.shape[0])


def moves_its_module(x: Tensor) -> Tensor:
    return nn.PReLU().to("cuda").cuda()(x)


def draws_for_nothing(x: Tensor) -> Tensor:
    return x * random.random()


class RandomWidth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, random.randint(4, 4000))

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


class Counting:
    """More memory with each call."""

    calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        Counting.calls += 1
        return torch.cat([x] * Counting.calls)


class NeedsWidth(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Any:
        return self.layer(x)


def in_a_thread(x: Tensor) -> Tensor:
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(x * 2))
    thread.start()
    thread.join()
    return found[0]


def recurses(x: Tensor) -> Tensor:
    return recurses(x)


async def waits(x: Tensor) -> Tensor:
    return x * 2


def unnamed(*given: Tensor) -> Tensor:
    return given[0] * 2


def scaled(x: Tensor, times: int) -> Tensor:
    return x * times


def changes_its_input(x: Tensor) -> Tensor:
    return x.mul_(2)


def best_places(x: Tensor) -> Tensor:
    return x.argmax(-1)


def prints(x: Tensor) -> Tensor:
    print("a line of the user's own", x.shape)
    return x * 2


def views(x: Tensor) -> Tensor:
    return x.view(-1)


def closes_the_streams(x: Tensor) -> Tensor:
    sys.stdout.close()
    sys.stderr = 5  # type: ignore[assignment]
    return x * 2


def nothing(x: Tensor) -> None:
    x.exp()


def text_and_number(x: Tensor) -> tuple[str, int]:
    return "text", x.shape[0]


def nested(x: Tensor) -> dict[str, Any]:
    return {"a": [x * 2, (x * 3,)], "b": None}


@dataclass
class Result:
    loss: Tensor


def in_a_dataclass(x: Tensor) -> Result:
    return Result((x * x).sum())


def inner_gradient(x: Tensor) -> Any:
    return torch.func.grad(lambda y: (y * y).sum())(x)


def under_inference_mode(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return (x * 2) * 3


encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()


def fast_path(x: Tensor) -> Any:
    return encoder(x)


def yields(x: Tensor) -> Any:
    yield x * 2


def prints_a_value(x: Tensor) -> Tensor:
    print(f"mean {x.mean():.2f}")
    return x


def multiplies_unlike_types(x: Tensor) -> Tensor:
    return x @ torch.zeros(8, 2, dtype=torch.float64)


def counts_classes_in_32_bits(x: Tensor) -> Tensor:
    return nn.functional.cross_entropy(x, torch.zeros(x.shape[0], dtype=torch.int32))


def adds_unlike_types(x: Tensor) -> Tensor:
    return torch.zeros(5, 8).index_add(0, torch.arange(5), x[:5].half())


def module_moved_inside(x: Tensor) -> Any:
    return nn.Linear(8, 8, bias=False).to("cuda")(x)


def module_converted_inside(x: Tensor) -> Any:
    return nn.Linear(8, 8, bias=False).bfloat16()(x.bfloat16())


def compiled_inside(x: Tensor) -> Any:
    return torch.compile(lambda y: y * 2 + 1)(x)


def recurrent(x: Tensor) -> Any:
    return nn.GRU(8, 4)(x)[0]
