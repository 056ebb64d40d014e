"""Rows that do not lie in memory: their order, the thread that reads ahead, and what is said of a source that ends."""

from __future__ import annotations

import errno
import io
import tempfile
import threading
import time
from typing import Any

import numpy as np
import pytest

import gpubp
from gpubp import DataError, UsageError
from gpubp.backends.cuda.backend import CudaBackend
from gpubp.scratch import ScratchRows
from gpubp.training.batches import DatasetRows, as_row_source
from gpubp.training.step_table import draw_table
from gpubp.training.streaming import StreamedData, StreamedOrder, StreamedRows
from support.machines import but_unfused, host, host_driver

RNG = np.random.default_rng(5)
X = RNG.standard_normal((203, 5)).astype(np.float32)
Y = RNG.integers(0, 3, 203)
VALUES = RNG.standard_normal((203, 2))
OPTIONS: dict[str, Any] = {"learning_rate": 0.02, "dropout": 0.3, "batch_size": 8, "epochs": 2, "seed": 3}


def network(device: Any = "cpu-reference", loss: str = "cross_entropy", models: int = 1) -> gpubp.MLP:
    sizes = [5, 6, 3 if loss == "cross_entropy" else 2]
    return gpubp.MLP(sizes, "tanh", loss=loss, seed=7, device=device, models=models)


def source(y: Any = Y, window: int = 40, block: int = 7) -> ScratchRows:
    """All rows in a scratch file, of which few are shuffled together."""
    rows = ScratchRows("rows")
    rows.append(X[:50], y[:50])
    rows.append(X[50:], y[50:])
    rows.window, rows.block = window, block
    return rows.whole()


def batches() -> Any:
    for start in range(0, len(X), 50):
        yield X[start : start + 50], Y[start : start + 50]


class Dataset:
    """A data set as PyTorch's are, whose rows can be fewer from some moment on."""

    def __init__(self, y: Any = Y) -> None:
        self.y, self.rows, self.threads = y, len(X), set[int]()

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        self.threads.add(threading.get_ident())
        return X[i], self.y[i]


def trained(net: gpubp.MLP, rows: Any, **options: Any) -> list[bytes]:
    history = gpubp.train(net, batches=rows, **{**OPTIONS, **options})
    return [host(net.theta).tobytes(), np.array(history.loss).tobytes()]


# -- the order of rows ------------------------------------------------------------------------------------


def order_of(order: StreamedOrder, epoch: int, window: int) -> list[list[int]]:
    """The rows of each window of an epoch, in the order in which they are trained on."""
    windows = []
    for number, start in enumerate(range(0, order.rows, window)):
        stop = min(start + window, order.rows)
        rows = np.concatenate([np.arange(*stretch) for stretch in order.stretches(epoch, start, stop)])
        shuffled = np.empty_like(rows)
        shuffled[order.places(epoch, number, stop - start)] = rows
        windows.append(shuffled.tolist())
    return windows


@pytest.mark.parametrize("rows, block, window", [(203, 7, 40), (64, 8, 16), (10, 100, 100), (1, 1, 1), (50, 50, 13)])
def test_every_row_comes_once_in_an_epoch_and_blocks_stay_together(rows, block, window):
    order = StreamedOrder(rows, block, seed=4)
    for epoch in range(3):
        windows = order_of(order, epoch, window)
        assert sorted(np.concatenate(windows).tolist()) == list(range(rows))
        cut = sum(len({row // block for row in one}) for one in windows)
        assert cut <= -(-rows // block) + len(windows)


def test_the_order_depends_on_seed_epoch_and_window_alone_and_without_a_seed_rows_lie_as_they_are():
    one, same, other = (order_of(StreamedOrder(203, 7, seed), 1, 40) for seed in (4, 4, 5))
    assert one == same != other
    assert one != order_of(StreamedOrder(203, 7, 4), 2, 40)
    assert [w for window in order_of(StreamedOrder(203, 7, None), 1, 40) for w in window] == list(range(203))


@but_unfused
@pytest.mark.parametrize("loss", ["cross_entropy", "half_squared_error"])
def test_streamed_rows_are_trained_on_as_they_would_be_in_memory(backend, loss):
    y = Y if loss == "cross_entropy" else VALUES
    streamed, in_memory = network(backend, loss), network(backend, loss)
    trained(streamed, source(y), epochs=1)
    order = np.concatenate(order_of(StreamedOrder(203, 7, 3), 0, 40))
    gpubp.train(in_memory, X[order], y[order], shuffle=False, **{**OPTIONS, "epochs": 1})
    np.testing.assert_array_equal(host(streamed.theta), host(in_memory.theta))


@but_unfused
def test_the_same_seed_gives_the_same_bits(backend):
    assert trained(network(backend), source()) == trained(network(backend), source())
    assert trained(network(backend), source()) != trained(network(backend), source(), seed=4)


def test_all_networks_of_a_stack_see_one_order():
    stack, solo = network(models=2), network()
    trained(stack, source(), dropout=0)
    trained(solo, source(), dropout=0)
    np.testing.assert_array_equal(host(stack.theta)[0], host(solo.theta)[0])


@pytest.mark.parametrize(
    "options, window",
    [({"accumulate": 2}, 40), ({"recompute": True}, 40), ({"batch_size": 1000}, 203), ({"batch_size": 39}, 39)],
)
def test_parts_of_batches_and_batches_of_any_size_go_with_it(options, window):
    options = {**OPTIONS, "epochs": 1, **options}
    streamed, in_memory = network(), network()
    gpubp.train(streamed, batches=source(), **options)
    order = np.concatenate(order_of(StreamedOrder(203, 7, 3), 0, window))
    gpubp.train(in_memory, X[order], Y[order], shuffle=False, **options)
    np.testing.assert_array_equal(host(streamed.theta), host(in_memory.theta))


# -- reading ahead ----------------------------------------------------------------------------------------


def test_another_thread_reads_all_rows_but_the_first():
    rows = Dataset()
    source = DatasetRows(rows)
    source.window, source.block = 40, 7
    rows.threads.clear()
    trained(network(), source)
    assert len(rows.threads) == 2  # this one looks at the first row


def test_no_row_is_asked_for_once_the_training_is_over_even_if_it_failed():
    threads = threading.active_count()
    trained(network(), Dataset())
    with pytest.raises(DataError):
        trained(network(), with_wrong_row(177, np.nan))
    assert threading.active_count() == threads


def test_the_rows_reach_a_device_by_page_locked_memory_and_copies_beside_the_training():
    driver = host_driver()
    before = driver.copied_beside
    trained(network(CudaBackend(driver, "float32")), source(), epochs=1)
    of_window = 40 * (5 * 4 + 8)
    assert 203 * 28 <= driver.copied_beside - before <= 203 * 28 + of_window  # a window of the epoch after it, too


# -- what is taken as batches -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [batches, lambda: batches, lambda: list(batches()), lambda: zip(X, Y, strict=True), Dataset],
    ids=["generator", "callable", "list", "rows", "dataset"],
)
def test_whatever_yields_the_rows_gives_the_same_bits(make):
    assert trained(network(), make()) == trained(network(), batches())


def test_rows_are_asked_for_together_where_a_data_set_can_give_them():
    class Fetching(Dataset):
        def __getitems__(self, numbers: list[int]) -> list[Any]:
            return [Dataset.__getitem__(self, i) for i in numbers]

    assert trained(network(), Fetching()) == trained(network(), Dataset())


def test_whole_numbers_of_several_types_are_kept_as_they_are():
    rows = ScratchRows("rows")
    for dtype in (np.int16, np.uint8, np.int64):
        rows.append(np.array([[1, 200]], dtype), np.array([1], dtype))
    read, y = rows.whole().read(0, 3)
    assert read.tolist() == [[1, 200]] * 3 and y.tolist() == [1, 1, 1]


def test_one_hot_rows_and_shares_are_targets_too():
    one_hot = np.eye(3)[Y]
    assert trained(network(), source(one_hot), dropout=0) == trained(network(), source(one_hot), dropout=0)
    shares = one_hot.copy()
    shares[100:] = 1 / 3
    net = network()
    trained(net, source(shares))
    assert np.isfinite(host(net.theta)).all()


def test_validation_rows_stop_a_training():
    net = network()
    history = gpubp.train(net, batches=batches, validation_data=(X, Y), patience=1, epochs=40, learning_rate=0.5)
    assert history.stopped == "patience"
    assert net.evaluate(X, Y)["loss"] == pytest.approx(min(history.validation_loss))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"X": X}, "X does not go with batches"),
        ({"sample_weight": np.ones(203)}, "sample_weight does not go with batches"),
        ({"class_weight": "balanced"}, "class_weight does not go with batches"),
        ({"diagnostics": True}, "diagnostics does not go with batches"),
        ({"rows": [range(3)]}, "rows does not go with batches"),
    ],
)
def test_what_needs_all_rows_at_once_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        gpubp.train(network(), batches=batches, **options)


def test_nothing_to_train_on_is_refused():
    with pytest.raises(UsageError, match="give X and y, or batches"):
        gpubp.train(network())


@pytest.mark.parametrize(
    "wrong, message",
    [
        (iter([]), "yields no rows"),
        ([], "holds nothing"),
        (7, "does not fit"),
        ([X], r"batches\[0\]: is a ndarray, and no pair"),
        (iter([(X, Y, Y)]), "batches, number 0: is 3 items"),
        (iter([(X, Y[:5])]), "203 rows of X, and y of shape"),
        (
            iter([(X, Y), (X[:, :4], Y)]),
            r"from row 204 on: X is float32 of shape \(4,\) a row, and was float32 of \(5,\)",
        ),
        (iter([(X, Y), (X, Y + 0.5)]), "from row 204 on: y is float64"),
        (iter([(X.astype(np.int8), Y), (X.astype(int) + 300, Y)]), r"from row 204 on: X is int64 .*, and was int8"),
        (iter([(X.astype(str), Y)]), "numbers are needed"),
        (iter([(X[:, :4], Y)]), "rows, row 1|has 4 columns"),
    ],
)
def test_what_yields_no_batches_is_named(wrong, message):
    with pytest.raises((DataError, UsageError), match=message):
        gpubp.train(network(), batches=wrong)


# -- sources that fail ------------------------------------------------------------------------------------


def test_what_does_not_fit_and_is_no_single_row_is_raised_as_it_is(monkeypatch):
    rows = StreamedRows(network().stack, source(), None)
    monkeypatch.setattr(rows.source, "read", lambda first, end: (X[first:end], Y[first : end - 1]))
    with pytest.raises(DataError, match=r"y has shape \(4,\), but there are 5 rows of X"):
        rows.read(3, 8)
    monkeypatch.undo()

    def checked(X: Any, y: Any, *names: Any) -> Any:
        if len(X) > 1:
            raise DataError("not together")

    monkeypatch.setattr(rows.stack, "checked", checked)
    with pytest.raises(DataError, match="^not together$"):
        rows.read(3, 8)


def test_another_window_than_the_one_read_ahead_may_be_asked_for():
    net = network()
    data = StreamedData(net.stack.backend, StreamedRows(net.stack, source(window=40), None), batch_size=10)
    table = draw_table([np.arange(len(X))], 10, None, np.zeros(1, np.int64), [np.ones(21)])
    try:
        for start in (0, 40, 0, 80, 80, 200, 0):
            data.load(table, start, np.arange(1))
            count = min(40, len(X) - start)
            np.testing.assert_array_equal(host(data.device[0])[0, :count], X[start : start + count])
    finally:
        data.close()


def with_wrong_row(row: int, value: float) -> ScratchRows:
    wrong = X.copy()
    wrong[row, 2] = value
    rows = ScratchRows("rows")
    rows.append(wrong, Y)
    rows.window, rows.block = 40, 7
    return rows.whole()


def test_a_wrong_row_is_named_and_the_weights_stay_those_of_the_last_epoch():
    net = network()
    before = host(net.theta).copy()
    with pytest.raises(DataError, match=r"rows, row 178: X\[0, 2\] = nan"):
        trained(net, with_wrong_row(177, np.nan))
    np.testing.assert_array_equal(host(net.theta), before)
    y = Y.copy()
    y[200] = 3
    with pytest.raises(DataError, match=r"rows, row 201: y\[0\] = 3 is no class"):
        trained(network(), source(y))


def test_a_data_set_that_ends_early_is_named():
    rows = Dataset()

    def end_early(net: gpubp.MLP, history: gpubp.History) -> None:
        rows.rows = 100

    streamed = DatasetRows(rows)
    streamed.window, streamed.block = 40, 7
    with pytest.raises(DataError, match=r"Dataset: ends behind row \d+, and had 203 rows when the training began"):
        trained(network(), streamed, epochs=9, callbacks=[end_early])


def test_a_row_of_another_shape_is_named():
    class Ragged(Dataset):
        def __getitem__(self, i: int) -> Any:
            return (X[i, :3] if i == 150 else X[i]), Y[i]

    with pytest.raises(DataError, match=r"Ragged, row 151: x has shape \(3,\); that of the first row is \(5,\)"):
        trained(network(), Ragged())


def test_a_full_disk_says_which_folder_and_how_many_bytes(monkeypatch):
    class Full(io.BytesIO):
        def __init__(self, dir: str) -> None:
            super().__init__()

        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(UsageError, match=r"is full, where a scratch file with the rows of batches is kept .*TMPDIR"):
        as_row_source(batches)


# -- checkpoints ------------------------------------------------------------------------------------------


@but_unfused
def test_a_streamed_training_goes_on_from_every_checkpoint_with_the_same_bits(backend, tmp_path, monkeypatch):
    monkeypatch.setattr("gpubp.training.checkpoint.KEPT", 1000)
    unbroken = trained(network(backend), source(), epochs=2)
    written = {"checkpoint": tmp_path / "all", "checkpoint_every": "9steps"}
    assert trained(network(backend), source(), epochs=2, **written) == unbroken
    files = sorted((tmp_path / "all").iterdir())
    assert len(files) >= 5
    for number, path in enumerate(files):
        anew = {"resume": path, "checkpoint": tmp_path / str(number), "checkpoint_every": None}
        assert trained(network(backend), source(), epochs=2, **anew) == unbroken, path.name


def test_other_rows_and_other_windows_are_another_training(tmp_path):
    trained(network(), source(), checkpoint=tmp_path, checkpoint_every="5steps")
    with pytest.raises(DataError, match=r"belongs to another training: data.training.X.digest is \w+ there and"):
        trained(network(), source(Y[::-1].copy()), resume=tmp_path)
    with pytest.raises(DataError, match=r"data.training.X.window is 40 there and 48 here"):
        trained(network(), source(window=48), resume=tmp_path)


def test_a_data_set_is_told_from_another_by_some_of_its_rows(tmp_path):
    trained(network(), Dataset(), checkpoint=tmp_path, checkpoint_every="5steps")
    with pytest.raises(DataError, match=r"belongs to another training"):
        trained(network(), Dataset(Y[::-1].copy()), resume=tmp_path)


@pytest.mark.parametrize("count", [129, 130])
def test_a_data_set_is_told_from_another_by_its_first_and_its_last_row_and_some_between(count):
    rows = [(np.full(3, float(i)), i % 2) for i in range(count)]
    identity = DatasetRows(rows).identity()
    assert identity == DatasetRows(list(rows)).identity() and identity["rows"] == "list"
    for changed in (0, 2, count - 1):
        for row in ((rows[changed][0] + 0.5, rows[changed][1]), (rows[changed][0], 7)):
            others = [*rows[:changed], row, *rows[changed + 1 :]]
            assert DatasetRows(others).identity() != identity, changed


def test_no_two_threads_ask_for_rows_at_once(tmp_path):
    class Alone(Dataset):
        asking = threading.Lock()

        def __getitem__(self, i: int) -> tuple[Any, Any]:
            assert self.asking.acquire(blocking=False), "another thread is asking"
            try:
                time.sleep(1e-5)  # others have their turn
                return super().__getitem__(i)
            finally:
                self.asking.release()

    trained(network(), Alone(), checkpoint=tmp_path, checkpoint_every="1epochs")
