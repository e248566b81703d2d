"""Which library a tensor belongs to: algorithms ask for it instead of importing torch."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any


def namespace(x: Any) -> Any:
    """`torch` for a torch tensor, `memmodel.recording` for a recording tensor."""
    # Not cached: torch.compile warns of functions with a cache that it meets.
    if type(x).__module__.startswith("memmodel."):
        from memmodel import recording

        return recording
    import torch

    return torch


Policy = Callable[[str], bool]  # whether the results of an operator, by ATen's name, are kept


def checkpoint(function: Callable[..., Any], *args: Any, policy: Callable[[], Policy] | None = None) -> Any:
    """Call `function(*args)`, keeping only `args` for backward and running it again there.

    `policy` makes a policy for each run: results of the operators that it chooses are kept, and not computed again.
    """
    xp = namespace(args[0])
    if xp.__name__ != "torch":
        return xp.checkpoint(function, *args, policy=policy)
    from torch.utils import checkpoint as library

    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if policy is not None:
        contexts: Callable[..., Any] = library.create_selective_checkpoint_contexts
        options["context_fn"] = lambda: contexts(_by_name(policy))
    return library.checkpoint(function, *args, **options)


def _by_name(policy: Callable[[], Policy]) -> Callable[..., bool]:
    runs = {False: policy(), True: policy()}  # by whether it is the second

    def keeps(context: Any, operator: Any, *_: Any, **__: Any) -> bool:
        return runs[context.is_recompute](operator.overloadpacket.__name__)

    return keeps


def autocast(x: Any, dtype: Any, enabled: bool = True) -> AbstractContextManager[Any]:
    """Inside, operators cast their operands to the low precision `dtype`, or back, as each needs."""
    xp = namespace(x)
    context: AbstractContextManager[Any] = xp.autocast(
        x.device.type if xp.__name__ == "torch" else x.device, dtype, enabled
    )
    return context


def functional(x: Any) -> Any:
    """The library's functions of neural networks: `torch.nn.functional`, or `memmodel.recording` itself."""
    xp = namespace(x)
    return xp.nn.functional if xp.__name__ == "torch" else xp


def same_scope(x: Any) -> AbstractContextManager[Any]:
    """Name what runs inside after the layer that made a tensor."""
    xp = namespace(x)
    return nullcontext() if xp.__name__ == "torch" else xp.scope_of(x.storage.key)


def scope(x: Any, *, layer: int | None = None, part: str = "") -> AbstractContextManager[Any]:
    """Name what runs inside: a layer of a model, or a part of one. Recordings remember it; torch does not look."""
    xp = namespace(x)
    return nullcontext() if xp.__name__ == "torch" else xp.scope(layer=layer, part=part)


def scope_of(x: Any) -> AbstractContextManager[Any]:
    """What runs inside belongs to the layer that made a tensor. Recordings remember it; torch does not look."""
    xp = namespace(x)
    return nullcontext() if xp.__name__ == "torch" else xp.scope_of(x.storage.key)


def next_action(x: Any) -> None:
    """Say that a pipeline's next action begins: a forward or a backward of a micro-batch. Torch does not look."""
    xp = namespace(x)
    if xp.__name__ != "torch":
        xp.next_action()


def same_version(tensors: Sequence[Any]) -> AbstractContextManager[None]:
    """Inside, autograd does not notice writes to these tensors, of which it may have saved views."""
    xp = namespace(tensors[0])
    ours = xp.__name__ != "torch"
    make = xp.same_version if ours else xp.autograd._unsafe_preserve_version_counter  # noqa: SLF001 (as FSDP2)
    context: AbstractContextManager[None] = make(tuple(tensors))
    return context


def at_end_of_backward(x: Any, function: Callable[[], None]) -> None:
    """Call a function when the backward under way is over."""
    xp = namespace(x)
    if xp.__name__ == "torch":
        xp.autograd.Variable._execution_engine.queue_callback(function)  # noqa: SLF001 (FSDP2 does)
    else:
        xp.at_end_of_backward(function)


def on_stream(x: Any, number: int) -> AbstractContextManager[Any]:
    """Inside, kernels are put on another stream of the device than its default one, 0; the CPU has none."""
    xp = namespace(x)
    if xp.__name__ == "torch":
        return xp.cuda.stream(_stream(xp, number)) if x.is_cuda else nullcontext()
    context: AbstractContextManager[None] = x.storage.tape.on_stream(number)
    return context


def stream_waits(x: Any, number: int, other: int) -> None:
    """Have a stream wait: its later kernels run after those that are on another stream now."""
    xp = namespace(x)
    if xp.__name__ != "torch":
        x.storage.tape.waits(number, other)
    elif x.is_cuda:
        _stream(xp, number).wait_stream(_stream(xp, other))


@cache
def _stream(xp: Any, number: int) -> Any:
    # FSDP2's streams have a high priority too (_fsdp_param_group.py, lazy_init).
    return xp.cuda.Stream(priority=-1) if number else xp.cuda.default_stream()


def moved(x: Any, place: Any) -> None:
    """Let a leaf live in a part of another tensor, of its shape: its values are copied, and its own memory is freed."""
    xp = namespace(x)
    with xp.no_grad():
        place.copy_(x.detach())
    x.data = place
