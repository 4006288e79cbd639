"""MLPClassifier and MLPRegressor train as scikit-learn's do: the same numbers from the same random_state."""

import copy
import functools
import re
import warnings

import draws
import numpy as np
import pytest
import sklearn
from cases import DTYPES, SPREADS, assert_close, largest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn import neural_network
from sklearn.base import is_classifier
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

import fastbp
from fastbp.kernels.jit import PLAIN_PYTHON

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1:UserWarning"),
]

EPOCHS = 2 if PLAIN_PYTHON else 50
# Sums of the same numbers in another order, a few roundings of 1e-16 apart, over some thousand steps each of which magnifies
# what is there by a little. A step that is wrong in any of its terms is off by 1e-5 and more.
SAME = {"rtol": 1e-7, "atol": 0}
# Parameters are of order 1 and their errors are those of the steps, so that one near 0 has fewer digits of its own.
SAME_PARAMETERS = {"rtol": 1e-7, "atol": 1e-9}
# The same for roundings of 6e-8, after fewer epochs.
SAME_SINGLE = {"rtol": 1e-3, "atol": 1e-4}
SINGLE_EPOCHS = min(EPOCHS, 10)


@functools.cache
def rows(name):
    """X and y of a data set."""
    X, labels = load_iris(return_X_y=True)
    X, labels, rest = X[::2, :3], labels[::2], X[::2, 3]
    rng = np.random.default_rng(0)
    match name:
        case "multiclass":
            return X, labels
        case "binary":
            # scikit-learn 1.7 cannot stop early by words
            words = np.array([0, 1] if sklearn.__version__.startswith("1.7.") else ["no", "yes"])
            return X, words[(labels == 1) * 1]
        case "one class":
            return X, np.full(len(X), 3)
        case "multilabel":
            return X, np.c_[labels == 0, labels == 1, rest > 1, X[:, 0] > 6].astype(int)
        case "one output":
            return X, rest
        case "three outputs":
            return X, np.c_[rest, X[:, 0] - 5, rng.normal(size=len(X))]
        case "counts":
            return X, rng.poisson(rest)
        case "counts of three":
            return X, rng.poisson(np.c_[rest, rest, X[:, 0]])
        case "sparse":
            X = sparse.random_array((75, 20), density=0.1, rng=rng, format="csr")
            return X, np.asarray(X.sum(axis=1) > 1) * 1
        case "unscaled":
            X, labels = load_breast_cancer(return_X_y=True)
            return X[::3], labels[::3]
        case "unscaled multiclass":
            X, labels = load_breast_cancer(return_X_y=True)
            return X[::3], labels[::3] + (X[::3, 0] > 18)


def pair(data, **options):
    """Ours and theirs, not fitted yet."""
    regression = "output" in data or "counts" in data
    name = "MLPRegressor" if regression else "MLPClassifier"
    if "counts" in data:
        options["loss"] = "poisson"
    options = {"hidden_layer_sizes": (7, 4), "max_iter": EPOCHS, "random_state": 3} | options
    return [getattr(package, name)(**copy.deepcopy(options)) for package in (fastbp, neural_network)]


def assert_same_values(name, ours, theirs, rtol, atol):
    if theirs is None or isinstance(theirs, int | str):
        assert ours == theirs, f"{name}: {ours} instead of {theirs}"
        return
    if isinstance(theirs, list) and isinstance(theirs[0], np.ndarray):
        assert len(ours) == len(theirs), name
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            assert_same_values(f"{name}[{i}]", one, other, rtol, atol)
        return
    assert np.asarray(ours).dtype == np.asarray(theirs).dtype, name
    np.testing.assert_allclose(ours, theirs, rtol, atol, equal_nan=True, err_msg=name)


ATTRIBUTES = ["n_iter_", "n_layers_", "n_outputs_", "n_features_in_", "out_activation_"]
CURVES = ["loss_", "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_", "t_"]


def assert_same_model(ours, theirs, X, same=SAME, same_parameters=SAME_PARAMETERS):
    """Everything a user can see of two fitted estimators agrees up to rounding."""
    for name in ATTRIBUTES + CURVES:
        if hasattr(theirs, name):
            assert_same_values(name, getattr(ours, name), getattr(theirs, name), **same)
    for name in ("coefs_", "intercepts_"):
        assert_same_values(name, getattr(ours, name), getattr(theirs, name), **same_parameters)
    if is_classifier(theirs):
        np.testing.assert_array_equal(ours.classes_, theirs.classes_, strict=True)
        np.testing.assert_array_equal(ours.predict(X), theirs.predict(X), strict=True)
        assert_same_values("probabilities", ours.predict_proba(X), theirs.predict_proba(X), **same_parameters)
    else:
        assert_same_values("predictions", ours.predict(X), theirs.predict(X), **same_parameters)


# --- one fit ----------------------------------------------------------------------------------------------------------

SGD = {"solver": "sgd", "learning_rate_init": 0.05}
# Adam divides by sqrt(v) + epsilon: with the default of 1e-8 it makes long steps along gradients that are rounding errors.
ADAM = {"solver": "adam", "learning_rate_init": 0.01, "epsilon": 1e-3}
LBFGS = {"solver": "lbfgs", "max_iter": min(EPOCHS, 20)}
# what most of the following runs with, one after the other
DATA = ["multiclass", "binary", "multilabel", "one output", "three outputs", "counts", "counts of three", "one class"]
SOLVERS = {
    "sgd": SGD | {"momentum": 0},
    "momentum": SGD | {"nesterovs_momentum": False},
    "nesterov": SGD,
    "adam": ADAM,
    "lbfgs": LBFGS,
}
SMALL_STEPS = {"learning_rate_init": 0.002}  # where exp makes long ones longer

CASES = {
    f"{data}, {solver}": (data, options | (SMALL_STEPS if "counts" in data else {}))
    for data in DATA
    for solver, options in SOLVERS.items()
}
CASES |= {
    f"{activation}, {solver}": ("multiclass", SOLVERS[solver] | {"activation": activation})
    for activation in ("identity", "logistic", "tanh")
    for solver in ("nesterov", "adam", "lbfgs")
}
CASES |= {
    "one hidden layer": ("binary", ADAM | {"hidden_layer_sizes": 20}),
    "three hidden layers": ("one output", ADAM | {"hidden_layer_sizes": [9, 1, 5]}),
    "wide": ("multiclass", ADAM | {"hidden_layer_sizes": (130, 70), "max_iter": min(EPOCHS, 20)}),
    "default epsilon": ("three outputs", ADAM | {"epsilon": 1e-8, "max_iter": min(EPOCHS, 10)}),
    "no hidden layer": ("multiclass", SGD | {"hidden_layer_sizes": ()}),
    "sizes in an array": ("one output", ADAM | {"hidden_layer_sizes": np.array([5, 2])}),
    "numbers of numpy": (
        "binary",
        {
            "batch_size": np.int32(20),
            "max_iter": np.int64(3),
            "alpha": np.float32(0.1),
            "learning_rate_init": np.float64(0.01),
        },
    ),
    "defaults": ("multiclass", {"hidden_layer_sizes": 100}),
    "invscaling": ("multiclass", SGD | {"learning_rate": "invscaling", "power_t": 0.2, "batch_size": 20}),
    "invscaling without momentum": ("one output", SGD | {"learning_rate": "invscaling", "momentum": 0}),
    "adaptive": ("multiclass", SGD | {"learning_rate": "adaptive", "tol": 0.01, "n_iter_no_change": 2, "batch_size": 20}),
    "adaptive to the end": (
        "one output",
        SGD | {"learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 1, "learning_rate_init": 0.01},
    ),
    "no learning rate left": (
        "binary",
        SGD | {"learning_rate": "adaptive", "tol": 10.0, "n_iter_no_change": 3, "early_stopping": True},
    ),
    "converging": ("binary", ADAM | {"tol": 0.01, "n_iter_no_change": 3}),
    "never converging": ("binary", ADAM | {"tol": 1e9, "n_iter_no_change": np.inf}),
    "no tolerance": ("binary", SGD | {"tol": 0.0}),
    "no penalty": ("multiclass", ADAM | {"alpha": 0}),
    "large penalty": ("multiclass", SGD | {"alpha": 1.0, "batch_size": 20}),
    "large penalty, lbfgs": ("one output", LBFGS | {"alpha": 10.0}),
    "moments": ("one output", ADAM | {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-2}),
    "no moments": ("one output", ADAM | {"beta_1": 0.0, "beta_2": 0.0, "epsilon": 0.1}),
    "little momentum": ("binary", SGD | {"momentum": 0.3}),
    "all momentum": ("binary", SGD | {"momentum": 1.0, "learning_rate_init": 1e-3}),
    "no shuffle": ("multiclass", SGD | {"shuffle": False, "batch_size": 20}),
    "no shuffle, adam": ("one output", ADAM | {"shuffle": False, "batch_size": 20}),
    "batches": ("multilabel", SGD | {"batch_size": 15}),
    "one row left over": ("multiclass", ADAM | {"batch_size": 37}),
    "one row left over, values": ("three outputs", SGD | {"batch_size": 37}),
    "single rows": ("multiclass", SGD | {"batch_size": 1, "max_iter": min(EPOCHS, 10), "learning_rate_init": 0.005}),
    "more than all rows": ("binary", SGD | {"batch_size": 76}),
    "batches of lbfgs": ("binary", LBFGS | {"batch_size": 10}),
    "evaluations of lbfgs": ("one output", LBFGS | {"max_fun": 7}),
    "unscaled": ("unscaled", ADAM),
    "unscaled, sgd": ("unscaled", SGD | {"learning_rate_init": 1e-5, "activation": "tanh"}),
    "unscaled, lbfgs": ("unscaled", LBFGS | {"max_iter": 10}),
    "unscaled multiclass": ("unscaled multiclass", ADAM),
    "unscaled, saturated": ("unscaled", ADAM | {"activation": "identity", "batch_size": 10, "max_iter": min(EPOCHS, 5)}),
    "unscaled multiclass, saturated": (
        "unscaled multiclass",
        ADAM | {"activation": "identity", "batch_size": 10, "max_iter": min(EPOCHS, 5)},
    ),
}
EARLY = {"early_stopping": True, "validation_fraction": 0.2}
CASES |= {f"early stopping, {data}": (data, ADAM | EARLY | {"batch_size": 20}) for data in DATA}
CASES |= {
    "early stopping, sgd": ("multiclass", SGD | EARLY),
    "early stopping, tolerance": ("binary", SGD | EARLY | {"tol": 0.1, "n_iter_no_change": 4}),
    "early stopping, adaptive": (
        "one output",
        SGD | EARLY | {"learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 2},
    ),
    "early stopping, no shuffle": ("multilabel", ADAM | EARLY | {"shuffle": False}),
}


def fit(estimators, X, y, **kwargs):
    for estimator in estimators:
        estimator.fit(X, y, **kwargs)
    return estimators


# long sums and many batches, which are for compiled kernels
LONG = {"wide", *(case for case in CASES if "unscaled" in case)}


@pytest.mark.no_cover
@pytest.mark.draw(3)
@pytest.mark.parametrize("case", [pytest.param(case, marks=[pytest.mark.compiled] * (case in LONG)) for case in CASES])
def test_fit(case):
    data, options = CASES[case]
    X, y = rows(data)
    ours, theirs = fit(pair(data, **options), X, y)
    assert_same_model(ours, theirs, X)
    assert ours.score(X, y) == pytest.approx(theirs.score(X, y), rel=1e-7, nan_ok=True)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_rows(n):
    X, y = rows("one output")
    assert_same_model(*fit(pair("one output", max_iter=2), X[:n], y[:n]), X)
    assert_same_model(*fit(pair("one output", max_iter=2), X[:n, :1], y[:n]), X[:, :1])


@pytest.mark.compiled
@pytest.mark.filterwarnings("ignore:divide by zero encountered in log:RuntimeWarning")
@pytest.mark.parametrize("data", ["unscaled", "unscaled multiclass", "multilabel"])
def test_logarithms_of_probabilities(data):
    X, y = rows(data)
    ours, theirs = fit(pair(data, **ADAM | {"max_iter": 3}), X, y)
    assert_same_values("logarithms", ours.predict_log_proba(X), theirs.predict_log_proba(X), rtol=1e-6, atol=1e-9)


def test_what_the_cases_are_for():
    """The names of some of them come true."""
    n_iter, loss = {}, {}
    for case in ("converging", "adaptive to the end", "never converging", "early stopping, tolerance"):
        data, options = CASES[case]
        n_iter[case] = pair(data, **options | {"max_iter": 50})[1].fit(*rows(data)).n_iter_
    for case in ("unscaled, saturated", "unscaled multiclass, saturated"):
        data, options = CASES[case]
        theirs = pair(data, **options | {"max_iter": 5})[1].fit(*rows(data))
        loss[case] = theirs.loss_curve_[-1]
        assert np.any(np.isin(theirs.predict_proba(rows(data)[0]), [0, 1]))
    assert n_iter["never converging"] == 50
    assert max(n_iter[case] for case in n_iter if case != "never converging") < 50
    assert all(0 < value < 36 for value in loss.values())


def test_a_wrong_number_is_seen():
    X, y = rows("multiclass")
    ours, theirs = fit(pair("multiclass", **ADAM | {"max_iter": 2}), X, y)
    for change in (
        lambda est: est.loss_curve_.__setitem__(1, est.loss_curve_[1] * (1 + 1e-6)),
        lambda est: est.coefs_[1].__setitem__((2, 3), est.coefs_[1][2, 3] + 1e-6),
        lambda est: est.intercepts_.pop(),
        lambda est: setattr(est, "t_", est.t_ + 1),
        lambda est: setattr(est, "best_loss_", None),
        lambda est: setattr(est, "coefs_", [W.astype("float32") for W in est.coefs_]),
    ):
        changed = copy.deepcopy(ours)
        change(changed)
        with pytest.raises((AssertionError, TypeError)):
            assert_same_model(changed, theirs, X)


# --- random networks --------------------------------------------------------------------------------------------------

# How much farther than their gradients a few steps of L-BFGS are off, whose directions are differences of gradients.
LINE_SEARCH = 100


@st.composite
def networks(draw):
    """Targets, options of both estimators, the numbers of features and rows, and a float type."""
    solver, n = draw(st.sampled_from(sorted(SOLVERS))), draw(st.integers(1, 300))
    dtype = "float64" if solver == "lbfgs" else draw(st.sampled_from(DTYPES))
    # in float32, a z within a rounding of 0 comes up now and then, on whose side a whole gradient depends with relu
    activations = ["identity", "logistic", "tanh"] + ["relu"] * (dtype == "float64")
    data = draw(st.sampled_from([name for name in DATA if name != "one class"]))
    n_features, hidden = draw(st.integers(1, 900)), draw(st.lists(st.integers(1, 300), min_size=1, max_size=2))
    options = SOLVERS[solver] | {
        "hidden_layer_sizes": hidden,
        "activation": draw(st.sampled_from(activations)),
        "alpha": draw(st.sampled_from([0.0, 1e-4, 0.1, 1.0])),
        # a step moves an output by this times the squares of the units below it, and must not make errors grow
        "learning_rate_init": (0.001 if "counts" in data else 0.05) / max(n_features, *hidden),
        "batch_size": draw(st.integers(-(-n // 8), n)),
        "shuffle": draw(st.booleans()),
        "max_iter": draw(st.integers(1, 3)),
        "random_state": draw(st.integers(0, 2**32 - 1)),
        "epsilon": 0.01,
    }
    return data, options, n_features, n, dtype


def random_rows(data, rng, n, outputs, dtype):
    """Targets of the kinds of `rows` for n rows."""
    match data:
        case "multiclass":
            return rng.integers(0, outputs + 2, n)
        case "binary":
            return rng.integers(0, 2, n)
        case "multilabel":
            return rng.integers(0, 2, (n, outputs + 1))
        case "one output":
            return rng.normal(size=n).astype(dtype)
        case "three outputs":
            return rng.normal(size=(n, outputs + 1)).astype(dtype)
        case "counts":
            return rng.poisson(2, n).astype(dtype)
        case "counts of three":
            return rng.poisson(2, (n, outputs + 1)).astype(dtype)


@pytest.mark.no_cover
@pytest.mark.compiled
@settings(max_examples=draws.examples(100), deadline=None)
@given(networks(), st.integers(1, 12), st.integers(1, 3))
def test_any_network_of_any_size(network, outputs, n_jobs):
    """Parameters agree to the roundings of their sums: over inputs, units and rows, and over steps."""
    data, options, n_features, n, dtype = network
    rng = np.random.default_rng(options["random_state"])
    X, y = rng.normal(size=(n, n_features)).astype(dtype), random_rows(data, rng, n, outputs, dtype)
    ours, theirs = pair(data, **options)
    fit((ours.set_params(n_jobs=n_jobs), theirs), X, y)
    steps = options["max_iter"] * -(-n // options["batch_size"])
    way = options["batch_size"] + 2 * (n_features + sum(options["hidden_layer_sizes"]) + theirs.n_outputs_)
    tolerance = (
        SPREADS * (steps * way) ** 0.5 * np.finfo(dtype).eps / 2 * (LINE_SEARCH if options["solver"] == "lbfgs" else 1)
    )
    for name in ("coefs_", "intercepts_"):
        for layer, (one, other) in enumerate(zip(getattr(ours, name), getattr(theirs, name), strict=True)):
            assert_close(f"{name}[{layer}]", one, other.astype(dtype), tolerance * largest(other))
    assert ours.n_iter_ == theirs.n_iter_


# --- weights, float types, sparse matrices ----------------------------------------------------------------------------


def weights(n):
    """Of rows: some twice, some not at all."""
    return np.resize([1.0, 2.0, 0.25, 0.0, 1.5], n)


@pytest.mark.no_cover
@pytest.mark.draw(5)
@pytest.mark.parametrize("options", [SGD, ADAM, ADAM | EARLY, LBFGS], ids=["sgd", "adam", "early stopping", "lbfgs"])
@pytest.mark.parametrize("data", DATA)
def test_sample_weight(data, options):
    X, y = rows(data)
    options = {"batch_size": 20} | options | (SMALL_STEPS if "counts" in data else {})
    assert_same_model(*fit(pair(data, **options), X, y, sample_weight=weights(len(X))), X)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("data", ["multiclass", "binary", "three outputs"])
def test_float32_stays(data, solver):
    X, y = rows(data)
    X, y = X.astype("float32"), y if y.dtype.kind != "f" else y.astype("float32")
    options = SOLVERS[solver] | {"max_iter": SINGLE_EPOCHS, "batch_size": 20}
    ours, theirs = fit(pair(data, **options), X, y)
    if solver == "lbfgs":
        # scipy works in float64, and scikit-learn's parameters become that
        for name in ("coefs_", "intercepts_"):
            assert all(array.dtype in (np.float32, np.float64) for array in getattr(ours, name))
    else:
        assert_same_model(ours, theirs, X, SAME_SINGLE, SAME_SINGLE)
        assert {array.dtype.name for array in ours.coefs_ + ours.intercepts_} == {"float32"}
    outputs = [est.predict_proba(X) if is_classifier(est) else est.predict(X) for est in (ours, theirs)]
    np.testing.assert_allclose(*outputs, **SAME_SINGLE)


FORMATS = {
    "csr": sparse.csr_array,
    "csc": sparse.csc_array,
    "csr_matrix": sparse.csr_matrix,
    "csc_matrix": sparse.csc_matrix,
    "coo": sparse.coo_array,
}


@pytest.mark.no_cover
@pytest.mark.draw(3)
@pytest.mark.compiled
@pytest.mark.parametrize("solver", ["sgd", "adam", "early stopping", "lbfgs"])
@pytest.mark.parametrize("kind", FORMATS)
def test_sparse(kind, solver):
    X, y = rows("sparse")
    X = FORMATS[kind](X)
    options = {"sgd": SGD, "adam": ADAM, "early stopping": ADAM | EARLY, "lbfgs": LBFGS | {"max_iter": 8}}[solver]
    ours, theirs = fit(pair("binary", batch_size=20, **options), X, y)
    assert_same_model(ours, theirs, X)
    assert_same_model(ours, theirs, X.toarray())


def with_strides(X):
    """The same matrix, whose arrays are every other number of larger ones, between numbers that are wrong."""
    X = X.copy()
    for name in ("data", "indices", "indptr"):
        array = getattr(X, name)
        setattr(X, name, np.column_stack([array, array[::-1] + 1]).ravel()[::2])
        assert not getattr(X, name).flags.c_contiguous
    return X


@pytest.mark.compiled
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["csr", "csc", "csr_matrix", "csc_matrix"])
def test_sparse_matrices_of_strided_arrays(kind, dtype):
    X, y = rows("sparse")
    X = FORMATS[kind](X).astype(dtype)
    strided = with_strides(X)
    for options in (SGD, ADAM | EARLY, LBFGS):
        one, other = (pair("binary", **options | {"max_iter": 3})[0] for _ in range(2))
        one.fit(X, y, **{} if "early_stopping" in options or options is LBFGS else {"X_val": X, "y_val": y})
        other.fit(strided, y, **{} if "early_stopping" in options or options is LBFGS else {"X_val": strided, "y_val": y})
        for array, expected in zip(other.coefs_, one.coefs_, strict=True):
            np.testing.assert_array_equal(array, expected, strict=True)
        np.testing.assert_array_equal(one.predict_proba(strided), one.predict_proba(X), strict=True)
        np.testing.assert_array_equal(one.transform(strided), one.transform(X), strict=True)


@pytest.mark.parametrize("integers", ["int16", "uint32", "int64"])
def test_sparse_matrices_with_indices_of_other_integers(integers):
    X, y = rows("sparse")
    other = X.copy()
    other.indices = other.indices.astype(integers)
    one, two = (pair("binary", **SGD | {"max_iter": 3})[0] for _ in range(2))
    np.testing.assert_array_equal(two.fit(other, y).coefs_[0], one.fit(X, y).coefs_[0])
    np.testing.assert_array_equal(two.predict_proba(other), one.predict_proba(X))


def test_rows_that_are_not_aligned():
    X, y = rows("one output")
    shifted = np.zeros(X.nbytes + y.nbytes + 2, np.uint8)
    other, other_y = shifted[1 : 1 + X.nbytes].view(float).reshape(X.shape), shifted[1 + X.nbytes : -1].view(float)
    other[...], other_y[...] = X, y
    assert not other.flags.aligned
    one, two = (pair("one output", **SGD | {"max_iter": 3})[0] for _ in range(2))
    np.testing.assert_array_equal(two.fit(other, other_y, other_y).coefs_[0], one.fit(X, y, y).coefs_[0])
    np.testing.assert_array_equal(two.predict(other), one.predict(X))


def test_sparse_partial_fit():
    X, y = rows("sparse")
    ours, theirs = pair("binary", **ADAM)
    for estimator in (ours, theirs):
        for _ in range(3):
            estimator.partial_fit(X, y, classes=[0, 1])
    assert_same_model(ours, theirs, X)


# --- more than one fit ------------------------------------------------------------------------------------------------


def all_classes(estimator, y):
    """What the first call of partial_fit has to be told."""
    if not is_classifier(estimator):
        return {}
    return {"classes": np.unique(y) if y.ndim == 1 else np.arange(y.shape[1])}


def parts(X, y):
    """Some rows, then others; the first ones are more, and have all classes."""
    return [(X[::2], y[::2]), (X[1::3], y[1::3]), (X[::2], y[::2])]


@pytest.mark.no_cover
@pytest.mark.draw(5)
@pytest.mark.parametrize("options", [*SOLVERS.values(), ADAM | EARLY], ids=[*SOLVERS, "early stopping"])
@pytest.mark.parametrize("data", ["multiclass", "binary", "multilabel", "three outputs"])
def test_warm_start(data, options):
    X, y = rows(data)
    ours, theirs = pair(data, warm_start=True, **options)
    for max_iter, (X_part, y_part) in zip((3, 8, 5), parts(X, y), strict=True):
        for estimator in (ours, theirs):
            estimator.set_params(max_iter=min(EPOCHS, max_iter)).fit(X_part, y_part)
        # the best weights of scikit-learn's early stopping are also those that it goes on to change
        theirs.coefs_, theirs.intercepts_ = copy.deepcopy((theirs.coefs_, theirs.intercepts_))
        assert_same_model(ours, theirs, X)


@pytest.mark.no_cover
@pytest.mark.draw(5)
@pytest.mark.parametrize("solver", ["sgd", "momentum", "nesterov", "adam", "invscaling", "adaptive"])
@pytest.mark.parametrize("data", ["multiclass", "binary", "multilabel", "one output", "counts"])
def test_partial_fit(data, solver):
    X, y = rows(data)
    options = SOLVERS.get(solver, SGD | {"learning_rate": solver, "tol": 0.1, "n_iter_no_change": 2})
    ours, theirs = pair(data, batch_size=20, **options | (SMALL_STEPS if data == "counts" else {}))
    for estimator in (ours, theirs):
        first = all_classes(estimator, y)
        for X_part, y_part in parts(X, y) * min(5, EPOCHS):
            estimator.partial_fit(X_part, y_part, **first)
            first = {}
    assert_same_model(ours, theirs, X)


@pytest.mark.parametrize("data", ["multiclass", "one output"])
def test_partial_fit_with_sample_weight(data):
    X, y = rows(data)
    ours, theirs = pair(data, batch_size=20, **ADAM)
    for estimator in (ours, theirs):
        for _ in range(3):
            estimator.partial_fit(X, y, weights(len(X)), **all_classes(estimator, y))
    assert_same_model(ours, theirs, X)


@pytest.mark.parametrize("solver", ["sgd", "nesterov", "adam"])
@pytest.mark.parametrize("data", ["binary", "three outputs"])
def test_fit_and_partial_fit_in_turn(data, solver):
    X, y = rows(data)
    ours, theirs = pair(data, **SOLVERS[solver] | {"max_iter": min(EPOCHS, 5)})
    for estimator in (ours, theirs):
        estimator.fit(X, y).partial_fit(X, y).partial_fit(*parts(X, y)[1])
    assert_same_model(ours, theirs, X)
    for estimator in (ours, theirs):
        estimator.fit(X, y)
    assert_same_model(ours, theirs, X)
    for estimator in (ours, theirs):
        estimator.set_params(warm_start=True).fit(X, y).partial_fit(X, y)
    assert_same_model(ours, theirs, X)


@pytest.mark.parametrize(("low", "high"), [(0, 2), (0, 255), (-1, 1)])
@pytest.mark.parametrize("options", [ADAM, ADAM | EARLY, {"solver": "lbfgs"}], ids=["adam", "early stopping", "lbfgs"])
def test_labels_that_are_not_0_and_1(options, low, high):
    X, y = rows("multilabel")
    y = np.where(y, high, low)
    ours, theirs = fit(pair("multilabel", **options), X, y)
    assert_same_model(ours, theirs, X)
    assert pair("multilabel", **ADAM | {"batch_size": 20})[0].fit(X, y, chunk_rows=40).loss_ > 0
    for estimator in (first := pair("multilabel", **ADAM)):
        estimator.partial_fit(X, y, classes=np.arange(4)).partial_fit(X, y)
    assert_same_model(*first, X)


@pytest.mark.parametrize("later", ["partial_fit", "warm start"])
@pytest.mark.parametrize("dtypes", [DTYPES, DTYPES[::-1]])
def test_a_fit_goes_on_in_its_own_float_type(dtypes, later):
    X, y = rows("multiclass")
    first, second = (X.astype(dtype) for dtype in dtypes)
    ours, theirs = fit(pair("multiclass", **ADAM | {"max_iter": 3, "batch_size": 20}, warm_start=True), first, y)
    for estimator in (ours, theirs):
        estimator.partial_fit(second, y) if later == "partial_fit" else estimator.fit(second, y)
    assert {array.dtype for array in ours.coefs_ + ours.intercepts_} == {first.dtype}
    assert_same_model(ours, theirs, first, same=SAME_SINGLE, same_parameters=SAME_SINGLE)
    chunked = pair("multiclass", **ADAM | {"max_iter": 3, "batch_size": 20}, warm_start=True)[0].fit(first, y, chunk_rows=40)
    assert chunked.partial_fit(second, y, chunk_rows=40).coefs_[0].dtype == first.dtype


def test_partial_fit_of_classes_that_come_later():
    X, y = rows("multiclass")
    ours, theirs = pair("multiclass", **ADAM)
    for estimator in (ours, theirs):
        estimator.partial_fit(X[y == 2], y[y == 2], classes=[2, 1, 0]).partial_fit(X[y == 0], y[y == 0])
    assert_same_model(ours, theirs, X)


def test_assigned_parameters_are_trained_further():
    X, y = rows("one output")
    ours, theirs = pair("one output", warm_start=True, max_iter=3, **ADAM)
    fit((ours, theirs), X, y)
    for estimator in (ours, theirs):
        estimator.coefs_[0] = np.full_like(estimator.coefs_[0], 0.1)
        estimator.intercepts_[1][...] = 0.5
        estimator.predict(X)
        estimator.fit(X, y)
    assert_same_model(ours, theirs, X)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("epsilon", [1e-12, 1e-40, 1e-60, 1e-300, 1e-320, 5e-324])
@pytest.mark.parametrize("hidden", [5, 70])
def test_an_epsilon_of_next_to_nothing(hidden, epsilon, dtype):
    """Also one that is 0 in the float type: only gradients that are 0 could be divided by it, and these change nothing."""
    X, y = rows("three outputs")
    X, y = X.astype(dtype), y.astype(dtype)
    options = {"hidden_layer_sizes": hidden, "max_iter": 3, "epsilon": epsilon, "activation": "tanh"}
    ours, theirs = fit(pair("three outputs", **options), X, y)
    assert np.all(np.isfinite(ours.loss_curve_))
    same = SAME_PARAMETERS if dtype == "float64" else SAME_SINGLE
    for name in ("coefs_", "intercepts_", "loss_curve_"):
        for one, other in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            np.testing.assert_allclose(one, other, **same)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tiny_gradients_and_a_tiny_epsilon(dtype):
    """A second moment below the smallest normal number counts as 0; the step stays as long as Adam's steps are."""
    X, y = rows("three outputs")
    X, y = X.astype(dtype), y.astype(dtype)
    X[:, 0], X[:, 1] = 0, np.sqrt(np.finfo(dtype).tiny) * X[:, 1]
    options = {"max_iter": 3, "epsilon": 5e-324, "activation": "tanh", "alpha": 0, "learning_rate_init": 0.001}
    ours = pair("three outputs", **options)[0].fit(X, y)
    start = pair("three outputs", **options | {"learning_rate_init": 1e-30})[0].fit(X, y)
    moved = ours.coefs_[0] - start.coefs_[0]
    assert np.all(moved[0] == 0)
    assert np.all(np.abs(moved) < 3 * 0.0011)
    assert np.all(moved[2] != 0)


# --- random numbers ---------------------------------------------------------------------------------------------------

RANDOM = {
    "fit": ADAM | {"max_iter": 5},
    "converging": CASES["converging"][1],
    "no shuffle": ADAM | {"max_iter": 3, "shuffle": False},
    "early stopping": ADAM | EARLY | {"max_iter": 4},
    "lbfgs": LBFGS | {"max_iter": 3},
}


@pytest.mark.parametrize("case", RANDOM)
def test_a_random_state_is_drawn_from_as_far(case):
    X, y = rows("binary")
    ours, theirs = pair("binary", **RANDOM[case] | {"random_state": np.random.RandomState(5)})
    for _ in range(2):
        fit((ours, theirs), X, y)
        assert_same_model(ours, theirs, X)
    assert ours.random_state.uniform() == theirs.random_state.uniform()
    if ours.solver == "adam" and not ours.early_stopping:
        for estimator in (ours, theirs):
            estimator.partial_fit(X, y)
        assert_same_model(ours, theirs, X)
        assert ours.random_state.uniform() == theirs.random_state.uniform()


def test_no_random_state_is_that_of_numpy():
    X, y = rows("binary")
    estimators = pair("binary", **ADAM | {"max_iter": 3, "random_state": None})
    # the one that check_random_state gives for None
    shared = check_random_state(None)
    start, after = shared.get_state(), []
    for estimator in estimators:
        shared.set_state(start)
        estimator.fit(X, y)
        after.append(shared.uniform())
    assert_same_model(*estimators, X)
    assert after[0] == after[1]


def test_numpy_integers_are_seeds():
    X, y = rows("binary")
    assert_same_model(*fit(pair("binary", random_state=np.int64(7), max_iter=3), X, y), X)


def test_max_iter_is_warned_of_once():
    X, y = rows("binary")
    for estimator in pair("binary", max_iter=3):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            estimator.fit(X, y)
        assert [w.category for w in warned] == [ConvergenceWarning]
        assert re.match(r"Stochastic Optimizer: Maximum iterations \(3\) reached", str(warned[0].message))
