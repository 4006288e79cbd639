"""Grids of candidates in lanes: the scores are those of scikit-learn's GridSearchCV, and depend on nothing else."""

import tracemalloc
import warnings

import draws
import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fastbp import MLPClassifier, MLPRegressor, lanes, search
from fastbp.estimators import search as search_module

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
X, LABELS = load_iris(return_X_y=True)
VALUES = X[:, 0] - X[:, 1] ** 2
# Weights after some dozens of steps, relative to the largest.
TOLERANCE = {"float64": 1e-6, "float32": 1e-2}


def both(estimator, grid, X, y, n_jobs=None, **how):
    """The results of ours and of theirs, and the fitted weights and loss curves of all fits."""
    kept: list = [[], []]

    def scoring(place):
        def score(est, X, y):
            net = est[-1] if hasattr(est, "steps") else est
            kept[place].append(
                [*net.coefs_, *net.intercepts_, np.array(getattr(net, "loss_curve_", [])), np.array(net.n_iter_)]
            )
            return est.score(X, y)

        return score

    ours = search(estimator, grid, X, y, n_jobs=n_jobs, scoring=scoring(0), **how)
    theirs = GridSearchCV(estimator, grid, scoring=scoring(1), refit=False, **how).fit(X, y).cv_results_
    return ours, theirs, kept


def drawn(rng):
    """An estimator, a grid and rows."""
    classifies, dtype = bool(rng.integers(2)), str(rng.choice(["float32", "float64", "float64"]))
    solver = str(rng.choice(["sgd", "adam"]))
    settings = {
        "hidden_layer_sizes": [(3,), (4, 2)][rng.integers(2)], "solver": solver, "max_iter": int(rng.integers(1, 25)),
        "activation": str(rng.choice(["relu", "tanh", "logistic"])), "batch_size": int(rng.choice([1, 7, 30, 500])),
        "learning_rate": str(rng.choice(["constant", "adaptive", "invscaling"])), "shuffle": bool(rng.integers(2)),
        "random_state": int(rng.integers(9)), "tol": float(rng.choice([1e-4, 0.05])),
        "n_iter_no_change": int(rng.integers(1, 6)),
        "dropout": float(rng.choice([0, 0.2])), "max_norm": float(rng.choice([np.inf, 0.5])),
    }  # fmt: skip
    grid = {"alpha": [0.0, 0.1, 1.0], "learning_rate_init": [0.001, 0.01]}
    if rng.random() < 0.3:
        grid["solver"] = ["sgd", "adam", "lbfgs"]
        settings["dropout"], settings["max_iter"] = 0.0, 5
    if rng.random() < 0.2:
        settings["early_stopping"] = True
    est = (MLPClassifier if classifies else MLPRegressor)(**settings)
    rows = rng.permutation(len(X))[: int(rng.integers(60, 150))]
    if dtype == "float32" or settings["batch_size"] == 1:  # rounding errors grow a thousandfold in some hundred steps
        est.set_params(max_iter=2)
    return est, grid, X[rows].astype(dtype), (LABELS if classifies else VALUES)[rows]


@pytest.mark.filterwarnings("ignore:Got `batch_size`:UserWarning")
@pytest.mark.parametrize("number", range(draws.examples(60, 6)))
def test_it_finds_what_their_search_finds(number):
    est, grid, rows, y = drawn(np.random.default_rng([int(draws.SEED), number]))
    ours, theirs, (mine, other) = both(est, grid, rows, y, cv=3, n_jobs=1 + number % 2)
    assert list(ours) == list(theirs)
    assert ours["params"] == theirs["params"]
    assert len(mine) == len(other) == 3 * len(ours["params"])
    tolerance = TOLERANCE[rows.dtype.name]
    for one, expected in zip(mine, other, strict=True):
        for array, its in zip(one, expected, strict=True):
            np.testing.assert_allclose(array, its, rtol=tolerance, atol=tolerance * max(1, np.abs(its).max(initial=0)))


def test_no_score_depends_on_other_candidates():
    est = MLPClassifier(4, batch_size=10, max_iter=40, random_state=0, learning_rate_init=0.01)
    weights = {}

    def scoring(est, X, y):
        weights.setdefault((est.alpha, len(X), X.tobytes()), set()).add(est.coefs_[0].tobytes())
        return est.score(X, y)

    cv = KFold(4, shuffle=True, random_state=0)
    for alphas, n_jobs in (([1.0], 1), ([1.0, 0.1, 0.01], 1), (np.geomspace(0.01, 100, 21), 2), ([3.0, 1.0], 1)):
        search(est, {"alpha": list(map(float, alphas))}, X, LABELS, cv, n_jobs, scoring=scoring)
    assert {len(one) for one in weights.values()} == {1}


def test_pipelines_learn_on_training_rows_alone():
    est = make_pipeline(StandardScaler(), MLPClassifier(4, batch_size=10, max_iter=15, random_state=0))
    ours, theirs, (mine, other) = both(est, {"mlpclassifier__alpha": [1e-4, 0.1]}, X, LABELS, cv=4)
    for one, expected in zip(mine, other, strict=True):
        for array, its in zip(one, expected, strict=True):
            np.testing.assert_allclose(array, its, rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(ours["mean_test_score"], theirs["mean_test_score"])
    assert ours["param_mlpclassifier__alpha"].tolist() == [1e-4, 0.1]


@pytest.mark.parametrize("kind", ["sparse", "class weights", "large"])
def test_what_lanes_cannot_take_is_fitted_alone(kind):
    est = MLPClassifier(900 if kind == "large" else 4, max_iter=4, random_state=0)
    est.set_params(class_weight="balanced" if kind == "class weights" else None)
    ours, theirs, _ = both(est, {"alpha": [0.1, 1.0]}, sparse.csr_matrix(X) if kind == "sparse" else X, LABELS, cv=3)
    np.testing.assert_array_equal(ours["mean_test_score"], theirs["mean_test_score"])


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite", "ignore::RuntimeWarning")
def test_fits_that_fail_have_no_score():
    est = MLPRegressor(hidden_layer_sizes=4, max_iter=30, random_state=0, solver="sgd", batch_size=10)
    with pytest.warns(FitFailedWarning, match=r"4 of 8 fits failed, and have no score:\n(.|\n)*non-finite parameter"):
        found = search(est, {"learning_rate_init": [0.001, 1e30]}, X, VALUES, cv=4)
    assert np.isnan(found["mean_test_score"]).tolist() == [False, True]
    assert found["rank_test_score"].tolist() == [1, 2]
    with pytest.raises(ValueError, match=r"5 of 5 fits failed(.|\n)*alpha"):
        search(est, {"alpha": [-1]}, X, VALUES)


@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite", "ignore:Scoring failed")
@pytest.mark.parametrize(
    "scoring", ["roc_auc", ["accuracy", "neg_log_loss"], ["accuracy", "roc_auc"], lambda est, X, y: {"a": est.alpha, "b": 2}]
)
@pytest.mark.parametrize("alphas", [[0.1, 1.0], [0.1, -1.0]])
def test_scores_of_all_kinds(scoring, alphas):
    """Several of them, those that cannot be computed, and those of fits that fail."""
    est = MLPClassifier(4, max_iter=3, random_state=0)
    found = []
    for run in (search, lambda *given, **how: GridSearchCV(*given[:2], **how, refit=False).fit(*given[2:]).cv_results_):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FitFailedWarning)
            found.append(run(est, {"alpha": alphas}, X, LABELS, cv=3, scoring=scoring))
    assert list(found[0]) == list(found[1])
    for name in found[0]:
        if "test" in name:
            np.testing.assert_allclose(found[0][name], found[1][name], rtol=1e-6)


def test_what_cannot_be_searched():
    for grid, cv in (([], 3), ({"alpha": [1]}, [])):
        with pytest.raises(ValueError, match="grid and cv must give a fit"):
            search(MLPClassifier(), grid, X, LABELS, cv)
    with pytest.raises(TypeError, match="estimator must be an MLPClassifier, an MLPRegressor or .* got LogisticRegression"):
        search(LogisticRegression(), {"C": [1]}, X, LABELS)
    with pytest.raises(ValueError, match="n_jobs must"):
        search(MLPClassifier(), {"alpha": [1]}, X, LABELS, n_jobs=0)


def test_lanes_close_ranks(monkeypatch):
    """Fits that end at different times leave their lanes to others."""
    est = MLPClassifier(3, batch_size=10, max_iter=200, random_state=0, n_iter_no_change=2)
    grid = {"tol": np.geomspace(1e-4, 1.0, 40).tolist()}
    groups = []
    advance = search_module.Lanes.advance
    monkeypatch.setattr(search_module.Lanes, "advance", lambda lanes, n: groups.append(lanes.groups) or advance(lanes, n))
    _, _, (mine, other) = both(est, grid, X, LABELS, cv=2)
    assert groups == sorted(groups, reverse=True)
    assert len(set(groups)) > 1
    assert [int(one[-1]) for one in mine] == [int(one[-1]) for one in other]


def test_warnings_are_those_of_a_fit():
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(3\) reached"):
        search(MLPClassifier(4, max_iter=3), {"alpha": [0.1]}, X, LABELS)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("hidden", [(3,), (300, 300)])
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_a_random_state_of_its_own_is_drawn_from_once(kind, hidden):
    """Also where a network turns out to be too large, or its rows sparse, for vectors of networks."""
    X = np.random.default_rng(0).normal(size=(60, 5))
    y, grid = X[:, 0], {"alpha": [1e-4, 1.0]}
    est = MLPRegressor(hidden_layer_sizes=hidden, max_iter=3, random_state=np.random.RandomState(0))
    expected = GridSearchCV(est, grid, cv=3, refit=False).fit(kind(X), y).cv_results_["mean_test_score"]
    np.testing.assert_allclose(search(est, grid, kind(X), y, 3)["mean_test_score"], expected, rtol=1e-9)


def test_orders_of_rows_are_not_kept(monkeypatch):
    """Fits with random numbers of their own once kept those of all epochs: 8 bytes for each row of each."""
    monkeypatch.setattr(lanes, "PORTION_BYTES", 2**20)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(5000, 2)), rng.integers(0, 2, 5000)

    def peak(epochs):
        net = MLPClassifier(2, batch_size=50, max_iter=epochs, tol=0, n_iter_no_change=1000)
        tracemalloc.start()
        search(net, {"alpha": np.logspace(-6, -1, 4)}, X, y, 3)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(2)
    assert peak(42) - peak(2) < 12 * 40 * 3333 * 8 / 4
