"""Solvers: what becomes of a weight once its gradient is known, while both are in registers.

The equations are (7) in `fastbp.reference`. A solver is a function of the gradient of LANES weights and their place.
"""

import math

import numpy as np

from fastbp.kernels.jit import inlined
from fastbp.kernels.simd import (
    fma,
    in_groups,
    in_place,
    is_float32,
    lane_count,
    lanes,
    load,
    select,
    splat,
    square_root,
    store,
    sum_lanes,
    switch,
)
from fastbp.kernels.tracing import traced
from fastbp.layout import FIELDS, N_IN, OFFSET, STRIDE
from fastbp.rule import BETA_2, BY_ROWS, LEARNING_RATE, MOMENTUM, SOLVER

SGD, ADAM = 1, 4
NOTHING = 2.0**-60  # adding it to 1 changes nothing
# The least epsilon of Adam: the root of the smallest normal number. A second moment below that one is taken for 0, so that a
# smaller epsilon would divide by next to nothing where gradients are tiny, and by 0 in the padding.
EPSILON_FLOAT32, EPSILON_FLOAT64 = 2.0**-63, 2.0**-511


def over_tile(tile, at, stride):
    """`over` of `update` for a tile of gradients whose weights begin at `at`."""

    def over(step):
        rows = len(tile) if isinstance(tile, np.ndarray) else tile.kind.rows
        for g, place in in_place(tile, [at + r * stride for r in range(rows)]):
            step(g, place)

    return over


def update(solver, over, params, state, size, memory, grad, numbers, decay):
    """(7), where over(step) calls step with every vector of gradients and its place among the parameters.

    SOLVERS[0] stores the gradients at `grad` instead.

    state         moments: `size` elements for each, placed as the weights
    numbers       vectors of one value: the step length, negative; decay of the first moment, and what the gradient adds to
                  it; the same for the second moment; epsilon
    decay         vector of one value, the factor of the L2 term, or None for no such term
    """
    rate, first, first_gain, second, second_gain, epsilon = numbers
    least = EPSILON_FLOAT32 if is_float32(memory) else EPSILON_FLOAT64
    epsilon = select(epsilon > least, epsilon, least)

    def keep(g, w, place):
        store(memory, grad + place, g)

    def sgd(g, w, place):
        store(params, place, fma(g, rate, w))

    def momentum(g, w, place):
        v = fma(load(state, place), first, g * rate)
        store(state, place, v)
        store(params, place, w + v)

    def nesterov(g, w, place):
        step = g * rate
        v = fma(load(state, place), first, step)
        store(state, place, v)
        store(params, place, w + fma(v, first, step))

    def adam(g, w, place):
        m = fma(load(state, place), first, g * first_gain)
        v = fma(load(state, size + place), second, g * (g * second_gain))
        store(state, place, m)
        store(state, size + place, v)
        store(params, place, fma(m, rate / (square_root(v) + epsilon), w))

    def each(solver):
        def run():
            def step(g, place):
                w = load(params, place)
                solver(g if decay is None else fma(w, decay, g), w, place)

            over(step)

        return run

    switch(solver, [each(one) for one in (keep, sgd, momentum, nesterov, adam)])


def descend(params, state, size, memory, grad, solver, numbers, at, elements, shrink, decay):
    """(7) for some elements of the parameters from `at` on, from the stored gradient times `shrink`."""
    L = lane_count(memory)

    def over(step):
        def some(count, first):
            for v in range(count):
                place = at + (first + v) * L
                step(load(memory, grad + place) * shrink, place)

        in_groups(elements // L, (4, 1), some)

    update(solver, over, params, state, size, memory, grad, numbers, decay)


@inlined
def power(base, exponent):
    """By squaring, so that the same step has the same factor wherever a call began; 0 where 1 less the result is 1.

    Squared on, the base would soon be no normal number, and processors are slow with these.
    """
    result = 1.0
    while exponent > 0:
        if base < NOTHING:
            return 0.0
        if exponent % 2:
            result *= base
        base *= base
        exponent //= 2
    return result


@inlined
def step_length(rule, step):
    """The factor of the gradient, or of what the solver makes of it, in the `step`-th step, from 1."""
    if rule[SOLVER] != ADAM:
        return -rule[LEARNING_RATE]
    return -rule[LEARNING_RATE] * math.sqrt(1.0 - power(rule[BETA_2], step)) / (1.0 - power(rule[MOMENTUM], step))


@traced
def add_squares(data, at, total):
    """`total` plus the squares of LANES elements."""
    x = load(data, at)
    return fma(x, x, total)


@inlined
def sum_squares(data, at, count):
    """The sum of the squares of `count` elements, a multiple of LANES, a vector of partial sums at a time."""
    total = splat(data, 0.0)
    for v in range(at, at + count, lanes(data)):
        total = add_squares(data, v, total)
    return sum_lanes(total)


@inlined
def weight_of(weights, weighted, order, shuffled, place, count):
    """The sum of the weights of `count` rows."""
    if not weighted:
        return float(count)
    total = 0.0
    for r in range(place, place + count):
        total += weights[order[r] if shuffled else r]
    return total


@inlined
def loss_factor(rule, count, weight):
    """What the loss of a batch of `count` rows is multiplied with in the record, where its weight is not 0."""
    return count / weight if rule[BY_ROWS] != 0.0 else 1.0


@inlined
def penalty_of(layers, n_layers, params):
    """The sum of the squares of all weights."""
    total = 0.0
    for layer in range(0, n_layers * FIELDS, FIELDS):
        total += sum_squares(params, layers[layer + OFFSET], layers[layer + N_IN] * layers[layer + STRIDE])
    return total
