"""Every layout of a model on a number of GPUs: which fit, how fast they are, and what limits each.

A layout's peak and times grow in proportion to the layers of a stage, to the micro-batches that it holds, and to the
part of the state that a rank has of what others share. So a few small programs, of few layers on two stages, tell those
of all layouts that share the layers and sequences in the same way. The fastest are recorded as they are, in the end.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

from memmodel.allocator import AllocatorConfig
from memmodel.allocator.cublas import parse_torch_version
from memmodel.base.errors import UsageError
from memmodel.base.rendering import Renderable
from memmodel.base.units import percent_text
from memmodel.events.groups import COMMUNICATION, by_kind
from memmodel.events.program import Launch, Program
from memmodel.expansion import repetition
from memmodel.gpus import Gpu
from memmodel.gpus.links import Node, node_of
from memmodel.models.architecture import Architecture, layer_weights
from memmodel.models.few_layers import FewLayers
from memmodel.models.layout import Layout, Rank, check_layout
from memmodel.models.megatron import of_experts
from memmodel.models.predict import efficiency_of
from memmodel.models.program import memory_program, recording_of
from memmodel.models.schedule import order
from memmodel.models.setting import ModelCase
from memmodel.models.share import share
from memmodel.models.step_time import Clock, Run, Stage, StageRuns, StepTime, combined, stream_bytes
from memmodel.prediction import Memory
from memmodel.step import device_of, memory_of, room_bytes
from memmodel.timing import Calibration, Machine
from memmodel.timing.transfer import expected_rates

TOKENS = 1 << 22  # of a step, unless said: as Llama 2 was trained (Touvron et al., 2023, section 2.2)
EXACT = 3  # layouts that are recorded as they are
_SHORTEST = 4096  # tokens of a rank, below which sharing sequences is not tried
_CHECKPOINTS = ("none", "block")
_PLACES = {"only": (1, 0), "first": (2, 0), "middle": (3, 1), "last": (2, 1)}  # recorded stages, and which is meant
_HELD = 2  # micro-batches that the first of two stages, and the second of three, hold
_SHARDS = (2, 4)  # that are recorded, times the ranks that share experts


VARIED = ("tp", "pp", "cp", "ep", "dp", "dp_shard", "zero", "sequence_parallel", "checkpoint")  # unless given
Sizes = dict[str, tuple[int, tuple[int, int]]]  # a size, and those that are recorded


class TriedLayout(NamedTuple):
    """A layout of a model on all GPUs.

    Attributes:
        case: with the layout, micro-batches and checkpoints.
        peak_bytes: of the fullest rank; allocated where `exact`, else live bytes from smaller programs.
        fits: whether the fullest rank runs. groups: the peak's bytes by kind.
        time: of a step; None where the GPU's data lack a rate. tokens_per_second: of all GPUs. mfu: of their peak.
        exact: whether memory was replayed for this layout itself.
    """

    case: ModelCase
    peak_bytes: int
    fits: bool
    groups: Mapping[str, int]
    time: StepTime
    tokens_per_second: float
    mfu: float | None
    exact: bool = False

    @property
    def limits(self) -> str:
        """The group that fills most of a memory that is too small, else the part that takes most of the time."""
        if not self.fits:
            group = max(self.groups, key=lambda name: self.groups[name])
            return f"{group.replace('_', ' ')} {percent_text(self.groups[group], sum(self.groups.values()))}"
        part, seconds = next(iter(self.time.parts.items()))
        return f"{part} {percent_text(seconds, self.time.seconds)}"


@dataclass(frozen=True, slots=True)
class FitReport(Renderable):
    """All layouts of a model on some GPUs.

    Attributes:
        case: the setting that they share. gpu, gpus, node: on what. sequences: of a step.
        fitting: those that fit, fastest first. others: those that do not, least memory first.
        assumptions: what was taken as given.
    """

    case: ModelCase
    gpu: Gpu
    gpus: int
    node: Node
    sequences: int
    fitting: tuple[TriedLayout, ...]
    others: tuple[TriedLayout, ...]
    assumptions: tuple[str, ...]


def fit(
    case: ModelCase,
    gpu: Gpu,
    gpus: int,
    node: Node,
    machine: Machine,
    sequences: int | None = None,
    given: Mapping[str, Any] | None = None,
    config: AllocatorConfig | None = None,
) -> FitReport:
    """Every layout of a training step on `gpus` GPUs.

    Args:
        case: the setting; its layout is that of one GPU but for what is `given`.
        gpu: each of them.
        gpus: how many.
        node: the machine that they are in.
        machine: the GPU with its measured rates.
        sequences: of a step; by default as many as make `TOKENS`.
        given: fields of the layout, or checkpoint, that are not varied.
        config: settings of the allocator.

    Raises UsageError where there is no layout, or the GPU's capacity is not known.
    """
    room = room_bytes(gpu)
    if room is None:
        gpu.listed("capacity")  # raises, naming the key
    assert room is not None
    sequences = sequences or max(TOKENS // int(case.seq), gpus)
    search, why = _Search(machine, node), ""
    tried = []
    for one in _candidates(case, gpus, node, sequences, dict(given or {})):
        try:
            check_layout(one.layout, one.arch, int(one.seq), one.microbatches, gpus, one.framework)
            tried.append(search.tried(one, room))
        except UsageError as refused:
            why = str(refused)
    if not tried:
        raise UsageError(f"no layout of {case.arch.name} on {gpus} GPUs: {why or _uneven(case.arch, sequences)}")
    fitting, others = _judged(tried, gpu, config)
    return FitReport(case, gpu, gpus, node, sequences, fitting, others, tuple(_assumptions(case, node, sequences)))


def _uneven(arch: Architecture, sequences: int) -> str:
    """Why no layout could be tried, and what to give."""
    return (
        f"{sequences:,} sequences of a step, {arch.layers} layers and {int(arch.kv_heads)} KV heads do not divide "
        "among them: give another number of GPUs, a --global-batch that it divides, or fewer sizes of the layout"
    )


def fit_model(
    case: ModelCase,
    gpu: Gpu,
    gpus: int,
    *,
    sequences: int | None = None,
    given: Mapping[str, Any] | None = None,
    allocator: AllocatorConfig | None = None,
    calibration: Calibration | None = None,
    link: str | None = None,
    gpus_per_node: int | None = None,
) -> FitReport:
    """`fit` with the rates to expect of the GPU, and the machine that it is usually in."""
    rates = calibration or expected_rates(gpu, case.dtype.itemsize)
    machine, node = Machine(gpu, rates, torch=parse_torch_version(case.torch)), node_of(gpu, link, gpus_per_node)
    case = replace(case, device=device_of(gpu))
    return fit(case, gpu, gpus, node, machine, sequences, given, allocator)


def _candidates(
    case: ModelCase, gpus: int, node: Node, sequences: int, given: Mapping[str, Any]
) -> Iterator[ModelCase]:
    """The case in every layout of so many GPUs that is tried; some of them cannot be."""
    arch, megatron = case.arch, case.framework == "megatron"
    choices: dict[str, Iterable[Any]] = {
        # Tensor parallelism exchanges activations in every layer, which only a machine's own links carry fast enough.
        "tp": [n for n in _powers(min(node.gpus, gpus)) if int(arch.kv_heads) % n == 0],
        "pp": [n for n in _powers(gpus) if arch.layers % n == 0],
        "cp": [n for n in _powers(max(int(case.seq) // _SHORTEST, 1)) if n <= gpus],
        "ep": [n for n in _powers(gpus) if arch.moe is not None and int(arch.moe.experts) % n == 0] or [1],
        "checkpoint": _CHECKPOINTS,
    }
    choices |= {name: [value] for name, value in given.items() if name in choices}
    for tp, pp, cp, ep, checkpoint in product(*choices.values()):
        data, rest = divmod(gpus, tp * pp * cp)
        micro, unequal = divmod(sequences, max(data, 1) * int(case.batch))
        # GPUs, sequences or experts that do not divide; a pipeline with more stages than micro-batches stands idle.
        if rest or unequal or micro < pp or (data * cp) % ep:
            continue
        for dp, shards, zero in _data_parallel(data, node, megatron, given):
            layout = Layout(
                tp=tp, pp=pp, dp=dp, dp_shard=shards, cp=cp, ep=ep, zero=zero,
                sequence_parallel=tp > 1 and given.get("sequence_parallel", True),
            )  # fmt: skip
            yield replace(case, layout=layout, microbatches=micro, checkpoint=checkpoint)


def _data_parallel(data: int, node: Node, megatron: bool, given: Mapping[str, Any]) -> Iterator[tuple[int, int, int]]:
    """(replicas, shards, what these share) of ranks with batches of their own."""
    if data == 1:
        yield 1, 1, 1 if megatron else 3
        return
    zeros = [given["zero"]] if "zero" in given else [1] if megatron else [0, 3]
    for zero in zeros:
        # The state shared by all, or (HSDP) within a machine, whose copies then average their gradients.
        whole = (data, 1) if zero == 0 else (1, data)
        hybrid = (data // node.gpus, node.gpus) if zero == 3 and data > node.gpus and data % node.gpus == 0 else whole
        for dp, shards in dict.fromkeys((whole, hybrid)):
            if given.get("dp", dp) == dp and given.get("dp_shard", shards) == shards:
                yield dp, shards, zero


def _powers(most: int) -> list[int]:
    return [1 << power for power in range(max(most, 1).bit_length())]


class _Small(NamedTuple):
    """Peak, groups and times of a small program of a stage."""

    peak: float
    groups: dict[str, float]

    def with_buffers(self, nbytes: float) -> "_Small":
        """With buffers between stages beside it."""
        groups = {**self.groups, COMMUNICATION: self.groups.get(COMMUNICATION, 0.0) + nbytes}
        return _Small(self.peak + nbytes, groups) if nbytes else self

    def mixed(self, other: "_Small", share: float) -> "_Small":
        names = dict.fromkeys((*self.groups, *other.groups))
        groups = {n: _between(self.groups.get(n, 0.0), other.groups.get(n, 0.0), share) for n in names}
        return _Small(_between(self.peak, other.peak, share), groups)


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _mixed_runs(low: StageRuns, high: StageRuns, share: float) -> StageRuns:
    def mixed(a: Run, b: Run) -> Run:
        return Run(*(max(_between(x, y, share), 0.0) for x, y in zip(a, b, strict=True)))

    each = {phase: mixed(run, high.each[phase]) for phase, run in low.each.items()}
    last = {phase: mixed(run, high.last[phase]) for phase, run in low.last.items()}
    return StageRuns(each, last, mixed(low.after, high.after))


class _Search:
    """Small programs, each recorded once, and what they tell of layouts."""

    def __init__(self, machine: Machine, node: Node) -> None:
        self.machine, self.node = machine, node
        # Without stages, times are asked of the same recordings as peaks: of two numbers of layers and of shards.
        self._recorded = lru_cache(maxsize=2 * len(_SHARDS))(recording_of)
        self._few: dict[ModelCase, FewLayers] = {}
        self._stages: dict[ModelCase, Stage] = {}
        self._kernels: dict[Launch, float] = {}

    def tried(self, case: ModelCase, room: int) -> TriedLayout:
        """A layout's peak and time."""
        pp = case.layout.pp
        fullest = max((self._peak(case, place) for place in _places(pp)), key=lambda one: one.peak)
        runs = {place: self._runs(case, place) for place in _places(min(pp, 2))}
        stages = [runs["first"]] * (pp - 1) + [runs["last"]] if pp > 1 else [runs["only"]]
        time, _ = combined(case, stages, self.node, self.machine.basis)
        groups = by_kind({name: int(size) for name, size in fullest.groups.items()})
        efficiency = efficiency_of(case, self.machine.gpu, time.seconds)
        return TriedLayout(case, int(fullest.peak), fullest.peak <= room, groups, time, *efficiency)

    def _peak(self, case: ModelCase, place: str) -> _Small:
        few, in_flight = _Few.of(case, place), max(_held(case, place) - _HELD, 0)

        def at(layers: int, periods: int = 0) -> _Small:
            shards, share = _recorded_shards(case)
            known = [self._few_layers(case, place, layers, count) for count in shards]
            moments = [one.moments(periods, in_flight) for one in known]
            # Which moment is the peak depends on the shards: each is extrapolated, then the largest taken.
            live = [_between(low, high, share) for low, high in zip(moments[0], moments[-1], strict=True)]
            peak = max(range(len(live)), key=live.__getitem__)
            low, high = ({k: float(x) for k, x in known[i].groups(peak, periods, in_flight).items()} for i in (0, -1))
            return _Small(live[peak], low).mixed(_Small(live[peak], high), share)

        if _share_buffers(case):
            peak: _Small = _extrapolated(at, _Small.mixed, {"layers": (few.size, few.pair)})
        else:
            layers = min(few.size, few.pair[1])
            peak = at(layers, (few.size - layers) // few.period)
        return peak.with_buffers(_buffers(case, place))

    def _few_layers(self, case: ModelCase, place: str, layers: int, shards: int) -> FewLayers:
        small, few = _small(case, place, layers, shards), _Few.of(case, place)
        if small not in self._few:
            # `_buffers` counts a gradient of the stage's input for every micro-batch.
            coming = int(stream_bytes(case)) if place == "middle" and case.framework != "megatron" else 0
            self._few[small] = FewLayers(self._recorded(small), range(few.first, few.first + few.period), coming)
        return self._few[small]

    def _runs(self, case: ModelCase, place: str) -> StageRuns:
        layout = case.layout

        def at(layers: int, shards: int) -> StageRuns:
            small = _small(case, place, layers, shards)
            stage = self._stages.get(small)
            if stage is None:
                stage = self._stages[small] = Stage(small, lambda case: self._recorded(case).program)
            peers = _Peers(small, layout)
            return stage.runs(Clock(self.machine, self.node, peers=peers, kernels=self._kernels))

        layers = _Few.of(case, place, timed=True)
        sizes: Sizes = {"layers": (layers.size, layers.pair), "shards": _shards(case)}
        runs: StageRuns = _extrapolated(at, _mixed_runs, sizes)
        return runs


class _Peers:
    """Who takes part in a collective of a layout, from who does in that of a smaller one."""

    def __init__(self, small: ModelCase, layout: Layout) -> None:
        self.small, self.layout = small, layout
        self._known: dict[tuple[int, ...], tuple[int, ...]] = {}

    def __call__(self, ranks: tuple[int, ...]) -> tuple[int, ...]:
        found = self._known.get(ranks)
        if found is None:
            found = self._known[ranks] = self._peers(ranks)
        return found

    def _peers(self, ranks: tuple[int, ...]) -> tuple[int, ...]:
        small, place = self.small.layout, self.small.rank
        if small.ep > 1 and ranks == small.experts(place):
            return self.layout.experts(Rank())
        if small.ep > 1 and ranks == small.same_experts(place):
            return self.layout.same_experts(Rank())
        places = [small.rank(number) for number in ranks]
        # The ranks differ along the dimensions of their group: the same dimensions are longer in the layout.
        along = [name for name in Rank._fields if len({getattr(place, name) for place in places}) > 1]
        return self.layout.peers(Rank(), *along)


def _small(case: ModelCase, place: str, layers: int, shards: int) -> ModelCase:
    """The case with so many layers a stage and shards, and the fewest stages, replicas and micro-batches."""
    (stages, stage), given = _PLACES[place], case.layout
    # Two replicas show what replicas add, or two groups of those that share experts.
    replicas = min(given.dp, 2 if given.fully_sharded else 2 * given.ep)
    layout = replace(given, pp=stages, dp=replicas, dp_shard=shards)
    arch = replace(case.arch, layers=layers * stages)
    if place == "middle":  # its layers are those behind the first stage's
        arch = replace(arch, before=case.arch.layers // given.pp - layers)
    if place == "last":  # its layers are the model's last
        arch = replace(arch, before=case.arch.layers - 2 * layers)
    micro = _recorded_micro_batches(case, place)
    arch = replace(arch, before=_first_of_these(case.arch, arch))
    return replace(case, arch=arch, layout=layout, rank=Rank(stage=stage), microbatches=micro)


def _first_of_these(whole: Architecture, some: Architecture) -> int:
    """The fewest layers before some of a model's that are of these kinds: then their program is the same."""
    kinds, wanted = replace(whole, before=0).kinds(), some.kinds()
    return next(start for start in range(some.before + 1) if kinds[start : start + some.layers] == wanted)


def _places(pp: int) -> tuple[str, ...]:
    """The stages that differ: the first holds most micro-batches, the second has buffers on both sides."""
    return {1: ("only",), 2: ("first", "last")}.get(pp, ("first", "middle", "last"))


def _recorded_micro_batches(case: ModelCase, place: str) -> int:
    """The micro-batches of a small pipeline: one more than stages, if there are more, shows gradients beside the rest.

    Megatron-LM's gradients are there from the start.
    """
    if place == "only":
        return min(case.microbatches, 2)
    return _PLACES[place][0] + (case.microbatches > case.layout.pp and case.framework != "megatron")


def _buffers(case: ModelCase, place: str) -> float:
    """Bytes of the buffers between stages that a small program lacks: they are there for every micro-batch.

    All stages but the last have them for gradients of their output, all but the first for their input, whose gradient
    is there once backward has run (torch/distributed/pipelining/stage.py). Megatron-LM has them only while they are
    needed.
    """
    if place == "only" or case.framework == "megatron":
        return 0.0
    missing = case.microbatches - _recorded_micro_batches(case, place)
    return missing * stream_bytes(case) * {"first": 1, "middle": 3, "last": 2}[place]


def _shards(case: ModelCase) -> tuple[int, tuple[int, int]]:
    """The shards, and those that are recorded: all, of replicas (a machine's) and where experts do not divide."""
    layout, moe = case.layout, case.arch.moe
    whole = moe is not None and layout.fully_sharded and int(moe.experts) % layout.shards > 0
    if layout.dp > 1 or whole:
        return layout.dp_shard, (layout.dp_shard, layout.dp_shard)
    low, high = _SHARDS
    return layout.dp_shard, (low * layout.ep, high * layout.ep)


def _recorded_shards(case: ModelCase) -> tuple[tuple[int, ...], float]:
    """The shards that are recorded, and how far from the first to the last of them those of the layout are: as 1/n."""
    size, (low, high) = _shards(case)
    if size <= high:
        return (size,), 0.0
    return (low, high), (1 / size - 1 / low) / (1 / high - 1 / low)


class _Few(NamedTuple):
    """The layers of a stage, and how few of them show the rest.

    Attributes:
        size: how many there are. pair: how many show what surrounds the layers that repeat, and with a period of these.
        period: how many layers they repeat with. first: of that period.
    """

    size: int
    pair: tuple[int, int]
    period: int
    first: int

    @classmethod
    def of(cls, case: ModelCase, place: str, timed: bool = False) -> "_Few":
        """Those of a stage; `timed`: for its kernels."""
        layout = case.layout
        size = case.arch.layers // layout.pp
        start = {"middle": size, "last": case.arch.layers - size}.get(place, 0)
        kinds = case.arch.kinds()[start : start + size]
        before, period, _ = repetition(kinds)
        # Under ZeRO 3, the first backward gathers ahead in another order than later ones, and experts apart.
        after = 2 if layout.fully_sharded and max(layout.pp, layout.ep) > 1 and not timed else 1
        fewest = before + 1 + after
        fewest += max(size - fewest, 0) % period
        return cls(size, (fewest, fewest + period), period, before + 1)


def _share_buffers(case: ModelCase) -> bool:
    """Whether layers share buffers of parameters or gradients: then two numbers of layers show any other.

    Of DDP's buckets, a layer with a weight that fills one begins and ends them as every other layer does.
    """
    from memmodel_kernels.parallel.replicated import CAP

    layout = case.layout
    if layout.fully_sharded or layout.batches * layout.cp == 1 or case.framework == "megatron":
        return case.framework == "megatron"
    largest = {False: 0, True: 0}  # of others, and of experts that ranks share, which have buckets of their own
    for kind in set(case.arch.kinds()):
        for weight in layer_weights(share(case).arch, kind):
            apart = layout.ep > 1 and of_experts(weight)
            largest[apart] = max(largest[apart], int(weight.numel) * case.dtype.itemsize)
    return case.masters or layout.zero in (1, 2) or any(0 < nbytes < CAP for nbytes in largest.values())


def _held(case: ModelCase, place: str) -> int:
    """The most micro-batches of which a stage holds what backward needs."""
    held, most, stage = 0, 0, case.layout.pp - 1 if place == "last" else _PLACES[place][1]
    for action in order(case.layout, stage, case.microbatches):
        held += 1 if action.kind == "F" else -1
        most = max(most, held)
    return most


def _extrapolated(at: Callable[..., Any], mixed: Callable[[Any, Any, float], Any], sizes: Sizes) -> Any:
    """`at` some sizes, from its values at two of each: linear in layers and micro-batches, and in 1 / shards."""
    if not sizes:
        return at()
    (name, (size, (low, high))), *rest = sizes.items()

    def fixed(value: int) -> Any:
        return _extrapolated(lambda **others: at(**{name: value}, **others), mixed, dict(rest))

    if size <= high:
        return fixed(size)
    inverse = name == "shards"
    x, x0, x1 = (1 / n if inverse else n for n in (size, low, high))
    return mixed(fixed(low), fixed(high), (x - x0) / (x1 - x0))


def _judged(
    tried: Sequence[TriedLayout], gpu: Gpu, config: AllocatorConfig | None
) -> tuple[tuple[TriedLayout, ...], tuple[TriedLayout, ...]]:
    """The layouts that fit, fastest first, and the others; the first few are replayed themselves."""
    fitting = sorted((one for one in tried if one.fits), key=lambda one: -one.tokens_per_second)
    others = [one for one in tried if not one.fits]
    sure: list[TriedLayout] = []
    while fitting and len(sure) < EXACT:
        found = _replayed(fitting.pop(0), gpu, config)
        (sure if found.fits else others).append(found)
    return (*sure, *fitting), tuple(sorted(others, key=lambda one: one.peak_bytes))


def _replayed(tried: TriedLayout, gpu: Gpu, config: AllocatorConfig | None) -> TriedLayout:
    """A layout with the memory of its fullest rank."""
    pp = tried.case.layout.pp
    stages = {0, min(1, pp - 1), pp - 1}
    programs: list[tuple[Program, Memory]] = []
    for stage in stages:
        program = memory_program(replace(tried.case, rank=Rank(stage=stage)))
        programs.append((program, memory_of(program, tried.case.torch, gpu, config)))
    memory = max((memory for _, memory in programs), key=lambda memory: memory.allocated_peak_bytes)
    return tried._replace(
        peak_bytes=memory.allocated_peak_bytes, fits=all(memory.fits for _, memory in programs),
        groups=by_kind(memory.groups), exact=True,
    )  # fmt: skip


def _assumptions(case: ModelCase, node: Node, sequences: int) -> Iterator[str]:
    yield f"machines of {node.named}{', assumed: servers differ' if node.assumed else ''}"
    yield f"a step of {sequences:,} sequences of {case.seq:,} tokens, {case.batch} in a micro-batch"
    yield "tried: powers of two of each kind of parallelism, within a machine for tensor parallelism; 1F1B"
    yield f"memory of the {EXACT} fastest replayed; others' (~) is live bytes, from fewer layers, as times are"
