"""Calls of single functions that models and losses use; a and b are (B, N, D), classes and places int64."""

from collections.abc import Callable

import torch
from torch import Tensor, einsum
from torch.nn import functional

B, N, D = 2, 40, 24


def classes() -> Tensor:
    return torch.zeros(B * N, dtype=torch.int64)


def places(n: int = 7) -> Tensor:
    return torch.zeros(n, dtype=torch.int64)


def written(a: Tensor, b: Tensor) -> Tensor:
    x = a.clone()
    x[:, 3:5] = b[:, 3:5]
    x[:, :, 0] = 0.0
    return x


def view_written(a: Tensor, b: Tensor) -> Tensor:
    scores = einsum("bnd,bmd->bnm", a, b)
    scores.masked_fill_(torch.ones(N, N, dtype=torch.bool).triu(1), -1e9)
    scores *= 0.5
    return scores.softmax(-1)


def halves_written(a: Tensor, b: Tensor) -> Tensor:
    both = a * 2
    first, second = both[..., : D // 2], both[..., D // 2 :]
    first.mul_(3.0)
    second.sigmoid_()
    return first * second + both[..., 5:6]


def view_of_a_view_written(a: Tensor, b: Tensor) -> Tensor:
    row = (a * b)[0]
    turned = row.T[1:]
    turned.add_(1.0)
    return turned.exp() @ row.sin()


def largest_of_bins(a: Tensor, b: Tensor) -> Tensor:
    bins = (torch.arange(N) % 5)[None, :, None].expand(B, N, D)
    return torch.zeros(B, 5, D).scatter_reduce(1, bins, a, reduce="amax", include_self=False)


Call = Callable[[Tensor, Tensor], Tensor]
CALLS: dict[str, Call] = {
    "batch norm": lambda a, b: functional.batch_norm(a, torch.zeros(N), torch.ones(N), b.mean((0, 2)), training=True),
    "batch norm of rows": lambda a, b: functional.batch_norm(a.flatten(0, 1), None, None, training=True),
    "batch norm, evaluated": lambda a, b: functional.batch_norm(a, torch.zeros(N), torch.ones(N)),
    "batch norm, strided gradient": lambda a, b: functional.batch_norm(a, None, None, training=True).mT,
    "mse": lambda a, b: functional.mse_loss(a, b.detach()),
    "mse of both": lambda a, b: functional.mse_loss(a, b),
    "mse unreduced": lambda a, b: functional.mse_loss(a, b, reduction="none"),
    "l1": lambda a, b: functional.l1_loss(a, b.detach()),
    "smooth l1": lambda a, b: functional.smooth_l1_loss(a, b.detach()),
    "huber": lambda a, b: functional.huber_loss(a, b.detach()),
    "bce": lambda a, b: functional.binary_cross_entropy(a.sigmoid(), b.detach().sigmoid()),
    "bce of logits": lambda a, b: functional.binary_cross_entropy_with_logits(a, b.detach()),
    "bce of logits, weighted": lambda a, b: functional.binary_cross_entropy_with_logits(
        a[:, 0], b[:, 0].detach(), pos_weight=torch.ones(D)
    ),
    "soft margin": lambda a, b: functional.soft_margin_loss(a, b.detach()),
    "distances": lambda a, b: torch.cdist(a, b),
    "view written into": view_written,
    "halves written into": halves_written,
    "view of a view written into": view_of_a_view_written,
    "largest of bins": largest_of_bins,
    "pixel shuffle of strided": lambda a, b: functional.pixel_shuffle(a.view(B, 8, 5, D)[..., ::2], 2),
    "kl": lambda a, b: functional.kl_div(a.log_softmax(-1), b.softmax(-1).detach(), reduction="batchmean"),
    "cross entropy": lambda a, b: functional.cross_entropy(a.view(-1, D), classes()),
    "cross entropy of probabilities": lambda a, b: functional.cross_entropy(a[0], b[0].softmax(-1)),
    "cross entropy unreduced": lambda a, b: functional.cross_entropy(a[0], classes()[:N], reduction="none"),
    "nll": lambda a, b: functional.nll_loss(a.view(-1, D).log_softmax(-1), classes()),
    "layer norm": lambda a, b: functional.layer_norm(a, (D,)),
    "layer norm of strided": lambda a, b: functional.layer_norm(a.mT, (N,)),
    "rms norm": lambda a, b: functional.rms_norm(a, (D,)),
    "normalize": lambda a, b: functional.normalize(a, dim=-1),
    "cosine similarity": lambda a, b: functional.cosine_similarity(a, b, dim=-1),
    "gelu": lambda a, b: functional.gelu(a),
    "silu": lambda a, b: functional.silu(a),
    "glu": lambda a, b: functional.glu(a),
    "relu in place": lambda a, b: functional.relu_(a + 1),
    "elu": lambda a, b: functional.elu(a),
    "elu, strided gradient": lambda a, b: functional.elu(a).mT @ b,
    "softplus, strided gradient": lambda a, b: functional.softplus(a).mT @ b,
    "integers divided": lambda a, b: a * (places(D) / D) + places(D) * 0.5 + 2.0 ** places(D),
    "integers compared": lambda a, b: a * (places(D) > 0.5) * (places(D) == 1),
    "bools computed with": lambda a, b: a * ((b > 0) * 2) + ~(b > 0) + ((b > 0) == 0),
    "integers in functions": lambda a, b: a * places(D).exp() + places(D).clamp(max=4) + torch.where(b > 0, 1, 0),
    "one hot": lambda a, b: a * functional.one_hot(places(N), D),
    "embedding, strided gradient": lambda a, b: (
        functional.embedding(classes(), a.view(-1, D)).T.exp() @ b[0, 0, 0].expand(B * N)
    ),
    "cross entropy in two dimensions": lambda a, b: functional.cross_entropy(
        a.mT, torch.zeros(B, N, dtype=torch.int64)
    ),
    "relu, strided gradient": lambda a, b: functional.relu(a).mT @ b,
    "log softmax, strided gradient": lambda a, b: a.log_softmax(-1).mT @ b,
    "layer norm, strided gradient": lambda a, b: functional.layer_norm(a, (D,)).mT @ b,
    "mish": lambda a, b: functional.mish(a),
    "powers": lambda a, b: a**2 + a.pow(3) + a**b,
    "rsqrt": lambda a, b: a.rsqrt() * a.sqrt(),
    "maximum": lambda a, b: torch.maximum(a, b),
    "where": lambda a, b: torch.where(a > 0, a, b),
    "lerp": lambda a, b: torch.lerp(a, b, 0.3),
    "addcmul": lambda a, b: torch.addcmul(a, a, b),
    "cumsum": lambda a, b: a.cumsum(1),
    "cumsum of a mask": lambda a, b: a * (b > 0).cumsum(-1),
    "logcumsumexp": lambda a, b: a.logcumsumexp(-1),
    "topk": lambda a, b: a.topk(5, -1)[0],
    "median": lambda a, b: a.median(-1)[0],
    "gather": lambda a, b: a.gather(1, torch.zeros(B, 5, D, dtype=torch.int64)),
    "index select": lambda a, b: a.index_select(1, places()),
    "indexing": lambda a, b: a[:, places()],
    "indexing of two dimensions": lambda a, b: a[places(), places()],
    "indexing by a list": lambda a, b: a[:, [0, 1, 2]],
    "index add": lambda a, b: a.index_add(1, places(N), b),
    "index copy": lambda a, b: a.index_copy(1, torch.arange(N), b),
    "index put": lambda a, b: a.index_put((places(),), b[:1, 0]),
    "slices written": written,
    "embedding": lambda a, b: functional.embedding(classes(), a.view(-1, D)),
    "linear": lambda a, b: functional.linear(a, b[0, :D], b[0, :D, 0].contiguous()),
    "linear of strided": lambda a, b: functional.linear(a.transpose(0, 1), b[0, :D], b[0, :D, 0].contiguous()),
    "linear of a matrix": lambda a, b: functional.linear(a[0], b[0, :D], b[0, :D, 0]),
    "dropout": lambda a, b: functional.dropout(a, 0.1, True),
    "gumbel softmax": lambda a, b: functional.gumbel_softmax(a),
    "bernoulli": lambda a, b: a * torch.bernoulli(b.detach().sigmoid()),
    "std": lambda a, b: a.std(-1),
    "norm": lambda a, b: a.norm(dim=-1),
    "largest absolute": lambda a, b: a.norm(p=float("inf"), dim=-1),
    "logsumexp": lambda a, b: a.logsumexp(-1),
    "mean of two dimensions": lambda a, b: a.mean((0, 1)),
    "sum of rows": lambda a, b: a.sum(0),
    "minimum": lambda a, b: a.min(1)[0],
    "roll": lambda a, b: a.roll(3, 1),
    "roll twice": lambda a, b: a.roll((3, 2), (1, 2)),
    "roll flattened": lambda a, b: a.roll(3),
    "flip": lambda a, b: a.flip(1),
    "tril": lambda a, b: a.tril(),
    "diagonal": lambda a, b: a.diagonal(dim1=1, dim2=2),
    "repeat interleave": lambda a, b: a.repeat_interleave(2, 1),
    "expand": lambda a, b: a[:, :1].expand(B, N, D) + b,
    "stack and cat": lambda a, b: torch.cat((torch.stack((a, b)), torch.stack((b, a)))),
    "chunk": lambda a, b: torch.stack(a.chunk(3, -1)).sum(0),
    "unbind": lambda a, b: a.unbind(0)[0] + b.unbind(0)[1],
    "pad": lambda a, b: functional.pad(a, (0, 0, 3, 0), value=1.0),
    "masked fill": lambda a, b: a.masked_fill(b > 0, 0.0),
    "matrix by vector": lambda a, b: a @ b[0, 0],
    "einsum of three": lambda a, b: einsum("bnd,bmd,bmd->bn", a, b, b),
    "einsum of a diagonal": lambda a, b: einsum("nn->n", a[0, :D]),
    "tensordot": lambda a, b: torch.tensordot(a, b, dims=([2], [2])),
    "softmax of a middle dimension": lambda a, b: a.softmax(1),
    "softmax of strided": lambda a, b: a.mT.softmax(-1),
    "bucketize": lambda a, b: a * torch.bucketize(b.detach(), torch.arange(5.0)),
    "linear of strided, by vmap": lambda a, b: torch.func.vmap(
        lambda x: functional.linear(x.view(N // 4, 4, D).transpose(0, 1), b[0, :D], b[0, :D, 0].contiguous())
    )(a),
    "vmap": lambda a, b: torch.func.vmap(lambda x, y: x @ y.T)(a, b),
}
