"""Orders of rows are numpy's, and so is what is drawn after them."""

import os
import sys
import threading
import time
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbp import kernels
from fastbp.kernels.jit import PLAIN_PYTHON

# Rows that need a bit more than one fewer of them, and any other number.
POWERS = [2**k + more for k in range(5, 12) for more in (-1, 0, 1)]
ROWS = st.one_of(st.integers(1, 40), st.sampled_from(POWERS), st.integers(1, 5000))
SOURCES = np.random.MT19937, np.random.PCG64, np.random.Philox


@settings(max_examples=40 if PLAIN_PYTHON else 200, deadline=None)
@given(ROWS, st.integers(0, 6), st.integers(0, 700), st.integers(0, 2**32 - 1), st.sampled_from(SOURCES),
       st.sampled_from([0, kernels.FEW_SHUFFLED]))  # fmt: skip
def test_orders_and_what_is_drawn_after_them_are_numpys(n, count, before, seed, source, few):
    ours, theirs = (np.random.RandomState(source(seed)) for _ in range(2))
    order, expected = np.arange(n), np.arange(n)
    for random_state in (ours, theirs):  # the first word is any one of those that are made together
        random_state.randint(2**32, size=before, dtype=np.uint32)
    with mock.patch.object(kernels, "FEW_SHUFFLED", few):
        orders = kernels.shuffle(order, count, ours)
    assert orders.shape == (count, n)
    for one in orders:
        theirs.shuffle(expected)
        np.testing.assert_array_equal(one, expected)
    np.testing.assert_array_equal(order, expected)
    following = [random_state.randint(2**32, size=5, dtype=np.uint32) for random_state in (ours, theirs)]
    np.testing.assert_array_equal(*following)


@pytest.mark.parametrize("most", [1, 9, 10])
def test_more_rows_than_a_word_can_number_are_left_to_numpy(monkeypatch, most):
    monkeypatch.setattr(kernels, "MOST_SHUFFLED", most)
    monkeypatch.setattr(kernels, "FEW_SHUFFLED", 0)
    order, expected = np.arange(10), np.arange(10)
    orders, theirs = kernels.shuffle(order, 3, np.random.RandomState(0)), np.random.RandomState(0)
    for one in orders:
        theirs.shuffle(expected)
        np.testing.assert_array_equal(one, expected)


@pytest.mark.parametrize("order", [np.arange(2000, dtype=np.int32), np.arange(4000)[::2], list(range(2000))], ids=type)
def test_an_order_that_machine_code_cannot_take_is_refused(order):
    with pytest.raises(ValueError, match="order must be a writable"):
        kernels.shuffle(order, 1, np.random.RandomState(0))


def test_a_shuffle_of_ones_own_is_called():
    class Reversing(np.random.RandomState):
        def shuffle(self, x):
            x[:] = x[::-1].copy()

    orders = kernels.shuffle(np.arange(3), 2, Reversing(0))
    np.testing.assert_array_equal(orders, [[2, 1, 0], [0, 1, 2]])


@pytest.mark.skipif(sys.platform != "linux", reason="needs a fork that is safe")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_process_that_forks_while_a_thread_shuffles_has_a_child_that_may_draw():
    random_state, order = np.random.RandomState(0), np.arange(2_000 if PLAIN_PYTHON else 200_000)
    lock = random_state._bit_generator.lock
    kernels.shuffle(order, 1, random_state)  # compiled by now
    thread = threading.Thread(target=kernels.shuffle, args=(order, 50, random_state))
    thread.start()
    while thread.is_alive() and lock.acquire(blocking=False):
        lock.release()
        time.sleep(1e-4)
    child = os.fork()
    if not child:
        os._exit(not lock.acquire(timeout=10))
    _, status = os.waitpid(child, 0)
    thread.join()
    assert status == 0
