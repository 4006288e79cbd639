"""The specification, held to finite differences and to the two founding networks written out by hand."""

import by_hand
import numpy as np
import pytest
from cases import CASES, assert_close, assert_same_bits, reference_of, train

from fastbp import reference
from fastbp.layout import CURSOR_SIZE, Layout

# 10,000 steps of one set of equations in two orders of evaluation: what the two founding networks have to agree to.
AGREEMENT = 1e-9

# Central differences of step h are off by about h**2/6 times a third derivative of order 1, and by roundoff / h.
STEP = np.finfo(np.float64).eps ** (1 / 3)
DIFFERENCE_TOLERANCE = 10 * STEP**2


def loss(layers, params, X, Y, mean):
    squares, _ = reference.loss_grad(layers, params, X, Y, mean, np.zeros_like(params), ())
    return squares / (2 * Y.size if mean else 2)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("units", [(1, 1), (2, 4, 1), (4, 2, 3), (3, 5, 4, 2), (9, 17, 10)])
def test_the_gradient_is_that_of_the_loss(units, bias, mean):
    layout, rng = Layout(units, "float64", bias), np.random.default_rng(0)
    weights, biases = layout.views(np.ones(layout.size))
    params = layout.gather([rng.normal(size=W.shape) for W in weights], [rng.normal(size=b.shape) for b in biases])
    X, Y = rng.normal(size=(3, units[0])), rng.uniform(size=(3, units[-1]))
    grad, differences = np.zeros_like(params), np.zeros_like(params)
    reference.loss_grad(layout.layers, params, X, Y, mean, grad, ())
    for i in np.flatnonzero(layout.gather(weights, biases)):
        step = np.zeros_like(params)
        step[i] = STEP
        up, down = (loss(layout.layers, params + change, X, Y, mean) for change in (step, -step))
        differences[i] = (up - down) / (2 * STEP)
    assert np.any(differences)
    assert_close("gradients", grad, differences, DIFFERENCE_TOLERANCE)


def run(layout, weights, biases, X, Y, epochs, mean):
    """Full batches through `reference.train`: trained parameters, mse and accuracy."""
    params, cursor = layout.gather(weights, biases), np.zeros(CURSOR_SIZE, np.int64)
    sse, correct = np.zeros(epochs), np.zeros(epochs)
    reference.train(
        layout.layers, params, X, Y, np.empty((0, len(X)), np.int64), len(X), by_hand.LEARNING_RATE, mean, epochs,
        cursor, sse, correct, (),
    )  # fmt: skip
    assert list(cursor[:2]) == [epochs, 0]
    return params, sse / Y.size, correct / len(Y)


def test_xor_by_hand():
    layout = Layout((2, 4, 1), "float64", True)
    X, y = by_hand.XOR_X, by_hand.XOR_Y
    params, mse, accuracy = run(layout, *by_hand.xor_start(), X, y, by_hand.XOR_EPOCHS, mean=False)
    weights, biases, curves = by_hand.trained_xor()
    assert curves["mse"][0] > 0.2
    assert curves["mse"][-1] < 0.01
    assert_close("parameters", params, layout.gather(weights, biases), AGREEMENT)
    assert_close("mse", mse, curves["mse"], AGREEMENT)
    assert_close("accuracy", accuracy, curves["accuracy"], 0)


def test_iris_by_hand():
    layout = Layout((4, 2, 3), "float64", False)
    X, X_test, y, y_test = by_hand.iris()
    assert (len(X), y.size, len(X_test), len(y_test)) == (130, 390, 20, 20)
    params, mse, accuracy = run(layout, by_hand.iris_start(), [], X, y, by_hand.IRIS_EPOCHS, mean=True)
    weights, curves = by_hand.trained_iris()
    assert curves["accuracy"][-1] > 0.5
    assert_close("parameters", params, layout.gather(weights, []), AGREEMENT)
    assert_close("mse", mse, curves["mse"], AGREEMENT)
    assert_close("accuracy", accuracy, curves["accuracy"], 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_logistic_extremes(dtype):
    z = np.array([-np.inf, -1e30, 0, 1e30, np.inf, np.nan], dtype)
    with np.errstate(all="raise", under="ignore"):
        s = reference.logistic(z)
    assert s.dtype == dtype
    np.testing.assert_array_equal(s, [0, 0, 0.5, 1, 1, np.nan])


def test_logistic_is_symmetric():
    z = np.linspace(-30, 30, 1001)
    assert_close("sums", reference.logistic(z) + reference.logistic(-z), np.ones_like(z), np.finfo(float).eps)


@pytest.mark.parametrize(
    ("outputs", "targets", "right"),
    [
        ([[0.2, 0.5, 0.3], [0.2, 0.5, 0.3]], [[0, 1, 0], [1, 0, 0]], 1),
        # of equal values the first one counts
        ([[0.5, 0.5], [0.5, 0.5], [0.1, 0.2]], [[1, 0], [0, 1], [0.5, 0.5]], 1),
        # one output: on the same side of 0.5, which is part of the upper one
        ([[0.5], [0.49], [0.9], [0.1]], [[1], [0], [0.2], [0.5]], 2),
    ],
)
def test_hits(outputs, targets, right):
    assert reference.hits(np.array(outputs), np.array(targets)) == right


@pytest.mark.parametrize("case", CASES[::10], ids=str)
def test_where_a_call_ends_changes_nothing(case):
    assert_same_bits(train(reference, case, calls=[2, 1, 7]), reference_of(case))


def test_every_row_is_visited_once_per_epoch_in_the_given_order():
    """With a weight of zero and tiny steps, the target of the visited row decides each step's direction."""
    layout, order = Layout((1, 1), "float64", False), np.array([[2, 0, 1], [1, 2, 0]])
    X, Y = np.ones((3, 1)), np.array([[0.5], [1.0], [0.0]])
    params, cursor, steps = layout.gather([np.zeros((1, 1))], []), np.zeros(CURSOR_SIZE, np.int64), []
    for _ in range(6):
        before = params[0]
        orders = order[cursor[0] :]
        reference.train(
            layout.layers, params, X, Y, orders, 1, 1e-6, False, 1, cursor, np.zeros(2), np.zeros(2), ()
        )  # fmt: skip
        steps.append(int(np.sign(np.round(params[0] - before, 9))))
    assert steps == [-1, 0, 1, 1, -1, 0]
