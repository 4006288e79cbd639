"""Rows that are read chunk by chunk: the same bits as from memory, whatever the source, and never more than a chunk."""

import io
import threading
import time
import warnings

import draws
import joblib
import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

import fastbp
from fastbp import MLPClassifier, MLPRegressor, NeuralNetwork, stream
from fastbp.stream import release, row_order, shuffled
from fastbp.training import CALL_SECONDS

pytestmark = [pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"), pytest.mark.compiled]


class Source:
    """An array that only gives slices, and remembers the longest one."""

    def __init__(self, array, fail=lambda start, stop: None):
        self.array, self.fail, self.longest, self.reads = array, fail, 0, 0
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        found = self.array[rows]
        self.longest, self.reads = max(self.longest, found.shape[0]), self.reads + 1
        self.fail(rows.start, rows.stop)
        return found


def memory_map(folder, array):
    array.tofile(folder / f"array{array.ndim}")
    return np.memmap(folder / f"array{array.ndim}", array.dtype, "r", shape=array.shape)


def same_fit(one, other):
    for name in ("coefs_", "intercepts_"):
        for mine, theirs in zip(getattr(one, name), getattr(other, name), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    for name in ("loss_curve_", "validation_scores_", "validation_loss_curve_", "n_iter_", "t_", "loss_"):
        assert getattr(one, name, None) == getattr(other, name, None), name


def rows(n, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5)).astype(dtype)
    return X, X[:, :3].argmax(axis=1), (X @ np.arange(1.0, 6.0)).astype(dtype)


def drawn(rng, classifies):
    """Parameters of a network, rows of a chunk, and rows."""
    n = int(rng.integers(40, 400))
    chunk = int(rng.integers(1, n))
    while n / chunk > 30:
        chunk *= 2
    params = {
        "hidden_layer_sizes": tuple(int(size) for size in rng.integers(1, 30, rng.integers(0, 3))),
        "solver": str(rng.choice(["adam", "sgd", "lbfgs"], p=[0.4, 0.4, 0.2])),
        "batch_size": int(rng.integers(1, n)),
        "max_iter": int(rng.integers(1, 5)),
        "shuffle": bool(rng.random() < 0.8),
        "early_stopping": bool(rng.random() < 0.3) and n // chunk > 1,
        "dropout": float(rng.choice([0, 0.3])),
        "n_jobs": int(rng.choice([1, 2])),
        "random_state": int(rng.integers(1000)),
    }
    if params["solver"] == "lbfgs":
        params["early_stopping"] = False
    if classifies and rng.random() < 0.3:
        params["class_weight"] = "balanced" if rng.random() < 0.5 else {1: 3.0}
    return n, chunk, params


@pytest.mark.parametrize("number", range(30))
@pytest.mark.filterwarnings("ignore:Got `batch_size`", "ignore:lbfgs failed")
def test_a_source_gives_the_bits_of_memory(number, tmp_path):
    rng = np.random.default_rng([draws.SEED, 1, number])
    classifies = bool(rng.random() < 0.5)
    n, chunk, params = drawn(rng, classifies)
    X, classes, values = rows(n, rng.choice([np.float32, np.float64]), number)
    y, kind = (classes, MLPClassifier) if classifies else (values, MLPRegressor)
    weights = rng.random(n) if rng.random() < 0.4 else None
    if params["early_stopping"]:
        params["validation_fraction"] = float(rng.uniform(0.05, 0.5))
    est = kind(**params)
    ours = clone(est).fit(X, y, weights, chunk_rows=chunk)
    sources = [Source(X), memory_map(tmp_path, X)]
    for source in sources:
        for target in (y, Source(y)):
            weighed = weights if weights is None or target is y else Source(weights)
            same_fit(clone(est).fit(source, target, weighed, chunk_rows=chunk), ours)
    assert sources[0].longest <= chunk
    for predict in ("predict", "predict_proba") if classifies else ("predict",):
        np.testing.assert_array_equal(getattr(ours, predict)(sources[1]), getattr(ours, predict)(X))


@pytest.mark.parametrize("number", range(20))
def test_a_network_learns_a_stream_as_memory(number, tmp_path):
    rng = np.random.default_rng([draws.SEED, 2, number])
    n, chunk, params = drawn(rng, False)
    X, _, y = rows(n, np.float64, number)
    settings = {"solver": str(rng.choice(["sgd", "momentum", "adam"])), "dropout": params["dropout"], "random_state": number}
    how = {
        "learning_rate": 1e-3, "batch_size": int(rng.integers(1, chunk + 1)), "shuffle": params["shuffle"],
        "reduction": str(rng.choice(["sum", "mean"])), "sample_weight": rng.random(n) if rng.random() < 0.5 else None,
    }  # fmt: skip
    found = []
    for source in (X, Source(X), memory_map(tmp_path, X)):
        net = NeuralNetwork(5, params["hidden_layer_sizes"], 1, out_activation="identity", init_scale=0.3, **settings)
        history = [net.train(source, y, 2, chunk_rows=chunk, **how) for _ in range(2)]  # which goes on
        found.append([*net.weights, *net.biases, *(one.loss for one in history), net.feedforward(source)])
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("shuffle", [False, True])
def test_chunks_are_visited_in_their_order(shuffle):
    """Of chunks that batches fill, an epoch is one of memory on the rows in the order of the stream."""
    X, _, y = rows(300, np.float64)
    nets = [NeuralNetwork(5, 7, 1, out_activation="identity", init_scale=0.3, random_state=1) for _ in range(2)]
    history = nets[0].train(X, y, 3, 1e-3, batch_size=20, chunk_rows=60, shuffle=shuffle)
    drawing = NeuralNetwork(5, 7, 1, out_activation="identity", init_scale=0.3, random_state=1)
    for epoch in range(3):
        order = np.arange(300)
        if shuffle:
            seed = [int(drawing._rng.integers(2**32))]
            order = np.concatenate([chunk * 60 + row_order(seed, chunk, 60) for chunk in shuffled(seed, 5)])
            assert sorted(order) == list(range(300))
        one = nets[1].train(X[order], y[order], 1, 1e-3, batch_size=20)
        np.testing.assert_allclose(one.loss[0], history.loss[epoch], rtol=1e-12)
    for mine, theirs in zip(*(net.weights + net.biases for net in nets), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_orders_differ_between_epochs_chunks_and_seeds():
    seeds = [[seed, epoch] for seed in (0, 1) for epoch in (0, 1)]
    orders = [row_order(seed, chunk, 50).tolist() for seed in seeds for chunk in (0, 1)]
    assert len({tuple(order) for order in [*orders, *(shuffled(seed, 50).tolist() for seed in seeds)]}) == 12


@pytest.mark.parametrize("chunk_rows", [100, 1000])
def test_one_chunk_is_memory(chunk_rows, tmp_path):
    X, y, _ = rows(100)
    est = MLPClassifier(4, max_iter=3, random_state=0)
    ours = clone(est).fit(X, y)
    for source in (X, Source(X), memory_map(tmp_path, X)):
        same_fit(clone(est).fit(source, y, chunk_rows=chunk_rows), ours)
    same_fit(clone(est).fit(Source(X), Source(y)), ours)


def test_the_size_of_a_chunk_does_not_depend_on_the_source(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "CHUNK_BYTES", 5 * 4 * 64)
    X, y, _ = rows(300)
    est = MLPClassifier(4, max_iter=3, random_state=0)
    source = Source(X)
    ours = clone(est).fit(source, y)
    assert source.longest == 64
    same_fit(clone(est).fit(memory_map(tmp_path, X), y), ours)
    same_fit(clone(est).fit(X, y, chunk_rows=64), ours)
    assert clone(est).fit(X, y).loss_ != ours.loss_  # all of it


@pytest.mark.parametrize("module", ["h5py", "zarr", "dask.array"])
def test_arrays_of_other_libraries(module, tmp_path):
    library = pytest.importorskip(module)
    X, y, _ = rows(300)
    match module:
        case "h5py":
            file = library.File(tmp_path / "rows.h5", "w")
            source, target = file.create_dataset("X", data=X), file.create_dataset("y", data=y)
        case "zarr":
            source, target = library.array(X, chunks=(70, 5)), library.array(y, chunks=(70,))
        case _:
            source, target = library.from_array(X, chunks=(70, 5)), library.from_array(y, chunks=70)
    est = MLPClassifier(4, max_iter=3, random_state=0)
    ours, theirs = clone(est).fit(X, y, chunk_rows=64), clone(est).fit(source, target, chunk_rows=64)
    same_fit(theirs, ours)
    np.testing.assert_array_equal(theirs.predict(source), ours.predict(X))
    assert theirs.score(source, target) == ours.score(X, y)


def test_sparse_rows_come_in_chunks():
    X, y, _ = rows(300)
    X[np.abs(X) < 1] = 0
    est = MLPClassifier(4, max_iter=3, random_state=0)
    sparse, dense = (clone(est).fit(matrix, y, chunk_rows=64) for matrix in (scipy.sparse.csr_matrix(X), X))
    np.testing.assert_allclose(sparse.coefs_[0], dense.coefs_[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["words", "objects", "floats", "two", "indicators", "sparse indicators", "columns"])
def test_kinds_of_labels(kind):
    X, y, _ = rows(200)
    y = {
        "words": np.array(["a", "bbb", "cc"])[y], "objects": np.array(["a", "bbb", "cc"], object)[y],
        "floats": y.astype(float), "two": (y == 1).astype(int), "indicators": np.eye(3, dtype=int)[y],
        "sparse indicators": scipy.sparse.csr_matrix(np.eye(3, dtype=int)[y]), "columns": np.stack([y, 2 - y], axis=1),
    }[kind]  # fmt: skip
    order = np.argsort(np.asarray(X[:, 0]), kind="stable")  # chunks without some labels
    est = MLPClassifier(4, max_iter=2, random_state=0)
    ours = clone(est).fit(X[order], y[order], chunk_rows=37)
    same_fit(clone(est).fit(Source(X[order]), Source(y[order]), chunk_rows=37), ours)
    plain = clone(est).fit(X[order], y[order])
    assert ours._y_type == plain._y_type
    assert ours._sparse_labels == plain._sparse_labels
    assert [*map(str, np.ravel(ours.classes_))] == [*map(str, np.ravel(plain.classes_))]
    assert type(ours.predict(X)) is type(plain.predict(X))


def test_a_class_that_only_the_last_chunk_has():
    X, y, _ = rows(200)
    y[:] = 0
    y[:20], y[-3:] = 1, 2
    clf = MLPClassifier(4, max_iter=2, random_state=0).fit(Source(X), Source(y), chunk_rows=50)
    assert clf.classes_.tolist() == [0, 1, 2]


@pytest.mark.parametrize("class_weight", ["balanced", {0: 5.0}, {2: 0.0}])
def test_class_weights_are_those_of_all_rows(class_weight):
    X, y, _ = rows(200)
    y.sort()
    est = MLPClassifier(4, max_iter=2, random_state=0)
    factors = len(y) / (3 * np.bincount(y)) if class_weight == "balanced" else np.ones(3)
    for label, factor in class_weight.items() if class_weight != "balanced" else ():
        factors[label] = factor
    ours = clone(est).set_params(class_weight=class_weight).fit(X, y, chunk_rows=37)
    same_fit(ours, clone(est).fit(X, y, factors[y], chunk_rows=37))


def test_partial_fit_is_an_epoch():
    X, y, _ = rows(200)
    ours, theirs = (MLPClassifier(4, random_state=0) for _ in range(2))
    for _ in range(3):
        ours.partial_fit(X, y, classes=[0, 1, 2, 3], chunk_rows=64)
        theirs.partial_fit(Source(X), y, classes=[0, 1, 2, 3], chunk_rows=64)
    same_fit(ours, theirs)
    assert ours.t_ == 600
    with pytest.raises(ValueError, match="classes not in"):
        ours.partial_fit(X, y + 2, chunk_rows=64)


def test_warm_start_goes_on():
    X, y, _ = rows(200)
    ours, theirs = (MLPClassifier(4, random_state=0, warm_start=True, max_iter=2) for _ in range(2))
    for _ in range(2):
        ours.fit(X, y, chunk_rows=64)
        theirs.fit(Source(X), y, chunk_rows=64)
    same_fit(ours, theirs)
    assert len(ours.loss_curve_) == 4


def test_early_stopping_holds_back_the_end_of_each_chunk():
    X, y, _ = rows(200)
    clf = MLPClassifier(4, random_state=0, early_stopping=True, validation_fraction=0.25, max_iter=1)
    clf.fit(X, y, chunk_rows=80)
    held = np.r_[60:80, 140:160, 190:200]
    assert clf.t_ == 150
    assert clf.validation_scores_ == [clf.score(X[held], y[held])]
    with pytest.raises(ValueError, match="scoring needs X_val"):
        clone(clf).set_params(scoring="accuracy").fit(X, y, chunk_rows=80)
    given = clone(clf).set_params(scoring="accuracy").fit(X, y, X_val=Source(X[held]), y_val=y[held], chunk_rows=80)
    assert given.t_ == 200
    assert given.validation_scores_ == [given.score(X[held], y[held])]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["X", "y"])
def test_bad_rows_in_the_middle_change_nothing(bad, where):
    X, _, y = rows(200)
    est = MLPRegressor(hidden_layer_sizes=4, max_iter=3, random_state=0, warm_start=True).fit(X, y, chunk_rows=50)
    before = joblib.hash(vars(est))
    net = NeuralNetwork(5, 4, 1, out_activation="identity", random_state=0)
    net.train(X, y, 1, 1e-3)
    weights = [*map(np.copy, net.weights)]
    X, y = X.copy(), y.copy()
    (X if where == "X" else y)[163] = bad
    with pytest.raises(ValueError, match=r"rows 150 to 199: .*(NaN|infinity)"):
        est.fit(Source(X), y, chunk_rows=50)
    assert joblib.hash(vars(est)) == before
    with pytest.raises(ValueError, match=rf"rows 150 to 199: {where} must be finite"):
        net.train(Source(X), y, 3, 1e-3, batch_size=10, chunk_rows=50, shuffle=True)
    for mine, theirs in zip(weights, net.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    fresh = MLPRegressor(hidden_layer_sizes=4)
    with pytest.raises(ValueError, match="rows 150 to 199"):
        fresh.fit(Source(X), y, chunk_rows=50)
    assert not hasattr(fresh, "coefs_")


def test_what_cannot_be_a_stream():
    X, y, v = rows(200)
    source = Source(X)
    with pytest.raises(ValueError, match="chunk_rows must be >= 1, got 0"):
        MLPClassifier().fit(X, y, chunk_rows=0)
    with pytest.raises(TypeError, match="chunk_rows must be an integer"):
        MLPClassifier().fit(source, y, chunk_rows=2.5)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        MLPClassifier().fit(source, y[:-1], chunk_rows=50)
    with pytest.raises(ValueError, match="requires y to be passed"):
        MLPClassifier().fit(source, None, chunk_rows=50)
    with pytest.raises(ValueError, match="non-zero"):
        MLPClassifier().fit(source, y, np.zeros(200), chunk_rows=50)
    with pytest.raises(ValueError, match="continuous"):
        MLPClassifier().fit(source, v, chunk_rows=50)
    with pytest.raises(ValueError, match="features"):
        MLPClassifier(max_iter=1).fit(X, y).predict(Source(X[:, :3]))
    net = NeuralNetwork(5, 4, 1, out_activation="identity")
    with pytest.raises(ValueError, match="batch_size must be given, at most chunk_rows=50"):
        net.train(source, v, 1, chunk_rows=50)
    with pytest.raises(ValueError, match="batch_size must be at most the number of rows, 50, got 60"):
        net.train(source, v, 1, batch_size=60, chunk_rows=50)
    with pytest.raises(ValueError, match="same number of rows, got 200 and 199"):
        net.train(source, v[1:], 1, batch_size=10, chunk_rows=50)
    with pytest.raises(ValueError, match="sample_weight must be >= 0"):
        net.train(source, v, 1, batch_size=10, chunk_rows=50, sample_weight=np.arange(200) - 10)
    source.shape = (float("nan"), 5)
    with pytest.raises(ValueError, match="known number of rows"):
        MLPClassifier().fit(source, y, chunk_rows=50)


def test_a_short_last_chunk_may_be_smaller_than_a_batch():
    X, y, _ = rows(103)
    est = MLPClassifier(4, batch_size=50, max_iter=2, random_state=0)
    same_fit(clone(est).fit(X, y, chunk_rows=100), clone(est).fit(Source(X), y, chunk_rows=100))


def test_one_chunk_trains_while_the_next_is_read():
    X, _, y = rows(400, np.float64)
    readers, main, before = [], threading.get_ident(), threading.active_count()

    def slow(start, stop):
        readers.append(threading.get_ident())
        time.sleep(CALL_SECONDS / 5)

    source = Source(X, slow)
    NeuralNetwork(5, 4, 1, out_activation="identity").train(source, y, 3, 1e-3, batch_size=10, chunk_rows=100)
    assert readers[0] == main
    assert main not in readers[1:]
    assert source.reads == 12  # none in vain
    assert threading.active_count() == before


@pytest.mark.parametrize("place", [1, 5, 9])
def test_an_interrupt_keeps_what_was_learnt(place):
    X, _, y = rows(400, np.float64)
    count = 0

    def interrupt(start, stop):
        nonlocal count
        count += 1
        if count == place:
            raise KeyboardInterrupt

    source = Source(X, interrupt)
    net = NeuralNetwork(5, 4, 1, out_activation="identity", random_state=0)
    before = [*map(np.copy, net.weights)]
    if place == 1:
        with pytest.raises(KeyboardInterrupt):
            net.train(source, y, 3, 1e-3, batch_size=10, chunk_rows=100)
        assert all((mine == theirs).all() for mine, theirs in zip(before, net.weights, strict=True))
        return
    with pytest.warns(UserWarning, match="interrupted"):
        history = net.train(source, y, 3, 1e-3, batch_size=10, chunk_rows=100)
    assert len(history) == (place - 1) // 4
    assert any((mine != theirs).any() for mine, theirs in zip(before, net.weights, strict=True))


def test_a_disk_that_fails_keeps_what_was_learnt():
    X, _, y = rows(400, np.float64)
    source = Source(X)
    net = NeuralNetwork(5, 4, 1, out_activation="identity", random_state=0)

    def fail(start, stop):
        if source.reads > 6:
            raise OSError("the disk is gone")

    source.fail = fail
    before = [*map(np.copy, net.weights)]
    with pytest.raises(OSError, match="gone"):
        net.train(source, y, 3, 1e-3, batch_size=10, chunk_rows=100)
    assert any((mine != theirs).any() for mine, theirs in zip(before, net.weights, strict=True))


def test_progress_says_how_fast_rows_are_read(monkeypatch):
    X, _, y = rows(4000, np.float64)
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    monkeypatch.setitem(__import__("sys").modules, "rich.console", None)  # a line of text
    NeuralNetwork(5, 4, 1, out_activation="identity").train(
        Source(X), y, 2, 1e-4, batch_size=10, chunk_rows=500, progress=True
    )
    assert "chunk 16/16" in out.getvalue()
    assert "rows/s" in out.getvalue()
    assert "MB/s" in out.getvalue()


def resident():
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) * 1024


@pytest.mark.skipif(not hasattr(stream.mmap, "MADV_DONTNEED"), reason="memory cannot be given back")
def test_a_memory_map_takes_the_memory_of_some_chunks(tmp_path):
    n = 2_000_000  # 160 MB
    with open(tmp_path / "X", "wb") as file:
        for _ in range(20):
            np.ones((n // 20, 20), np.float32).tofile(file)
    X = np.memmap(tmp_path / "X", np.float32, "r", shape=(n, 20))
    y = np.zeros(n, np.float32)
    found = []

    class Watched(MLPRegressor):
        def _coded(self, *args):
            found.append(resident())
            return super()._coded(*args)

    est = Watched(hidden_layer_sizes=(), max_iter=1, batch_size=2000)
    est.fit(X[:5000], y[:5000])
    before = resident()
    est.fit(X, y)
    assert max(found) - before < 80e6
    assert resident() - before < 60e6
    est.predict(X)
    assert resident() - before < 60e6


def test_memory_that_is_given_back_stays_in_the_file(tmp_path):
    np.arange(100_000.0).tofile(tmp_path / "x")
    for mode in ("r", "r+", "c"):
        source = np.memmap(tmp_path / "x", float, mode, shape=(10_000, 10))
        if mode != "r":
            source[7, 0] = -1  # in a copy, where it must not be lost
        for part in (source, source[5:], source[::2], source.T):
            release(part, 0, 5000)
        assert source[7, 0] == (-1 if mode != "r" else 70)
        np.testing.assert_array_equal(source[100:].ravel(), np.arange(1000.0, 100_000))


def test_arrays_of_joblib_are_memory(monkeypatch):
    """Workers that get large arrays as memory maps give what the serial call does."""
    X, y, _ = rows(20_000)
    est = MLPClassifier(2, max_iter=1, random_state=0, batch_size=2000)
    monkeypatch.setattr(stream, "CHUNK_BYTES", 1)
    alone = clone(est).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        (found,) = joblib.Parallel(2, max_nbytes=1000)(joblib.delayed(fit_of)(est, X, y) for _ in range(1))
    assert found[0] == "memmap"
    same_fit(found[1], alone)


def fit_of(est, X, y):
    warnings.simplefilter("ignore")
    stream.CHUNK_BYTES = 1
    return type(X).__name__, est.fit(X, y)


@pytest.mark.parametrize("kind", ["values", "classes"])
@pytest.mark.parametrize("params", [{}, {"class_weight": "balanced"}, {"early_stopping": True}])
def test_networks_learn_rows_as_arrays(kind, params, tmp_path):
    """Also in chunks, where labels are known by their numbers."""
    pytest.importorskip("pyarrow")
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=300), "b": rng.choice(["x", "y"], 300)})
    frame["t"] = frame["a"] * 3 if kind == "values" else np.array(["b9", "b10", "cat"])[rng.integers(0, 3, 300)]
    frame.to_parquet(tmp_path / "t.parquet")
    found = fastbp.rows(tmp_path / "t.parquet", target="t")
    if kind == "values":
        if "class_weight" in params:
            return
        est = MLPRegressor(hidden_layer_sizes=4, max_iter=3, random_state=0, **params)
    else:
        est = MLPClassifier(4, max_iter=3, random_state=0, **params)
        assert found.y.classes == ("b10", "b9", "cat")
    X, y = np.asarray(found), np.asarray(found.y)
    for chunk_rows in (64, None):
        ours, theirs = (clone(est).fit(*both, chunk_rows=chunk_rows) for both in ((X, y), (found, found.y)))
        for mine, other in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
            np.testing.assert_array_equal(mine, other)
        assert ours.loss_curve_ == theirs.loss_curve_
        np.testing.assert_array_equal(ours.predict(X), theirs.predict(found))
        if kind == "classes":
            assert ours.classes_.tolist() == theirs.classes_.tolist()


class Buffer(Source):
    """A source that makes all slices in the same place."""

    def __init__(self, array):
        super().__init__(array)
        self.buffer = np.empty_like(array)

    def __getitem__(self, rows):
        found = super().__getitem__(rows)
        self.buffer[: len(found)] = found
        return self.buffer[: len(found)]


def test_slices_may_be_made_in_the_same_place():
    X, y, v = rows(300)
    est = MLPClassifier(4, max_iter=3, random_state=0)
    weights = np.random.default_rng(0).random(300)
    same_fit(
        clone(est).fit(Buffer(X), Buffer(y), Buffer(weights), chunk_rows=30), clone(est).fit(X, y, weights, chunk_rows=30)
    )
    nets = [NeuralNetwork(5, 4, 1, out_activation="identity", random_state=0, dtype="float32") for _ in range(2)]
    for net, source in zip(nets, (X, Buffer(X)), strict=True):
        net.train(source, v, 2, 1e-3, batch_size=10, chunk_rows=30)
    np.testing.assert_array_equal(nets[0].weights[0], nets[1].weights[0])


class Shaped(Source):
    """A source whose slices are changed from the third one on."""

    def __init__(self, array, change):
        super().__init__(array)
        self.change = change

    def __getitem__(self, rows):
        found = super().__getitem__(rows)
        return self.change(found) if self.reads > 2 else found


CHANGES = {
    "short": lambda part: part[:5], "stacked": lambda part: np.stack([part, part]), "nan": lambda part: part * np.nan,
    "words": lambda part: np.full(part.shape, "word"),
}  # fmt: skip


@pytest.mark.parametrize("name", ["X", "y", "sample_weight"])
@pytest.mark.parametrize("change", CHANGES)
def test_slices_that_are_not_what_was_announced_change_nothing(name, change):
    X, _, y = rows(200)

    def given():
        arrays = {"X": Source(X), "y": Source(y), "sample_weight": Source(np.ones(200))}
        return arrays | {name: Shaped(arrays[name].array, CHANGES[change])}

    est = MLPRegressor(hidden_layer_sizes=4, max_iter=2, random_state=0).fit(X, y)
    net = NeuralNetwork(5, 4, 1, out_activation="identity", random_state=0)
    before = joblib.hash([vars(est), net.weights, net.biases])
    with pytest.raises((ValueError, TypeError)):
        est.fit(**given(), chunk_rows=30)
    with pytest.raises((ValueError, TypeError)):
        net.train(**given(), epochs=2, learning_rate=1e-3, batch_size=10, chunk_rows=30)
    assert joblib.hash([vars(est), net.weights, net.biases]) == before


@pytest.mark.parametrize("reads", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("error", [OSError, KeyError, KeyboardInterrupt])
def test_a_source_that_fails_before_an_epoch_is_over_changes_nothing(reads, error):
    X, y, _ = rows(200)
    clf = MLPClassifier(4, max_iter=3, random_state=0).fit(X, np.array(["a", "b", "c"])[y])
    before, source = joblib.hash(vars(clf)), Source(X)

    def fail(start, stop):
        if source.reads > reads:
            raise error("gone")

    source.fail = fail
    if error is KeyboardInterrupt and reads:
        with pytest.warns(UserWarning, match="interrupted"):
            clf.fit(source, y, chunk_rows=50)
        return
    with pytest.raises(error):
        clf.fit(source, y, chunk_rows=50)
    assert (joblib.hash(vars(clf)) == before) == (reads < 5)


@pytest.mark.parametrize(
    "weights", [np.zeros(200), np.full(200, np.nan), np.full(200, 1e300), np.full(200, 1e-60), np.array(["a"] * 200)]
)
def test_bad_weights_change_nothing(weights):
    X, y, _ = rows(200)
    clf = MLPClassifier(4, max_iter=3, random_state=0).fit(X, np.array(["a", "b", "c"])[y])
    before = joblib.hash(vars(clf))
    with pytest.raises(ValueError, match=r"weight|NaN|convert|infinity|numeric"):
        clf.fit(X, (y > 0).astype(int), weights, chunk_rows=30)
    assert joblib.hash(vars(clf)) == before


def test_labels_that_were_not_counted_are_refused():
    X, y, _ = rows(200)

    class Other(Source):
        def __getitem__(self, rows):
            found = super().__getitem__(rows)
            return found if self.reads <= 9 else np.full(len(found), "zz")

    for labels in (np.array(["a", "b", "c"])[y], np.array(["a", "b", "b"])[y]):
        with pytest.raises(ValueError, match="labels that it had when they were counted"):
            MLPClassifier(4, max_iter=3).fit(Source(X), Other(labels), chunk_rows=30)

    class Mixed(Source):
        def __getitem__(self, rows):
            found = super().__getitem__(rows)
            return found if rows.start < 90 else found.astype(str)

    with pytest.raises(ValueError, match="labels of one kind"):
        MLPClassifier(4, max_iter=3).fit(Source(X), Mixed(y), chunk_rows=30)


def test_early_stopping_needs_rows_on_both_sides():
    X, _, y = rows(200)
    est = MLPRegressor(hidden_layer_sizes=4, max_iter=2, early_stopping=True)
    with pytest.raises(ValueError, match="validation set is too small"):
        clone(est).set_params(validation_fraction=0.001).fit(X, y, chunk_rows=30)
    with pytest.raises(ValueError, match="must leave rows for training"):
        clone(est).set_params(validation_fraction=0.999).fit(X[:4], y[:4], chunk_rows=2)
    held = np.r_[27:30, 57:60, 87:90, 117:120, 147:150, 177:180, 198:200]
    for weights, match in ((np.isin(np.arange(200), held), "leaves for training"),
                           (~np.isin(np.arange(200), held), "holds back")):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            clone(est).fit(X, y, weights.astype(float), chunk_rows=30)


@pytest.mark.parametrize("cuts", [[1, 1, 1, 1], [1, 3], [3, 0, 1]])
@pytest.mark.parametrize("callback", [None, lambda epoch, history: False])
def test_the_way_a_training_is_cut_changes_no_bit(cuts, callback):
    X, _, y = rows(200, np.float64)
    settings = {"out_activation": "identity", "solver": "momentum", "dropout": 0.2, "random_state": 0}
    nets = [NeuralNetwork(5, 4, 1, **settings) for _ in range(3)]
    how = {"learning_rate": 1e-3, "batch_size": 10, "reduction": "mean", "shuffle": True, "chunk_rows": 30}
    nets[0].train(X, y, 4, **how)
    for epochs in cuts:
        nets[1].train(Source(X), y, epochs, callback=callback, **how)
    nets[2].train(Source(X), y, 9, callback=lambda epoch, history: epoch == 1, **how)
    nets[2].train(X, y, 3, **how)
    for net in nets[1:]:
        for mine, theirs in zip(nets[0].weights + nets[0].biases, net.weights + net.biases, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_the_record_takes_no_more_memory_than_is_used():
    X, y = np.zeros((4000, 2)), np.zeros(4000)
    net = NeuralNetwork(2, 2, 1, out_activation="identity", random_state=0)
    history = net.train(X, y, 10**6, 1e-3, batch_size=1, chunk_rows=10, callback=lambda epoch, history: epoch >= 2)
    assert len(history) == 2


def test_what_is_mapped_from_a_file_is_a_source_however_it_is_wrapped(tmp_path):
    X, *_ = rows(100)
    file = memory_map(tmp_path, X)
    for view in (file, file[5:], file[::2], file[:, 1:], np.asarray(file), file.T):
        assert stream.is_source(view)
    for array in (file.copy(), file.astype(float), np.array(file), file[[1, 2]], file + 1, X):
        assert not stream.is_source(array)


@pytest.mark.skipif(not hasattr(stream.mmap, "MADV_DONTNEED"), reason="memory cannot be given back")
@pytest.mark.parametrize("view", ["columns", "steps", "fortran"])
def test_views_of_memory_maps_are_given_back(view, tmp_path):
    n = 400_000
    np.ones((n, 20), np.float32).tofile(tmp_path / "X")
    X = np.memmap(tmp_path / "X", np.float32, "r", shape=(n, 20), order="F" if view == "fortran" else "C")
    X = {"columns": X[:, 1:], "steps": X[::2], "fortran": X}[view]
    before = resident()
    assert X.sum() == X.size
    assert resident() - before > 25e6
    release(X, 0, len(X))
    assert resident() - before < 3e6


@pytest.mark.skipif(not hasattr(stream.mmap, "MADV_DONTNEED"), reason="memory cannot be given back")
def test_rows_of_tables_are_given_back(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    values = np.random.default_rng(0).normal(size=(300_000, 20)).astype(np.float32)
    pq.write_table(pa.table([*values.T], names=[f"x{number}" for number in range(20)]), tmp_path / "t.parquet")
    found = fastbp.rows(tmp_path / "t.parquet", target="x0")
    before = resident()
    assert np.isfinite(found[:]).all()
    assert resident() - before > 18e6
    release(found, 0, len(found))
    assert resident() - before < 3e6


def test_sources_without_rows_and_kinds_of_targets_and_weights():
    X, y, _ = rows(200)
    clf = MLPClassifier(4, max_iter=2, random_state=0).fit(X, y)
    with pytest.raises(ValueError, match="0 sample"):
        clf.predict(Source(X[:0]))
    with pytest.raises(ValueError, match="at least one row"):
        NeuralNetwork(5, 2, 1).feedforward(Source(X[:0]))
    with pytest.raises(ValueError, match="rows that are asked for"):
        clf.predict(Short(X))
    ours, theirs = MLPClassifier(4, random_state=0), MLPClassifier(4, random_state=0)
    ours.partial_fit(Source(X), Source(y), classes=[0, 1, 2], chunk_rows=30)
    theirs.partial_fit(X, y, classes=[0, 1, 2], chunk_rows=30)
    same_fit(ours, theirs)
    est = MLPClassifier(4, max_iter=2, random_state=0)
    same_fit(clone(est).fit(X, Source(y), chunk_rows=30), clone(est).fit(X, y, chunk_rows=30))
    same_fit(clone(est).fit(X, y, 2.0, chunk_rows=30), clone(est).fit(X, y, np.full(200, 2.0), chunk_rows=30))


class Short(Source):
    def __getitem__(self, rows):
        return super().__getitem__(rows)[:5]


def test_weights_are_rounded_once():
    """Of unshuffled chunks that batches fill, weights come to the bits of memory, too."""
    X, y, _ = rows(240)
    weights = np.random.default_rng(1).random(240)
    est = MLPClassifier(4, max_iter=2, random_state=0, shuffle=False, batch_size=20, class_weight="balanced")
    ours, theirs = clone(est).fit(X, y, weights, chunk_rows=60), clone(est).fit(X, y, weights)
    np.testing.assert_array_equal(ours.coefs_[0], theirs.coefs_[0])


def test_a_generator_is_where_it_was_after_bad_rows():
    X, y, _ = rows(200)
    state = np.random.RandomState(0)
    est = MLPClassifier(4, max_iter=2, random_state=state)
    bad = X.copy()
    bad[150] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        est.fit(Source(bad), y, chunk_rows=30)
    same_fit(est.fit(X, y, chunk_rows=30), clone(est).set_params(random_state=0).fit(X, y, chunk_rows=30))


def test_methods_of_a_source_that_sound_alike_are_left_alone():
    """Its slices are copied, too; and labels of pandas that have numbers of their own are labels."""
    pd = pytest.importorskip("pandas")
    X, y, _ = rows(200)

    class Held(Buffer):
        def release(self):
            raise AssertionError("nobody asked")

    est = MLPClassifier(4, max_iter=2, random_state=0)
    same_fit(clone(est).fit(Held(X), y, chunk_rows=30), clone(est).fit(X, y, chunk_rows=30))
    words = np.array(["a", "b", "c"])[y]
    for labels in (pd.Categorical(words), pd.Series(words, dtype="category", index=range(900, 1100))):
        same_fit(clone(est).fit(Source(X), labels, chunk_rows=30), clone(est).fit(X, words, chunk_rows=30))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("chunk_rows", [1, 10, 50])
@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_matrix])
@pytest.mark.parametrize("hidden", [(3,), (64, 64)])
def test_a_chunk_of_no_weight_adds_nothing_to_the_gradient(hidden, kind, chunk_rows):
    rng = np.random.default_rng(0)
    X, weights = rng.normal(size=(100, 5)), np.ones(100)
    y, weights[50:100] = X @ np.arange(5.0), 0
    new = MLPRegressor(hidden_layer_sizes=hidden, solver="lbfgs", alpha=0.1, max_iter=5, random_state=3)
    expected, found = clone(new).fit(kind(X), y, weights), clone(new).fit(kind(X), y, weights, chunk_rows=chunk_rows)
    assert found.loss_ == pytest.approx(expected.loss_, rel=1e-9)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="an older numpy has no such strings")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("chunk_rows", [None, 20])
def test_labels_that_are_numpy_s_newer_strings(chunk_rows):
    X, words = np.random.default_rng(0).normal(size=(60, 2)), np.array(["no", "perhaps", "yes"] * 20)
    fits = [MLPClassifier(3, max_iter=2, random_state=0).fit(X, words.astype(kind), chunk_rows=chunk_rows)
            for kind in (object, np.dtypes.StringDType())]  # fmt: skip
    assert list(fits[0].classes_) == list(fits[1].classes_)
    np.testing.assert_array_equal(fits[0].coefs_[0], fits[1].coefs_[0])
