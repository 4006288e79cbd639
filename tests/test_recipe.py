import time

import draws
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.utils import check_random_state

from fastbp import TabularClassifier, TabularRegressor
from fastbp.datasets import held_out
from fastbp.estimators.recipe import LABEL_SMOOTHING, clipped, epochs_for, initial, range_of, soft, wave

FEW = {"max_iter": 30, "hidden_layer_sizes": (16,), "random_state": 0}


def rows(n=200):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(n, 4))
    value = X[:, 0] * X[:, 1] + np.sin(X[:, 2])
    return X, np.where(value > 0.5, "c", np.where(value > -0.5, "b", "a")), 1000 + 50 * value


@pytest.fixture(params=[TabularClassifier, TabularRegressor])
def kind_and_rows(request):
    X, labels, values = rows()
    return request.param, X, labels if request.param is TabularClassifier else values


# ---- inputs ----------------------------------------------------------------------------------------------------------

CELL = st.one_of(st.just(np.nan), st.floats(-1e150, 1e150), st.integers(-3, 3).map(float))


@pytest.mark.no_cover
@settings(max_examples=draws.examples(200), deadline=None)
@given(arrays(float, st.tuples(st.integers(1, 30), st.just(1)), elements=CELL))
def test_numbers_are_clipped_smoothly(X):
    Z = clipped(X, *range_of(X))
    assert np.isfinite(Z).all()
    assert np.abs(Z).max() <= 3
    assert (Z[np.isnan(X)] == 0).all()
    x = X[~np.isnan(X)]
    order = np.argsort(x, kind="stable")
    assert (np.diff(Z[~np.isnan(X)][order]) >= 0).all()
    quartiles = np.quantile(x, [0.25, 0.5, 0.75]) if len(x) else np.zeros(3)
    spread = quartiles[2] - quartiles[0]
    if spread > 1e-9 * np.abs(x).max(initial=0) and spread > 1e-200:
        scaled = (x - quartiles[1]) / spread
        np.testing.assert_allclose(Z[~np.isnan(X)], scaled / np.hypot(1, scaled / 3), rtol=1e-9, atol=1e-12)


def test_a_number_that_is_too_far_for_a_float_is_at_the_end():
    center, factor = range_of(np.array([[0.0], [0.0], [0.0], [1e150], [2.2e-169]]))
    assert factor[0] > 1e168
    np.testing.assert_array_equal(clipped(np.array([[1e150], [-1e150], [0.0]]), center, factor), [[3], [-3], [0]])


def test_equal_quartiles_give_way_to_the_range_and_constants_to_0():
    X = np.column_stack([[0.0] * 9 + [4.0], [14.62] * 10])
    center, factor = range_of(X)
    np.testing.assert_array_equal(factor, [0.5, 0])
    np.testing.assert_array_equal(clipped(np.array([[0, 14.63], [2, np.nan]]), center, factor)[:, 1], 0)
    assert clipped(np.array([[2.0, 0.0]]), center, factor)[0, 0] == pytest.approx(1 / np.sqrt(1 + 1 / 9))


def test_rounding_errors_are_no_spread():
    X = np.full((30, 1), 0.1)
    X[::2] = np.nextafter(0.1, 1)
    assert range_of(X)[1] == 0


# ---- parts of the recipe ---------------------------------------------------------------------------------------------


def test_the_wave_rises_and_falls_four_times():
    t = np.linspace(0, 1, 10_001)
    steps = np.array([wave(one) for one in t])
    assert steps[0] == 0
    assert steps[-1] == pytest.approx(0, abs=1e-12)
    peaks = t[1:-1][(steps[1:-1] > steps[:-2]) & (steps[1:-1] >= steps[2:])]
    np.testing.assert_allclose(peaks, (2.0 ** (np.arange(4) + 0.5) - 1) / 15, atol=2e-4)
    assert steps.max() <= 1


@pytest.mark.parametrize(("k", "expected"), [(1, [0.05, 0.95]), (2, [0.05, 0.95]), (5, [0.02, 0.92])])
def test_soft_targets(k, expected):
    Y = soft(np.array([[0.0] * k, [1.0] * k]), LABEL_SMOOTHING)
    np.testing.assert_allclose(Y, np.repeat(np.array(expected)[:, None], k, axis=1))
    np.testing.assert_allclose(soft(np.eye(k + 1), LABEL_SMOOTHING).sum(axis=1), 1)


def test_large_tables_have_fewer_epochs():
    assert [epochs_for("auto", n) for n in (10, 20_000, 100_000, 10**7)] == [128, 128, 40, 32]
    assert epochs_for(7, 10**7) == 7


def test_initial_weights_keep_the_variance():
    weights, biases = initial([50, 400, 300, 3], np.float32, check_random_state(0))
    assert [w.shape for w in weights] == [(50, 400), (400, 300), (300, 3)]
    assert [w.dtype for w in weights + biases] == [np.float32] * 6
    for w in weights[:-1]:
        assert w.std() == pytest.approx(len(w) ** -0.5, rel=0.02)
    assert not weights[-1].any()
    assert not biases[-1].any()


# ---- training --------------------------------------------------------------------------------------------------------


def test_the_epoch_of_the_least_loss_is_kept(kind_and_rows):
    kind, X, y = kind_and_rows
    est = kind(**FEW).fit(X, y)
    network = est.network_
    assert network.n_iter_ == len(network.loss_curve_) == len(network.validation_loss_curve_) == 30
    best = int(np.argmin(network.validation_loss_curve_))
    assert network.best_validation_score_ == network.validation_scores_[best]
    held = held_out(0.1, len(X), y if kind is TabularClassifier else None, check_random_state(0))
    Z = est._read(X[held])
    if kind is TabularClassifier:
        chosen = network.predict_proba(Z)[np.arange(len(Z)), np.searchsorted(est.classes_, y[held])]
        loss = -np.log(chosen).mean()
    else:
        loss = ((est.predict(X[held]) - y[held]) ** 2).mean() / est.scaler_.var_[0] / 2
    assert loss == pytest.approx(network.validation_loss_curve_[best], rel=1e-5)
    assert est.score(X[held], y[held]) == pytest.approx(network.best_validation_score_, rel=1e-5)


def test_no_result_depends_on_threads_or_on_who_looks(kind_and_rows):
    kind, X, y = kind_and_rows
    seen = []
    alone = kind(**FEW).fit(X, y).predict(X)
    watched = kind(**FEW, n_jobs=2).fit(X, y, callback=lambda epoch, network: seen.append((epoch, network.n_iter_)))
    np.testing.assert_array_equal(watched.predict(X), alone)
    assert seen == [(epoch, epoch) for epoch in range(1, 31)]
    assert not np.array_equal(kind(**FEW | {"random_state": 1}).fit(X, y).predict(X), alone)


def test_a_callback_ends_a_training(kind_and_rows):
    kind, X, y = kind_and_rows
    assert kind(**FEW).fit(X, y, callback=lambda epoch, network: epoch == 3).n_iter_ == 3


def test_patience_ends_a_training(kind_and_rows):
    kind, X, y = kind_and_rows
    est = kind(**FEW | {"max_iter": 500}, n_iter_no_change=5).fit(X, y)
    losses = est.network_.validation_loss_curve_
    assert len(losses) < 500
    assert len(losses) - 1 - np.argmin(losses) == 6


def test_an_interrupt_keeps_the_best_so_far(kind_and_rows):
    kind, X, y = kind_and_rows

    def interrupt(epoch, network):
        if epoch == 5:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="interrupted"):
        est = kind(**FEW).fit(X, y, callback=interrupt)
    assert est.n_iter_ == 5
    assert (
        est.network_.best_validation_score_
        == est.network_.validation_scores_[np.argmin(est.network_.validation_loss_curve_)]
    )
    assert len(est.predict(X)) == len(X)


@pytest.mark.compiled
def test_time_is_kept():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 20))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    TabularClassifier(max_iter=1).fit(X[:200], y[:200])
    start = time.perf_counter()
    with pytest.raises(ValueError, match="max_seconds needs solver 'sgd' or 'adam', got 0.5 with solver='lbfgs'"):
        TabularClassifier(max_seconds=0.5, solver="lbfgs").fit(X, y)
    est = TabularClassifier(max_seconds=0.5, random_state=0).fit(X, y)
    # a call of the kernel comes on top
    assert time.perf_counter() - start < 2
    assert 1 <= est.n_iter_ < 128


def test_a_line_per_epoch(kind_and_rows, capsys):
    kind, X, y = kind_and_rows
    kind(**FEW | {"max_iter": 3}, verbose=True).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"epoch {epoch} of 3" for epoch in (1, 2, 3)]
    assert "s to go" in lines[0]
    assert "validation loss" in lines[-1]


def test_divergence_is_seen(kind_and_rows):
    kind, X, y = kind_and_rows
    with pytest.raises(ValueError, match="stopped being finite"):
        kind(**FEW, learning_rate_init=1e38).fit(X, y)


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_iter", 0), ("max_iter", "many"), ("max_seconds", 0), ("activation", "?"), ("dropout", 1.5), ("batch_size", 0),
     ("n_iter_no_change", 0), ("alpha", -1), ("learning_rate_init", 0)],
)  # fmt: skip
def test_parameters_are_checked(kind_and_rows, name, value):
    kind, X, y = kind_and_rows
    with pytest.raises(ValueError, match=name):
        kind(**{name: value}).fit(X, y)


def test_weights_reach_the_rows_that_are_held_back():
    X, labels, _ = rows()
    weights = np.where(labels == "a", 0.0, 1.0)
    est = TabularClassifier(**FEW).fit(X, labels, weights)
    assert (est.predict(X) != "a").mean() > 0.9
    held = held_out(0.1, len(X), labels, check_random_state(0))
    with pytest.raises(ValueError, match="held? back|holds back"):
        TabularClassifier(**FEW).fit(X, labels, np.where(held, 0.0, 1.0))


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_other_solvers_learn(kind_and_rows, solver):
    kind, X, y = kind_and_rows
    rate = {"learning_rate_init": 0.05} if solver == "sgd" else {}
    est = kind(solver=solver, random_state=0, hidden_layer_sizes=(16,), **rate).fit(X, y)
    assert est.score(X, y) > 0.8


@pytest.mark.compiled
def test_the_recipe_learns_what_it_should():
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"a": rng.normal(size=600), "b": rng.normal(size=600), "kind": rng.choice(["x", "y"], 600)})
    y = np.where((frame["a"] * frame["b"] > 0) == (frame["kind"] == "x"), 1.0, -1.0) * 1e4
    score = TabularRegressor(random_state=0).fit(frame[:400], y[:400]).score(frame[400:], y[400:])
    assert score > 0.75
    assert TabularClassifier(random_state=0).fit(frame[:400], y[:400] > 0).score(frame[400:], y[400:] > 0) > 0.9
