"""Changes of the scores beside the mask: a bias, a soft cap, sinks."""

from typing import Any, NamedTuple

from memmodel.base.errors import UsageError, check_kind, choice, shortened

BIASES = ("none", "fixed", "learned", "alibi")
BIAS_SHAPES = ("1,h", "b,1", "b,h", "1,1")  # of a bias tensor, before (queries, keys)
_LEAST_CAP, _MOST_CAP = 1e-6, 1e6  # models have 15 to 50


class Scores(NamedTuple):
    """Changes of the scores before softmax.

    Attributes:
        bias: "" or what is added: "fixed", a tensor without a gradient; "learned", one with a gradient; "alibi", a
            slope per head times the distance (Press et al., "Train short, test long", 2021).
        bias_shape: of that tensor before (n, m): "1,h" is shared by the sequences, "b,1" by the heads.
        softcap: c in c tanh(scores / c), or None (Gemma 2).
        sinks: whether a learned logit a head takes part in every row's softmax (gpt-oss).
    """

    bias: str = ""
    bias_shape: str = "1,h"
    softcap: float | None = None
    sinks: bool = False

    def described(self) -> str:
        """The settings that differ from the default, in words: "learned bias, soft cap 50, sinks"."""
        shape = "" if self.bias_shape == "1,h" else f" ({self.bias_shape.replace(',', ', ')}, n, m)"
        names = {"": "", "fixed": f"bias{shape}", "learned": f"learned bias{shape}", "alibi": "ALiBi"}
        cap = "" if self.softcap is None else f"soft cap {self.softcap:g}"
        return ", ".join(filter(None, (names[self.bias], cap, "sinks" if self.sinks else "")))

    @property
    def asked(self) -> tuple[str, ...]:
        """The names of what an algorithm must take for these."""
        return tuple(filter(None, (self.bias, "softcap" if self.softcap is not None else "", "sinks" * self.sinks)))


UNCHANGED = Scores()


def make_scores(bias: Any = None, bias_shape: Any = None, softcap: Any = None, sinks: bool = False) -> Scores:
    """Checked changes of scores.

    Raises UsageError for an unknown bias or shape, a shape of no tensor, or a soft cap that no model has.
    """
    named = "" if bias is None else choice("bias", bias, BIASES)
    shape = BIAS_SHAPES[0]
    if bias_shape is not None:
        shape = choice("bias-shape", str(bias_shape).replace(" ", "").strip("()"), BIAS_SHAPES)
        if named not in ("fixed", "learned"):
            raise UsageError(f"bias-shape {bias_shape}: it is of a tensor, add --bias fixed or --bias learned")
    number = isinstance(softcap, int | float) and not isinstance(softcap, bool)
    if softcap is not None and not (number and _LEAST_CAP <= softcap <= _MOST_CAP):
        raise UsageError(
            f"softcap {shortened(softcap)}: expected a number from {_LEAST_CAP:g} to {_MOST_CAP:g}, such as 50"
        )
    check_kind("sinks", sinks, bool, "True or False")
    cap = None if softcap is None else float(softcap)
    return Scores("" if named == "none" else named, shape, cap, bool(sinks))
