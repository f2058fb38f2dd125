"""The best epoch of a history."""

import pytest

from model_build.training.history import best_epoch


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([], 0),
        (["0.5"], 1),
        (["0.1", "0.7", "0.7"], 2),
        (["nan", "0.0", ""], 2),
        (["nan", ""], 0),
        ([None, "0.2", "0.1"], 2),
    ],
)
def test_the_first_epoch_with_the_highest_score_is_the_best(scores, best):
    rows = [{"epoch": str(number), "val_miou": score} for number, score in enumerate(scores, 1)]
    assert best_epoch(rows) == best


def test_an_epoch_without_the_column_is_not_the_best():
    assert best_epoch([{"epoch": "1"}, {"epoch": "2", "val_miou": "0.0"}]) == 2
