"""Output layers: their activation together with the loss and its delta, (2) to (4) in `fastbp.reference`.

A head is a function of the pre-activations z and targets y of LANES outputs that gives the activations, the loss and its
derivative by z, in the order of `fastbp.rule.HEADS`. Heads with softmax need all outputs of a sample at once. A loss of None
is half of the squared error, which is summed for every head.

Outputs lie in memory as `Row` or `Samples` say: the vectors of one sample, or one vector of samples for each unit.
"""

import functools
import math

import numpy as np

from fastbp.kernels.control import carry, repeat, switch
from fastbp.kernels.numbers import choose, element
from fastbp.kernels.pointwise import (
    exp,
    exp_of_negative,
    identity,
    log,
    log_of_normal,
    logistic,
    logistic_and_rest,
    logistic_derivative,
)
from fastbp.kernels.vectors import (
    across,
    first_lane,
    fma,
    full_like,
    is_float32,
    lanes,
    larger,
    load,
    select,
    splat,
    store,
    vector_count,
)
from fastbp.rule import HEADS as NAMES

# Probabilities are clipped to [eps, 1 - eps], as scikit-learn does.
EPS_FLOAT32, EPS_FLOAT64 = 2.0**-23, 2.0**-52
CLIPPED_SOFTMAX = NAMES.index(("softmax", "clipped_log_loss"))


def clip(x, least, most):
    """What is outside of [least, most] becomes its nearer end; a NaN stays one."""
    x = select(x < least, least, x)
    return select(x > most, most, x)


def logistic_squared(z, y):
    a = logistic(z)
    return a, None, (a - y) * logistic_derivative(a)


def identity_squared(z, y):
    return z, None, z - y


def exp_squared(z, y):
    a = exp(z)
    return a, None, (a - y) * a


def logistic_log(z, y):
    """softplus(z) - y z, of which nothing is lost where y is 1 and z large."""
    a, rest = logistic_and_rest(z)
    return a, fma(select(z > 0, 1, full_like(z, 0)) - y, z, rest), a - y


def exp_poisson(z, y):
    """y log(y / a) - y + a, whose first part is 0 for y = 0."""
    a = exp(z)
    return a, fma(y, log(select(y > 0, y, 1)) - z, a - y), a - y


def identity_absolute(z, y):
    error = z - y
    sign = select(error > 0, 1, select(error < 0, -1, error))
    return z, error * sign, sign


def logistic_clipped(z, y):
    """The log loss of probabilities as they were rounded: for y = 0, 1 - a has lost what a near 1 cannot hold."""
    a = logistic(z)
    eps = EPS_FLOAT32 if is_float32(z) else EPS_FLOAT64
    p = clip(a, eps, 1 - eps)
    return a, -fma(y, log(p), (1 - y) * log(1 - p)), a - y


HEADS = (
    logistic_squared,
    identity_squared,
    exp_squared,
    logistic_log,
    exp_poisson,
    identity_absolute,
    logistic_clipped,
)
# What is predicted with each of `fastbp.rule.HEADS` without softmax.
PREDICTIONS = (logistic, identity, exp, logistic, exp, identity, logistic)


def log_loss_bounds(memory, head):
    """The least and the largest log loss of a softmax: those of clipped probabilities, or none."""
    eps = EPS_FLOAT32 if is_float32(memory) else EPS_FLOAT64
    return switch(
        head == CLIPPED_SOFTMAX,
        [
            lambda: (splat(memory, -math.inf), splat(memory, math.inf)),
            lambda: (splat(memory, -math.log1p(-eps)), splat(memory, -math.log(eps))),
        ],
    )


# --- how outputs lie in memory ----------------------------------------------------------------------------------------


class Row:
    """One sample, whose outputs fill vectors; `valid` is 1 for outputs and 0 for the padding."""

    def __init__(self, memory, n_out, valid):
        self.memory, self.valid, self.count = memory, valid, vector_count(memory, n_out)

    def place(self, v):
        """Of a vector of outputs, behind the first one."""
        return v * lanes(self.memory)

    def masked(self, v, x):
        """A factor that leaves the padding 0."""
        return x * load(self.memory, self.valid + v * lanes(self.memory))

    def with_outputs(self, v, yes, no):
        """One vector for outputs, and another one for the padding."""
        return select(load(self.memory, self.valid + v * lanes(self.memory)) > 0, yes, no)

    def over_outputs(self, x, combine):
        """What has been combined vector by vector, combined over the outputs of each vector, in every lane."""
        return across(x, combine)


class Samples:
    """LANES samples, whose outputs stand `columns` elements apart."""

    def __init__(self, memory, n_out, columns):
        self.memory, self.count, self.columns = memory, n_out, columns

    def place(self, j):
        return j * self.columns

    def masked(self, j, x):
        return x

    def with_outputs(self, j, yes, no):
        return yes

    def over_outputs(self, x, combine):
        return x


def softmax_sums(outputs, z, e):
    """e**(z - top), 0 in the padding, into `e`; the largest z and the sum."""
    memory = outputs.memory

    def at_top(j, top):
        return (larger(outputs.with_outputs(j, load(memory, z + outputs.place(j)), -np.inf), top),)

    top = outputs.over_outputs(carry(outputs.count, (splat(memory, -np.inf),), at_top)[0], larger)

    def add(j, total):
        at = outputs.place(j)
        power = outputs.masked(j, exp_of_negative(outputs.with_outputs(j, load(memory, z + at) - top, 0), False))
        store(memory, e + at, power)
        return (total + power,)

    return top, outputs.over_outputs(carry(outputs.count, (splat(memory, 0.0),), add)[0], lambda x, y: x + y)


# --- training ---------------------------------------------------------------------------------------------------------


def add_up(loss, squares, one_loss, error, weight):
    """Sums of losses and of squared errors, plus one output's own; a loss of None is half of the squared error."""
    squares = fma(error * weight, error, squares)
    return 0.5 * squares if one_loss is None else fma(one_loss, weight, loss), squares


def head_of(outputs, z, y, d, head, scale, weight, sums, more=(), follow=lambda j, a: ()):
    """(2) to (4) for some samples: A_L in place of Z_L, and D_L into `d`, which is their loss's derivative times `scale`.

    Returns `sums`, loss and squared errors, plus their own times `weight`, and `more` as follow(j, a, *more) leaves it.
    """
    memory = outputs.memory

    def elementwise(function):
        def vector(j, loss, squares, *more):
            at = outputs.place(j)
            target = load(memory, y + at)
            a, one_loss, delta = function(load(memory, z + at), target)
            a = outputs.masked(j, a)
            store(memory, z + at, a)
            store(memory, d + at, delta * outputs.masked(j, scale))
            return *add_up(loss, squares, one_loss, a - target, outputs.masked(j, weight)), *follow(j, a, *more)

        return lambda: carry(outputs.count, (*sums, *more), vector)

    def softmax(log_loss):
        top, total = softmax_sums(outputs, z, d)
        share, log_total = 1 / total, log_of_normal(total)
        bounds = log_loss_bounds(memory, head) if log_loss else None

        def vector(j, inner, own_loss, own_squares, *more):
            at = outputs.place(j)
            target, a = load(memory, y + at), load(memory, d + at) * share
            error = a - target
            if log_loss:
                own_loss = fma(target, clip(log_total + (top - load(memory, z + at)), *bounds), own_loss)
            store(memory, z + at, a)
            store(memory, d + at, error * scale)
            return fma(a, error, inner), own_loss, fma(error, error, own_squares), *follow(j, a, *more)

        zero = splat(memory, 0.0)
        inner, own_loss, own_squares, *others = carry(outputs.count, (zero, zero, zero, *more), vector)
        loss, squares = sums
        squares = fma(own_squares, weight, squares)
        loss = fma(own_loss, weight, loss) if log_loss else 0.5 * squares
        if not log_loss:
            inner = outputs.over_outputs(inner, lambda x, y: x + y)

            def delta(j):
                at = outputs.place(j)
                a = load(memory, z + at)
                store(memory, d + at, a * (a - load(memory, y + at) - inner) * scale)

            repeat(outputs.count, delta)
        return loss, squares, *others

    squared, log_loss = functools.partial(softmax, False), functools.partial(softmax, True)
    return switch(head, [*map(elementwise, HEADS), squared, log_loss, log_loss])


def winner(row, at):
    """Place of the first of the largest of a row's values."""
    L, lowest = lanes(row.memory), splat(row.memory, -np.inf)

    def vector(v):
        return row.with_outputs(v, load(row.memory, at + v * L), -np.inf)

    top = across(carry(row.count, (lowest,), lambda v, top: (larger(vector(v), top),))[0], larger)

    def find(back, place):
        v = row.count - 1 - back
        lane = first_lane(vector(v) == top)
        return (choose(lane < L, v * L + lane, place),)

    return carry(row.count, (row.count * L,), find)[0]


def hit(row, z, y, single):
    """1 where a row's outputs and targets name the same class, else 0."""

    def same_side():
        return (element(row.memory, z) >= 0.5) == (element(row.memory, y) >= 0.5)

    return switch(single, [lambda: winner(row, z) == winner(row, y), same_side])


def head_and_hits(samples, z, y, d, classes, head, scale, weight, sums):
    """`head_of` for samples; `sums` are those of loss, squared errors, and outputs that name the class at `classes`."""
    memory = samples.memory
    *sums, hits = sums

    def follow(j, a, best, winner, number):
        better = a > best
        return select(better, a, best), select(better, number, winner), number + 1

    first = splat(memory, 0.0)
    *sums, best, winner, _ = head_of(samples, z, y, d, head, scale * weight, weight, sums,
                                     (splat(memory, -np.inf), first, first), follow)  # fmt: skip
    upper = select(best >= 0.5, full_like(best, 1), 0)
    got = switch(samples.count == 1, [lambda: winner, lambda: upper])
    return *sums, hits + select(got == load(memory, classes), full_like(best, 1), 0)


# --- predicting -------------------------------------------------------------------------------------------------------


def predict(outputs, z, d, head):
    """A_L in place of Z_L; `d` is room for as many."""
    memory = outputs.memory

    def elementwise(function):
        def vector(j):
            at = z + outputs.place(j)
            store(memory, at, function(load(memory, at)))

        return lambda: repeat(outputs.count, vector)

    def softmax():
        share = 1 / softmax_sums(outputs, z, d)[1]

        def vector(j):
            store(memory, z + outputs.place(j), load(memory, d + outputs.place(j)) * share)

        repeat(outputs.count, vector)

    cases = {function: elementwise(function) for function in PREDICTIONS}
    switch(head, [*[cases[function] for function in PREDICTIONS], softmax, softmax, softmax])
