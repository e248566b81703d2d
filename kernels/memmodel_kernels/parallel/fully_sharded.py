"""Parameters sharded over ranks and gathered while they are needed: FSDP2, `fully_shard` of each layer and of the rest.

A unit is the parameters that are gathered together: a layer's, or those outside of the layers, which are the root's.
A layer whose experts other ranks share has a second unit of them (shard_placement_fn with meshes of its own).
Buffers are made, in the order, on the streams, and let go of, as in torch/distributed/fsdp/_fully_shard:
_fsdp_param_group.py (unshard, wait_for_unshard, post_backward), _fsdp_collectives.py (foreach_all_gather,
foreach_all_gather_copy_out, foreach_reduce) and _fsdp_state.py (the hooks around forward and backward).
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

from memmodel.events.groups import COMMUNICATION, GATHERED, GRADIENTS
from memmodel_kernels.namespace import at_end_of_backward, namespace, on_stream, same_version, scope, stream_waits
from memmodel_kernels.parallel.group import Group, all_reduce_mean, gather_into, reduce_scatter_mean

DEFAULT, COPY_IN, GATHER, REDUCE_SCATTER, ALL_REDUCE = range(5)  # streams (FSDPCommContext.lazy_init)
COPIED_OUT = 5  # a stream without kernels: the moment at which the last unit was copied out


class Sharding(NamedTuple):
    """How parameters are sharded.

    Attributes:
        shards: the ranks that share the parameters. replicas: those that have the same shard (HSDP); None without.
        compute, reduce: dtypes that parameters are gathered in, and gradients reduced in; None for the parameters' own
            and for that of the gradients (MixedPrecisionPolicy).
        reshard: whether layers let go of their parameters after forward, and gather them again in backward.
        batches: of how many batches a rank's gradients are the sum: those of experts, which others' tokens reach
            (FSDPModule.set_gradient_divide_factor).
    """

    shards: Group
    replicas: Group | None = None
    compute: Any = None
    reduce: Any = None
    reshard: bool = True
    batches: int = 1


class Shard:
    """A rank's rows of a parameter.

    Attributes:
        padded: its rows, padded to those of the first rank. rows: without the padding, which the optimizer updates.
        gathered: all ranks' padded rows, flat, whose memory is given back meanwhile. whole: the parameter itself.
    """

    def __init__(self, name: str, shape: Sequence[Any], padded: Any, rank: int) -> None:
        self.name, self.shape, self.padded = name, tuple(shape), padded
        count = padded.shape[0]
        left = shape[0] - rank * count
        self.rows = padded.narrow(0, 0, count if left >= count else max(left, 0))
        self.gathered: Any = None
        self.whole: Any = None

    def make_whole(self, dtype: Any, ranks: int) -> Any:
        """Memory for all ranks' rows; the flat tensor that it belongs to."""
        if self.gathered is None:
            self.gathered = self.padded.new_empty(ranks * self.padded.numel(), dtype=dtype)
            self.whole = _part(self.gathered, self.shape).detach().requires_grad_(self.rows.requires_grad)
        else:
            self.gathered.untyped_storage().resize_(self.gathered.numel() * self.gathered.element_size())
        return self.gathered

    def let_go(self) -> None:
        """Give the memory of all ranks' rows back."""
        self.gathered.untyped_storage().resize_(0)


def _part(flat: Any, shape: Sequence[Any], start: Any = 0) -> Any:
    """The elements of a flat tensor from a place on, in a shape."""
    count = 1
    for size in shape:
        count = count * size
    return flat.narrow(0, start, count).view(*shape)


class Communication:
    """State that the units of a model share: the buffers that are under way."""

    def __init__(self) -> None:
        self.units: list[Unit] = []  # all of them, the root first
        self.gathered: Any = None  # in forward, the flat tensor of the unit before, until the next is copied out
        self.reduced: list[Any] = []  # what the last layer's reductions read
        self.order: list[Unit] = []  # of the units' forwards
        self.waiting = False  # whether a call at the end of the backward is due

    def end_of_backward(self) -> None:
        """Reduce what is left, such as the root's gradients, whose inputs need none; and let go of all buffers."""
        for unit in self.units:
            unit.end_of_backward()
        if self.reduced:
            stream_waits(self.reduced[0], DEFAULT, self.units[0].stream)
        self.order.clear()
        self.reduced.clear()
        self.waiting = False


class Unit:
    """Parameters that are gathered together; the root's are the first that is made.

    `weights`: what the model reads them from, by name. `layer`: the units of a layer, this one among them.
    """

    def __init__(self, weights: dict[str, Any], shards: Sequence[Shard], how: Sharding, shared: Communication) -> None:
        self.weights, self.shards, self.how, self.shared = weights, shards, how, shared
        # The root is the first unit: backward would gather it again at once (_fsdp_state.py, _lazy_init).
        self.reshards = how.reshard and bool(shared.units)
        shared.units.append(self)
        self.coming: Any = None  # the flat tensor of a gather under way
        self.is_whole = False
        self.kept: Any = None  # what an all-reduce under way reads
        self.places: list[int] = []  # in the order of forwards
        self.in_backward = self.is_reduced = False
        self.stream = REDUCE_SCATTER if how.replicas is None else ALL_REDUCE  # on which a reduction ends
        self.layer: list[Unit] = [self]

    # Gathering

    def gather(self) -> None:
        """Start to gather the parameters; nothing where there are none, or where that is under way or done."""
        if not self.shards or self.coming is not None or self.is_whole:
            return
        group, given = self.how.shards, self.shards[0].padded
        if group.size == 1:
            self.coming = given
            return
        xp = namespace(given)
        with xp.no_grad(), scope(given, part=COMMUNICATION):
            with on_stream(given, COPY_IN):
                mine = self._converted()
                sizes = [x.numel() for x in mine]
                flat = mine[0].new_empty(group.size * sum(sizes))
                part = flat.narrow(0, group.rank * sum(sizes), sum(sizes))
                xp._foreach_copy_(part.split(sizes), mine)
            stream_waits(given, GATHER, COPY_IN)
            with on_stream(given, GATHER):
                gather_into(flat, part, group)
        self.coming = flat

    def _converted(self) -> list[Any]:
        """The shards, flat, in the dtype that they are gathered in."""
        mine = [shard.padded.view(-1) for shard in self.shards]
        if self.how.compute in (None, mine[0].dtype):
            return mine
        sizes = [x.numel() for x in mine]
        made = mine[0].new_empty(sum(sizes), dtype=self.how.compute).split(sizes)
        namespace(made[0])._foreach_copy_(made, mine)
        return list(made)

    def copy_out(self, forward: bool) -> None:
        """Wait for the gather and copy each parameter out of it; a rank without others copies its own."""
        if self.coming is None:
            return
        flat, ranks = self.coming, self.how.shards.size
        before = self.shared.gathered if forward else None  # PyTorch's local variable, which lives until it returns
        if before is not None:
            stream_waits(flat, COPY_IN, COPIED_OUT)
        if ranks > 1:
            self._copy_gathered(flat, ranks)
        else:
            self._copy_own()
        for shard in self.shards:
            self.weights[shard.name] = shard.whole
        self.is_whole = True
        kept = forward and ranks > 1
        stream_waits(flat, COPIED_OUT if kept else COPY_IN, DEFAULT)
        if forward:
            self.shared.gathered = flat if kept else None
        self.coming = None
        del before

    def _copy_gathered(self, flat: Any, ranks: int) -> None:
        stream_waits(flat, DEFAULT, GATHER)
        xp = namespace(flat)
        with xp.no_grad():
            with scope(flat, part=GATHERED):
                wholes = [shard.make_whole(flat.dtype, ranks) for shard in self.shards]
            with same_version(wholes):
                sizes = [shard.padded.numel() for shard in self.shards]
                out = [whole.view(ranks, -1) for whole in wholes]
                xp.split_with_sizes_copy(flat.view(ranks, -1), sizes, dim=1, out=out)

    def _copy_own(self) -> None:
        with namespace(self.coming).no_grad():
            for shard in self.shards:
                own = shard.padded.view(-1)
                own = own if self.how.compute is None else own.to(self.how.compute)
                with scope(own, part=GATHERED):
                    whole = shard.make_whole(own.dtype, 1)
                with same_version([whole]):
                    whole.copy_(own)
                del own

    def let_go(self) -> None:
        """Give the whole parameters' memory back."""
        if self.is_whole:
            for shard in self.shards:
                shard.let_go()
                self.weights[shard.name] = shard.rows
            self.is_whole = False

    # Around forward and backward

    def before_forward(self, x: Any) -> Any:
        """Gather; x, with what is due when its gradient is there."""
        self.gather()
        self.copy_out(forward=True)
        return _ends_backward(namespace(x)).apply(x, self) if x.requires_grad else x

    def after_forward(self) -> None:
        """Let go of the parameters, and remember the order."""
        if self.reshards:
            self.let_go()
        self.places.append(len(self.shared.order))
        self.shared.order.append(self)

    def before_backward(self, grad: Any) -> None:
        """Gather again, and start to gather what backward needs next."""
        if not self.shared.waiting:
            self.shared.waiting = True
            at_end_of_backward(grad, self.shared.end_of_backward)
        if self.in_backward:
            return
        self.in_backward = True
        self.gather()
        self.copy_out(forward=False)
        place = self.places.pop() if self.places else 0  # of several forwards, the first backward forgets them all
        for unit in self._before(place):
            unit.gather()

    def _before(self, place: int) -> "list[Unit]":
        """The units to gather next: the one that ran before; of layers with two, both of the layer before."""
        order = self.shared.order
        # Of a layer's two units, the second gathers for both.
        if place == 0 or not order or (len(self.layer) > 1 and self is not self.layer[1]):
            return []
        if len(self.layer) == 1:
            return [order[place - 1]]
        others = [unit for unit in order[:place] if unit.layer is not self.layer]
        return [unit for unit in reversed(others) if unit.layer is others[-1].layer] if others else []

    def after_backward(self) -> None:
        """Let go of the parameters, and reduce their gradients."""
        self.is_reduced = True
        learned = [shard for shard in self.shards if shard.whole is not None and shard.whole.grad is not None]
        grads = [shard.whole.grad for shard in learned]
        for shard in learned:
            shard.whole.grad = None
        self.let_go()
        if self.shared.reduced and self is self.layer[-1]:
            stream_waits(self.shared.reduced[0], DEFAULT, REDUCE_SCATTER)
            self.shared.reduced.clear()
        if grads:
            self._reduce(learned, grads)

    def _reduce(self, learned: Sequence[Shard], grads: list[Any]) -> None:
        how, ranks, xp = self.how, self.how.shards.size, namespace(grads[0])
        self.kept = None
        last_grad = grads[-1]  # PyTorch's loop variable, which lives until it returns
        with xp.no_grad():
            with scope(last_grad, part=COMMUNICATION):
                total = sum(shard.padded.numel() for shard in learned)
                given = last_grad.new_empty(ranks * total, dtype=how.reduce or last_grad.dtype)
                xp._chunk_cat(grads, 0, ranks, out=given.view(ranks, -1))  # noqa: SLF001
            grads.clear()
            stream_waits(given, REDUCE_SCATTER, DEFAULT)
            with scope(given, part=GRADIENTS):
                self._hand_out(learned, self._reduced(given, total, learned[0].rows.dtype))
        self.shared.reduced.append(given)
        del last_grad

    def _reduced(self, given: Any, total: Any, dtype: Any) -> Any:
        """The rank's part of the mean of all ranks' gradients, in the dtype of the parameters."""
        replicas = self.how.replicas
        with on_stream(given, REDUCE_SCATTER):
            output = given.new_empty(total)
            if self.how.shards.size > 1:
                reduce_scatter_mean(output, given, self.how.shards)
                if self.how.batches > 1:
                    output.div_(self.how.batches)
            else:
                output.copy_(given / self.how.batches if self.how.batches > 1 else given)
        if replicas is not None:
            stream_waits(given, ALL_REDUCE, REDUCE_SCATTER)
            with on_stream(given, ALL_REDUCE):
                all_reduce_mean(output, replicas)
            self.kept = output
        with on_stream(given, self.stream):
            return output.to(dtype)

    def _hand_out(self, learned: Sequence[Shard], output: Any) -> None:
        """Each shard's part of the reduced gradients, as a view of them."""
        start = 0
        for shard in learned:
            part = _part(output, shard.rows.shape, start)
            if shard.rows.grad is None:
                shard.rows.grad = part
            else:
                with on_stream(part, self.stream):
                    shard.rows.grad.add_(part)
            start = start + shard.padded.numel()

    def end_of_backward(self) -> None:
        """Reduce gradients if that was not yet done, and let go of what the backward kept."""
        if not self.is_reduced:
            self.after_backward()
        self.in_backward = self.is_reduced = False
        self.kept = self.coming = None
        self.places.clear()


@cache
def _ends_backward(xp: Any) -> Any:
    base: Any = xp.autograd.Function if xp.__name__ == "torch" else xp.Function

    class RegisterPostBackward(base):  # type: ignore[misc]
        """Passes its input on; its backward comes after that of all that used it."""

        @staticmethod
        def forward(ctx: Any, x: Any, unit: Unit) -> Any:
            ctx.unit = unit
            return x.view(x.shape)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            ctx.unit.after_backward()
            return grad, None

    return RegisterPostBackward


class FullySharded:
    """The units of a model: the root's, which wraps them all and is added first, and those of each layer."""

    def __init__(self) -> None:
        self.shared = Communication()
        self.layers: list[list[Unit]] = []  # the root first

    def add(self, weights: dict[str, Any], *parts: tuple[Sequence[Shard], Sharding]) -> None:
        """The units of a layer, each with its sharding; `weights` is what the model reads them from, by name."""
        units = [Unit(weights, shards, how, self.shared) for shards, how in parts]
        for unit in units:
            unit.layer = units
        self.layers.append(units)

    def around(self, layer: int | None, run: Callable[[Any], Any], x: Any) -> Any:
        """`run(x)` with the parameters of a layer, or of the root: of all that is outside of the layers."""
        if layer is not None:
            return _around(self.layers[1 + layer], run, x)
        for stream in (COPY_IN, GATHER):
            stream_waits(x, stream, DEFAULT)  # for the optimizer
        out = _around(self.layers[0], run, x)
        self.shared.gathered = None
        return out


def _around(units: Sequence[Unit], run: Callable[[Any], Any], x: Any) -> Any:
    """`run(x)` with whole parameters, and what is due in its backward."""
    for unit in units:
        x = unit.before_forward(x)
    out = run(x)
    for unit in units:
        unit.after_forward()
    for result in out if isinstance(out, tuple) else (out,):
        if getattr(result, "requires_grad", False):
            for unit in units:
                result.register_hook(unit.before_backward)
    return out
