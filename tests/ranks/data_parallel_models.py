"""The decoder of whole models under PyTorch's own data parallelism: `fully_shard`, DistributedDataParallel, Adam.

Its layers are called as modules, so that PyTorch's hooks run around them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from memmodel.models.architecture import layer_weights, outer_weights
from memmodel.models.setting import ModelCase
from memmodel_kernels.decoder import FREQUENCIES, Decoder, hidden_states
from memmodel_kernels.library_attention import library_attention
from memmodel_kernels.losses import full_loss

Step = Callable[[Callable[[str], None]], None]


class Holder(nn.Module):
    """Parameters by the names of an architecture, and a call with hooks around it."""

    def __init__(self, listed: Any, dtype: torch.dtype, device: str) -> None:
        super().__init__()
        for weight in listed:
            made = torch.zeros(tuple(weight.shape), dtype=dtype, device=device)
            self.register_parameter(weight.name.replace(".", "/"), nn.Parameter(made))

    def forward(self, run: Callable[[Any], Any], x: Tensor) -> Any:
        return run(x)


class Names(Mapping[str, Any]):
    """What a holder's parameters are at the moment: shards, or whole."""

    def __init__(self, holder: Holder, **others: Tensor) -> None:
        self.holder, self.others = holder, others

    def __getitem__(self, name: str) -> Any:
        return self.others[name] if name in self.others else self.holder._parameters[name.replace(".", "/")]

    def __iter__(self) -> Iterator[str]:
        return iter((*(name.replace("/", ".") for name in self.holder._parameters), *self.others))

    def __len__(self) -> int:
        return len(self.holder._parameters) + len(self.others)


class Model(Holder):
    """A decoder and its loss. Under a mixed precision policy its parameters are in fp32."""

    def __init__(self, case: ModelCase, device: str) -> None:
        arch, dtype = case.arch, torch.float32 if case.masters else getattr(torch, case.dtype.name)
        super().__init__(outer_weights(arch), dtype, device)
        self.layers = nn.ModuleList(Holder(layer_weights(arch, kind), dtype, device) for kind in arch.kinds())
        self.decoder = Decoder(
            arch,
            Names(self, **{FREQUENCIES: torch.zeros(arch.head_dim // 2, device=device)}),
            [Names(layer) for layer in self.layers],
            lambda q, k, v, kind, mask, *_: library_attention(q, k, v, mask),
            recompute=case.checkpoint,
            around=lambda layer, run, x: run(x) if layer is None else self.layers[layer](run, x),
        )

    def forward(self, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Any]:
        return full_loss(self.decoder, hidden_states(self.decoder, tokens), targets)


def fully_sharded(case: ModelCase, device: str) -> Step:
    """FSDP2 of each layer and of the rest."""
    layout = case.layout
    replicas = {"replica": layout.dp} if layout.dp > 1 else {}
    sizes = {**replicas, "shard": layout.dp_shard}
    how: dict[str, Any] = {"mesh": init_device_mesh(device, tuple(sizes.values()), mesh_dim_names=tuple(sizes))}
    if case.masters:
        how["mp_policy"] = MixedPrecisionPolicy(getattr(torch, case.dtype.name), torch.float32)
    if not layout.reshard:
        how["reshard_after_forward"] = False
    model = Model(case, device)
    for layer in model.layers:
        fully_shard(layer, **how)
    fully_shard(model, **how)
    return trained(case, model, device)


def replicated(case: ModelCase, device: str) -> Step:
    """DistributedDataParallel."""
    return trained(case, nn.parallel.DistributedDataParallel(Model(case, device)), device)


def trained(case: ModelCase, model: nn.Module, device: str) -> Step:
    """A step of AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    tokens, targets = (torch.zeros(case.batch, case.seq, dtype=torch.int64, device=device) for _ in range(2))

    def step(mark: Callable[[str], None]) -> None:
        for _ in range(case.microbatches):
            mark("forward")
            loss, logits = model(tokens, targets)
            del logits
            loss.backward()
        optimizer.step()
        del loss
        optimizer.zero_grad()

    return step
