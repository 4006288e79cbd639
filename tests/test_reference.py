"""The specification, held to the two founding networks written out by hand, and to what others say of its parts."""

import by_hand
import numpy as np
import pytest
from cases import CASES, assert_close, assert_same_bits, reference_of, train

from fastbp import reference
from fastbp.layout import CURSOR, RECORD, Layout
from fastbp.rule import ACTIVATIONS, RULE, Rule

LOGISTIC = ACTIVATIONS.index("logistic")

# 10,000 steps of one set of equations in two orders of evaluation: what the two founding networks have to agree to.
AGREEMENT = 1e-9


def run(layout, weights, biases, X, Y, epochs, reduction):
    """Full batches through `reference.train`: trained parameters, mse, loss and accuracy."""
    params, cursor = layout.gather(weights, biases), np.zeros(len(CURSOR), np.int64)
    record, rule = np.zeros((epochs, len(RECORD))), Rule(learning_rate=by_hand.LEARNING_RATE, reduction=reduction)
    reference.train(
        layout.layers, params, np.empty((0, layout.size)), X, Y, np.empty(0), np.empty((0, len(X)), np.int64), len(X),
        rule.numbers(Y.shape[1]), epochs, cursor, record, (),
    )  # fmt: skip
    assert list(cursor[:3]) == [epochs, 0, epochs]
    loss = record[:, RECORD.loss] / (Y.size if reduction == "mean" else 1)
    return params, record[:, RECORD.squares] / Y.size, loss, record[:, RECORD.hits] / len(Y)


def test_xor_by_hand():
    layout = Layout((2, 4, 1), "float64", True, [LOGISTIC])
    X, y = by_hand.XOR_X, by_hand.XOR_Y
    params, mse, loss, accuracy = run(layout, *by_hand.xor_start(), X, y, by_hand.XOR_EPOCHS, "sum")
    weights, biases, curves = by_hand.trained_xor()
    assert curves["mse"][0] > 0.2
    assert curves["mse"][-1] < 0.01
    assert_close("parameters", params, layout.gather(weights, biases), AGREEMENT)
    assert_close("mse", mse, curves["mse"], AGREEMENT)
    assert_close("loss", loss, curves["loss"], AGREEMENT)
    assert_close("accuracy", accuracy, curves["accuracy"], 0)


def test_iris_by_hand():
    layout = Layout((4, 2, 3), "float64", False, [LOGISTIC])
    X, X_test, y, y_test = by_hand.iris()
    assert (len(X), y.size, len(X_test), len(y_test)) == (130, 390, 20, 20)
    params, mse, loss, accuracy = run(layout, by_hand.iris_start(), [], X, y, by_hand.IRIS_EPOCHS, "mean")
    weights, curves = by_hand.trained_iris()
    assert curves["accuracy"][-1] > 0.5
    assert_close("parameters", params, layout.gather(weights, []), AGREEMENT)
    assert_close("mse", mse, curves["mse"], AGREEMENT)
    assert_close("loss", loss, curves["loss"], AGREEMENT)
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


@pytest.mark.draw(4)
@pytest.mark.parametrize("case", CASES[::10], ids=str)
def test_where_a_call_ends_changes_nothing(case):
    assert_same_bits(train(reference, case, calls=[2, 1, 7]), reference_of(case))


def test_every_row_is_visited_once_per_epoch_in_the_given_order():
    """With a weight of zero and tiny steps, the target of the visited row decides each step's direction."""
    layout, order = Layout((1, 1), "float64", False, []), np.array([[2, 0, 1], [1, 2, 0]])
    X, Y = np.ones((3, 1)), np.array([[0.5], [1.0], [0.0]])
    params, cursor, steps = layout.gather([np.zeros((1, 1))], []), np.zeros(len(CURSOR), np.int64), []
    for _ in range(6):
        before = params[0]
        reference.train(
            layout.layers, params, np.empty((0, layout.size)), X, Y, np.empty(0), order[cursor[CURSOR.epoch] :], 1,
            Rule(learning_rate=1e-6).numbers(1), 1, cursor, np.zeros((2, len(RECORD))), (),
        )  # fmt: skip
        steps.append(int(np.sign(np.round(params[0] - before, 9))))
    assert steps == [-1, 0, 1, 1, -1, 0]


# --- solvers ----------------------------------------------------------------------------------------------------------

# Some 50 steps of a few roundings each, of numbers of order 1.
SOLVER_TOLERANCE = 1e-13
CURVATURE = np.array([0.5, 1.0, 3.0])


def slope(w):
    """Of a parabola with its lowest point at 0."""
    return CURVATURE * w


def path(solver, moments, steps=50, **numbers):
    """Where `reference.update` goes, from 1."""
    rule, w, state = Rule(solver=solver, **numbers).numbers(1), np.ones(3), np.zeros((moments, 3))
    for step in range(1, steps + 1):
        reference.update(w, slope(w), state, rule, step)
        yield w.copy(), state.copy()


def test_momentum_is_a_heavy_ball():
    """Polyak's form, of two places and no velocity: w_{t+1} = w_t - r g + mu (w_t - w_{t-1})."""
    before, w = np.ones(3), np.ones(3)
    for ours, _ in path("momentum", 1, momentum=0.8, learning_rate=0.1):
        before, w = w, w - 0.1 * slope(w) + 0.8 * (w - before)
        assert_close("places", ours, w, SOLVER_TOLERANCE)


def test_nesterov_takes_the_slope_ahead():
    """The slope is that of w + mu v, which is what stands in the parameters (Sutskever et al. 2013)."""
    w, v = np.ones(3), np.zeros(3)
    for ours, state in path("nesterov", 1, momentum=0.8, learning_rate=0.1):
        v = 0.8 * v - 0.1 * slope(w + 0.8 * v)
        w = w + v
        assert_close("velocities", state[0], v, SOLVER_TOLERANCE)
        assert_close("places", ours, w + 0.8 * v, SOLVER_TOLERANCE)


def test_adam_is_algorithm_1():
    """With both moments corrected, and an epsilon that undoes the difference of the two forms."""
    w, m, v, epsilon = np.ones(3), np.zeros(3), np.zeros(3), 0.01
    rule, state, ours = Rule(solver="adam").numbers(1), np.zeros((2, 3)), np.ones(3)
    for step in range(1, 51):
        m, v = 0.9 * m + (1 - 0.9) * slope(w), 0.999 * v + (1 - 0.999) * slope(w) ** 2
        w = w - 0.1 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + epsilon)
        rule[[RULE.learning_rate, RULE.momentum, RULE.beta_2, RULE.epsilon]] = (
            0.1,
            0.9,
            0.999,
            epsilon * np.sqrt(1 - 0.999**step),
        )
        reference.update(ours, slope(ours), state, rule, step)
        assert_close("places", ours, w, SOLVER_TOLERANCE)


# --- dropout ----------------------------------------------------------------------------------------------------------


def masks(probability, step=0, seed=0, rows=400):
    layout = Layout((1, 50, 20, 1), "float64", True, [LOGISTIC] * 2)
    return reference.dropout_masks(layout.layers, rows, Rule(dropout=probability, seed=seed).numbers(1), step)


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_dropout_leaves_out_its_share_and_keeps_the_mean(probability):
    for mask, units in zip(masks(probability), (50, 20), strict=True):
        assert mask.shape == (400, units)
        assert_close("values", np.unique(mask), np.array([0, 1 / (1 - probability)]), 1e-15)
        # six standard deviations of a share of so many
        allowed = 6 * np.sqrt(probability * (1 - probability) / mask.size)
        assert abs(np.mean(mask == 0) - probability) < allowed
        for axis, count in ((0, 400), (1, units)):
            assert np.ptp(np.mean(mask == 0, axis=axis)) < 2 * 6 * np.sqrt(probability * (1 - probability) / count)


def test_dropout_differs_from_step_to_step_from_layer_to_layer_and_by_seed():
    first = masks(0.5)
    others = [masks(0.5, step=1)[0], masks(0.5, seed=1)[0], np.roll(first[0], 1, axis=0), np.roll(first[0], 1, axis=1)]
    for other in [*others, np.resize(first[1], (400, 50))]:
        # half of all places agree by chance
        assert abs(np.mean((first[0] == 0) == (other == 0)) - 0.5) < 6 * 0.5 / first[0].size ** 0.5
    assert_same_bits(first, masks(0.5))


def test_a_row_s_dropout_does_not_depend_on_how_many_there_are():
    assert_same_bits([mask[:7] for mask in masks(0.5)], masks(0.5, rows=7))
