"""Losses: those of single rows, and those that an epoch reports, held to what scikit-learn says of the same outputs."""

from dataclasses import replace

import numpy as np
import pytest
from cases import DTYPES, SMALL, WORKSPACES, assert_close, assert_same_bits, train
from draws import SEED
from scipy.special import expit, logsumexp, softmax, xlogy
from sklearn.neural_network import MLPClassifier

from fastbp import kernels, reference
from fastbp.history import History
from fastbp.layout import CURSOR, RECORD, Layout
from fastbp.rule import ACTIVATIONS, Rule

# Some roundings of each loss, and those of a sum of few of them.
RELATIVE = {"float64": 1e-14, "float32": 1e-5}
# Each of some hundred steps adds some roundings.
CURVE_TOLERANCE = 1e-12
ENDS = 1e-300, 1e-20, 1e-10, 0.3, 1, 3, 5, 10, 15, 16, 17, 20, 30, 33, 35, 36, 37, 50, 100, 700, 800, 1e30


def loss_and_delta(implementation, kernel, head, Z, Y):
    """The loss of all rows together, and its derivative by Z, the pre-activations."""
    n, units = Z.shape
    layout = Layout((units, units), Z.dtype, False, [])
    work = WORKSPACES[kernel](layout, n, n, shuffled=False).arrays
    params, grad = layout.gather([np.eye(units)], []), np.empty(layout.size, Z.dtype)
    deltas, rule = np.zeros_like(Z), Rule(*head).numbers(units)
    _, loss, _, _ = implementation.loss_grad(layout.layers, params, Z, Y, np.empty(0, Z.dtype), rule, grad, work)
    for i in range(n):
        # alone, with an input of 1: the gradient of the biases
        biased = Layout((1, units), Z.dtype, True, [])
        params, grad = biased.gather([np.zeros((1, units))], [Z[i]]), np.empty(biased.size, Z.dtype)
        work = WORKSPACES[kernel](biased, 1, 1, shuffled=False).arrays
        row = np.zeros((1, 1), Z.dtype), Y[i : i + 1]
        implementation.loss_grad(biased.layers, params, *row, np.empty(0, Z.dtype), rule, grad, work)
        deltas[i] = biased.views(grad)[1][0]
    return loss, deltas


def outputs(implementation, kernel, head, Z):
    layout = Layout((Z.shape[1],) * 2, Z.dtype, False, [])
    work, out = WORKSPACES[kernel](layout, len(Z), len(Z), shuffled=False).arrays, np.empty_like(Z)
    params = layout.gather([np.eye(Z.shape[1])], [])
    implementation.forward(layout.layers, params, Z, out, Rule(*head).numbers(Z.shape[1]), work)
    return out


def clipped_log_loss(A, Y):
    """What scikit-learn reports, with the same roundings, but for the order of the sum."""
    eps = np.finfo(A.dtype).eps
    P = np.clip(A, eps, 1 - eps)
    return -np.sum(xlogy(Y, P) + xlogy(1 - Y, 1 - P), dtype=np.float64)


implementations = pytest.mark.parametrize(
    ("implementation", "kernel"),
    [(reference, "narrow"), *[(kernels, kernel) for kernel in WORKSPACES]],
    ids=["reference", *WORKSPACES],
)


@pytest.mark.no_cover
@pytest.mark.draw(4)
@implementations
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("units", [1, 3])
def test_the_clipped_log_loss_of_two_classes(units, dtype, implementation, kernel):
    head = "logistic", "clipped_log_loss"
    for z in (*ENDS, *[-end for end in ENDS], 0.0):
        Z = np.full((2, units), z, dtype)
        Y = np.zeros_like(Z)
        Y[:, 0] = 0, 1
        for y in (Y, 1 - Y):
            loss, delta = loss_and_delta(implementation, kernel, head, Z, y)
            A = outputs(implementation, kernel, head, Z)
            assert loss == pytest.approx(clipped_log_loss(A, y), rel=RELATIVE[dtype])
            assert_close("deltas", delta, A - y, np.finfo(dtype).eps)
            assert_close("outputs", A, expit(Z), 2 * np.finfo(dtype).eps)
    soft = np.array([[0.3] * units, [0.9] * units], dtype)
    loss, delta = loss_and_delta(implementation, kernel, head, Z + 1, soft)
    assert loss == pytest.approx(clipped_log_loss(expit(Z + 1), soft), rel=RELATIVE[dtype])


@implementations
def test_the_clipped_log_loss_of_many_rows_is_scikit_learns(implementation, kernel):
    """Right rows and very wrong ones, whose outputs have few digits left of their distance to 1."""
    rng = np.random.default_rng(0)
    Z, Y = rng.normal(0, 15, (500, 2)), rng.integers(0, 2, (500, 2)).astype(float)
    loss, _ = loss_and_delta(implementation, kernel, ("logistic", "clipped_log_loss"), Z, Y)
    assert loss == pytest.approx(clipped_log_loss(expit(Z), Y), rel=CURVE_TOLERANCE)
    exact, _ = loss_and_delta(implementation, kernel, ("logistic", "log_loss"), Z, Y)
    assert loss != pytest.approx(exact, rel=1e-6)


@implementations
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("units", [3, 17])
def test_the_clipped_log_loss_of_many_classes(units, dtype, implementation, kernel):
    head, rng = ("softmax", "clipped_log_loss"), np.random.default_rng(0)
    Z = np.concatenate([rng.normal(0, size, (5, units)) for size in (1, 10, 30, 300)]).astype(dtype)
    hard = np.eye(units, dtype=dtype)[rng.integers(0, units, len(Z))]
    soft = rng.uniform(0, 1, Z.shape).astype(dtype)
    eps = float(np.finfo(dtype).eps)
    for Y in (hard, soft):
        for rows in (slice(None), slice(0, 5), slice(15, 20)):
            loss, delta = loss_and_delta(implementation, kernel, head, Z[rows], Y[rows])
            A = softmax(Z[rows], axis=1)
            theirs = -np.sum(xlogy(Y[rows], np.clip(A, eps, 1 - eps)), dtype=np.float64)
            # a probability is off by some roundings, which is all there is of the loss of one near 1
            assert loss == pytest.approx(theirs, rel=RELATIVE[dtype], abs=10 * len(Z) * eps)
            assert_close("deltas", delta, A - Y[rows], 10 * eps)
    certain = (2e4 * hard - 1e4).astype(dtype)
    loss, _ = loss_and_delta(implementation, kernel, head, certain, hard)
    assert loss == pytest.approx(-len(Z) * np.log1p(-eps), rel=RELATIVE[dtype])
    wrong, _ = loss_and_delta(implementation, kernel, head, -certain, hard)
    assert wrong == pytest.approx(-len(Z) * np.log(eps), rel=RELATIVE[dtype])


@implementations
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("units", [1, 3, 10, 17])
@pytest.mark.parametrize("activation", ["logistic", "softmax"])
def test_the_log_loss(activation, units, dtype, implementation, kernel):
    """Of drawn rows, some of them far out, which nothing clips."""
    rng = np.random.default_rng(SEED)
    Z = np.concatenate([rng.normal(0, size, (4, units)) for size in (0.1, 1, 10, 300)]).astype(dtype)
    Y = rng.dirichlet(np.ones(units), len(Z)).astype(dtype) if activation == "softmax" else rng.uniform(0, 1, Z.shape)
    Y, wide = Y.astype(dtype), Z.astype("float64")
    A, exact = {
        "logistic": (expit(wide), np.logaddexp(0, wide) - Y * wide),
        "softmax": (softmax(wide, axis=1), Y * (logsumexp(wide, axis=1, keepdims=True) - wide)),
    }[activation]
    loss, delta = loss_and_delta(implementation, kernel, (activation, "log_loss"), Z, Y)
    assert loss == pytest.approx(exact.sum(), rel=RELATIVE[dtype])
    assert_close("deltas", delta, (A - Y).astype(dtype), 10 * np.finfo(dtype).eps)


@implementations
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_absolute_error(dtype, implementation, kernel):
    Z = np.array([[1, 1, -3, 0], [0.5, 0, 2, -1e6]], dtype)
    Y = np.array([[0, 1, -1, 2], [0.75, -0.0, 0, 0]], dtype)
    loss, delta = loss_and_delta(implementation, kernel, ("identity", "absolute_error"), Z, Y)
    assert loss == 1 + 0 + 2 + 2 + 0.25 + 0 + 2 + 1e6
    np.testing.assert_array_equal(delta, [[1, 0, -1, -1], [-1, 0, 1, -1]])


@implementations
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "head",
    [
        ("identity", "absolute_error"),
        *[(activation, loss) for activation in ("logistic", "softmax") for loss in ("log_loss", "clipped_log_loss")],
    ],
    ids=" ".join,
)
def test_nan_is_not_clipped(head, dtype, implementation, kernel):
    Z = np.zeros((1, 3), dtype)
    Z[0, 1] = np.nan
    with np.errstate(invalid="ignore"):
        loss, delta = loss_and_delta(implementation, kernel, head, Z, np.eye(3, dtype=dtype)[1:2])
    assert np.isnan(loss)
    assert np.isnan(delta[0, 1])


# --- the loss of an epoch ---------------------------------------------------------------------------------------------


def curve(implementation, kernel, rule, layout, parameters, rows, weights, batch_size, epochs):
    """The history of some epochs, and its record."""
    workspace, record = WORKSPACES[kernel](layout, len(rows[0]), batch_size, shuffled=False), np.zeros((epochs, len(RECORD)))
    layout.gather(*parameters, workspace.params)
    blocks = -(-len(rows[0]) // batch_size) if implementation is reference else workspace.blocks_per_epoch
    n_rows, n_outputs = rows[1].shape
    implementation.train(
        layout.layers, workspace.params, workspace.state, *rows, weights, np.empty((0, n_rows), np.int64), batch_size,
        rule.numbers(n_outputs), epochs * blocks, np.zeros(len(CURSOR), np.int64), record, workspace.arrays,
    )  # fmt: skip
    return History(record, weights.sum() if len(weights) else n_rows, n_outputs, rule), record


@implementations
def test_the_loss_of_an_epoch_by_hand(implementation, kernel):
    """Three batches: of two rows, of two rows without weight, of one row. One weight, which stays as it is, times x."""
    X, Y, w = np.array([[1.0], [2], [3], [4], [5]]), np.zeros((5, 1)), np.array([0.5, 1, 0, 0, 4])
    layout = Layout((1, 1), "float64", False, [])
    # w E of the rows: 0.5 * 1/2, 1 * 4/2, 4 * 25/2; W**2 = 1
    losses, penalties = np.array([2.25, 50]), np.array([0.3 / 2, 0.3 / 2])
    weights = np.array([1.5, 4])
    expected = {
        "row": (2 * (losses[0] + penalties[0]) / 1.5 + 1 * (losses[1] + penalties[1]) / 4) / 3,
        "mean": (losses.sum() + penalties.sum()) / weights.sum(),
        "sum": losses.sum() + penalties.sum(),
    }
    for reduction, value in expected.items():
        rule = Rule("identity", "squared_error", "gradient_only", alpha=0.3, reduction=reduction)
        history, record = curve(implementation, kernel, rule, layout, ([np.ones((1, 1))], []), (X, Y), w, 2, 1)
        assert history.loss[0] == pytest.approx(value, rel=1e-15)
        assert record[0, RECORD.rows] == 3
        assert record[0, RECORD.loss] == pytest.approx(2.25 * 2 / 1.5 + 50 / 4 if reduction == "row" else 52.25, rel=1e-15)


@pytest.mark.parametrize("kernel", WORKSPACES)
@pytest.mark.parametrize(("n_rows", "batch_size"), [(11, 7), pytest.param(700, 600, marks=pytest.mark.compiled)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_of_1_leave_the_same_bits(dtype, n_rows, batch_size, kernel):
    case = replace(SMALL, n_rows=n_rows, batch_size=batch_size, alpha=0.1, kernel=kernel, dtype=dtype)
    one, other = train(kernels, case), train(kernels, case, weights=np.ones(n_rows, dtype))
    assert_same_bits(one, other)


@pytest.mark.no_cover
@pytest.mark.draw(4)
@pytest.mark.compiled
@implementations
@pytest.mark.parametrize("hidden", [(5,), (40, 30)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_loss_curve_is_scikit_learns(n_classes, weighted, hidden, implementation, kernel):
    rng = np.random.default_rng(0)
    X, labels = rng.normal(size=(110, 6)), np.arange(110) % n_classes
    X[:, 0] += 3 * labels
    weights = rng.integers(0, 4, 110).astype(float) if weighted else None
    theirs = MLPClassifier(
        hidden, activation="tanh", solver="sgd", alpha=0.01, batch_size=20, learning_rate_init=1e-300, momentum=0,
        nesterovs_momentum=False, shuffle=False, random_state=0,
    )  # fmt: skip
    theirs.partial_fit(X, labels, weights, classes=np.arange(n_classes))  # a start: nothing moves yet
    start = [W.copy() for W in theirs.coefs_], [b.copy() for b in theirs.intercepts_]
    theirs._optimizer.learning_rate = 0.3
    for _ in range(20):
        theirs.partial_fit(X, labels, weights)
    Y = (labels[:, None] == ([1] if n_classes == 2 else np.arange(n_classes))).astype(float)
    out_activation = "logistic" if n_classes == 2 else "softmax"
    rule = Rule(out_activation, "clipped_log_loss", "sgd", 0.3, alpha=0.01, reduction="row")
    layout = Layout((6, *hidden, Y.shape[1]), "float64", True, [ACTIVATIONS.index("tanh")] * len(hidden))
    ours = np.empty(0) if weights is None else weights
    history, _ = curve(implementation, kernel, rule, layout, start, (X, Y), ours, 20, 20)
    np.testing.assert_allclose(history.loss, theirs.loss_curve_[1:], rtol=CURVE_TOLERANCE)
    assert history.loss[-1] < history.loss[0] / 2
