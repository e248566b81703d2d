"""Chunked attention: a few chunks are recorded in place of many, and nothing differs from recording them all."""

import pytest

from memmodel.attention.case import Case, make_case
from memmodel.attention.masks import Mask
from memmodel.base.errors import UsageError
from memmodel.events.program import Program
from memmodel.expansion import Expansion
from memmodel.expansion import _numbered as numbered
from memmodel.recorder import MOST_CHUNKS, record, recorded

KINDS = (
    make_case("chunked", heads=4, chunk=16),
    make_case("chunked", heads=4, kv_heads=2, chunk=16, dtype_name="fp32"),
    make_case("chunked", heads=2, chunk=16, kv_seq=40, value_dim=48, phase="forward"),
    make_case("chunked", batch=2, chunk=16, phase="inference"),
)


def resized(case: Case, seq: int) -> Case:
    return case.replace(seq=seq, kv_seq=seq if case.kv_seq == case.seq else case.kv_seq)


@pytest.mark.parametrize("seq", [130 * 16, 129 * 16 + 1, 8 * 16 - 3, 5 * 16], ids="{} queries".format)
@pytest.mark.parametrize("case", KINDS, ids=Case.describe)
def test_chunks_are_repeated(case: Case, seq: int) -> None:
    sized = resized(case, seq)
    repeated, full = record(sized), recorded(sized).program
    assert numbered(repeated.events) == numbered(full.events)
    assert len(repeated.gradients) == len(full.gradients)


def test_a_few_chunks_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    program = Expansion.program

    def noted(self: Expansion, times: int) -> Program:
        made.append(times)
        return program(self, times)

    monkeypatch.setattr(Expansion, "program", noted)
    record(resized(KINDS[0], 130 * 16))
    assert made == [125]  # the last two, the first two and one between them are recorded
    record(resized(KINDS[0], 6 * 16))
    record(make_case("chunked", seq=130 * 16, chunk=16, mask=Mask(causal=True)))  # each chunk sees other keys
    assert made == [125]


def test_too_many_chunks() -> None:
    with pytest.raises(UsageError, match="expected at most 4096 chunks"):
        record(resized(KINDS[0], MOST_CHUNKS * 16 + 1))
