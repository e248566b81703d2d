"""Training scripts ask for values: those that take no data are known, others are assumed, and said; none is a size."""

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from traced_events import traced_events

import memmodel
from memmodel.base.device import CPU
from memmodel.base.errors import UsageError
from torch_events import in_order, real_events, without

N = 12
IGNORED = -100


def rates_in_a_list(x: Tensor) -> Tensor:
    """As timm has the rates of its dropped paths."""
    for rate in [each.item() for each in torch.linspace(0, 0.2, 3)]:
        x = x * 2 if rate > 0.1 else x
    return x


def part_of_a_mask(x: Tensor) -> Tensor:
    mask = torch.zeros(len(x), dtype=torch.bool)
    mask[: len(x) // 3] = True
    assert int(mask.sum()) == len(x) // 3
    return x[mask].exp()


def what_is_left_of_a_table(x: Tensor) -> Tensor:
    """As SimCLR's labels are: a mask picks from a table, and what it picked is a mask."""
    same = (torch.arange(len(x)) % 3).unsqueeze(0) == (torch.arange(len(x)) % 3).unsqueeze(1)
    others = same[~torch.eye(len(x), dtype=torch.bool)].view(len(x), -1)
    return x[:, None].expand(-1, others.shape[1])[others].exp()


def written_element(x: Tensor) -> Tensor:
    losses = torch.zeros(3)
    for i in range(3):
        losses[i] = i
    return x * losses.mean()


def crops_at_random(x: Tensor) -> Tensor:
    """nanoGPT's get_batch."""
    return torch.stack([x[at : at + 4] for at in torch.randint(len(x) - 4, (3,))])


def clipped_by_value(x: Tensor) -> Tensor:
    layer = nn.Linear(N, N)
    layer(x).sum().backward()
    nn.utils.clip_grad_value_(layer.parameters(), 1.0, foreach=False)
    return x


@pytest.mark.parametrize(
    "function",
    [rates_in_a_list, part_of_a_mask, what_is_left_of_a_table, written_element, crops_at_random, clipped_by_value],
)
def test_events_are_a_real_runs(function: Callable[[Tensor], Tensor]) -> None:
    def body(_: Any) -> None:
        function(torch.zeros(N))

    assert without(traced_events(body, CPU), 8) == without(in_order(real_events(body)), 8)


class Queue(nn.Module):
    """MoCo's: a buffer says where the next rows go."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(4 * N, N))
        self.register_buffer("at", torch.zeros(1, dtype=torch.int64))
        self.rows: Tensor
        self.at: Tensor

    def forward(self, x: Tensor) -> Tensor:
        at = int(self.at)
        self.rows[at : at + len(x)] = x
        self.at[0] = (at + len(x)) % len(self.rows)
        return self.rows


def reports(x: Tensor) -> Tensor:
    """Prints, counters, the best so far, a file of weights."""
    best, predictions, losses = float("inf"), [], []
    for _ in range(2):
        loss = x.mean().item()
        best = min(loss, best)
        losses.append(loss)
        predictions += x.argmax(-1, keepdim=True).cpu().numpy().tolist()
        print(f"{best:.3f} {sum(losses) / len(losses)} {x.mean().detach().cpu().numpy()}")
    torch.save({"x": x}, io.BytesIO())
    return torch.tensor(predictions)


def test_values_serve_reports_and_buffers_have_theirs(capsys: pytest.CaptureFixture[str]) -> None:
    found = memmodel.trace(reports, {"x": "N"}, at={"N": N}, formulas=False)
    assert found.memory.live_peak_bytes == N * 4 + 2 * 8  # x, and two predictions as integers
    assert any(note.startswith("torch.save writes nothing") for note in found.notes)
    assert "1.000 1.0 1.0" in capsys.readouterr().out
    queue = Queue()
    memmodel.trace(queue, {"x": f"8,{N}"}, formulas=False)
    assert int(queue.at) == 0  # the user's own is as it was


def decides(x: Tensor) -> Tensor:
    return torch.cat((x, x)) if x.mean().item() < 0.1 else x * 2


def decides_by_a_tensor(x: Tensor) -> Tensor:
    return torch.cat((x, x)) if x.mean() < 0.1 else x * 2


def decides_alike(x: Tensor) -> Tensor:
    return x * 2 if x.argmax() == 1 else x + 1


def stops(x: Tensor) -> Tensor:
    if x.mean().item() > 1e4:
        raise ArithmeticError
    return x * 2


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (decides, "the live peak is 144 B"),  # x, and twice as much
        (decides_by_a_tensor, "the live peak is 144 B"),
        (decides_alike, "the live peak is the same"),
        (stops, "the code raises an error or does not end"),
    ],
)
def test_a_branch_on_a_value_is_said_with_what_the_other_way_takes(function: Any, said: str) -> None:
    found = memmodel.trace(function, {"x": "N"}, at={"N": N}, formulas=False)
    (branch,) = (note for note in found.notes if "what a branch asks of a tensor's value is taken as False" in note)
    assert "test_known_values.py, line" in branch
    assert f"where these go the other way, {said}" in found.notes
    assert function is decides_alike or found.memory.live_peak_bytes >= 2 * N * 4


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_sequences_are_generated_to_their_end(mode: Any) -> None:
    """A token equals no other number, so no sequence is done, however the flags are kept."""

    def generated(x: Tensor) -> Tensor:
        with mode():
            done, going = torch.zeros(N, dtype=torch.bool), torch.ones(N, dtype=torch.bool)
            for _ in range(3):
                token = x.argmax(-1)
                done |= token == 2
                going = going & ~(token == 2)
                if done.all() or not going.any():
                    break
                x = torch.cat([x, x[:, :1]], 1)
        return x

    found = memmodel.trace(generated, {"x": "N,8"}, at={"N": N}, formulas=False)
    assert max(birth.nbytes for birth in found.program.births()) == N * (8 + 3) * 4


def test_a_row_that_a_value_picks_is_a_view_of_any() -> None:
    def best(x: Tensor) -> Tensor:
        scores = x.sum(1)
        row = x[scores.argmax()]
        x[scores.argmin()] = row
        table = torch.arange(3, device=x.device)
        assert table[table[1]].item() == 1
        assert table[scores.argmax()].item() != 0  # not known, so it stands for any: the first is 0
        return row * 2

    found = memmodel.trace(best, {"x": "N,8"}, at={"N": N}, formulas=False)
    assert found.memory.live_peak_bytes == N * 8 * 4 + N * 4 + 3 * 8 + 8 * 4  # x, the scores, the table, twice a row


def sizes(x: Tensor) -> Tensor:
    return torch.zeros(x.argmax().item())  # type: ignore[arg-type]


def range_of(x: Tensor) -> list[Tensor]:
    return [x + i for i in range(int(x.sum()))]


def test_no_size_is_taken_from_a_value() -> None:
    with pytest.raises(UsageError, match=r"asks for the value of a tensor.*test_known_values.py, line \d+"):
        memmodel.trace(sizes, {"x": "N"}, at={"N": N}, formulas=False)
    with pytest.raises(UsageError, match=r"makes an int of a tensor's value.*by \.item.*test_known_values.py, line"):
        memmodel.trace(range_of, {"x": "N"}, at={"N": N}, formulas=False)


EXPERTS, CHOICES, WIDTH = 4, 2, 8


def routed(x: Tensor) -> list[Tensor]:
    """What each expert of a mixture is given."""
    _, taken = torch.topk(x @ torch.zeros(WIDTH, EXPERTS, device=x.device), CHOICES)
    return [x[torch.where(taken == expert)[0]] for expert in range(EXPERTS)]


def picks(x: Tensor) -> Tensor:
    return x[x > 0]


def test_masks_of_data_keep_all_and_experts_take_equal_shares() -> None:
    def sizes_of(function: Any) -> tuple[list[int], str]:
        found = memmodel.trace(function, {"x": f"{N},{WIDTH}"}, formulas=False)
        results = [event.nbytes for event in found.program.births() if event.op == "index"]
        return results, next(note for note in found.notes if "test_known_values.py" in note)

    tokens = N * CHOICES // EXPERTS
    results, said = sizes_of(routed)
    assert results == [tokens * WIDTH * 4] * EXPERTS
    assert "the load is balanced" in said
    results, said = sizes_of(picks)
    assert results == [N * WIDTH * 4]
    assert "keeps every element, the most that there can be" in said


def test_a_data_loader_gives_its_batches() -> None:
    """Two rows a batch and a last one of one; labels are known, and batches die as the next one comes."""
    features, labels = torch.zeros(5, N), torch.tensor([1, IGNORED, 2, IGNORED, 1])
    loader = DataLoader(TensorDataset(features, labels), batch_size=2, num_workers=2)

    def epoch() -> int:
        rows = 0
        for x, y in loader:
            rows += len(x[y != IGNORED])
        return rows

    rows = []
    found = memmodel.trace(lambda: rows.append(epoch()), formulas=False)
    assert set(rows) == {3}
    made = [
        event for event in found.program.births() if event.shape in ((2, N), (1, N)) and event.op == "empty_strided"
    ]
    assert {event.nbytes for event in made} == {2 * N * 4, N * 4}
