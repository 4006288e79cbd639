"""X in CSR form: the same results as of a dense X, and nothing as large as one."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from cases import (
    CASES,
    DTYPES,
    SMALL,
    assert_close,
    assert_same_bits,
    assert_same_outputs,
    assert_same_training,
    forward,
    moved,
    train,
    with_indices,
)
from scipy.sparse import csc_array, csr_array, csr_matrix
from test_kernels import cases_to_run

from fastbp import MLPRegressor, kernels, reference
from fastbp.layout import Layout
from fastbp.rule import Rule
from fastbp.training import Run, permutations, threads_for, watch
from fastbp.workspace import WideWorkspace, workspace_for_prediction, workspace_for_training

WIDE = replace(SMALL, kernel="wide", n_rows=31, batch_size=12)
# Vectors of a row in every number that is taken side by side; several blocks; everything a step may consist of.
NETWORKS = [
    *[replace(WIDE, dtype=dtype, solver=solver) for dtype in DTYPES for solver in ("sgd", "adam")],
    replace(WIDE, bias=False, alpha=0.1, weighted=True, solver="momentum"),
    replace(WIDE, units=(4, 3), batch_size=1),
    replace(WIDE, units=(40, 15 * 8 + 3, 3), activations="relu", shuffled=True, dropout=0.2, solver="nesterov"),
    replace(WIDE, units=(70, 61, 9), n_rows=700, batch_size=600, alpha=0.1, solver="adam"),
    replace(WIDE, units=(70, 61, 9), n_rows=700, batch_size=600, max_norm=0.1, alpha=0.1, dtype="float32"),
]


def with_zeros(case, share=0.8):
    """X of the dense case, of which a share is 0, and Y."""
    X, Y = case.rows()
    X[np.random.default_rng(5).random(X.shape) < share] = 0
    return X, Y


def every_value(X):
    """CSR form that stores the zeros as well."""
    n, n_in = X.shape
    return csr_array((X.ravel(), np.tile(np.arange(n_in), n), np.arange(0, X.size + 1, n_in)), X.shape)


@pytest.mark.draw(1, plain=4)
@pytest.mark.parametrize("case", cases_to_run(NETWORKS))
@pytest.mark.parametrize("share", [0.8, 1])
def test_a_sparse_x_gives_the_bits_of_a_dense_one(case, share):
    X, Y = with_zeros(case, share)
    trained, outputs, sparse = train(kernels, case, rows=(X, Y)), forward(kernels, case, X), replace(case, sparse=True)
    for form in (csr_array(X), csr_matrix(X), every_value(X)):
        assert_same_bits(train(kernels, sparse, rows=(form, Y)), trained)
        assert_same_bits([forward(kernels, sparse, form)], [outputs])


@pytest.mark.draw(1, plain=4)
@pytest.mark.parametrize("case", cases_to_run(NETWORKS))
def test_the_reference_takes_a_sparse_x(case):
    X, Y = with_zeros(case)
    assert_same_training(train(reference, case, rows=(csr_array(X), Y)), train(reference, case, rows=(X, Y)), case)
    assert_same_outputs(forward(reference, case, csr_array(X)), forward(reference, case, X), case)


@pytest.mark.parametrize("indices", ["int32", "int64"])
def test_indices_may_be_of_either_size(indices):
    X, Y = with_zeros(WIDE)
    trained = train(kernels, replace(WIDE, sparse=True), rows=(with_indices(csr_array(X), indices), Y))
    assert_same_bits(trained, train(kernels, WIDE, rows=(X, Y)))


def test_a_column_that_comes_twice_counts_twice():
    case, columns = replace(WIDE, sparse=True, n_rows=2, batch_size=2), np.array([2, 0, 2, 1])
    X = csr_array((np.array([1.0, 2.0, 4.0, -1.0]), columns, np.array([0, 3, 4])), (2, 3))
    Y = case.rows()[1]
    once = train(kernels, case, rows=(csr_array([[2.0, 0, 5], [0, -1, 0]]), Y))
    assert_same_training(train(kernels, case, rows=(X, Y)), once, case)


@pytest.mark.parametrize("units", [(3, 5, 4), pytest.param((50, 140, 3), marks=pytest.mark.compiled)])
def test_a_row_s_prediction_does_not_depend_on_the_others(units):
    case = replace(WIDE, units=units, n_rows=50, sparse=True)
    X = case.rows()[0]
    whole = forward(kernels, case, X)
    for i in range(0, 50, 7):
        assert_same_bits([forward(kernels, case, X[i : i + 1])], [whole[i : i + 1]])
    order = np.random.default_rng(0).permutation(50)
    assert_same_bits([forward(kernels, case, X[order])], [whole[order]])
    wild = X.copy()
    for i in range(0, 50, 2):
        wild.data[wild.indptr[i] : wild.indptr[i + 1]] = np.nan
    assert_same_bits([forward(kernels, case, wild)[1::2]], [whole[1::2]])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_not_hidden(bad):
    case = replace(WIDE, sparse=True)
    X, Y = case.rows()
    X.data[-1] = bad
    with np.errstate(invalid="ignore"):
        ours, theirs = (train(implementation, case, rows=(X, Y)) for implementation in (kernels, reference))
    used = case.layout.gather(*case.layout.views(np.ones(case.layout.size))) > 0
    assert not np.isfinite(theirs.params[used]).all()
    assert_same_bits([np.isfinite(ours.params[used])], [np.isfinite(theirs.params[used])])


def test_x_is_left_as_it_is():
    case = next(case for case in CASES if case.sparse and case.n_rows < 100)
    X, Y = case.rows()
    before = moved(X, np.copy)
    train(kernels, case, rows=(X, Y))
    forward(kernels, case, X)
    assert_same_bits([X.data, X.indices, X.indptr], [before.data, before.indices, before.indptr])


@pytest.mark.parametrize(
    "case",
    cases_to_run(
        [
            replace(WIDE, sparse=True, alpha=0.1, weighted=True),
            replace(WIDE, sparse=True, units=(200, 30, 3), n_rows=700, max_norm=0.1),
        ]
    ),
)
def test_the_gradient_agrees_with_the_reference(case):
    case = replace(case, batch_size=case.n_rows, solver="gradient_only")
    (X, Y), params, work = case.rows(), case.parameters(), case.workspace().arrays
    results = []
    for implementation in (kernels, reference):
        grad = np.full_like(params, np.nan)
        numbers = implementation.loss_grad(case.layout.layers, params, X, Y, case.weights(), case.rule, grad, work)
        results.append((grad, np.array(numbers)))
    (ours, numbers), (theirs, expected) = results
    assert_close("gradients", ours, theirs, case.tolerance * max(1, np.abs(theirs).max()))
    assert_close("sums", numbers, expected, case.n_rows * case.tolerance * max(1, expected.max()))


# --- the choice of workspace and threads ------------------------------------------------------------------------------


@pytest.mark.parametrize("units", [(2, 4, 1), (4, 32, 4), (64, 100, 10)])
def test_a_sparse_x_goes_to_the_wide_kernel(units):
    layout = Layout(units, "float64", True, [0])
    assert type(workspace_for_training(layout, 100, 50, shuffled=True, sparse=True)) is WideWorkspace
    assert type(workspace_for_prediction(layout, 100, sparse=True)) is WideWorkspace


@pytest.mark.parametrize("units", [(100_000, 1), (100_000, 2, 1)])
def test_nothing_is_as_large_as_a_dense_batch(units):
    layout = Layout(units, "float64", True, [0] * (len(units) - 2))
    workspace = WideWorkspace(layout, 256, 256, shuffled=True, sparse=True)
    assert workspace.arrays[0].size < layout.size + 100_000


def test_threads_are_for_stored_values(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    layout, rows = Layout((10_000, 50, 1), "float64", True, [0]), 1000
    empty, full = csr_array((rows, 10_000)), every_value(np.ones((10, 10_000)))
    assert threads_for(layout, rows, 8, np.empty((rows, 10_000))) == threads_for(layout, rows, 8) == 8
    assert threads_for(layout, rows, 8, full) == 8
    assert threads_for(layout, rows, 8, empty) == 1


# --- how its values stand in memory -----------------------------------------------------------------------------------


@pytest.mark.draw(1, plain=8)
@pytest.mark.parametrize("names", [("data",), ("indices",), ("indptr",), ("data", "indices", "indptr")])
@pytest.mark.parametrize("kind", [csr_array, csc_array])
def test_values_that_do_not_stand_side_by_side(kind, names):
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(60, 12)) * (rng.uniform(size=(60, 12)) < 0.3)
    y, X, views = rng.normal(size=60), kind(dense), kind(dense)
    for name in names:
        setattr(views, name, np.repeat(getattr(views, name), 2)[::2])
        assert not getattr(views, name).flags.c_contiguous
    for solver in ("adam", "lbfgs"):
        theirs, ours = (MLPRegressor(hidden_layer_sizes=20, solver=solver, max_iter=5, random_state=0) for _ in range(2))
        with warnings.catch_warnings(action="ignore"):  # that 5 iterations are few
            theirs.fit(X, y), ours.fit(views, y)
        assert_same_bits([*ours.coefs_, ours.predict(views)], [*theirs.coefs_, theirs.predict(X)])


# --- whole runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [csr_array, csr_matrix])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_run_takes_a_sparse_x(form, n_jobs, monkeypatch):
    monkeypatch.setattr("fastbp.training.THREAD_FLOPS", 1)
    case = replace(WIDE, units=(6, 5, 1), out_activation="logistic", loss="log_loss")
    X, Y = with_zeros(case)

    def result(X):
        weights, biases = (list(map(np.array, one)) for one in case.layout.views(case.parameters()))
        rng = np.random.default_rng(0)
        run = Run(
            weights, biases, X, Y, rule=Rule("logistic", "log_loss", "adam", alpha=0.01, reduction="row"), activations=[2],
            batch_size=4, row_weights=np.linspace(0, 1, case.n_rows), n_jobs=n_jobs,
            draw=permutations(rng, case.n_rows), workspace=WideWorkspace,
        )  # fmt: skip
        history = watch(run, 5)
        assert math.isfinite(history.loss[-1])
        weights, biases = run.parameters()
        return [
            *weights,
            *biases,
            *map(np.array, (history.loss, history.mse, history.accuracy)),
            *(array for pair in run.memory()[0] for arrays in pair for array in arrays),
        ]

    for ours, theirs in zip(result(form(X)), result(X), strict=True):
        assert_same_bits([ours], [theirs])
