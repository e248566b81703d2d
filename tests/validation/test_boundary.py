"""The search for the longest sequence: right from any guess, each size tried once, two where the guess is right."""

import pytest

from memmodel_validate.validation import search


@pytest.mark.parametrize("guess", [0, 1, 6, 7, 8, 9, 40, 1000])
@pytest.mark.parametrize("largest", [0, 1, 7, 100])
def test_both_sides_are_tried(guess: int, largest: int) -> None:
    asked: list[int] = []

    def runs(count: int) -> bool:
        asked.append(count)
        return count <= largest

    found = search(runs, guess)
    assert (found.largest, found.first_failing) == (largest, largest + 1)
    assert found.tried == tuple(asked)
    assert len(set(asked)) == len(asked)
    assert largest + 1 in asked
    assert largest in asked or largest == 0


def test_a_right_guess_takes_two_tries() -> None:
    assert search(lambda count: count <= 50, 50).tried == (50, 51)
