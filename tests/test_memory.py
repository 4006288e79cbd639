"""Memory: beside X, y and the weights, nothing grows with rows times hidden units.

Every way to train and to predict is run with some rows and FACTOR times as many, in a small network and a large one. These
must add no more to the peak of the large one, whatever settings are drawn; how much they may add to both, `allowed` tells.
`transform` is left out: activations of hidden units are what it is asked for.
"""

import random
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from draws import ALL, SEED
from scipy import sparse

from fastbp import (
    MLPClassifier,
    MLPEnsembleClassifier,
    MLPEnsembleRegressor,
    MLPRegressor,
    NeuralNetwork,
    TabularClassifier,
    TabularRegressor,
    search,
    shards,
    train_many,
    workspace,
)
from fastbp.kernels.jit import level_name
from fastbp.layout import Layout
from fastbp.stream import Rows

sys.path.append(str(Path(__file__).parent.parent / "bench"))
from measure import peak_bytes
from work import Work

pytestmark = [pytest.mark.compiled, pytest.mark.no_cover]

ROWS, FACTOR, N_IN, N_OUT = 8192, 4, 6, 3
HIDDEN = 16, 192
MORE = (FACTOR - 1) * ROWS
# A kernel's blocks, and with them a workspace, grow up to a bound of half a megabyte, and may be kept as they were when new.
# Each thread has one; where there are few rows, they may be done before they meet. A bit of every hidden unit, in a byte,
# would be 4 MB.
WORKSPACES = 2**20
# Arrays with a number for each row, of 8 bytes, at a time: labels, weights, a permutation that parts the rows, and what is
# made of them in between.
ROW_ARRAYS = 8
# X in another type, or the rows held back and those that are left; y as outputs, the outputs, and what a loss makes of them.
# Tables are read a column at a time, put together, clipped, and made the network's type.
COPIES, COPIES_OF_TABLES = 2, 4
# Of an epoch, the order of the rows, and a copy.
ORDERS = 2
LANES, LANE_BYTES = 16, 64


def allowed(done, draw):
    """Bytes that a row may add to the peak, whatever the network; in lanes, each may have inputs and orders of its own."""
    in_lanes = done in (train_networks_in_lanes, try_candidates)
    own = LANE_BYTES * (N_IN + N_OUT) + 8 * LANES * (ORDERS + 1) if in_lanes else 0
    copies = COPIES_OF_TABLES if done in (fit_a_table, predict_a_table) else COPIES
    return 8 * (copies * (N_IN + N_OUT) + ROW_ARRAYS + ORDERS * draw.epochs) + own


class Draw(random.Random):
    """Settings and rows that are drawn, the same for all sizes."""

    def __init__(self, name, number):
        super().__init__(f"{SEED} {name} {number}")
        self.dtype = self.choice(["float32", "float64"])
        self.epochs, self.batch_size = self.choice([1, 2]), self.choice([7, 64, 200, 4096, ROWS])
        self.n_layers, self.chunk_rows = self.choice([1, 2]), self.choice([1000, 5000])
        self.solver = self.choice(["sgd", "momentum", "nesterov", "adam"])
        self.activation = self.choice(["relu", "tanh", "logistic"])
        self.n_jobs = self.choice([None, 2])
        self.flag, self.other, self.weighted = (self.choice([False, True]) for _ in range(3))

    def rows(self, n, dtype=None):
        """X, class numbers, and weights or None."""
        rng = np.random.default_rng(0)
        X = rng.normal(size=(n, N_IN)).astype(dtype or self.dtype)
        return X, rng.integers(N_OUT, size=n), rng.random(n) if self.weighted else None

    def estimator(self, kind, hidden, **options):
        """An estimator of few epochs."""
        drawn = {"solver": "adam" if self.solver == "adam" else "sgd", "batch_size": self.batch_size, "shuffle": self.flag}
        options = drawn | {"max_iter": self.epochs, "activation": self.activation, "random_state": 0} | options
        # members that predict in threads of their own meet at times, with what they have for each row, and at times do not
        options = {"n_jobs": None if "n_estimators" in options else self.n_jobs} | options
        return kind(hidden_layer_sizes=(hidden,) * self.n_layers, **options)

    def network(self, hidden, **options):
        """A network."""
        options = {"dtype": self.dtype, "activation": self.activation, "solver": self.solver, "random_state": 0} | options
        options = {"n_jobs": self.n_jobs} | options
        return NeuralNetwork(N_IN, [hidden] * self.n_layers, N_OUT, **options)


def one_hot(y, dtype):
    return np.eye(N_OUT, dtype=dtype)[y]


# --- what is done: functions of a draw, rows and hidden units, which return what is to be measured --------------------


def train(draw, n, hidden, batch_size=0, dtype=None, **options):
    """In mini-batches."""
    (X, y, weights), net = draw.rows(n, dtype), draw.network(hidden, dropout=0.2 * draw.other)
    Y, batch_size = one_hot(y, dtype or draw.dtype), draw.batch_size if batch_size == 0 else batch_size
    options = {"batch_size": batch_size, "shuffle": draw.flag, "sample_weight": weights} | options
    return lambda: net.train(X, Y, draw.epochs, 1e-6, **options)


def train_on_all_rows_at_once(draw, n, hidden):
    return train(draw, n, hidden, batch_size=None)


def train_with_a_callback(draw, n, hidden):
    return train(draw, n, hidden, callback=lambda epoch, history: None)


def train_in_chunks(draw, n, hidden):
    return train(draw, n, hidden, batch_size=64, chunk_rows=draw.chunk_rows)


def train_on_rows_of_the_other_type(draw, n, hidden):
    return train(draw, n, hidden, dtype="float64" if draw.dtype == "float32" else "float32")


def train_networks_in_lanes(draw, n, hidden):
    X, y, _ = draw.rows(n)
    draw.n_layers = 1  # of two, the large ones would be too large
    nets, Y = [draw.network(hidden, random_state=seed) for seed in range(3)], one_hot(y, draw.dtype)
    return lambda: train_many(nets, X, Y, 1, 1e-6, batch_size=4, shuffle=draw.flag)


def train_networks_one_by_one(draw, n, hidden):
    X, y, weights = draw.rows(n)
    nets, Y = [draw.network(hidden, random_state=seed) for seed in range(3)], one_hot(y, draw.dtype)
    return lambda: train_many(nets, X, Y, 1, 1e-6, batch_size=None, shuffle=draw.flag, sample_weight=weights)


def backward(draw, n, hidden):
    (X, y, weights), net = draw.rows(n), draw.network(hidden)
    Y = one_hot(y, draw.dtype)
    return lambda: net.backward(X, Y, 1e-6, sample_weight=weights)


def gradients(draw, n, hidden):
    (X, y, weights), net = draw.rows(n), draw.network(hidden)
    Y = one_hot(y, draw.dtype)
    return lambda: net.gradients(X, Y, sample_weight=weights)


def feedforward(draw, n, hidden):
    (X, _, _), net = draw.rows(n, draw.choice(["float32", "float64"])), draw.network(hidden)
    return lambda: net.feedforward(X)


def predict_by_a_network(draw, n, hidden):
    (X, _, _), net = draw.rows(n), draw.network(hidden)
    return lambda: net.predict(X)


def fit(draw, n, hidden, kind=None, change=lambda X: X, **options):
    """A classifier or a regressor."""
    kind = kind or (MLPClassifier if draw.other else MLPRegressor)
    X, y, weights = draw.rows(n)
    est, X = draw.estimator(kind, hidden, **options), change(X)
    return lambda: est.fit(X, y, weights)


def fit_columns(draw, n, hidden):
    """Of labels, or of values."""
    X, y, _ = draw.rows(n)
    est, Y = draw.estimator(MLPClassifier if draw.other else MLPRegressor, hidden), one_hot(y, int)
    return lambda: est.fit(X, Y)


def fit_by_lbfgs(draw, n, hidden):
    return fit(draw, n, hidden, solver="lbfgs", max_iter=3)


def fit_by_lbfgs_in_chunks(draw, n, hidden):
    return fit_in_chunks(draw, n, hidden, solver="lbfgs", max_iter=3)


def fit_that_stops_early(draw, n, hidden):
    return fit(draw, n, hidden, early_stopping=True, validation_fraction=0.5)


def fit_that_stops_early_by_a_scorer(draw, n, hidden):
    scoring = "accuracy" if draw.other else "r2"
    return fit(draw, n, hidden, early_stopping=True, validation_fraction=0.5, scoring=scoring)


def fit_with_validation_rows(draw, n, hidden):
    est, (X, y, _) = draw.estimator(MLPClassifier if draw.other else MLPRegressor, hidden), draw.rows(n)
    few = slice(draw.batch_size + 1)
    return lambda: est.fit(X[few], y[few], X_val=X, y_val=y)


def fit_in_chunks(draw, n, hidden, **options):
    est, (X, y, weights) = draw.estimator(MLPClassifier if draw.other else MLPRegressor, hidden, **options), draw.rows(n)
    return lambda: est.fit(X, y, weights, chunk_rows=draw.chunk_rows)


def fit_sparse_rows(draw, n, hidden):
    return fit(draw, n, hidden, change=sparse.csr_array)


def fit_an_ensemble(draw, n, hidden):
    kind = MLPEnsembleClassifier if draw.other else MLPEnsembleRegressor
    return fit(draw, n, hidden, kind, n_estimators=2, bootstrap=draw.flag, max_iter=1)


def partial_fit(draw, n, hidden):
    X, y, weights = draw.rows(n)
    est = fitted(draw, hidden, MLPClassifier if draw.other else MLPRegressor)
    return lambda: est.partial_fit(X, y, weights)


def try_candidates(draw, n, hidden):
    X, y, _ = draw.rows(n)
    est = draw.estimator(MLPRegressor, hidden, max_iter=1, batch_size=draw.choice([4, 200]), learning_rate_init=1e-5)
    return lambda: search(est, {"alpha": [0, 1]}, X, y, cv=2)


def fit_a_table(draw, n, hidden):
    frame, y = table(draw, n)
    est = estimator_of_tables(draw, hidden)
    return lambda: est.fit(frame, y)


def predict_a_table(draw, n, hidden):
    est, (frame, _) = estimator_of_tables(draw, hidden).fit(*table(draw, 200)), table(draw, n)
    return lambda: est.predict(frame)


def table(draw, n):
    """A DataFrame, and classes or values."""
    X, y, _ = draw.rows(n)
    return pytest.importorskip("pandas").DataFrame(X, columns=list("abcdef")), y


def estimator_of_tables(draw, hidden):
    """An estimator of one or two networks."""
    kind = TabularClassifier if draw.other else TabularRegressor
    return kind((hidden,) * draw.n_layers, max_iter=1, n_estimators=1 + draw.flag, dtype=draw.dtype, random_state=0)


def in_a_shard(function, *arguments):
    """A function, as the others here, in which a worker of a cluster does something with its rows."""

    def work(draw, n, hidden):
        (X, y, weights), est = draw.rows(n), fitted(draw, hidden, MLPClassifier)
        units, codes = est._units(), est._activation_codes()
        Y, weights = one_hot(y, X.dtype), None if weights is None else weights.astype(X.dtype)
        spec = shards.FitSpec(est, units, codes, X.dtype, 0, None, draw.batch_size, level_name())
        shard = shards.Shard(spec, 0, Rows(X, Y, weights))
        params = Layout(units, X.dtype, True, codes).gather(est.coefs_, est.intercepts_)
        return lambda: function(shard, params, *arguments)

    work.__name__ = f"shards.{function.__name__}"
    return work


def fitted(draw, hidden, kind):
    """An estimator that has seen a few rows."""
    X, y, _ = draw.rows(200)
    more = {"n_estimators": 2} if "Ensemble" in kind.__name__ else {}
    return draw.estimator(kind, hidden, batch_size=200, max_iter=1, **more).fit(X, y)


def predicting(kind, method):
    """A function, as the others here, that lets a fitted estimator predict."""

    def work(draw, n, hidden):
        # float32 rows of a float64 model are made float64
        est, (X, y, _) = fitted(draw, hidden, kind), draw.rows(n, draw.choice(["float32", "float64"]))
        X = sparse.csr_array(X) if draw.flag else X
        return lambda: getattr(est, method)(X, *[y] * (method == "score"))

    work.__name__ = f"{kind.__name__}.{method}"
    return work


DONE = [
    train, train_on_all_rows_at_once, train_with_a_callback, train_in_chunks, train_on_rows_of_the_other_type,
    train_networks_in_lanes, train_networks_one_by_one, backward, gradients, feedforward, predict_by_a_network, fit,
    fit_columns, fit_by_lbfgs, fit_by_lbfgs_in_chunks, fit_that_stops_early, fit_that_stops_early_by_a_scorer,
    fit_with_validation_rows, fit_in_chunks, fit_sparse_rows, fit_an_ensemble, partial_fit, try_candidates,
    fit_a_table, predict_a_table, in_a_shard(shards.trained, 0, 1e-6), in_a_shard(shards.sloped),
    *[predicting(MLPClassifier, name) for name in ("predict", "predict_proba", "predict_log_proba", "score")],
    *[predicting(MLPRegressor, name) for name in ("predict", "score")],
    predicting(MLPEnsembleClassifier, "predict_proba"), predicting(MLPEnsembleRegressor, "predict"),
]  # fmt: skip


def growth(done, name, number, hidden):
    """Bytes that more rows add to the peak of a network with so many units in a layer."""
    peaks = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for n in (ROWS, FACTOR * ROWS):
            draw = Draw(name, number)
            work = done(draw, n, hidden)
            work()  # loads machine code
            peaks.append(peak_bytes(Work(None, None, own_bytes=0, anew=work)))
    return peaks[1] - peaks[0], draw


def check(done, number=0):
    """Raise an AssertionError where the peak grows with rows times hidden units, or too much with the rows."""
    name = done.__name__
    (small, draw), (large, _) = (growth(done, name, number, hidden) for hidden in HIDDEN)
    print(f"{name}: {small / MORE:.1f} and {large / MORE:.1f} bytes a row with {HIDDEN} units")
    orders = 8 * ORDERS * draw.epochs * MORE  # which a call draws ahead or not, as its time allows
    workspaces = WORKSPACES * (draw.n_jobs or 1)
    # it may fall, where fewer rows are trained in lanes and more of them are not
    assert large - max(0, small) < workspaces + orders
    for one in (small, large):
        assert one < allowed(done, draw) * MORE + workspaces


@pytest.mark.parametrize("number", range(5 if ALL else 1))
@pytest.mark.parametrize("done", DONE, ids=lambda done: done.__name__)
def test_the_peak_does_not_grow_with_rows_times_hidden_units(done, number):
    check(done, number)


@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_what_does_grow_with_rows_times_hidden_units_is_found(dtype):
    with pytest.raises(AssertionError):
        check(lambda draw, n, hidden: lambda: np.zeros((n, hidden), dtype))


def test_workspaces_for_all_rows_are_found(monkeypatch):
    for bound in ("BLOCK_BYTES", "WIDE_ROWS"):
        monkeypatch.setattr(workspace, bound, 2**40)
    for done in (train_on_all_rows_at_once, gradients, feedforward):
        with pytest.raises(AssertionError):
            check(done)


def test_what_grows_too_much_with_rows_is_found():
    with pytest.raises(AssertionError):
        check(lambda draw, n, hidden: lambda: np.zeros((n, 100)))
