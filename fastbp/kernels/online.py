"""Training on batches of one row, with lanes over units.

With one row nothing of a product comes again but its weights, so there is nothing to tile, to copy together or to
transpose. A step reads the weights twice, once on the way up and once on the way down:

    up      z = b_l + sum over i of a[i] W_l[i, :]     sums of up to SIDE_BY_SIDE[0] vectors of z stay in registers
    down    D_{l-1}[i] = W_l[i, :] . D_l               and, while W_l[i, :] is in registers, its step from the gradient
            W_l[i, :] += step of a[i] D_l              a[i] D_l, which is stored nowhere

Loops, from the innermost. Up: rows of W_l; groups of vectors of z, the widest ones first; layers. Where a group has few
vectors, several rows are added up side by side, so that as many sums are under way as hide the time an addition takes.
Down: vectors of HEIGHT rows of W_l, each of which meets the same vector of D_l; groups of rows; layers. HEIGHT dot products
end together, in one `fold`.

A row of X is read where it stands. There are no threads: a step is too short for them.
"""

import math

import numpy as np

from fastbp.kernels.jit import registers
from fastbp.kernels.losses import hit, output_row
from fastbp.kernels.phases import first_counter, mark, start_clock
from fastbp.kernels.pointwise import ACTIVATIONS, DERIVATIVES
from fastbp.kernels.simd import (
    SIDE_BY_SIDE,
    broadcast,
    carry,
    either,
    either_place,
    element,
    flush_subnormals,
    fma,
    fold,
    lane_count,
    load,
    repeat,
    restore_subnormals,
    row_tile,
    select,
    side_by_side,
    splat,
    store,
    store_like,
    sum_lanes,
    switch,
    vector_count,
)
from fastbp.kernels.tracing import traced
from fastbp.kernels.updates import descend, loss_factor, penalty_of, step_length, sum_squares, update
from fastbp.layout import (
    ACTIVATION,
    BATCH,
    BLOCK,
    COMPARE,
    EPOCH,
    FIELDS,
    FORWARD,
    GATHER,
    GRAD,
    GRADIENT,
    HITS,
    LOSS,
    N_IN,
    N_OUT,
    N_ROWS,
    OFFSET,
    OVERHEAD,
    PENALTY,
    PLACES,
    RECORD_SIZE,
    ROW,
    SIZE,
    SQUARES,
    STEP,
    STRIDE,
    TARGETS,
    UPDATE,
    VALID,
    ZEROS,
    A,
    D,
)
from fastbp.rule import ALPHA, BETA_2, EPSILON, HEAD, MAX_NORM, MOMENTUM, PER_ROW, SOLVER

HEIGHT = registers() // 4  # rows on the way down: their sums, factors and steps share the registers


def carry_any(count, values, body):
    """`carry` for a count that may be 0."""
    return switch(count > 0, [lambda: values, lambda: carry(count, values, body)])


def weighted_rows(params, w, stride, n_in, bias, bias_at, a, a_at, memory, z, vectors):
    """(1): z = b + sum over i of a[i] W[i, :], for rows of W from `w` on."""
    L = lane_count(memory)

    def group(cols, v):
        height = SIDE_BY_SIDE[0] // cols
        tall = n_in // height

        def add_rows(first, height, sums):
            """`sums`, row by row, plus those of some rows of W."""
            factors = [broadcast(a, a_at + first + r) for r in range(height)]
            places = [w + (first + r) * stride + (v + c) * L for r in range(height) for c in range(cols)]
            return tuple(fma(factors[n // cols], load(params, at), sums[n]) for n, at in enumerate(places))

        zero = splat(memory, 0.0)
        sums = carry_any(tall, (zero,) * (height * cols), lambda k, *sums: add_rows(k * height, height, sums))
        # beside the others, not after them: the rows that are left begin with the bias
        start = tuple(load(bias, bias_at + (v + c) * L) for c in range(cols))
        rest = carry_any(n_in - tall * height, start, lambda k, *sums: add_rows(tall * height + k, 1, sums))
        while len(sums) > cols:
            half = len(sums) // 2
            sums = tuple(x + y for x, y in zip(sums[:half], sums[half:], strict=True))
        for c, (x, y) in enumerate(zip(sums, rest, strict=True)):
            store(memory, z + (v + c) * L, x + y)

    side_by_side(vectors, group)


@traced
def propagate(layers, n_layers, params, X, x_at, memory, places, zeros, sync, counters):
    """(1), (2): every A_l of a row, and Z_L. The padding of A_l is what the activation makes of 0."""
    L = lane_count(memory)

    def layer(level):
        row, place, hidden = level * FIELDS, level * PLACES, level > 0
        stride, n_in, w = (element(layers, row + field) for field in (STRIDE, N_IN, OFFSET))
        bias, bias_at = either_place(element(layers, row + N_ROWS) > n_in, (params, w + n_in * stride), (memory, zeros))
        a, a_at = either_place(hidden, (memory, element(places, place - hidden * PLACES + A)), (X, x_at))
        here, vectors = element(places, place + A), vector_count(memory, element(layers, row + N_OUT))
        weighted_rows(params, w, stride, n_in, bias, bias_at, a, a_at, memory, here, vectors)

        def activate(function):
            return lambda: repeat(vectors, lambda v: store(memory, here + v * L, function(load(memory, here + v * L))))

        switch(element(layers, row + ACTIVATION), [lambda: None, *[activate(function) for function in ACTIVATIONS[1:]]])
        mark(sync, counters, FORWARD, level)

    repeat(n_layers, layer)


def descend_rows(params, w, stride, n_in, a, a_at, memory, d, vectors, below, step):
    """(5) without s', and (7), for all rows of W: their dot products with D into `below`, unless it is None."""
    L = lane_count(memory)

    def rows(height, first):
        factors = [broadcast(a, a_at + first + r) for r in range(height)]
        starts = [w + (first + r) * stride for r in range(height)]

        def vector(v, *sums):
            delta, places = load(memory, d + v * L), [start + v * L for start in starts]
            # before the steps, which change them
            sums = tuple(fma(load(params, at), delta, total) for at, total in zip(places, sums, strict=True)) if sums else ()
            for factor, at in zip(factors, places, strict=True):
                step(factor * delta, at)
            return sums

        if below is None:
            repeat(vectors, vector)
        else:
            sums = carry(vectors, (splat(memory, 0.0),) * height, vector)
            store_like(fold(row_tile(sums))[0], memory, below + first)

    tall = n_in // HEIGHT
    repeat(tall, lambda i: rows(HEIGHT, i * HEIGHT))
    repeat(n_in % HEIGHT, lambda r: rows(1, tall * HEIGHT + r))


@traced
def backpropagate(
    layers, n_layers, params, state, size, X, x_at, memory, places, grad, solver,
    rate, first, first_gain, second, second_gain, epsilon, decay, sync, counters,
):  # fmt: skip
    """(5) to (7): from the last layer down, the step of every weight as soon as its delta has been taken.

    Both are one pass over the weights, whose time counts as the gradient's.
    """
    L, numbers = lane_count(memory), (rate, first, first_gain, second, second_gain, epsilon)

    def layer(back):
        level = n_layers - 1 - back
        row, place, hidden = level * FIELDS, level * PLACES, level > 0
        stride, n_in, w = (element(layers, row + field) for field in (STRIDE, N_IN, OFFSET))
        d, vectors = element(places, place + D), vector_count(memory, element(layers, row + N_OUT))
        lower = place - hidden * PLACES
        a_below, d_below, valid = (element(places, lower + column) for column in (A, D, VALID))

        def learn(a, a_at, below):
            def over(step):
                descend_rows(params, w, stride, n_in, a, a_at, memory, d, vectors, below, step)

            update(solver, over, params, state, size, memory, grad, numbers, decay)

        def learn_biases():
            def over(step):
                repeat(vectors, lambda v: step(load(memory, d + v * L), w + n_in * stride + v * L))

            update(solver, over, params, state, size, memory, grad, numbers, None)

        def derive(function):
            def vector(v):
                at = d_below + v * L
                delta = load(memory, at) * function(load(memory, a_below + v * L))
                # no weight of the padding, whatever has become of the others, is anything but 0
                store(memory, at, select(load(memory, valid + v * L) > 0, delta, 0))

            return lambda: repeat(vector_count(memory, n_in), vector)

        def learn_hidden():
            learn(memory, a_below, d_below)
            switch(element(layers, row - FIELDS + ACTIVATION), [derive(function) for function in DERIVATIVES])

        either(hidden, learn_hidden, lambda: learn(X, x_at, None))
        either(element(layers, row + N_ROWS) > n_in, learn_biases, lambda: None)
        mark(sync, counters, GRADIENT, level)

    repeat(n_layers, layer)


@traced
def descend_all(
    params, state, size, memory, grad, solver, rate, first, first_gain, second, second_gain, epsilon, shrink
):  # fmt: skip
    """(7) for all parameters, from the stored gradient times `shrink`."""
    numbers = rate, first, first_gain, second, second_gain, epsilon
    descend(params, state, size, memory, grad, solver, numbers, size * 0, size, shrink, None)


def train(layers, n_layers, params, state, X, Y, weights, weighted, n, order, shuffled, batch_size, rule, blocks, cursor,
          record, memory, plan, places, table, totals, sync, rank, size):  # fmt: skip
    """As `fastbp.reference.train`, for batches of one row; a block is a row."""
    control = flush_subnormals(memory)
    n_in, output = layers[N_IN], (n_layers - 1) * PLACES
    n_out, z, d, y = layers[(n_layers - 1) * FIELDS + N_OUT], places[output + A], places[output + D], plan[TARGETS]
    valid, vectors, n_params = places[output + VALID], vector_count(memory, n_out), plan[SIZE]
    epoch, row, step = cursor[EPOCH], cursor[ROW], cursor[STEP]
    first_epoch, weight = epoch, 1.0
    head, solver, alpha, per_row, max_norm = int(rule[HEAD]), int(rule[SOLVER]), rule[ALPHA], rule[PER_ROW], rule[MAX_NORM]
    grad, counters = plan[GRAD], first_counter(n_layers, rank)
    start_clock(sync, counters)
    beta_1, beta_2, epsilon = splat(memory, rule[MOMENTUM]), splat(memory, rule[BETA_2]), splat(memory, rule[EPSILON])
    gain_1, gain_2 = splat(memory, 1.0 - rule[MOMENTUM]), splat(memory, 1.0 - rule[BETA_2])
    for _ in range(blocks):
        mark(sync, counters, OVERHEAD, 0)
        source = order[(epoch - first_epoch) * n + row] if shuffled else row
        if weighted:
            weight = float(weights[source])
        if weight > 0.0:
            # long before they are read, as vectors, which takes longer where the numbers are still on their way to the cache
            for j in range(n_out):
                memory[y + j] = Y[source * n_out + j]
            mark(sync, counters, GATHER, 0)
            propagate(layers, n_layers, params, X, source * n_in, memory, places, plan[ZEROS], sync, counters)
            scale = weight if per_row == 0.0 else 1.0 / per_row
            loss, squares = output_row(memory, z, y, d, valid, vectors, head, splat(memory, scale), splat(memory, weight),
                                       splat(memory, 0.0), splat(memory, 0.0))  # fmt: skip
            factor = loss_factor(rule, 1, weight)
            record[epoch * RECORD_SIZE + LOSS] += sum_lanes(loss) * factor
            record[epoch * RECORD_SIZE + SQUARES] += sum_lanes(squares)
            record[epoch * RECORD_SIZE + HITS] += hit(memory, z, y, valid, vectors, int(n_out == 1))
            mark(sync, counters, COMPARE, 0)
            if alpha != 0.0:
                record[epoch * RECORD_SIZE + PENALTY] += penalty_of(layers, n_layers, params) * factor
                mark(sync, counters, UPDATE, 0)
            step += 1
            rate = splat(memory, step_length(rule, step))
            backpropagate(layers, n_layers, params, state, n_params, X, source * n_in, memory, places, grad,
                          solver if max_norm == np.inf else 0, rate, beta_1, gain_1, beta_2, gain_2, epsilon,
                          splat(memory, alpha if per_row == 0.0 else alpha / weight), sync, counters)  # fmt: skip
            if max_norm < np.inf:
                norm = math.sqrt(float(sum_squares(memory, grad, n_params)))
                descend_all(params, state, n_params, memory, grad, solver, rate, beta_1, gain_1, beta_2, gain_2, epsilon,
                            splat(memory, max_norm / norm if norm > max_norm else 1.0))  # fmt: skip
                mark(sync, counters, UPDATE, 0)
        row += 1
        if row == n:
            epoch, row = epoch + 1, 0
    cursor[EPOCH], cursor[ROW], cursor[STEP], cursor[BATCH], cursor[BLOCK] = epoch, row, step, row, row
    mark(sync, counters, OVERHEAD, 0)
    restore_subnormals(memory, control)
