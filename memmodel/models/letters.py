"""Bytes of groups as formulas in the sizes of a model.

b sequences of n tokens (m those that an encoder before a decoder reads), L layers, V vocabulary, H hidden, F
feed-forward, h and g heads of queries and of keys, d and e channels of a head of keys and of values; of a mixture E
experts of width W, of which a token goes to K. On many GPUs t ranks share each layer: h/t are the heads of one of them;
c ranks share each sequence, x the experts, s parameters by rows, p layers.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import Any, NamedTuple

from memmodel.base.dtypes import short_name
from memmodel.events.groups import GRADIENTS, OPTIMIZER, PARAMETERS, group_of, kind_of
from memmodel.events.liveness import at_peak, states, uncounted
from memmodel.events.program import Alloc, Mark, Program, Save
from memmodel.expansion import repetition
from memmodel.models.setting import ModelCase
from memmodel.models.share import CONTEXT, TENSOR, over, share
from memmodel.sizes.dims import Shape, Size, product

LETTERS = {
    **{"batch": "b", "seq": "n", "vocab": "V", "hidden": "H", "ffn": "F"},
    **{"heads": "h", "kv_heads": "g", "head_dim": "d", "value_dim": "e"},
    **{"experts": "E", "width": "W", "top_k": "K"},
}
WORDS = {
    **{"b": "sequences", "n": "tokens of each", "m": "tokens of each that are read", "L": "layers"},
    **{"V": "vocabulary", "H": "hidden size"},
    **{"F": "feed-forward size", "h": "heads", "g": "kv heads", "d": "head dim", "e": "value dim", "E": "experts"},
    **{"W": "width of one", "K": "experts of a token", "t": "tensor parallel", "c": "context parallel"},
    **{"x": "expert parallel", "s": "shards", "p": "stages"},
}
# What divides, and the field of a layout that says by how much.
_OVER = {"/t": "tp", "/c": "cp", "/x": "ep", "/s": "shards", "/p": "pp"}
_ORDER = ["L", "b", "n", "m", "V", "H", "F", "h", "g", "d", "e", "E", "W", "K", *_OVER]
_POWERS = {2: "²", 3: "³"}
_WIDTHS, _STACKED = ("H", "F", "W"), (2, 3)  # gate and up together; q, k and v
_AS_WEIGHTS = (PARAMETERS, GRADIENTS, OPTIMIZER)
Monomial = tuple[str, ...]
Known = dict[int, str]


def lettered(case: ModelCase) -> ModelCase:
    """The same case with sizes that print as letters."""
    arch = case.arch
    names = ("vocab", "hidden", "ffn", "heads", "kv_heads", "head_dim", "value_dim")
    sizes: dict[str, Any] = {name: Size(int(getattr(arch, name)), LETTERS[name]) for name in names}
    # Equal sizes get one letter: a shape does not tell which of the two it means.
    if sizes["value_dim"] == sizes["head_dim"]:
        sizes["value_dim"] = sizes["head_dim"]
    if arch.kv_heads == arch.heads:
        sizes["kv_heads"] = sizes["heads"]
    if arch.moe is not None:
        of_moe: dict[str, Any] = {
            name: Size(int(getattr(arch.moe, name)), LETTERS[name]) for name in ("experts", "width", "top_k")
        }
        if of_moe["width"] == sizes["ffn"]:
            of_moe["width"] = sizes["ffn"]
        sizes["moe"] = arch.moe._replace(**of_moe)
    batch, seq = Size(int(case.batch), "b"), Size(int(case.seq), "n")
    read: dict[str, Any] = {}
    if arch.encoder:
        # Its widths are the decoder's where they are equal: a shape does not tell which of the two it means.
        theirs: dict[str, Any] = {name: sizes[name] for name in names[1:] if sizes[name] == getattr(arch.encoder, name)}
        if arch.encoder.spectrogram:
            theirs["max_pos"] = Size(arch.encoder.max_pos, "m")
        elif case.source:
            read["source"] = seq if case.read == case.seq else Size(int(case.read), "m")
        sizes["encoder"] = replace(arch.encoder, **theirs)
    return replace(case, arch=replace(arch, **sizes), batch=batch, seq=seq, **read)


def in_words(formulas: Iterable[str]) -> str:
    """The letters of formulas and what they stand for: "b sequences, n tokens of each, L layers"."""
    used = {letter for formula in formulas for letter in re.findall(r"\b[A-Za-z]\b", formula)}
    return ", ".join(f"{letter} {words}" for letter, words in WORDS.items() if letter in used)


class Taken(NamedTuple):
    """Storages of a program of a lettered case, whose bytes are to be written as formulas."""

    case: ModelCase
    program: Program
    keys: Collection[int]


def more_layers(case: ModelCase) -> ModelCase:
    """The case with a period of layers more in each stage: what that adds is what grows with L."""
    arch, period = case.arch, repetition(case.arch.kinds()).period * case.layout.stages
    # An encoder grows as its decoder does: L counts the layers of each.
    encoder = arch.encoder and replace(arch.encoder, layers=arch.encoder.layers + period)
    return replace(case, arch=replace(arch, layers=arch.layers + period, encoder=encoder))


def group_formulas(taken: Taken, more: Taken) -> dict[str, str]:
    """Each group's bytes as a sum of monomials, largest first; `more` is the same of a case with more layers."""
    sums, with_more = _sums(taken), _sums(more)
    stages = taken.case.layout.pp
    layers = taken.case.arch.layers // stages
    added = more.case.arch.layers // stages - layers
    return {
        group: _text(terms, with_more.get(group, Counter()), layers, added, taken.case) for group, terms in sums.items()
    }


def _sums(taken: Taken) -> dict[str, Counter[Monomial]]:
    """Each group's monomials, with the number before each."""
    case, program, keys = taken
    saved, inputs = {event.key for event in program.events if type(event) is Save}, program.inputs()
    of_weights, of_tokens = _known(case, tokens=False), _known(case, tokens=True)
    heads = _heads(case)
    sums: dict[str, Counter[Monomial]] = {}
    known: dict[tuple[Any, ...], tuple[Monomial, int]] = {}
    shapes = {birth.key: birth.shape for birth in program.births()}
    for birth in program.births():
        if birth.key not in keys:
            continue
        of = shapes.get(program.gradients.get(birth.key, birth.key), birth.shape)
        if product(of) == product(birth.shape):  # a gradient has the letters of its parameter
            birth = birth._replace(shape=of)
        group = group_of(program, birth.key, saved, inputs)
        of_weight = kind_of(group) in _AS_WEIGHTS
        for part in _without_sinks(birth, case):
            alike = of_weight, id(birth.shape), part.shape[-1:], part.dtype, part.nbytes  # layers share shapes
            if alike not in known:
                first = of_weights if of_weight else of_tokens
                few = heads if len(part.shape) > 2 else {}
                known[alike] = _monomial(part, {**few, **first}, {**few, **of_weights}, None if of_weight else case)
            letters, number = known[alike]
            sums.setdefault(group, Counter())[letters] += number
    return sums


def _without_sinks(birth: Alloc, case: ModelCase) -> tuple[Alloc, ...]:
    """Scores of n keys and a sink, n + 1 columns, as those of the keys and that of the sink; others as they are."""
    columns = int(case.seq) + 1
    if not case.arch.sinks or birth.shape[-1:] != (columns,):
        return (birth,)
    of_column, outer = birth.nbytes // columns, birth.shape[:-1]
    keys = birth._replace(shape=(*outer, Size(columns - 1, "n")), nbytes=of_column * (columns - 1))
    return keys, birth._replace(shape=outer, nbytes=of_column)


def _known(case: ModelCase, tokens: bool) -> dict[int, str]:
    """Letters of sizes that lost them on the way, by value; the earlier of equal ones is meant.

    `tokens`: whether the sizes may be those of the batch.
    """
    mine = share(lettered(case))
    arch, batch_tokens = mine.arch, mine.batch * mine.seq
    of_tokens = (batch_tokens, mine.batch * mine.read, *_own_tokens(case, batch_tokens)) if tokens else ()
    routed = (batch_tokens * arch.moe.top_k, batch_tokens * arch.moe.experts) if tokens and arch.moe else ()
    sizes = (*of_tokens, *routed, arch.hidden, arch.ffn, arch.vocab)
    heads = (arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim, *((mine.seq, mine.read) if tokens else ()))
    experts = (arch.moe.width, arch.moe.experts) if arch.moe else ()
    found: dict[int, str] = {}
    for size in (*sizes, *experts, *heads):
        if int(size) > 1:
            found.setdefault(int(size), size.letter)
    return found


def _own_tokens(case: ModelCase, tokens: Any) -> tuple[Any, ...]:
    """The tokens of a residual stream that ranks share."""
    return (over(tokens, case.layout.tp, TENSOR),) if case.layout.sequence_parallel else ()


def _heads(case: ModelCase) -> dict[int, str]:
    """Letters of heads by number: small numbers, which mean heads in shapes of three dimensions or more alone."""
    arch = share(lettered(case)).arch
    return {int(heads): heads.letter for heads in (arch.kv_heads, arch.heads) if heads > 1}


def _monomial(birth: Alloc, first: Known, after: Known, case: ModelCase | None) -> tuple[Monomial, int]:
    """The letters of a storage, sorted, and the number before them; a size of 1 has its letter too.

    `first`: letters of sizes that lost them; `after`: of those in a shape whose tokens have been found. `case`: whose
    sequences the first dimensions may be; None for weights.
    """
    letters: list[str] = []
    number, total = birth.dtype.itemsize, birth.dtype.itemsize
    for place, size in enumerate(birth.shape):
        known = after if "n" in letters else first
        letter = getattr(size, "letter", "") or (_by_place(place, birth.shape, letters, case) if case else "")
        letter = letter or known.get(int(size), "")
        if "b" in letters:  # a batch of one: the product of both sizes is the other
            letter = letter.removeprefix("b·")
        times = int(size)
        if letter:
            times = 1
        elif multiple := _multiple(int(size), known):
            letter, times = known[int(size) // multiple], multiple
        letters += _split(letter)
        number, total = number * times, total * int(size)
    if total != int(birth.nbytes):  # more bytes than its shape has: the rounded rows of a kernel, or packed weights
        return (), int(birth.nbytes)
    return tuple(sorted(letters, key=_ORDER.index)), number


def _multiple(size: int, known: Known) -> int:
    """How many widths are stacked in a size; 0 if it is no such multiple."""
    fits = (m for m in _STACKED if size % m == 0 and known.get(size // m, "-")[0] in _WIDTHS)
    return next(fits, 0)


def _split(letter: str) -> list[str]:
    """The letters of a product, with those that divide after a stroke: h/t·d is h, d and /t."""
    found: list[str] = []
    for part in letter.split("·") if letter else []:
        above, *below = part.split("/")
        found += [above, *(f"/{letter}" for letter in below)]
    return found


def _by_place(place: int, shape: Shape, letters: Sequence[str], case: ModelCase) -> str:
    """The letter of a first dimension as large as the batch, and of the first after it as long as its sequences."""
    own = over(Size(int(case.seq), "n"), case.layout.cp, CONTEXT)
    if place == 0:
        of_batch = 1 < case.batch == shape[0] and len(shape) > 1
        return "b" if of_batch and shape[1] not in _own_tokens(case, case.batch * own) else ""
    lengths = {int(case.read): "m", int(own): own.letter}
    return lengths.get(int(shape[place]), "") if letters[:1] == ["b"] and not {"n", "m"} & set(letters) else ""


def _text(terms: Counter[Monomial], with_more: Counter[Monomial], layers: int, added: int, case: ModelCase) -> str:
    """A sum as text, with coefficients in L."""
    values = _values(case)
    size = {letters: int(number * prod(values[x] for x in letters)) for letters, number in terms.items()}
    ordered = sorted(terms, key=lambda letters: -size[letters])
    shown = []
    for letters in ordered:
        if letters or size[()]:
            # What does not grow evenly with the layers is a number, and not multiplied by L.
            growth, rest = divmod(with_more[letters] - terms[letters], added)
            shown.append(_term(terms[letters], 0 if rest else growth, letters, layers, case.layout.pp))
    return " + ".join(shown)


def _values(case: ModelCase) -> dict[str, Any]:
    arch, layout = case.arch, case.layout
    divided = {letter: Fraction(1, getattr(layout, name)) for letter, name in _OVER.items()}
    of_moe = {LETTERS[x]: int(getattr(arch.moe, x)) for x in ("experts", "width", "top_k")} if arch.moe else {}
    found = {letter: int(getattr(arch, name)) for name, letter in LETTERS.items() if hasattr(arch, name)}
    read = {"m": int(case.read)} if case.read else {}
    return {**found, **of_moe, **divided, "b": int(case.batch), "n": int(case.seq), **read}


def _term(number: int, growth: int, letters: Monomial, layers: int, stages: int) -> str:
    """A monomial with its coefficient, which grows by `growth` with each layer of a stage."""
    of_stage = "L/p" if stages > 1 else "L"
    rest = number - growth * layers
    if growth > 0 and rest >= -growth:  # less than none where a prompt's last layer has no cache yet
        of_layers = f"{growth:,}·{of_stage}" if growth > 1 else of_stage
        together = f"{of_layers} {'+' if rest > 0 else '-'} {abs(rest):,}"
        coefficient = of_layers if not rest else f"({together})" if letters else together
    else:
        coefficient = f"{number:,}"
    powers = Counter(letters)
    factors = [letter + _POWERS.get(count, "") for letter, count in powers.items()]
    return "·".join([coefficient, *(x for x in factors if x[0] != "/")]) + "".join(x for x in factors if x[0] == "/")


class ModelFormulas(NamedTuple):
    """A model's step in letters.

    Attributes:
        model, phase, dtype: of the case. values: of each letter.
        peak: group -> its bytes at the live peak. saved: group -> what autograd keeps from forward for backward.
    """

    model: str
    phase: str
    dtype: str
    values: dict[str, int]
    peak: dict[str, str]
    saved: dict[str, str]


def model_formulas(case: ModelCase) -> ModelFormulas:
    """The formulas of a step, which hold at sizes where the peak is at the same moment."""
    from memmodel.models.program import program_of

    taken = [Taken(at, program_of(lettered(at)), ()) for at in (case, more_layers(case))]
    peak = group_formulas(*(one._replace(keys=at_peak(one.program)[1]) for one in taken))
    saved = group_formulas(*(one._replace(keys=_kept(one.program)) for one in taken))
    values = {letter: value for letter, value in _values(case).items() if letter not in _OVER}
    ranks = {letter[1:]: getattr(case.layout, name) for letter, name in _OVER.items()}
    values |= {letter: number for letter, number in ranks.items() if number > 1} | {"L": case.arch.layers}
    return ModelFormulas(case.arch.name, case.phase, short_name(case.dtype), values, peak, saved)


def _kept(program: Program) -> frozenset[int]:
    """The storages that autograd keeps at the end of forward, beyond the inputs."""
    kept: frozenset[int] = frozenset()
    for now in states(program, uncounted):
        if isinstance(now.event, Mark) and now.phase == "backward":
            kept = frozenset(now.kept)
    return kept
