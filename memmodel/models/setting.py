"""A model's step: the architecture, the sizes, and the choices that decide what it allocates."""

from typing import NamedTuple

from memmodel.base.device import CUDA, Device
from memmodel.base.dtypes import DType, bfloat16, short_name
from memmodel.base.frozen import Frozen
from memmodel.models.architecture import CROSS_PREFIX, Architecture
from memmodel.models.layout import FIRST_RANK, ONE_GPU, Layout, Rank
from memmodel.sizes.dims import Dim

PHASES = ("train", "prefill", "decode")
CHECKPOINTS = ("none", "block", "selective", "attention")
SDPA = "sdpa"  # attention by the library's scaled_dot_product_attention
EAGER = "eager"  # by plain operators, as Hugging Face's classes
_UNUSUAL = (  # choices that are said where they are not the default
    *("framework", "checkpoint", "loss", "offload", "keep_logits", "repeat_kv", "fused_norms", "compiled"),
    *("eager_loss", "microbatches", "autocast", "masters", "in_backward", "clip", "capacity"),
    *("dropout", "attention_dropout", "embedding_dropout"),
    *(
        "quantize",
        "kv_cache",
        "local_modules",
        "separate_gradients",
        "attention_mask",
        "deferred",
        "dispatcher",
        "sequential_experts",
    ),
)
FRAMEWORKS = ("huggingface", "megatron")
DISPATCHERS = ("alltoall", "allgather")
LOSSES = ("full", "native", "in-place", "chunked", "chunked-logits", "fused", "loss-parallel")


class Adapter(NamedTuple):
    """Low-rank adapters (LoRA) on linear layers; the rest of the model is frozen.

    Attributes:
        rank: r. targets: the linear layers that have one, by their names in an architecture ("q", "ffn.up"); empty for
            all.
        in_fp32: whether adapters are in fp32 whatever the model is (PEFT's default); else in the model's dtype.
        dropout: probability, on the inputs of adapters. magnitudes: whether these are DoRA's.
        four_bit: whether the frozen linear layers are in NF4 with double quantization (QLoRA).
    """

    rank: Dim
    targets: tuple[str, ...] = ("q", "v")
    in_fp32: bool = True
    dropout: float = 0.0
    magnitudes: bool = False
    four_bit: bool = False

    def covers(self, name: str) -> bool:
        """Whether the layer of a weight has an adapter."""
        return not self.targets or name.removeprefix(CROSS_PREFIX).removesuffix(".weight") in self.targets

    def __str__(self) -> str:
        kind = ("DoRA" if self.magnitudes else "LoRA") + (" on NF4" if self.four_bit else "")
        return f"{kind} of rank {self.rank} on {', '.join(self.targets) or 'all linear layers'}"


class ModelCase(Frozen):
    """A step of a model.

    Attributes:
        arch: the model. batch: b, sequences. seq: n, tokens of each; in "decode" those in the cache, one of them new.
        source: tokens of each sequence that an encoder before the decoder reads; 0 for as many as `seq`.
        phase: "train" (forward, backward, optimizer), "prefill" (of a prompt into a KV cache) or "decode" (of a token).
        dtype: of weights, activations and gradients. optimizer: a key of `memmodel_kernels.optimizers.OPTIMIZERS`.
        attention: "sdpa" (the library's scaled_dot_product_attention), "eager" (plain operators, as Hugging Face's
            classes) or a name of `memmodel.algorithms.ALGORITHMS`.
        checkpoint: what is recomputed in backward: "none", "block" (each layer), "selective" (each layer but attention
            and every other matrix product, as torchtitan) or "attention".
        offload: whether what the layers save for backward waits on the host.
        loss: "full" (all logits at once, in fp32), "native" (the same in `dtype`), "in-place" (likewise, their gradient
            written over them, as Liger Kernel), "chunked" (checkpointed, in `chunks` of the tokens), "chunked-logits"
            (all logits at once, the rest in chunks, as torchtune), "fused" (with the head, gradients made in forward,
            as Liger Kernel) or "loss-parallel" (as PyTorch's, under tp: in fp32, where "full" is Megatron-LM's there).
        repeat_kv: whether "sdpa" is given keys and values repeated to all heads, as in torchtune.
        keep_logits: whether the caller holds the logits in backward, as in `out = model(...); out.loss.backward()`.
        fused_norms: RMS norms by the library's one function, instead of operators in fp32 as in Hugging Face's classes.
        compiled: whether the layers and the loss are, by torch.compile: see `memmodel_kernels.fused`.
        eager_loss: whether the loss is not, though layers are.
        microbatches: of `batch` sequences each, before the optimizer runs; through stages, where there are some.
        autocast: whether forward and loss run under autocast: parameters and gradients in fp32, products in `dtype`.
        masters: whether the optimizer works on fp32 copies of the parameters, with gradients summed in fp32.
        in_backward: whether each parameter is updated as soon as its gradient is there, which is then dropped.
        adapter: low-rank adapters, which then are all that learns; None to train every parameter.
        capacity: of each expert of a mixture, over its even share of the tokens: what is above is
            dropped, what is below padded; 0 for as many as it gets.
        clip: whether gradients are clipped by their norm. dropout: probability on the residual branches.
        attention_dropout: probability on the weights of attention, where the algorithm has that.
        embedding_dropout: probability on the embeddings.
        quantize: the format of weights in generation: "none" or a key of `memmodel.models.quantization.FORMATS`.
        kv_cache: the format of the cache: one of `memmodel.models.kv_cache.NAMES`.
        framework: whose modules and buffers: "huggingface" (its classes, on PyTorch's own parallelism) or "megatron"
            (Megatron-LM: see `memmodel.models.megatron`).
        local_modules: of "megatron": whether its modules are its own, not TransformerEngine's.
        separate_gradients: of "megatron": whether linear layers make gradients, which are then added to the sums of all
            micro-batches, where otherwise one kernel does both.
        deferred: of "megatron": of how many micro-batches the head's gradient waits for the end of the step.
        dispatcher: of "megatron": how tokens come to experts, one of DISPATCHERS. sequential_experts: whether these run
            one by one (without `--moe-grouped-gemm`).
        attention_mask: of "megatron": whether a mask of bools comes with the batch.
        layout: over how many GPUs, and how. rank: of these, the one whose step this is.
        torch: version of PyTorch, for workspaces. device: how its kernels allocate (`memmodel.step.device_of` a GPU).
    """

    arch: Architecture
    batch: Dim = 1
    seq: Dim = 4096
    source: Dim = 0
    phase: str = "train"
    dtype: DType = bfloat16
    optimizer: str = "adamw"
    attention: str = SDPA
    checkpoint: str = "none"
    offload: bool = False
    loss: str = "full"
    chunks: int = 8
    repeat_kv: bool = False
    keep_logits: bool = False
    fused_norms: bool = False
    compiled: bool = False
    eager_loss: bool = False
    microbatches: int = 1
    autocast: bool = False
    masters: bool = False
    in_backward: bool = False
    adapter: Adapter | None = None
    capacity: float = 0.0
    clip: bool = False
    dropout: float = 0.0
    attention_dropout: float = 0.0
    embedding_dropout: float = 0.0
    quantize: str = "none"
    kv_cache: str = "auto"
    framework: str = "huggingface"
    local_modules: bool = False
    separate_gradients: bool = False
    deferred: int = 0
    dispatcher: str = "alltoall"
    sequential_experts: bool = False
    attention_mask: bool = False
    layout: Layout = ONE_GPU
    rank: Rank = FIRST_RANK
    torch: str = "2.13"
    device: Device = CUDA

    @property
    def read(self) -> Dim:
        """The tokens of each sequence that an encoder before the decoder reads, or makes of sounds; 0 without one."""
        encoder = self.arch.encoder
        return 0 if encoder is None else encoder.max_pos if encoder.spectrogram else self.source or self.seq

    def describe(self, without: str = "") -> str:
        """The setting in one line, less a size: train, bf16, batch 1, seq 4096, adamw, and what is not usual."""
        parts = [self.phase, short_name(self.dtype)]
        parts += [f"{size} {getattr(self, size)}" for size in ("batch", "seq") if size != without]
        if self.arch.encoder:
            parts.append(f"source {self.read}")
        if self.phase == "train":
            parts.append(self.optimizer)
        parts.append(f"attention {self.attention}")
        usual = type(self)(self.arch)
        for name in _UNUSUAL:
            value, words = getattr(self, name), name.replace("_", " ")
            if value != getattr(usual, name):
                parts.append(words if value is True else f"{words} {value}")
        parts += [str(self.adapter)] if self.adapter else []
        parts += [f"{self.layout.world:,} GPUs: {self.layout.words}"] if self.layout.world > 1 else []
        return ", ".join(parts)
