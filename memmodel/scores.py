"""Changes of the scores beside the mask: a bias, a soft cap, sinks."""

from typing import Any, NamedTuple

from memmodel.errors import UsageError, choice

BIASES = ("none", "fixed", "learned", "alibi")


class Scores(NamedTuple):
    """Changes of the scores before softmax.

    Attributes:
        bias: "" or what is added: "fixed", a (1, h, n, m) tensor without a gradient; "learned", one with a gradient;
            "alibi", a slope per head times the distance (Press et al., "Train short, test long", 2021).
        softcap: c in c tanh(scores / c), or None (Gemma 2).
        sinks: whether a learned logit a head takes part in every row's softmax (gpt-oss).
    """

    bias: str = ""
    softcap: float | None = None
    sinks: bool = False

    def described(self) -> str:
        """The settings that differ from the default, in words: "learned bias, soft cap 50, sinks"."""
        names = {"": "", "fixed": "bias", "learned": "learned bias", "alibi": "ALiBi"}
        cap = "" if self.softcap is None else f"soft cap {self.softcap:g}"
        return ", ".join(filter(None, (names[self.bias], cap, "sinks" if self.sinks else "")))

    @property
    def asked(self) -> tuple[str, ...]:
        """The names of what an algorithm must take for these."""
        return tuple(filter(None, (self.bias, "softcap" if self.softcap is not None else "", "sinks" * self.sinks)))


UNCHANGED = Scores()


def make_scores(bias: Any = None, softcap: Any = None, sinks: bool = False) -> Scores:
    """Checked changes of scores. Raises UsageError for an unknown bias, or a soft cap that is no positive number."""
    named = "" if bias is None else choice("bias", bias, BIASES)
    number = isinstance(softcap, int | float) and not isinstance(softcap, bool)
    if softcap is not None and not (number and 0 < softcap < float("inf")):
        raise UsageError(f"softcap {softcap}: expected a positive number, such as 50")
    return Scores("" if named == "none" else named, None if softcap is None else float(softcap), bool(sinks))
