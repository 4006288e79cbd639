"""Output layers: their activation together with the loss and its delta, (2) to (4) in `fastbp.reference`.

A head is a function of the pre-activations z and targets y of LANES outputs that gives the activations, the loss and its
derivative by z, in the order of `fastbp.rule.HEADS`. Heads with softmax need all outputs of a sample at once.
"""

import functools

import numpy as np

from fastbp.kernels.pointwise import exp, log, logistic, logistic_derivative, softplus
from fastbp.kernels.simd import (
    across,
    carry,
    fma,
    full_like,
    lane_count,
    larger,
    load,
    repeat,
    select,
    splat,
    store,
    switch,
    traced,
)


def logistic_squared(z, y):
    a = logistic(z)
    error = a - y
    return a, 0.5 * (error * error), error * logistic_derivative(a)


def identity_squared(z, y):
    error = z - y
    return z, 0.5 * (error * error), error


def exp_squared(z, y):
    a = exp(z)
    error = a - y
    return a, 0.5 * (error * error), error * a


def logistic_log(z, y):
    a = logistic(z)
    return a, softplus(z) - y * z, a - y


def exp_poisson(z, y):
    """y log(y / a) - y + a, whose first part is 0 for y = 0."""
    a = exp(z)
    return a, fma(y, log(select(y > 0, y, 1)) - z, a - y), a - y


HEADS = (logistic_squared, identity_squared, exp_squared, logistic_log, exp_poisson)
# What is predicted with each of `fastbp.rule.HEADS` without softmax.
PREDICTIONS = (logistic, lambda z: z, exp, logistic, exp)


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


@traced
def output_row(memory, z, y, d, valid, vectors, head, scale, weight, loss, squares):
    """One sample: A_L in place of its z, D_L into `d`; `loss` and `squares` plus its own."""
    L = lane_count(memory)

    def collect(loss, squares, one_loss, error):
        return fma(one_loss, weight, loss), fma(error * weight, error, squares)

    def elementwise(function):
        def vector(v, loss, squares):
            mask, target = load(memory, valid + v * L), load(memory, y + v * L)
            a, one_loss, delta = function(load(memory, z + v * L), target)
            a = a * mask
            store(memory, z + v * L, a)
            store(memory, d + v * L, delta * (scale * mask))
            return collect(loss, squares, one_loss * mask, a - target)

        return lambda: carry(vectors, (loss, squares), vector)

    def softmax(log_loss):
        top, total = softmax_sums(memory, z, valid, d, vectors, L)
        share, log_total = 1 / total, log(total)

        def vector(v, loss, squares, inner):
            target = load(memory, y + v * L)
            a = load(memory, d + v * L) * share
            error = a - target
            one_loss = target * (log_total + (top - load(memory, z + v * L))) if log_loss else 0.5 * (error * error)
            store(memory, z + v * L, a)
            store(memory, d + v * L, error * scale)
            return *collect(loss, squares, one_loss, error), fma(a, error, inner)

        new_loss, new_squares, inner = carry(vectors, (loss, squares, splat(memory, 0.0)), vector)
        if not log_loss:
            inner = across(inner, lambda x, y: x + y)

            def delta(v):
                a = load(memory, z + v * L)
                store(memory, d + v * L, a * (a - load(memory, y + v * L) - inner) * scale)

            repeat(vectors, delta)
        return new_loss, new_squares

    cases = [elementwise(function) for function in HEADS]
    return switch(head, [*cases, functools.partial(softmax, False), functools.partial(softmax, True)])


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

    switch(head, [*[elementwise(function) for function in PREDICTIONS], softmax, softmax])


@traced
def output_samples(memory, z, y, d, columns, n_out, head, scale, weight, loss, squares):
    """LANES samples, whose outputs are `columns` elements apart: A_L in place of z, D_L into `d`.

    Returns `loss` and `squares` plus their own, and the largest output of each sample and its place.
    """
    lowest, first = splat(memory, -np.inf), splat(memory, 0.0)

    def collect(j, a, y, one_loss, loss, squares, best, winner):
        error, better = a - y, a > best
        number = full_like(a, 0) + splat(memory, j)
        return (
            fma(one_loss, weight, loss),
            fma(error * weight, error, squares),
            select(better, a, best),
            select(better, number, winner),
        )

    def elementwise(function):
        def unit(j, *sums):
            at = j * columns
            target = load(memory, y + at)
            a, one_loss, delta = function(load(memory, z + at), target)
            store(memory, z + at, a)
            store(memory, d + at, delta * (scale * weight))
            return collect(j, a, target, one_loss, *sums)

        return lambda: carry(n_out, (loss, squares, lowest, first), unit)

    def softmax(log_loss):
        top, total = softmax_sums_of_samples(memory, z, d, columns, n_out)
        share, log_total = 1 / total, log(total)

        def unit(j, inner, *sums):
            at = j * columns
            target = load(memory, y + at)
            a = load(memory, d + at) * share
            error = a - target
            one_loss = target * (log_total + (top - load(memory, z + at))) if log_loss else 0.5 * (error * error)
            store(memory, z + at, a)
            store(memory, d + at, error * (scale * weight))
            return fma(a, error, inner), *collect(j, a, target, one_loss, *sums)

        inner, *sums = carry(n_out, (splat(memory, 0.0), loss, squares, lowest, first), unit)
        if not log_loss:

            def delta(j):
                a = load(memory, z + j * columns)
                error = a - load(memory, y + j * columns)
                store(memory, d + j * columns, a * (error - inner) * (scale * weight))

            repeat(n_out, delta)
        return tuple(sums)

    cases = [elementwise(function) for function in HEADS]
    return switch(head, [*cases, functools.partial(softmax, False), functools.partial(softmax, True)])


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

    switch(head, [*[elementwise(function) for function in PREDICTIONS], softmax, softmax])
