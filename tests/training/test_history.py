"""What a history shows of curves that are known: in a line, in a table, as CSV and as arrays."""

from __future__ import annotations

import re

import numpy as np
import pytest

from gpubp import History

LOSSES = [4.0, 2.0, 1.0, 1.5]


def made(models: int = 1, validation: bool = False) -> History:
    """A history of four epochs, a second each; network k has the losses of the first plus 10 k."""
    history, networks = History("accuracy", models), np.arange(models)
    for epoch, loss in enumerate(LOSSES):
        curves = {"loss": loss + 10 * networks, "metric": epoch / 10 + networks, "learning_rate": 0.5 / (1 + networks)}
        if validation:
            curves |= {"validation_loss": 2 * curves["loss"], "validation_metric": curves["metric"] / 2}
        history.append(epoch + 1.0, **curves)
    history.steps = 1200
    return history


def table_of(history: History) -> list[list[str]]:
    return [re.findall("<t[hd]>(.*?)</t[hd]>", row) for row in history._html_table().split("<tr>")[1:]]


def test_the_line_of_a_network_has_its_last_figures():
    expected = "History(4 epochs, 1,200 steps: loss 1.5, accuracy 0.3"
    assert repr(made()) == f"{expected}; stopped='epochs')"
    validated = repr(made(validation=True))
    assert validated == f"{expected}; validation loss 3, accuracy 0.15; stopped='epochs')"


def test_the_table_of_a_network_has_the_first_the_best_and_the_last_epoch():
    history = made(validation=True)
    history.best_epoch_by_network = np.array([2])
    header, *rows = table_of(history)
    assert header == ["epoch", "loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate"]
    assert rows == [
        ["1", "4", "0", "8", "0", "0.5"],
        ["3", "1", "0.2", "2", "0.1", "0.5"],
        ["4", "1.5", "0.3", "3", "0.15", "0.5"],
    ]
    assert history.best_epoch == 2 and [row[0] for row in table_of(made())] == ["epoch", "1", "4"]


def test_the_table_of_a_stack_has_the_last_epoch_of_its_first_networks():
    header, *rows = table_of(made(models=2))
    assert header == ["network", "loss", "accuracy", "learning_rate"]
    assert rows == [["0", "1.5", "0.3", "0.5"], ["1", "11.5", "1.3", "0.25"]]
    assert [row[0] for row in table_of(made(models=12))] == ["network", *"01234567"]


def test_few_networks_say_each_why_they_stopped_and_many_how_many_did():
    assert repr(made(models=8)) == f"History(4 epochs of 8 networks, stopped={['epochs'] * 8})"
    assert repr(made(models=9)) == "History(4 epochs of 9 networks, stopped={'epochs': 9})"


def test_csv_has_a_line_for_each_epoch_and_network():
    assert made().to_csv().splitlines()[:2] == ["epoch,loss,accuracy,learning_rate,seconds", "1,4,0,0.5,1"]
    lines = made(models=2).to_csv().splitlines()
    assert lines[0] == "epoch,network,loss,accuracy,learning_rate,seconds"
    assert lines[3:5] == ["2,0,2,0.1,0.5,2", "2,1,12,1.1,0.25,2"] and len(lines) == 9
    assert History("accuracy").to_csv() == "epoch\n"


def test_steps_that_were_skipped_are_counted_by_network_and_new_ones_are_told():
    history = History("accuracy", models=2)
    assert history.count_overflows(np.array([2, 0])).tolist() == [2, 0]
    assert history.count_overflows(np.array([3, 1])).tolist() == [1, 1]
    assert history.count_overflows(np.array([0, 6])).tolist() == [0, 5], "the first trains no more"
    assert history.overflows.tolist() == [3, 6]


@pytest.mark.parametrize("models", [1, 2])
def test_epochs_whose_test_rows_were_not_watched_have_nan(models):
    history, networks = History("accuracy", models), np.arange(models, dtype=float)
    for epoch, loss in enumerate(LOSSES):
        history.append(epoch + 1.0, loss=loss + networks, metric=networks)
        if epoch in (0, 2):
            history.watch_test(10 * loss + networks, 20 * loss + networks)
    nan = np.full((1, models), np.nan)
    for name, factor in (("watched_test_loss", 10), ("watched_test_metric", 20)):
        expected = np.vstack([factor * LOSSES[0] + networks, nan, factor * LOSSES[2] + networks, nan])
        np.testing.assert_array_equal(history.curve(name), expected)
    assert len(history.watched_test_loss) == 3


@pytest.mark.parametrize("models", [1, 2])
def test_a_history_is_restored_from_its_arrays(models):
    history = made(models, validation=True)
    history.count_overflows(np.full(models, 7))
    restored = History("accuracy", models)
    restored.restore(history.tensors())
    assert restored.to_csv() == history.to_csv() and restored.epochs == 4
    assert np.all(restored.overflows == 7)
