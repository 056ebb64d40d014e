"""What seldom happens around trainings: contradictions, gradients that overflow alone, other systems."""

from __future__ import annotations

import builtins
import importlib.util
import sys
from dataclasses import FrozenInstanceError, fields, replace

import numpy as np
import pytest
from scipy.sparse import csr_array

import gpubp
from gpubp import serialization
from gpubp.checks import SparseRows
from gpubp.errors import DataError, UsageError
from gpubp.serialization import atomic_write
from gpubp.training import packing
from gpubp.training.checkpoint import Interval, TrainingState, fingerprint
from gpubp.training.options import Option
from gpubp.training.ranks import Ranks
from gpubp.training.row_groups import map_arrays
from gpubp.training.samples import Samples
from gpubp.training.step import TrainingStep
from gpubp.training.step_table import StepTable, draw_table
from gpubp.training.stopping import EarlyStopping

X = np.random.default_rng(0).normal(size=(12, 4))
Y = np.arange(12) % 3


def network(**options) -> gpubp.MLP:
    return gpubp.MLP([4, 5, 3], seed=0, device="cpu-reference", **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"validation_data": (X, Y), "validation_rows": [np.arange(3)]}, "both given; give one"),
        ({"validation_data": X}, r"give \(X, y\) or \(X, y, sample_weight\)"),
        ({"callbacks": [3]}, "give a list of functions"),
        ({"optimizer": "sgd(1, a=2, a=3)"}, "sgd"),
    ],
)
def test_arguments_that_cannot_be_meant_are_named(options, said):
    with pytest.raises(UsageError, match=said):
        gpubp.train(network(), X, Y, **options)


def test_diagnostics_look_at_a_single_network():
    with pytest.raises(UsageError, match="this is a stack of 2"):
        gpubp.train(network(models=2), X, Y, diagnostics=True)


@pytest.mark.parametrize("layer", [1, 2])
def test_a_gradient_that_overflows_alone_is_named_with_its_layer(layer):
    """The loss is finite, and the gradient of a layer, a product with inputs of 1e200, is not."""
    sizes = [1] * (layer + 2)
    net = gpubp.MLP(sizes, "identity", "half_squared_error", seed=0, device="cpu-reference", precision="float64")
    net.weights[0][:], net.weights[-2][:], net.weights[-1][:] = 1e200, 1e-190, 1e100
    X = 1e200 if layer == 1 else 1.0
    with pytest.raises(gpubp.DivergenceError, match=f": the gradient overflowed in layer {layer} of ") as caught:
        gpubp.train(net, [[X]], [[0.0]], optimizer="sgd", epochs=1)
    assert caught.value.layer == layer


def test_a_history_says_what_it_holds():
    alone, stack = network(), network(models=2)
    history = gpubp.train(alone, X, Y, epochs=2, validation_data=(X, Y))
    assert repr(history).startswith("History(2 epochs, 2 steps: loss ") and "validation loss" in repr(history)
    assert repr(gpubp.train(stack, X, Y, epochs=1)).startswith("History(1 epochs of 2 networks")
    assert repr(gpubp.History("accuracy")) == "History(no epoch yet)"
    assert f"<p>{repr(history).replace(chr(39), '&#x27;')}</p>" in history._repr_html_()


def test_sparse_rows_are_told_apart_by_all_that_they_are():
    matrices = [csr_array(np.eye(3)), csr_array(2 * np.eye(3)), csr_array(np.eye(3)[::-1].copy())]
    assert len({str(fingerprint(SparseRows(matrix))) for matrix in matrices}) == 3
    assert fingerprint(SparseRows(matrices[0])) == fingerprint(SparseRows(csr_array(np.eye(3))))


def test_memory_is_known_by_other_means_where_linux_does_not_tell(monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError

    assert 0 < packing.system_memory() < float("inf")
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", absent)
        assert packing.system_memory() > 2**28
        patch.setattr("os.sysconf", lambda _: (_ for _ in ()).throw(ValueError))
        assert packing.system_memory() == float("inf")


def test_files_are_written_where_the_system_has_no_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, "fcntl", None)
    atomic_write(tmp_path / "a", b"1")
    atomic_write(tmp_path / "a", b"2")
    with serialization.locked(tmp_path):
        assert (tmp_path / "a").read_bytes() == b"2"
    serialization.remove_unlocked(tmp_path / "a", lambda path: path.unlink())
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_serialization_is_imported_where_the_system_has_no_locks(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    spec = importlib.util.spec_from_file_location("serialization_without_locks", serialization.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.fcntl is None


def test_a_folder_that_cannot_be_flushed_matters_only_where_it_should(tmp_path, monkeypatch):
    def refuse(number):
        def fsync(_):
            raise OSError(number, "no")

        return fsync

    serialization.sync_folder(tmp_path / "absent")
    monkeypatch.setattr("os.fsync", refuse(next(iter(serialization._NOT_SUPPORTED))))
    serialization.sync_folder(tmp_path)
    monkeypatch.setattr("os.fsync", refuse(5))
    with pytest.raises(OSError, match="no"):
        serialization.sync_folder(tmp_path)


@pytest.mark.parametrize(("tolerance", "epochs"), [(1e9, 2), (None, 3)])
def test_an_epoch_all_of_whose_steps_were_skipped_says_nothing_of_how_weights_move(tolerance, epochs, monkeypatch):
    """As float16 does, which counts over all epochs: all three steps of the first, one of each other."""
    run_epoch, so_far = TrainingStep.run_epoch, iter([3, 4, 5])
    monkeypatch.setattr(
        TrainingStep,
        "run_epoch",
        lambda self, *arguments: replace(run_epoch(self, *arguments), overflows=np.array([next(so_far)])),
    )
    history = gpubp.train(network(), X, Y, batch_size=4, epochs=3, update_tolerance=tolerance)
    assert history.epochs == epochs and history.overflows == 2 + epochs
    assert history.stopped == ("epochs" if tolerance is None else "update_tolerance")


def test_rows_that_cannot_be_streamed_are_named():
    bad = [(X, Y), (np.where(X == X[3, 2], np.nan, X), Y)]
    with pytest.raises(DataError, match="nan"):
        gpubp.train(network(), batches=bad, epochs=1)


class Rows:
    """A data set of 12 rows, which can be asked for them by number, and may say another length than it has."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int):
        return X[i % 12], Y[i % 12]


def test_a_data_set_without_rows_is_named():
    with pytest.raises(DataError, match="batches: holds nothing; at least one row is needed"):
        gpubp.train(network(), batches=Rows(0), epochs=1)


def test_items_are_grouped_in_the_order_of_their_keys_and_cut_into_equal_stacks():
    assert packing.groups(["bb", "a", "cc", "d"], len) == [["bb", "cc"], ["a", "d"]]
    assert packing.portions(range(7), 10, 35) == [[0, 1], [2, 3], [4, 5, 6]]
    assert packing.portions(range(3), 10, float("inf")) == [[0, 1, 2]]
    assert packing.portions(range(3), 10, float("inf"), at_least=2) == [[0], [1, 2]]
    assert packing.portions(range(2), 10, 1) == [[0], [1]], "what fits nowhere has a stack of its own"


def test_one_more_network_takes_its_memory_its_order_and_its_best_weights():
    stack = network().stack
    plain = packing.bytes_of_one(stack, 8, "adam", 100, keeps_best=False)
    memory = stack.memory(8, "adam")
    assert plain == memory["total"] + 2400
    assert packing.bytes_of_one(stack, 8, "adam", 100, keeps_best=True) == plain + memory["parameters"]
    assert packing.bytes_of_one(stack, 8, "adam", 3, keeps_best=False) == stack.memory(3, "adam")["total"] + 72
    assert 0 < packing.memory_for_stacks(stack.backend) <= packing.system_memory() / 2


def test_a_history_of_many_networks_counts_why_they_ended():
    net = network(models=40)
    history = gpubp.train(net, X, Y, epochs=1, batch_size=12)
    assert repr(history) == "History(1 epochs of 40 networks, stopped={'epochs': 40})"
    assert history.overflows.shape == (40,) and not history.overflows.any()
    validated = gpubp.train(network(), X, Y, epochs=2, validation_data=(X, Y))
    assert "; validation loss " in repr(validated) and validated.overflows == 0


def test_a_history_in_a_notebook_is_its_words_where_there_is_no_matplotlib(monkeypatch):
    def missing(**_):
        raise UsageError("no Matplotlib")

    history = gpubp.train(network(), X, Y, epochs=2)
    assert history._repr_html_().startswith("<img ")
    monkeypatch.setattr("gpubp.plots.new_axes", missing)
    assert history._repr_html_().startswith("<p>History(2 epochs")


def test_other_values_in_nested_records_stay():
    marker = object()
    arrays = {"a": [X, marker, None, 3], "b": (X,)}
    doubled = map_arrays(arrays, lambda array: 2 * array)
    assert doubled["a"][1] is marker and doubled["a"][2:] == [None, 3]
    assert doubled["a"][0] is doubled["b"][0]
    np.testing.assert_array_equal(doubled["a"][0], 2 * X)


def test_a_rank_alone_is_all_of_them():
    alone = Ranks()
    assert alone.texts("a") == ["a"] and alone.gather(1, 2).tolist() == [[1, 2]]
    assert (alone.rank, alone.size) == (0, 1)
    total = np.zeros(3)
    alone.begin_sum(np.arange(3.0))(total)
    assert total.tolist() == [0, 1, 2]


def test_more_rows_than_can_be_streamed_are_refused():
    with pytest.raises(DataError, match=r"has 8,589,934,592 rows; from 1 to [\d,]+ can be streamed"):
        gpubp.train(network(), batches=Rows(2**33), epochs=1)


def test_one_order_may_be_that_of_all_networks():
    table = draw_table([np.arange(5)], 2, None, np.zeros(3, np.int64), [np.ones(3)] * 3)
    assert table.normalizer.tolist() == [[0.5, 0.5, 1.0]] * 3
    assert table.rows(1, 3).tolist() == [[1, 2]] and table.rows().tolist() == [[0, 1, 2, 3, 4]]


def test_a_history_without_epochs_has_no_table():
    assert gpubp.History("accuracy")._html_table() == ""


@pytest.mark.parametrize("record", [EarlyStopping, Interval, Option, Samples, StepTable, TrainingState])
def test_records_of_a_training_cannot_be_changed(record):
    with pytest.raises(FrozenInstanceError):
        setattr(object.__new__(record), fields(record)[0].name, None)


def test_what_ends_a_training_early_is_given_by_name():
    """Both are arrays of one shape, which nothing would tell apart."""
    with pytest.raises(TypeError, match="positional"):
        EarlyStopping(np.ones(1), np.ones(1))
