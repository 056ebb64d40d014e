"""Pictures: what is in them, and what cannot be drawn."""

from __future__ import annotations

import builtins

import numpy as np
import pytest

from gpubp import MLP, History, UsageError, plots, train
from gpubp.diagnostics.health import read_looks

X, Y = np.random.default_rng(0).standard_normal((40, 4)), np.arange(40) % 2


def history(models: int = 1, **options):
    net = MLP([4, 5, 2], models=models, device="cpu-reference")
    return net, train(net, X, Y, epochs=3, **options)


def test_curves_have_a_line_for_each_network():
    _, one = history(validation_data=(X, Y))
    axes = one.plot()
    assert [line.get_label() for line in axes.lines[:2]] == ["training", "validation"]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), one.loss)
    assert len(plots.curves(history(3)[1]).lines) == 3


def test_curves_are_drawn_where_one_likes():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    assert history()[1].plot(axes) is axes


@pytest.mark.parametrize("what", plots.HEALTH)
def test_health_has_a_line_for_each_layer(what):
    _, one = history(diagnostics=True)
    lines = plots.health(one.health, what).lines
    assert [line.get_label() for line in lines] == ["layer 1, relu", "layer 2, softmax"]
    assert all(len(line.get_ydata()) == 4 for line in lines)


def test_weights_are_a_picture_for_each_unit():
    net, _ = history()
    (image,) = plots.weights(net).images
    canvas = np.asarray(image.get_array().filled(np.nan))
    assert canvas.shape == (2, 5 * 3 - 1)
    W = net.weights[0]
    np.testing.assert_allclose(canvas[:, 3:5].ravel(), W[:, 1] / np.abs(W[:, 1]).max(), rtol=1e-6)


def test_what_cannot_be_drawn_is_named():
    net, one = history(diagnostics=True)
    with pytest.raises(UsageError, match="4 inputs are no picture of 3 x 3"):
        plots.weights(net, (3, 3))
    with pytest.raises(UsageError, match="here is a stack of 2"):
        plots.weights(history(2)[0])
    with pytest.raises(UsageError, match="choose gradient_norm"):
        plots.health(one.health, "colour")


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments, **options):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    _, one = history()
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UsageError, match=r"pip install 'gpubp\[plot\]'"):
        one.plot()
    words, table = one._repr_html_().split("<table>")
    assert words == "<p>" + repr(one).replace("'", "&#x27;") + "</p>"
    assert "<th>accuracy</th>" in table and f"<tr><td>3</td><td>{one.loss[-1]:.4g}</td>" in table


def test_a_history_without_an_epoch_is_shown():
    empty = History("accuracy")
    assert "History(no epoch yet)" in empty._repr_html_() and not plots.curves(empty, what="metric").lines


def test_curves_of_what_goes_with_the_loss():
    _, one = history(validation_data=(X, Y))
    axes = one.plot(what="metric")
    np.testing.assert_allclose(axes.lines[1].get_ydata(), one.validation_metric)
    assert axes.get_ylabel() == "accuracy"
    with pytest.raises(UsageError, match="choose loss or metric"):
        one.plot(what="seconds")


def test_a_history_is_short_in_print_and_a_table_in_pandas():
    _, one = history(validation_data=(X, Y))
    assert repr(one).startswith("History(3 epochs, 3 steps: loss ") and "validation loss" in repr(one)
    assert repr(history(2)[1]) == "History(3 epochs of 2 networks, stopped=['epochs', 'epochs'])"
    frame = one.to_dataframe()
    assert list(frame.columns) == [
        "epoch",
        "loss",
        "accuracy",
        "validation_loss",
        "validation_accuracy",
        "learning_rate",
        "seconds",
    ]
    np.testing.assert_allclose(frame["loss"], one.loss, rtol=1e-8)
    assert one._repr_html_().startswith('<img src="data:image/png;base64,')


def test_watched_test_rows_are_called_so():
    _, one = history(validation_data=(X, Y), watch_test=(X, Y))
    labels = [line.get_label() for line in one.plot().lines]
    assert labels[:2] == ["training", "validation"] and "test, only watched" in labels


@pytest.mark.parametrize("what", plots.HEALTH)
def test_a_map_of_health_has_a_row_for_each_layer_and_a_column_for_each_look(what):
    _, one = history(diagnostics=True)
    axes = plots.health_map(one.health, what)
    (mesh,) = axes.collections
    np.testing.assert_allclose(
        mesh.get_array().filled(np.nan),
        np.where(one.health.measured(what) > 0, one.health.measured(what), np.nan if plots.HEALTH[what][1] else 0),
    )
    assert mesh.get_array().shape == (2, 4) and axes.get_ylim() == (2.5, 0.5)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["1, relu", "2, softmax"]


def test_maps_of_all_that_is_looked_at():
    _, one = history(diagnostics=True)
    titles = [axes.get_title() for axes in plots.health_maps(one.health).axes]
    assert [title for title in titles if title] == [label for label, _ in plots.HEALTH.values()]


def test_looks_are_read_again_as_they_were_written():
    _, one = history(diagnostics=True)
    again = read_looks(one.health.to_csv())
    assert again.epochs == [0, 1, 2, 3] and again.to_csv() == one.health.to_csv()
    for torn in ("", "epoch,layer\n", one.health.to_csv()[:-60], one.health.to_csv().replace("relu", "relu,")):
        with pytest.raises((ValueError, KeyError, TypeError)):
            read_looks(torn)


@pytest.mark.parametrize("classes", [2, 30])
def test_confusion_has_numbers_where_they_can_be_read(classes):
    axes = plots.confusion(np.eye(classes, dtype=int), [str(c) for c in range(classes)])
    assert len(axes.texts) == (4 if classes == 2 else 0)


def test_weights_of_pictures_in_colour_and_of_no_pictures():
    coloured = MLP([12, 5, 2], device="cpu-reference")
    (image,) = plots.weights(coloured).images
    canvas = np.asarray(image.get_array())
    assert canvas.shape == (2, 14, 3) and canvas.min() >= 0 and canvas.max() <= 1
    with pytest.raises(UsageError, match="5 inputs are no square picture"):
        plots.weights(MLP([5, 2], device="cpu-reference"))
    titles = [axes.get_title() for axes in plots.weight_histograms(coloured).axes]
    assert titles == ["layer 1: 12 x 5", "layer 2: 5 x 2"]


@pytest.mark.parametrize("size, shape", [(784, (28, 28)), (12288, (64, 64, 3)), (13, None)])
def test_shapes_of_pictures(size, shape):
    assert plots.picture_shape(size) == shape
