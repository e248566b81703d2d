"""Megatron-LM's step: gradients against plain autograd, bytes against sums by hand."""

from dataclasses import replace

import pytest
import torch

from memmodel.base.device import CUDA
from memmodel.base.errors import UsageError
from memmodel.events.groups import by_kind, groups_at_peak
from memmodel.events.liveness import summary
from memmodel.events.program import COLLECTIVE, STATE, Alloc, Free
from memmodel.models.architecture import Latent, Mixture, layer_weights
from memmodel.models.catalogue import listed
from memmodel.models.choices import model_case
from memmodel.models.layout import Layout, Rank
from memmodel.models.megatron import expert_peers
from memmodel.models.program import program_of
from memmodel.models.schedule import order
from memmodel.models.setting import ModelCase
from memmodel_kernels.megatron.gpt import Gpt, embedded, loss, through_layers
from memmodel_kernels.megatron.modules import Sharing, Weight

LAYERS = 8
LLAMA = replace(listed("llama-3.1-8b").architecture, layers=LAYERS)
H, F, HEADS, GROUPS, D, V = 48, 80, 6, 2, 8, 101
SMALL = replace(LLAMA, hidden=H, ffn=F, heads=HEADS, kv_heads=GROUPS, head_dim=D, value_dim=D, vocab=V, layers=2)


def recorded(**given):
    stage = given.pop("stage", 0)
    case = model_case(given.pop("arch", LLAMA), framework="megatron", loss=given.pop("loss", "fused"), **given)
    return program_of(replace(case, rank=Rank(stage=stage), device=CUDA._replace(capability=90)))


def kinds(program):
    return by_kind(groups_at_peak(program))


@pytest.mark.parametrize(
    ("attention", "local", "fused", "loss_by", "norms"),
    [
        ("fused", False, True, "fused", ""),
        ("flash", False, False, "full", "qk"),
        ("unfused", False, True, "native", ""),
        ("unfused", True, False, "full", ""),
    ],
)
def test_gradients_are_those_of_plain_autograd(attention, local, fused, loss_by, norms):
    torch.manual_seed(0)

    def weight(*shape):
        value = torch.randn(*shape) * 0.2
        return Weight(value.requires_grad_(), torch.zeros(*shape), fused)

    wide = (HEADS + 2 * GROUPS) * D
    layers = [
        {
            **{"norm1.weight": weight(H), "qkv.weight": weight(wide, H), "output.weight": weight(H, HEADS * D)},
            **{"norm2.weight": weight(H), "ffn.gate_up.weight": weight(2 * F, H), "ffn.down.weight": weight(H, F)},
            **{f"{name}_norm.weight": weight(D) for name in norms},
        }
        for _ in range(2)
    ]
    outer = {"embedding.weight": weight(V, H), "final_norm.weight": weight(H), "head.weight": weight(V, H)}
    table = torch.randn(12, D // 2).repeat(1, 2)  # both channels of a pair turn by the same angle
    tokens, targets = torch.randint(V, (2, 12)), torch.randint(V, (2, 12))
    model = Gpt(SMALL, layers, outer, 2, Sharing(), table=table, attention=attention, local=local, loss=loss_by)
    found = loss(model, through_layers(model, embedded(model, tokens)), targets)
    found.backward()

    plain = [
        {name: one.value.detach().clone().requires_grad_() for name, one in part.items()} for part in (outer, *layers)
    ]
    expected = reference(plain[0], plain[1:], table, tokens, targets)
    expected.backward()
    torch.testing.assert_close(found, expected)
    for part, other in zip((outer, *layers), plain, strict=True):
        for name, one in part.items():
            got = one.total if one.value.grad is None else one.value.grad  # linear layers add to the sum themselves
            torch.testing.assert_close(got, other[name].grad, rtol=2e-4, atol=2e-4)


def reference(outer, layers, table, tokens, targets):
    """The same model in plain operators."""

    def norm(x, weight):
        return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, 1e-5)

    def turned(x):  # (b, heads, n, d)
        first, second = x.chunk(2, -1)
        return x * table.cos() + torch.cat((-second, first), -1) * table.sin()

    b, n = tokens.shape
    x = torch.nn.functional.embedding(tokens, outer["embedding.weight"])
    for w in layers:
        qkv = norm(x, w["norm1.weight"]) @ w["qkv.weight"].t()
        q, k, v = (
            part.view(b, n, -1, D).transpose(1, 2) for part in qkv.split([HEADS * D, GROUPS * D, GROUPS * D], -1)
        )
        if "q_norm.weight" in w:
            q, k = norm(q, w["q_norm.weight"]), norm(k, w["k_norm.weight"])
        k, v = (y.repeat_interleave(HEADS // GROUPS, 1) for y in (turned(k), v))
        out = torch.nn.functional.scaled_dot_product_attention(turned(q), k, v, is_causal=True)
        x = x + out.transpose(1, 2).reshape(b, n, -1) @ w["output.weight"].t()
        gate, up = (norm(x, w["norm2.weight"]) @ w["ffn.gate_up.weight"].t()).chunk(2, -1)
        x = x + (torch.nn.functional.silu(gate) * up) @ w["ffn.down.weight"].t()
    logits = norm(x, outer["final_norm.weight"]) @ outer["head.weight"].t()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


EXPERTS, BEST, WIDTH, SHARED, ROPE, LATENT, QUERIES = 4, 2, 16, 24, 4, 12, 20
SPARSE = replace(
    SMALL, heads=3, kv_heads=3, head_dim=D + ROPE, layers=1,
    fused_gate_up=True, moe=Mixture(EXPERTS, BEST, WIDTH, SHARED), mla=Latent(LATENT, ROPE, QUERIES),
)  # fmt: skip


def test_gradients_of_experts_and_latent_attention_are_those_of_plain_autograd():
    torch.manual_seed(0)

    def weight(*shape):
        return Weight((torch.randn(*shape) * 0.2).requires_grad_(), torch.zeros(*shape))

    layer = {one.name: weight(*one.shape) for one in layer_weights(SPARSE, SPARSE.kind(0))}
    table = torch.randn(12, ROPE // 2).repeat(1, 2)
    x = torch.randn(24, H, requires_grad=True)
    model = Gpt(SPARSE, [layer], {}, 2, Sharing(), table=table)
    found = through_layers(model, x)
    grads = torch.randn(24, H)
    found.backward(grads)

    plain = {name: one.value.detach().clone().requires_grad_() for name, one in layer.items()}
    y = x.detach().clone().requires_grad_()
    expected = sparse_reference(y, plain, table)
    expected.backward(grads)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(x.grad, y.grad, rtol=2e-4, atol=2e-4)
    for name, one in layer.items():
        got = one.total if one.value.grad is None else one.value.grad
        torch.testing.assert_close(got, plain[name].grad, rtol=2e-4, atol=2e-4)


def sparse_reference(x, w, table):
    """A layer of latent attention and experts of equal capacity in plain operators; x is (tokens of two, hidden)."""

    def norm(x, weight):
        return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, 1e-5)

    def turned(x):
        first, second = x.chunk(2, -1)
        return x * table.cos()[:, None] + torch.cat((-second, first), -1) * table.sin()[:, None]

    rows = norm(x, w["norm1.weight"])
    q = (norm(rows @ w["q_down.weight"].t(), w["q_norm.weight"]) @ w["q_up.weight"].t()).view(2, 12, 3, D + ROPE)
    latent, shared = (rows @ w["kv_down.weight"].t()).split([LATENT, ROPE], -1)
    k, v = (norm(latent, w["kv_norm.weight"]) @ w["kv_up.weight"].t()).view(2, 12, 3, 2 * D).chunk(2, -1)
    q = torch.cat((q[..., :D], turned(q[..., D:])), -1)
    k = torch.cat((k, turned(shared.reshape(2, 12, 1, ROPE)).expand(-1, -1, 3, -1)), -1)
    q, k, v = (y.transpose(1, 2) for y in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + out.transpose(1, 2).reshape(24, -1) @ w["output.weight"].t()

    def gated(x, up, down):
        gate, value = (x @ up.t()).chunk(2, -1)
        return torch.nn.functional.silu(gate) * value @ down.t()

    rows = norm(x, w["norm2.weight"])
    scores = (rows @ w["router.weight"].t()).softmax(-1)
    best = torch.zeros_like(scores).scatter(1, scores.topk(BEST).indices, 1.0)
    weights, chosen = (scores * best).t().topk(24 * BEST // EXPERTS)
    out = gated(rows, w["shared.gate_up.weight"], w["shared.down.weight"])
    for expert in range(EXPERTS):
        of_expert = gated(rows[chosen[expert]], w["experts.gate_up"][expert], w["experts.down"][expert])
        out = out.index_add(0, chosen[expert], weights[expert][:, None] * of_expert)
    return x + out


def parameters(layers, tp=1, vocab=128256):
    """Of a stage of Llama 3.1 8B with embedding and head, the vocabulary in 128s a rank."""
    layer = (4096 * (32 + 16) * 128 + 4096 * 4096 + 3 * 4096 * 14336) // tp + 2 * 4096
    return layers * layer + 2 * vocab // tp * 4096 + 4096


@pytest.mark.parametrize(("shards", "bytes_a_parameter"), [(1, 18), (4, 6 + 12 / 4), (64, 6 + 12 / 64)])
def test_the_distributed_optimizer_shares_twelve_of_eighteen_bytes(shards, bytes_a_parameter):
    # bf16 parameter, fp32 sum of gradients, fp32 master and two moments (Megatron-LM, num_bytes_per_parameter)
    program = recorded(dp_shard=shards, zero=1, seq=512)
    held = sum(kinds(program)[kind] for kind in ("parameters", "gradients", "optimizer"))
    stand_ins = 2 * 4096 * (48 * 128 + 4096 + 3 * 14336)  # one bf16 tensor of each shape of a linear layer
    table = 512 * 128 * 4
    assert held - stand_ins - table == pytest.approx(parameters(LAYERS) * bytes_a_parameter, rel=1e-6)


@pytest.mark.parametrize(("tp", "cp"), [(1, 1), (4, 1), (2, 2)])
def test_a_layer_keeps_what_transformer_engine_keeps(tp, cp):
    # per token: residual stream and normed input of both halves, and attention's operands and result, in bf16; the
    # statistics of norms and the log-sum-exp in fp32; two and one widths of SwiGLU; with heads exchanged for tokens,
    # the result before that too
    saved = []
    for layers in (4, 5):
        program = recorded(arch=replace(LLAMA, layers=layers), tp=tp, cp=cp, sequence_parallel=tp > 1, seq=8192)
        saved.append(by_kind(groups_at_peak(program))["activations"])
    tokens, q, k = 8192 // cp, 4096, 1024
    per_token = 2 * (4 * 4096 + 2 * q + 2 * k + 3 * 14336) + 4 * 32 + (2 * q if cp > 1 else 0)
    assert saved[1] - saved[0] == pytest.approx(tokens * per_token // tp + 2 * tokens // tp * 4, abs=64)


def test_norms_of_queries_and_keys_keep_copies_of_what_they_read():
    """Of each rank's tokens and heads in bf16, and a statistic in fp32 a head (TransformerEngine's RMSNorm)."""
    q, k, heads, tokens = 4096, 1024, 32 + 8, 1024
    with_norms = replace(LLAMA, qk_norm="head")
    kept = [
        kinds(recorded(arch=replace(arch, layers=layers), tp=2, sequence_parallel=True, seq=tokens))["activations"]
        for arch in (LLAMA, with_norms)
        for layers in (4, 5)
    ]
    more = (kept[3] - kept[2]) - (kept[1] - kept[0])
    assert more == tokens * (2 * (q + k) + 4 * heads) // 2


def test_a_stage_holds_fewer_micro_batches_the_later_it_is():
    deep = {"arch": replace(LLAMA, layers=32), "pp": 4, "microbatches": 8, "seq": 1024}
    held = [kinds(recorded(**deep, stage=stage))["activations"] for stage in range(3)]
    assert [round(x / (held[1] - held[2])) for x in held] == [4, 3, 2]


def test_the_last_stage_has_a_copy_of_a_tied_embedding():
    tied, own = (
        kinds(recorded(arch=replace(LLAMA, tied=is_tied), pp=2, microbatches=2, seq=512, stage=1))["parameters"]
        for is_tied in (True, False)
    )
    assert tied == own > 2 * 128256 * 4096


def test_unfused_attention_keeps_five_bytes_a_score():
    # softmax and what dropout leaves of it in bf16, and its mask (megatron/core/transformer/dot_product_attention.py)
    held = []
    for layers in (4, 5):
        given = {"arch": replace(LLAMA, layers=layers), "seq": 1024, "attention": "eager", "attention_dropout": 0.1}
        held.append(kinds(recorded(**given))["activations"])
    q, k, tokens = 4096, 1024, 1024
    others = tokens * (2 * (4 * 4096 + 2 * q + k + 3 * 14336) + 2 * 4)  # keys by groups are let go of
    repeated = 2 * 2 * tokens * q  # keys and values by heads
    assert held[1] - held[0] == pytest.approx(5 * 32 * 1024**2 + others + repeated - 2 * tokens * k, rel=1e-3)


def test_experts_share_their_own_states():
    # six bytes a parameter and twelve over the ranks with the same parameters: dense ones over all 8, an expert's over
    # the 4 that have it (distrib_optimizer.py); each rank has half of the experts
    held = []
    for layers in (4, 5):
        arch = replace(LLAMA, layers=layers, moe=Mixture(experts=8, top_k=2, width=1024))
        found = kinds(recorded(arch=arch, dp_shard=8, zero=1, ep=2, seq=512))
        held.append(sum(found[kind] for kind in ("parameters", "gradients", "optimizer")))
    experts = 8 * 3 * 1024 * 4096 // 2
    dense = 4096 * (32 + 16) * 128 + 4096 * 4096 + 2 * 4096 + 8 * 4096
    assert held[1] - held[0] == pytest.approx(dense * (6 + 12 / 8) + experts * (6 + 12 / 4), rel=1e-5)


@pytest.mark.parametrize(
    ("layout", "number", "expected"),
    [
        # --order tp-ep-dp: sharers of an expert are neighbours, then ranks with other experts, then those with the same
        (Layout(tp=2, dp_shard=4, ep=4, etp=1, zero=1), 5, ((4, 5, 6, 7), (5,), (4, 5, 6, 7), (1, 5))),
        (Layout(tp=4, dp_shard=2, ep=2, etp=2, zero=1), 3, ((1, 3), (2, 3), (0, 1, 2, 3), (3, 7))),
        (Layout(tp=2, dp_shard=4, ep=2, zero=1), 3, ((1, 3), (2, 3), (0, 1, 2, 3), (3, 7))),
    ],
)
def test_ranks_share_experts_as_parallel_state_orders_them(layout, number, expected):
    assert expert_peers(ModelCase(LLAMA, layout=layout, rank=layout.rank(number))) == expected


def test_an_all_gather_of_tokens_has_a_buffer_of_all_ranks_and_keeps_a_rank_s_share():
    """Of the tokens of tp x ep ranks in bf16, each of 4096 wide; of rows, as many as tokens of a rank times top-k."""
    arch = replace(listed("mixtral-8x7b").architecture, layers=4, pattern="F")
    given = {"tp": 2, "dp_shard": 4, "ep": 4, "zero": 1, "sequence_parallel": True, "seq": 1024, "stage": 0}
    program = recorded(arch=arch, dispatcher="allgather", **given)
    sizes = {program.names[birth.key]: birth.nbytes for birth in program.births() if birth.key in program.names}
    assert sizes["mpu"] == 2 * 4096 * (1024 // 2) * 2 * 4
    kept = [kinds(recorded(arch=arch, dispatcher=name, **given))["activations"] for name in ("alltoall", "allgather")]
    assert kept[0] == pytest.approx(kept[1], rel=0.01)  # what experts keep does not depend on the way to them


def test_interleaved_stages_hold_as_many_chunks_as_run_ahead():
    # the last of four stages with two chunks starts four forwards ahead: (chunks - 1) x stages (schedules.py); a chunk
    # has half of the layers
    deep = {"arch": replace(LLAMA, layers=16), "pp": 4, "microbatches": 8, "seq": 1024, "stage": 3}
    plain, turns = (kinds(recorded(**deep, **given))["activations"] for given in ({}, {"schedule": "interleaved"}))
    assert turns == pytest.approx(plain * 5 / 2, rel=0.02)


def test_gradients_of_logits_wait_for_the_end_of_the_step():
    """Of two micro-batches, in bf16: the rest is made at once (--wgrad-deferral-limit 2)."""
    deep = {"arch": replace(LLAMA, layers=8), "pp": 2, "microbatches": 6, "seq": 1024, "stage": 1}
    peaks = [int(summary(recorded(**deep, **given)).peaks["peak"]) for given in ({}, {"deferred": 2})]
    logits, inputs = 2 * 1024 * 128256, 2 * 1024 * 4096
    assert peaks[1] - peaks[0] == pytest.approx(2 * (logits + inputs), rel=0.01)


def test_groups_of_micro_batches_start_as_many_forwards_ahead():
    """The last of four stages with two chunks: one group of each chunk but the last (schedules.py)."""
    layout = Layout(pp=4, virtual_stages=2, schedule="interleaved", microbatch_group=5)
    ahead = [action.kind for action in order(layout, 3, 10)].index("B")
    assert ahead == 5 + 1  # and the forward before the first backward
    assert [place[1:] for place in order(layout, 3, 10)[:5]] == [(0, m) for m in range(5)]


def test_logits_are_kept_once_by_transformer_engines_loss_and_in_fp32_too_by_megatrons():
    logits, head = 2 * 4096 * 128256, 2 * 128256 * 4096
    fused, own = (kinds(recorded(loss=name))["logits"] for name in ("fused", "full"))
    few = 2**20  # a number or two for each row
    assert fused == pytest.approx(logits + head + 2 * 4096 * 4096, abs=few)  # beside the head's stand-in and gradient
    assert own == pytest.approx(3 * logits, abs=few)


def test_ranks_communicate_as_megatron_does():
    program = recorded(tp=4, dp_shard=8, zero=1, sequence_parallel=True, seq=1024)
    calls = [(one.name, len(one.ranks)) for one in program.launches() if one.kind == COLLECTIVE]
    # forward: two gathers and two scatters a layer, a scatter of the embedding, a gather of the head; backward: four
    # gathers (two of them of inputs again) and two scatters a layer, the others reversed, and the head's input again
    assert calls.count(("all_gather", 4)) == 2 * LAYERS + 1 + 4 * LAYERS + 2
    assert calls.count(("reduce_scatter", 4)) == 2 * LAYERS + 1 + 2 * LAYERS + 1
    assert calls.count(("all_gather", 8)) == calls.count(("reduce_scatter", 8)) == 1


def test_parameters_move_into_a_buffer_and_moments_come_with_the_first_step():
    # of each parameter in bf16 and, of a quarter, two moments in fp32 (distrib_optimizer.py, fused_adam.py)
    program = recorded(dp_shard=4, zero=1, seq=512)
    sizes = {birth.key: birth.nbytes for birth in program.births()}
    before = program.phases()["inputs"]
    moved = sum(sizes[event.key] for event in before if isinstance(event, Free))
    moments = sum(birth.nbytes for birth in program.births() if birth.role == STATE)
    count = parameters(LAYERS)
    assert moved == pytest.approx(2 * count + 2 * count / 4, rel=1e-5)  # masters are copies of copies
    assert moments == pytest.approx(8 * count / 4, rel=1e-5)


def test_workspaces_are_made_by_generation():
    sizes = {}
    for capability in (80, 90):
        case = model_case(SMALL, framework="megatron", seq=64)
        program = program_of(replace(case, device=CUDA._replace(capability=capability)))
        sizes[capability] = max(e.nbytes for e in program.events if isinstance(e, Alloc) and e.dtype.name == "uint8")
    assert sizes == {80: 4 * 2**20, 90: 32 * 2**20 + 1024}


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"arch": listed("mixtral-8x7b").architecture, "tp": 2}, "mixtures on tp without sequence parallelism"),
        ({"checkpoint": "selective"}, "checkpoint selective"),
        ({"dp_shard": 2, "zero": 3}, "zero 3"),
        ({"pp": 2, "microbatches": 2, "schedule": "gpipe"}, "schedule gpipe"),
        ({"attention": "naive"}, "attention naive"),
        ({"local_modules": True}, "local modules"),
    ],
)
def test_what_is_not_modelled_is_refused(given, part):
    with pytest.raises(UsageError, match=part):
        recorded(**given)
