"""Orders of rows are those that numpy's RandomState shuffles, and leave it where numpy would."""

import numpy as np
import pytest

from fastbp import kernels
from fastbp.estimators import fitting, perceptron
from fastbp.kernels import jit
from fastbp.layout import TWISTER_WORDS


def shuffled(random_state, count, n):
    """Orders by numpy, each from the one before."""
    order, orders = np.arange(n), []
    for _ in range(count):
        random_state.shuffle(order)
        orders.append(order.copy())
    return np.array(orders)


def assert_same_state(one, other):
    for mine, its in zip(one.get_state(), other.get_state(), strict=True):
        np.testing.assert_array_equal(mine, its)


@pytest.mark.parametrize(("count", "n"), [(1, 1), (3, 1), (1, 2), (700, 3), (40, 64), (40, 65), (9, 1797), (2, 40)])
@pytest.mark.parametrize("own", [True, False])
def test_orders_are_those_of_numpy(count, n, own):
    ours, theirs = np.random.RandomState(n), np.random.RandomState(n)
    for one in (ours, theirs):
        one.normal(size=2 * n + 1)  # which leaves a number for later
    orders = np.empty((count, n), np.int64)
    orders[0] = np.arange(n)
    fitting.shuffle(ours, orders, own)
    np.testing.assert_array_equal(orders, shuffled(theirs, count, n))
    assert_same_state(ours, theirs)


def test_numpy_keeps_its_state_where_it_is_looked_for():
    """Else shuffling would be slow."""
    assert fitting.twister_is_known() != jit.PLAIN_PYTHON


def test_other_random_bits_are_numpys_own():
    ours, theirs = (np.random.RandomState(np.random.PCG64(3)) for _ in range(2))
    orders = np.empty((30, 100), np.int64)
    orders[0] = np.arange(100)
    fitting.shuffle(ours, orders, True)
    np.testing.assert_array_equal(orders, shuffled(theirs, 30, 100))


def test_the_kernel_shuffles_as_numpy_does():
    theirs = np.random.RandomState(0)
    _, key, used, *_ = theirs.get_state()
    words, orders = np.append(key, used).astype(np.int64), np.empty((6, 50), np.int64)
    orders[0] = np.arange(50)
    kernels.shuffle(words, orders)
    np.testing.assert_array_equal(orders, shuffled(theirs, 6, 50))
    _, key, used, *_ = theirs.get_state()
    np.testing.assert_array_equal(words, [*key, used])


@pytest.mark.parametrize(
    ("name", "words", "order"),
    [
        ("words", np.zeros(TWISTER_WORDS, np.int64), np.zeros((2, 3), np.int64)),
        ("words", np.full(TWISTER_WORDS + 1, TWISTER_WORDS + 1), np.zeros((2, 3), np.int64)),
        ("words", np.full(TWISTER_WORDS + 1, -1), np.zeros((2, 3), np.int64)),
        ("order", np.zeros(TWISTER_WORDS + 1, np.int64), np.zeros((2, 3), np.int32)),
        ("order", np.zeros(TWISTER_WORDS + 1, np.int64), np.zeros((2, 6), np.int64)[:, ::2]),
        ("order", np.zeros(TWISTER_WORDS + 1, np.int64), np.zeros((0, 3), np.int64)),
    ],
)
def test_what_the_kernel_cannot_shuffle_is_refused(name, words, order):
    with pytest.raises(ValueError, match=f"^{name} must be "):
        kernels.shuffle(words, order)


def test_a_random_state_at_rest_is_as_new():
    used = np.random.RandomState(1)
    used.normal()
    perceptron.resting[:] = [used]
    found = perceptron.random_state_of(7)
    assert found is used
    assert_same_state(found, np.random.RandomState(7))
    assert not perceptron.resting
    used.seed(1)
    assert perceptron.random_state_of(used) is used


@pytest.mark.compiled
def test_the_kernel_is_among_those_that_are_compiled_beforehand():
    from fastbp import warmup

    assert any(kernel is kernels.SHUFFLE for kernel, _, _ in warmup.kernels_for(["float32"]))
