"""Output layers: their activation together with the loss and its delta, (2) to (4) in `fastbp.reference`.

A head is a function of the pre-activations z and targets y of LANES outputs that gives the activations, the loss and its
derivative by z, in the order of `fastbp.rule.HEADS`. Heads with softmax need all outputs of a sample at once. A loss of None
is half of the squared error, which is summed for every head.
"""

import functools
import math

import numpy as np

from fastbp.kernels.pointwise import exp, identity, log, logistic, logistic_derivative, softplus
from fastbp.kernels.simd import (
    across,
    carry,
    choose,
    element,
    first_lane,
    fma,
    is_float32,
    lane_count,
    larger,
    load,
    repeat,
    select,
    splat,
    store,
    switch,
)
from fastbp.kernels.tracing import traced
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
    a = logistic(z)
    return a, softplus(z) - y * z, a - y


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


def softmax_sums(memory, z, valid, e, vectors, L):
    """e**(z - top) of a row, 0 in its padding, into `e`; returns the largest z and the sum, each in every lane."""
    lowest = splat(memory, -np.inf)

    def at_top(v, top):
        return (larger(select(load(memory, valid + v * L) > 0, load(memory, z + v * L), -np.inf), top),)

    top = across(carry(vectors, (lowest,), at_top)[0], larger)

    def add(v, total):
        mask = load(memory, valid + v * L)
        power = exp(select(mask > 0, load(memory, z + v * L) - top, 0)) * mask
        store(memory, e + v * L, power)
        return (total + power,)

    return top, across(carry(vectors, (splat(memory, 0.0),), add)[0], lambda x, y: x + y)


def add_up(loss, squares, one_loss, error, weight):
    """Sums of losses and of squared errors, plus one output's own; a loss of None is half of the squared error."""
    squares = fma(error * weight, error, squares)
    return 0.5 * squares if one_loss is None else fma(one_loss, weight, loss), squares


@traced
def output_row(memory, z, y, d, valid, vectors, head, scale, weight, loss, squares):
    """One sample: A_L in place of its z, D_L into `d`; `loss` and `squares` plus its own."""
    L = lane_count(memory)

    def elementwise(function):
        def vector(v, loss, squares):
            mask, target = load(memory, valid + v * L), load(memory, y + v * L)
            a, one_loss, delta = function(load(memory, z + v * L), target)
            a = a * mask
            store(memory, z + v * L, a)
            store(memory, d + v * L, delta * (scale * mask))
            return add_up(loss, squares, one_loss, a - target, weight * mask)

        return lambda: carry(vectors, (loss, squares), vector)

    def softmax(log_loss):
        top, total = softmax_sums(memory, z, valid, d, vectors, L)
        share, log_total = 1 / total, log(total)
        bounds = log_loss_bounds(memory, head) if log_loss else None

        def vector(v, loss, squares, inner):
            target = load(memory, y + v * L)
            a = load(memory, d + v * L) * share
            error = a - target
            one_loss = target * clip(log_total + (top - load(memory, z + v * L)), *bounds) if log_loss else None
            store(memory, z + v * L, a)
            store(memory, d + v * L, error * scale)
            return *add_up(loss, squares, one_loss, error, weight), fma(a, error, inner)

        new_loss, new_squares, inner = carry(vectors, (loss, squares, splat(memory, 0.0)), vector)
        if not log_loss:
            inner = across(inner, lambda x, y: x + y)

            def delta(v):
                a = load(memory, z + v * L)
                store(memory, d + v * L, a * (a - load(memory, y + v * L) - inner) * scale)

            repeat(vectors, delta)
        return new_loss, new_squares

    squared, log_loss = functools.partial(softmax, False), functools.partial(softmax, True)
    return switch(head, [*[elementwise(function) for function in HEADS], squared, log_loss, log_loss])


@traced
def winner(memory, at, valid, vectors):
    """Place of the first of the largest of a row's values."""
    L = lane_count(memory)

    def vector(v):
        return select(load(memory, valid + v * L) > 0, load(memory, at + v * L), -np.inf)

    top = across(carry(vectors, (splat(memory, -np.inf),), lambda v, top: (larger(vector(v), top),))[0], larger)

    def find(back, place):
        v = vectors - 1 - back
        lane = first_lane(vector(v) == top)
        return (choose(lane < L, v * L + lane, place),)

    return carry(vectors, (vectors * L,), find)[0]


@traced
def hit(memory, z, y, valid, vectors, single):
    """1 where a row's outputs and targets name the same class, else 0."""

    def same_winner():
        return winner(memory, z, valid, vectors) == winner(memory, y, valid, vectors)

    def same_side():
        return (element(memory, z) >= 0.5) == (element(memory, y) >= 0.5)

    return switch(single, [same_winner, same_side])


@traced
def prediction_row(memory, z, d, valid, vectors, head):
    """One sample: A_L in place of its z; `d` is room for a row."""
    L = lane_count(memory)

    def elementwise(function):
        def vector(v):
            store(memory, z + v * L, function(load(memory, z + v * L)))

        return lambda: repeat(vectors, vector)

    def softmax():
        _, total = softmax_sums(memory, z, valid, d, vectors, L)
        share = 1 / total

        def vector(v):
            store(memory, z + v * L, load(memory, d + v * L) * share)

        repeat(vectors, vector)

    cases = {function: elementwise(function) for function in PREDICTIONS}
    switch(head, [*[cases[function] for function in PREDICTIONS], softmax, softmax, softmax])


@traced
def output_samples(memory, z, y, d, columns, n_out, head, scale, weight, loss, squares):
    """LANES samples, whose outputs are `columns` elements apart: A_L in place of z, D_L into `d`.

    Returns `loss` and `squares` plus their own, and the largest output of each sample and its place.
    """
    lowest, first = splat(memory, -np.inf), splat(memory, 0.0)

    def collect(a, y, one_loss, loss, squares, best, winner, number):
        better = a > best
        return (
            *add_up(loss, squares, one_loss, a - y, weight),
            select(better, a, best),
            select(better, number, winner),
            number + 1,
        )

    def elementwise(function):
        def unit(j, *sums):
            at = j * columns
            target = load(memory, y + at)
            a, one_loss, delta = function(load(memory, z + at), target)
            store(memory, z + at, a)
            store(memory, d + at, delta * (scale * weight))
            return collect(a, target, one_loss, *sums)

        return lambda: carry(n_out, (loss, squares, lowest, first, first), unit)[:-1]

    def softmax(log_loss):
        top, total = softmax_sums_of_samples(memory, z, d, columns, n_out)
        share, log_total = 1 / total, log(total)
        bounds = log_loss_bounds(memory, head) if log_loss else None

        def unit(j, inner, *sums):
            at = j * columns
            target = load(memory, y + at)
            a = load(memory, d + at) * share
            error = a - target
            one_loss = target * clip(log_total + (top - load(memory, z + at)), *bounds) if log_loss else None
            store(memory, z + at, a)
            store(memory, d + at, error * (scale * weight))
            return fma(a, error, inner), *collect(a, target, one_loss, *sums)

        inner, *sums, _ = carry(n_out, (splat(memory, 0.0), loss, squares, lowest, first, first), unit)
        if not log_loss:

            def delta(j):
                a = load(memory, z + j * columns)
                error = a - load(memory, y + j * columns)
                store(memory, d + j * columns, a * (error - inner) * (scale * weight))

            repeat(n_out, delta)
        return tuple(sums)

    squared, log_loss = functools.partial(softmax, False), functools.partial(softmax, True)
    return switch(head, [*[elementwise(function) for function in HEADS], squared, log_loss, log_loss])


def softmax_sums_of_samples(memory, z, e, columns, n_out):
    """e**(z - top) into `e`; returns the largest z and the sum of each sample."""

    def at_top(j, top):
        return (larger(load(memory, z + j * columns), top),)

    top = carry(n_out, (splat(memory, -np.inf),), at_top)[0]

    def add(j, total):
        power = exp(load(memory, z + j * columns) - top)
        store(memory, e + j * columns, power)
        return (total + power,)

    return top, carry(n_out, (splat(memory, 0.0),), add)[0]


@traced
def predict_samples(memory, z, d, columns, n_out, head):
    """LANES samples, whose outputs are `columns` elements apart: A_L in place of z; `d` is room for as many."""

    def elementwise(function):
        def unit(j):
            store(memory, z + j * columns, function(load(memory, z + j * columns)))

        return lambda: repeat(n_out, unit)

    def softmax():
        share = 1 / softmax_sums_of_samples(memory, z, d, columns, n_out)[1]

        def unit(j):
            store(memory, z + j * columns, load(memory, d + j * columns) * share)

        repeat(n_out, unit)

    cases = {function: elementwise(function) for function in PREDICTIONS}
    switch(head, [*[cases[function] for function in PREDICTIONS], softmax, softmax, softmax])
