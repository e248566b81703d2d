"""Recording tensors as a library: wrong use is said plainly, and an op without a complete rule cannot exist."""

from typing import Any

import pytest

from memmodel import recording
from memmodel.base.errors import UsageError
from memmodel.events.program import Alloc, Free
from memmodel.tensors.autograd import Op


def empty(*shape: int, **options: Any) -> Any:
    return recording.empty(*shape, **options)


def test_an_unknown_method_lists_those_there_are() -> None:
    with recording.Tape(), pytest.raises(UsageError, match=r"no method 'cumprod'; there are .*softmax.*transpose"):
        empty(2, 3).cumprod(0)


@pytest.mark.parametrize("rule", ["forward", "backward"])
def test_an_op_without_a_rule_cannot_be_defined(rule: str) -> None:
    other = {"forward": "backward", "backward": "forward"}[rule]
    with pytest.raises(TypeError, match=f"op Half has no {rule}"):
        type("Half", (Op,), {other: lambda self: None})


def test_tensors_need_a_tape() -> None:
    with pytest.raises(UsageError, match="no tape is open"):
        empty(2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: empty(2, 3) @ empty(4, 5), "inner dimensions must agree"),
        (lambda: empty(2, 3) @ empty(3, 4, dtype=recording.float16), "both operands need the same dtype"),
        (lambda: empty(2, 3) + empty(4, 3), "do not broadcast"),
        (lambda: empty(2, 3).view(4), "does not fit"),
        (lambda: empty(2, 3).mT.view(6), "use reshape, which copies"),
        (lambda: empty(2, 3).expand(5, 3), "does not expand"),
        (lambda: empty(2, 3).transpose(0, 2), "expected -2 to 1"),
        (lambda: empty(2, 3).permute(0, 0), "name each dimension once"),
        (lambda: empty(2, 3)[:, :2:2], "take such to the end"),
        (lambda: empty(2, 3).narrow(0, 1, 2), "leaves dimension 0"),
        (lambda: empty(2).backward(), "requires no gradient"),
        (lambda: empty(2, requires_grad=True).backward(), "needs `gradient=`"),
        (lambda: empty(2, requires_grad=True).mul_(2.0), "in-place operation on a leaf"),
        (lambda: empty(2, 2, requires_grad=True).exp()[0].mul_(2.0), "on a view under autograd"),
        (lambda: (empty(2, requires_grad=True) * 2).requires_grad_(), "only leaves take it"),
        (lambda: recording.checkpoint(lambda x: x, empty(2), use_reentrant=True), "pass use_reentrant=False"),
    ],
)
def test_wrong_use(wrong: Any, message: str) -> None:
    with recording.Tape(), pytest.raises(UsageError, match=message):
        wrong()


def test_a_saved_tensor_changed_in_place_is_refused_in_backward() -> None:
    with recording.Tape():
        x = empty(3, requires_grad=True)
        y = x.exp()
        z = y * 2.0
        y.mul_(3.0)
        with pytest.raises(UsageError, match="ExpBackward needs for backward was modified in place"):
            (z + y).sum().backward()


def test_backward_twice_is_refused_unless_the_graph_is_retained() -> None:
    with recording.Tape():
        x = empty(3, requires_grad=True)
        y = x.exp().sum()
        y.backward(retain_graph=True)
        y.backward()
        with pytest.raises(UsageError, match="retain_graph=True"):
            y.backward()


def test_a_storage_dies_with_its_last_name() -> None:
    with recording.Tape() as tape:
        a = empty(4)
        view = a.view(2, 2)
        del a
        assert not any(isinstance(event, Free) for event in tape.events)
        del view
        assert [type(event) for event in tape.events] == [Alloc, Free]


def test_nothing_is_recorded_after_the_tape_is_closed() -> None:
    with recording.Tape() as tape:
        kept = empty(4)
    before = len(tape.events)
    del kept
    assert len(tape.events) == before


def test_gradients_accumulate_in_place_and_keep_their_storage() -> None:
    with recording.Tape() as tape:
        x = empty(8, requires_grad=True)
        for _ in range(2):
            (x * 2.0).sum().backward()
        key = x.grad.storage.key
        x.grad.zero_()
        (x * 2.0).sum().backward()
        assert x.grad.storage.key == key
        assert key not in {event.key for event in tape.events if isinstance(event, Free)}


def test_names_come_from_the_code() -> None:
    from memmodel.events.origin import names, origin

    with recording.Tape() as tape:
        q = empty(4, 8)
        scores = q @ q.mT / 2.0
        largest, _ = scores.max(-1)
    labels = names(tape.program)
    found = [labels[event.key] for event in tape.events if isinstance(event, Alloc)]
    assert found == ["q", "q @ q.mT", "scores", "(largest, _)", "max indices"]
    place = origin(next(e for e in tape.events if isinstance(e, Alloc)).site)
    assert place is not None
    assert place.function.endswith("empty")
    del largest


def test_a_function_returns_its_value_under_the_callers_name() -> None:
    from memmodel.events.origin import names

    def double(x: Any) -> Any:
        return x * 2.0

    with recording.Tape() as tape:
        q = empty(4)
        twice = double(q)
    assert names(tape.program)[twice.storage.key] == "twice"


def test_a_deep_graph_is_freed_in_order_wherever_that_happens() -> None:
    """Python puts off what is freed too deep inside something else that is freed; PyTorch frees nodes one by one."""

    def freed() -> list[int]:
        with recording.Tape() as tape:
            leaves = [recording.empty(10 + i, requires_grad=True) for i in range(12)]
            total = sum((x.exp().sum() for x in leaves[1:]), start=leaves[0].exp().sum())
            leaves.clear()
            start = len(tape.events)
            del total
            return [event.key for event in tape.events[start:] if isinstance(event, Free)]

    found: list[list[int]] = []

    class Watched:
        def __del__(self) -> None:
            found.append(freed())

    nested: object = Watched()
    for _ in range(30):
        nested = [nested]
    del nested
    assert found == [freed()]
    assert len(found[0]) > 12
