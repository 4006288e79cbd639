"""The comparisons themselves: right results pass, wrong ones do not."""

import inspect
import types

import numpy as np
import pytest
from cases import (
    CASES,
    EPOCHS,
    assert_close,
    assert_same_bits,
    assert_same_outputs,
    assert_same_training,
    forward,
    reference_of,
    train,
)

from fastbp import kernels, reference

BIAS, NO_BIAS = CASES[-5], CASES[3]


def test_the_cases_reach_every_way_through_the_kernels():
    blocks = {case: case.blocks_per_epoch(kernels) for case in CASES}
    batches = {case: case.blocks_per_epoch(reference) for case in CASES}
    for dtype in ("float32", "float64"):
        mine = [case for case in CASES if case.dtype == dtype]
        assert any(blocks[case] > batches[case] for case in mine), "no batch is longer than a block"
        assert any(batches[case] == 1 for case in mine)
        assert any(case.n_rows % case.batch_size for case in mine)
        assert any(case.bias and case.units[0] > 64 and case.n_rows > 1000 for case in mine)


@pytest.mark.parametrize("case", [BIAS, NO_BIAS], ids=str)
def test_an_equal_result_passes(case):
    ours, theirs = train(reference, case), reference_of(case)
    assert ours is not theirs
    assert_same_training(ours, theirs, case)
    assert_same_bits(ours, theirs)
    assert_same_outputs(forward(reference, case), forward(reference, case), case)


def corrupted(array, amount):
    array = array.copy()
    array[len(array) // 2] += amount
    return array


@pytest.mark.parametrize("case", [BIAS, NO_BIAS], ids=str)
@pytest.mark.parametrize("amount", [1e-2, -1e-2, np.nan, np.inf])
def test_a_corrupted_result_is_rejected(case, amount):
    right = reference_of(case)
    wrong = [
        right._replace(params=corrupted(right.params, amount)),
        right._replace(mse=corrupted(right.mse, amount)),
        right._replace(correct=corrupted(right.correct, amount)),
        right._replace(epochs=EPOCHS - 1),
        right._replace(params=right.params.astype(np.longdouble)),
        right._replace(mse=right.mse[:-1]),
    ]
    for result in wrong:
        with pytest.raises(AssertionError):
            assert_same_training(result, right, case)
    outputs = forward(reference, case)
    with pytest.raises(AssertionError):
        assert_same_outputs(corrupted(outputs, amount), outputs, case)


def test_the_smallest_difference_beyond_the_tolerance_is_rejected():
    assert_close("values", np.array([1.0, 1.25]), np.array([1.0, 1.0]), 0.25)
    with pytest.raises(AssertionError, match=r"values differ by 0.25, allowed 0.249"):
        assert_close("values", np.array([1.0, 1.25]), np.array([1.0, 1.0]), 0.249)


@pytest.mark.parametrize("other", [np.nextafter(1, 2), -1.0, np.float32(1)])
def test_one_different_bit_is_rejected(other):
    assert_same_bits([np.ones(2), 3], [np.ones(2), 3])
    with pytest.raises(AssertionError):
        assert_same_bits([np.ones(2)], [np.array([1, other], type(other))])


def test_the_sign_of_zero_is_a_bit():
    with pytest.raises(AssertionError):
        assert_same_bits([np.zeros(1)], [-np.zeros(1)])


def has_hidden_units(case):
    return len(case.units) > 2


# What is wrong: the line of the reference, what stands there instead, and which cases must show it.
MUTANTS = {
    "bias gradient dropped": ("db[...] = D.sum(axis=0)", "db[...] = 0", lambda case: case.bias),
    "bias gradient averaged": ("D.sum(axis=0)", "D.mean(axis=0)", lambda case: case.bias and case.batch_size > 1),
    "bias not added": ("Z if b is None else Z + b", "Z", lambda case: case.bias),
    "W not transposed": (
        "W[level].T",
        "W[level].reshape(W[level].T.shape)",
        lambda case: has_hidden_units(case) and case.units[-1] > 1,
    ),
    "1/N missing": ("1 / Y.size if mean else 1", "1", lambda case: case.mean and case.batch_size > 1),
    "1/N of rows": ("1 / Y.size if mean", "1 / len(Y) if mean", lambda case: case.mean and case.units[-1] > 1),
    "1/N of a full batch": (
        "loss_grad(layers, params, X[rows], Y[rows], mean,",
        "loss_grad(layers, params, X[rows], Y[rows] * (len(Y[rows]) == batch_size), mean,",
        lambda case: case.n_rows % case.batch_size,
    ),
    "update before its delta": (
        "D @ W[level].T",
        "D @ (W[level] - LEARNING_RATE * dW).T",
        has_hidden_units,
    ),
    "output derivative missing": ("error * A[-1] * (1 - A[-1])", "error", lambda case: True),
    "hidden derivative missing": (
        "(D @ W[level].T) * A[level] * (1 - A[level])",
        "D @ W[level].T",
        lambda c: len(c.units) > 2,
    ),
    "uphill": ("params -=", "params +=", lambda case: True),
    "order ignored": ("if len(order):", "if False:", lambda case: case.shuffled and case.batch_size < case.n_rows),
    "loss after the update": (
        "params -= params.dtype.type(learning_rate) * grad",
        "params -= params.dtype.type(learning_rate) * grad; "
        "sse[epoch] += loss_grad(layers, params, X[rows], Y[rows], mean, grad, work)[0] - squares",
        lambda case: True,
    ),
    "one hit too many": ("correct[epoch] += right", "correct[epoch] += right + (row == 0)", lambda case: True),
}


def mutant(case, old, new):
    """The reference with one line changed."""
    source = inspect.getsource(reference)
    assert source.count(old) == 1, f"the reference has changed: {old!r} is not there once"
    module = types.ModuleType("mutant")
    exec(f"LEARNING_RATE = {case.learning_rate}\n" + source.replace(old, new), module.__dict__)
    return module


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_equation_is_rejected(name):
    old, new, shows = MUTANTS[name]
    # the order of the rows is one question, what is done with them another; float32 is allowed the larger differences
    showing = [case for case in CASES if shows(case) and case.shuffled == ("order" in name) and case.dtype == "float32"]
    assert len(showing) >= 8
    for case in showing:
        wrong = train(mutant(case, old, new), case)
        with pytest.raises(AssertionError):
            assert_same_training(wrong, reference_of(case), case)
