"""The comparisons themselves: right results pass, wrong ones do not."""

import functools
import inspect
import math
import types
from dataclasses import replace
from itertools import pairwise

import draws
import numpy as np
import pytest
from cases import (
    CASES,
    DTYPES,
    EPOCHS,
    KINDS,
    assert_close,
    assert_same_bits,
    assert_same_outputs,
    assert_same_training,
    forward,
    reference_of,
    train,
)

from fastbp import kernels, reference
from fastbp.kernels.control import SIDE_BY_SIDE
from fastbp.rule import ACTIVATIONS, HEADS, SOLVERS

BIAS, NO_BIAS = CASES[48], CASES[3]
REGULARISED = next(case for case in CASES if case.alpha and case.solver == "adam" and case.weighted)


@pytest.mark.parametrize(("kernel", "sparse"), KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cases_reach_every_way_through_the_kernels(dtype, kernel, sparse):
    mine = [case for case in CASES if (case.dtype, case.kernel, case.sparse) == (dtype, kernel, sparse)]
    assert {name for case in mine for name in case.hidden} == set(ACTIVATIONS)
    assert {(case.out_activation, case.loss) for case in mine} == set(HEADS)
    assert {case.solver for case in mine} == set(SOLVERS[1:])
    assert any(layer.stride >= layer.n_out + 64 // case.layout.dtype.itemsize for case in mine for layer in case.layout.rows)
    if kernel == "online":
        return
    blocks = {case: case.blocks_per_epoch(kernels) for case in mine}
    batches = {case: case.blocks_per_epoch(reference) for case in mine}
    several = [case for case in mine if blocks[case] > batches[case]]
    assert several, "no batch is longer than a block"
    assert any(batches[case] == 1 for case in mine)
    assert any(case.bias and case.units[0] > 64 and case.n_rows > 1000 for case in mine)
    for case in (case for case in several if case.n_rows % case.batch_size and case.solver == "sgd"):
        rows = case.workspace().plan.block_rows
        if case.batch_size > (7 * rows if kernel == "narrow" else rows) and case.n_rows % case.batch_size <= rows:
            break
    else:
        pytest.fail("no batch of one block follows one of many")
    for name in ("alpha", "dropout", "weighted"):
        assert any(getattr(case, name) for case in several), name
        assert any(getattr(case, name) for case in mine if case not in several), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cases_reach_every_group_of_the_online_kernel(dtype):
    mine = [case for case in CASES if case.dtype == dtype and case.kernel == "online"]
    sizes = [(n_in, -(-n_out * np.dtype(dtype).itemsize // 64)) for case in mine for n_in, n_out in pairwise(case.units)]
    for number in SIDE_BY_SIDE:
        # of the weights, fewer rows than are added up at a time, as many as that, and some more
        height = SIDE_BY_SIDE[0] // number
        rows = [n_in for n_in, vectors in sizes if vectors & number or vectors >= number == SIDE_BY_SIDE[0]]
        assert height == 1 or min(rows) < height
        assert height == 1 or any(n_in > height and n_in % height for n_in in rows)
        assert any(n_in % height == 0 for n_in in rows)
    assert any(vectors > SIDE_BY_SIDE[0] for _, vectors in sizes)
    for wanted in ("alpha", "weighted", "shuffled", "bias"):
        assert {bool(getattr(case, wanted)) for case in mine} == {True, False}
    assert any(case.max_norm < math.inf for case in mine)


def test_the_narrow_kernel_s_batches_have_as_many_shares_as_there_can_be():
    assert max(case.workspace().plan.n_partials for case in CASES if case.kernel == "narrow") == 8


@pytest.mark.draw(3)
@pytest.mark.no_kernel
@pytest.mark.parametrize("case", [case for case in CASES if case.max_norm < math.inf][::3], ids=str)
def test_gradients_that_may_be_shortened_are(case):
    whole = train(reference, replace(case, max_norm=math.inf))
    with pytest.raises(AssertionError):
        assert_same_training(whole, reference_of(case), case)


@pytest.mark.parametrize("case", [BIAS, NO_BIAS, REGULARISED], ids=str)
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


@pytest.mark.parametrize("case", [BIAS, NO_BIAS, REGULARISED], ids=str)
@pytest.mark.parametrize("amount", [1e-2, -1e-2, np.nan, np.inf])
def test_a_corrupted_result_is_rejected(case, amount):
    right = reference_of(case)
    wrong = [
        right._replace(params=corrupted(right.params, amount)),
        right._replace(mse=corrupted(right.mse, amount)),
        right._replace(loss=corrupted(right.loss, amount)),
        right._replace(penalty=corrupted(right.penalty, amount)),
        right._replace(hits=corrupted(right.hits, amount)),
        right._replace(steps=right.steps + 1),
        right._replace(epochs=EPOCHS - 1),
        right._replace(params=right.params.astype(np.longdouble)),
        right._replace(mse=right.mse[:-1]),
    ]
    if right.state.size:
        wrong.append(right._replace(state=np.array([corrupted(one, amount) for one in right.state])))
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


@pytest.mark.parametrize("tolerance", [np.nan, np.inf])
def test_without_a_tolerance_nothing_is_close(tolerance):
    with pytest.raises(AssertionError, match="values cannot be compared"):
        assert_close("values", np.ones(2), np.ones(2), tolerance)


@pytest.mark.parametrize("other", [np.nextafter(1, 2), -1.0, np.float32(1)])
def test_one_different_bit_is_rejected(other):
    assert_same_bits([np.ones(2), 3], [np.ones(2), 3])
    with pytest.raises(AssertionError):
        assert_same_bits([np.ones(2)], [np.array([1, other], type(other))])


def test_the_sign_of_zero_is_a_bit():
    with pytest.raises(AssertionError):
        assert_same_bits([np.zeros(1)], [-np.zeros(1)])


def is_plain(case):
    """One of the logistic networks, whose steps are long."""
    return case.activations == case.out_activation == "logistic" and case.solver == "sgd" and not case.weighted


def learns(case):
    """Softmax of one output is 1 whatever the weights are."""
    return case.out_activation != "softmax" or case.units[-1] > 1


def has_hidden_units(case):
    return is_plain(case) and len(case.units) > 2


def solves(*solvers):
    return lambda case: case.solver in solvers and case.n_rows > case.batch_size and case.max_norm == math.inf


# What is wrong: the line of the reference, what stands there instead, and which cases must show it.
MUTANTS = {
    "bias gradient dropped": ("db[...] = D.sum(axis=0)", "db[...] = 0", lambda case: case.bias and learns(case)),
    "bias gradient averaged": (
        "D.sum(axis=0)",
        "D.mean(axis=0)",
        lambda case: case.bias and case.batch_size > 1 and learns(case),
    ),
    "bias not added": ("if b is None else taken[-1] @ W + b", "", lambda case: case.bias and learns(case)),
    "W not transposed": (
        "W[level].T",
        "W[level].reshape(W[level].T.shape)",
        lambda case: has_hidden_units(case) and case.units[-1] > 1,
    ),
    "1/N missing": (
        "scale = 1 / (total * rule.per_row) if rule.per_row else 1",
        "scale = 1",
        lambda case: is_plain(case) and case.reduction == "mean" and case.batch_size > 1,
    ),
    "1/N of rows": (
        "1 / (total * rule.per_row)",
        "1 / total",
        lambda case: is_plain(case) and case.reduction == "mean" and case.units[-1] > 1,
    ),
    "1/N of a full batch": (
        "X[rows], Y[rows], w,",
        "X[rows], Y[rows] * (len(Y[rows]) == batch_size), w,",
        lambda case: is_plain(case) and case.n_rows % case.batch_size,
    ),
    "update before its delta": ("D @ W[level].T", "D @ (W[level] - LEARNING_RATE * dW).T", has_hidden_units),
    "output derivative missing": ("error * (A * (1 - A))", "error", is_plain),
    "hidden derivative missing": ("(D @ W[level].T) * derivative", "D @ W[level].T", has_hidden_units),
    "uphill": ("params -= rate * grad", "params += rate * grad", lambda case: case.solver == "sgd" and learns(case)),
    "order ignored": (
        "if len(order):",
        "if False:",
        lambda case: is_plain(case) and case.batch_size < case.n_rows,
    ),
    "loss after the update": (
        "update(params, grad, state, rule, step + 1)",
        "update(params, grad, state, rule, step + 1); "
        "record[epoch, 1] += loss_grad(layers, params, X[rows], Y[rows], w, rule, grad, work)[1] - loss",
        is_plain,
    ),
    "one hit too many": ("loss * factor, right,", "loss * factor, right + (row == 0),", is_plain),
    "no L2 term": ("+ decay * W[level]", "", lambda case: case.alpha >= 0.1 and case.max_norm == math.inf),
    "L2 not divided by the rows": (
        "rule.alpha / total if rule.per_row else rule.alpha",
        "rule.alpha",
        lambda case: case.alpha and case.max_norm == math.inf and case.reduction != "sum",
    ),
    "penalty with the biases": ("for one in W)", "for one in [params])", lambda case: case.alpha and case.bias),
    "weights ignored": ("weights if len(weights) else", "", lambda case: case.weighted and case.batch_size > 1),
    "rows counted for weights": (
        "total = w.sum(dtype=np.float64)",
        "total = len(w)",
        lambda case: case.weighted and case.reduction != "sum",
    ),
    "batches of no weight counted": ("w.sum() > 0", "True", lambda case: case.weighted and case.batch_size == 1),
    "loss recorded by weight": (
        "loss * factor",
        "loss",
        lambda case: case.weighted and case.batch_size > 1 and case.reduction == "row",
    ),
    "penalty recorded by weight": (
        "penalty * factor",
        "penalty",
        lambda case: case.weighted and case.batch_size > 1 and case.reduction == "row" and case.alpha,
    ),
    "means recorded by rows": (
        "if rule.by_rows and",
        "if rule.per_row and",
        lambda case: case.weighted and case.batch_size > 1 and case.reduction == "mean",
    ),
    "distances for their signs": (
        "np.sign(error)",
        "error",
        lambda case: case.loss == "absolute_error",
    ),
    "clipped log loss of one class": (
        "- (1 - Y) * np.log(1 - P)",
        "",
        lambda case: case.loss == "clipped_log_loss" and case.out_activation == "logistic",
    ),
    "gradient not shortened": ("if largest * norm > rule.max_norm:", "if False:", lambda case: case.max_norm < math.inf),
    "dropout without its factor": ("1 / (1 - rule.dropout)))", "1))", lambda case: case.dropout),
    "dropout not of the deltas": ("D = D * masks[level - 1]", "pass", lambda case: case.dropout),
    "dropout alike in every step": ("int(step) * len(layers)", "0", lambda case: case.dropout),
    "velocity forgotten": ("first * state[0] - rate * grad\n        params", "-rate * grad\n        params",
                           solves("momentum", "nesterov")),
    "nesterov is momentum": ('if solver == "momentum" else first', "if True else first", solves("nesterov")),
    "first moment not corrected": ("/ (1 - beta_1**step)", "", solves("adam")),
    "second moment not corrected": ("* np.sqrt(1 - beta_2**step)", "", solves("adam")),
    "moments corrected a step late": (
        "update(params, grad, state, rule, step + 1)",
        "update(params, grad, state, rule, step + 2)",
        solves("adam"),
    ),
    "no epsilon": ("np.sqrt(state[1]) + epsilon", "np.sqrt(state[1]) + dtype(1e-30)", solves("adam")),
}  # fmt: skip


@functools.cache
def changed(old, new):
    """Code of the reference with one line changed."""
    source = inspect.getsource(reference)
    assert source.count(old) == 1, f"the reference has changed: {old!r} is not there once"
    return compile(source.replace(old, new), "mutant", "exec")


def mutant(case, old, new):
    module = types.ModuleType("mutant")
    module.LEARNING_RATE = case.learning_rate
    exec(changed(old, new), module.__dict__)
    return module


def showing(name):
    """The cases that must show what is wrong; float32 is allowed the larger differences."""
    candidates = [case for case in CASES if case.kernel == "narrow" and case.dtype == "float32" and case.n_rows < 1000]
    # the order of the rows is one question, what is done with them another
    return [case for case in candidates if MUTANTS[name][2](case) and ("order" not in name or case.shuffled)]


@pytest.mark.no_kernel
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_equation_is_rejected(name):
    old, new, _ = MUTANTS[name]
    assert showing(name)
    for case in draws.some(showing(name), 8, name):
        with np.errstate(all="ignore"):
            wrong = train(mutant(case, old, new), case)
        with pytest.raises(AssertionError):
            assert_same_training(wrong, reference_of(case), case)
