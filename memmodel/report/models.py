"""The models that `--like` takes, as a table, and one of them in full."""

from collections.abc import Iterable, Sequence

from rich.console import Group
from rich.text import Text

from memmodel.models.architecture import Architecture, active_parameters, parameters
from memmodel.models.catalogue import Listed
from memmodel.report.sheet import Cell, Sheet

_UNVERIFIED = "not everything in it was seen in a file"
_NORMS = {"pre": "before", "both": "before and after", "output": "after", "post": "after the sum of"}


def model_table(models: Sequence[Listed]) -> Sheet:
    """Sizes of models by name."""
    columns = ("|model", ">params", ">layers", ">hidden", ">heads/kv", ">dim", "|mask")
    caption = "" if all(model.verified for model in models) else f"*: {_UNVERIFIED}"
    return Sheet("", columns, [_row(model) for model in models], caption)


def _row(model: Listed) -> tuple[str, ...]:
    shape, arch = model.shape, model.architecture
    # An encoder's layers before the decoder's.
    layers = f"{arch.encoder.layers}+{arch.layers}" if arch.encoder else f"{arch.layers}"
    sizes = (layers, f"{arch.hidden}")
    mask = f"window {shape['window']}" if shape["window"] else shape["mask"]
    heads = (f"{shape['heads']}/{shape['kv_heads']}", f"{shape['head_dim']}")
    return (f"{model.name}{'' if model.verified else ' *'}", f"{model.parameters / 1e9:.4g}B", *sizes, *heads, mask)


def model_sheet(model: Listed) -> Group:
    """One model: its sizes, its parameters by part, what it is made of, and the source."""
    rows: list[Sequence[Cell]] = [("parameters", f"{model.parameters:,}; published as {model.published}")]
    rows += described(model.architecture)
    rows += [("note", model.note)] if model.note else []
    rows += [("source", model.source if model.verified else f"{model.source} ({_UNVERIFIED})")]
    return Group(model_table([model]), Text(), Sheet("", ("|", ""), rows))


def described(arch: Architecture) -> Iterable[tuple[str, str]]:
    """The parts of an architecture as (name, words)."""
    yield from ((f"  {part}", f"{count:,}") for part, count in parameters(arch).items() if count)
    if arch.moe:
        yield "  met by a token", f"{active_parameters(arch):,}"
        yield "experts", f"{arch.moe.experts} of width {arch.moe.width}, {arch.moe.top_k} a token"
    yield "vocabulary", f"{arch.vocab:,}, {'one table for embedding and head' if arch.tied else 'head apart'}"
    yield "context", f"{arch.max_pos:,}"
    if arch.encoder:
        yield "encoder", f"{arch.encoder.layers} layers before the decoder's {arch.layers}, which attend to it too"
    yield "layers", f"{_NORMS[arch.placement]} each block {arch.norm}; {arch.activation}, {arch.positions} positions"
    yield from _of_attention(arch)


def _of_attention(arch: Architecture) -> Iterable[tuple[str, str]]:
    kinds = [kind.attention for kind in arch.kinds()]
    words = {"F": "all keys", "S": f"the last {arch.window}", "C": f"chunks of {arch.window}"}
    if arch.window:
        yield "attention", ", ".join(f"{words[one]} in {kinds.count(one)}" for one in dict.fromkeys(kinds))
    if arch.mla:
        yield "latent", f"{arch.mla.kv_rank} and {arch.mla.rope} rotary channels a token are cached"
