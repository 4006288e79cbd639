"""Products of a first layer of few units with rows of X where they stand, with lanes over inputs: for the narrow kernel.

Where a row has many inputs for few units, putting it into a panel takes as long as all else: here it is read twice.

    forward     Z[r, j] = b[j] + the sum over the lanes of sum over vectors i of X[r, i] W^T[j, i]
    gradient    dW^T[j, i] = sum over rows r of D[r, j] X[r, i]

W^T, and dW^T before it is put among the other gradients, stand in `columns`: for each unit a row of `direct` elements, whose
last vector the inputs do not fill, with zeros behind them.
"""

import functools

from fastbp.kernels.control import by_code, carry, either, in_groups, repeat, switch
from fastbp.kernels.jit import registers
from fastbp.kernels.numbers import element, from_on, put, smaller
from fastbp.kernels.pointwise import ACTIVATIONS
from fastbp.kernels.steps import bias_of, row_at
from fastbp.kernels.tiles import fold, outer, store_tile, zero_tile
from fastbp.kernels.tracing import outlined
from fastbp.kernels.vectors import broadcast, lanes, load, load_first, splat, store, sum_lanes
from fastbp.layout import DIRECT_UNITS

ROOM = registers() // 2  # sums that are under way


def largest(*bounds):
    """The largest power of two within all bounds."""
    return 1 << (min(bounds).bit_length() - 1)


def by_units(layer, run):
    """run(units), for as many as the layer has, as a constant."""
    switch(layer.n_out - 1, [functools.partial(run, units) for units in range(1, DIRECT_UNITS + 1)])


def columns_of(job, layer):
    """Where the thread's W^T begins; its dW^T stands behind it."""
    return job.plan.columns + 2 * job.rank * layer.n_out * job.plan.direct


def inputs_of(job, layer, place):
    """The row of X at a place of the order."""
    return from_on(job.X, row_at(job, place) * layer.n_in)


@outlined
def direct_activations(job, block, layer, first, count):
    """(1), (2): A_1^T, of a single layer Z_1^T, of rows at `count` places of the order; samples behind repeat the last."""
    memory, columns, direct, L = job.memory, block.columns, job.plan.direct, lanes(job.memory)
    weights, whole = columns_of(job, layer), layer.n_in // L

    def copy(i, j):
        put(memory, weights + j * direct + i, element(job.params, layer.offset + i * layer.stride + j))

    def of_units(units):
        height = largest(L, ROOM // units)

        def rows(number):
            r = number * height
            inputs = [inputs_of(job, layer, first + smaller(r + i, count - 1)) for i in range(height)]
            columns_at = [weights + j * direct for j in range(units)]
            sums = outer(
                zero_tile(memory, height, units), whole, lambda k: [load(x, k * L) for x in inputs],
                lambda k: [load(memory, at + k * L) for at in columns_at],
            )  # fmt: skip
            sums = outer(
                sums, 1, lambda k: [load_first(x, whole * L, layer.n_in - whole * L) for x in inputs],
                lambda k: [load(memory, at + whole * L) for at in columns_at],
            )  # fmt: skip
            for j in range(units):
                store(memory, layer.a + j * columns + r, fold([[row[j] for row in sums]])[0])

        repeat(block.vectors * L // height, rows)

    bias, bias_at = bias_of(job, layer)

    def add_bias(j, v):
        at = layer.a + j * columns + v * L
        store(memory, at, load(memory, at) + broadcast(bias, bias_at + j * layer.biased))

    def activate(function):
        def vector(j, v):
            at = layer.a + j * columns + v * L
            store(memory, at, function(load(memory, at)))

        repeat(layer.n_out, lambda j: repeat(block.vectors, lambda v: vector(j, v)))

    repeat(layer.n_in, lambda i: repeat(layer.n_out, lambda j: copy(i, j)))
    by_units(layer, of_units)
    repeat(layer.n_out, lambda j: repeat(block.vectors, lambda v: add_bias(j, v)))
    by_code(layer.activation, (None, *ACTIVATIONS[1:]), activate)


@outlined
def direct_gradients(job, block, layer, first, count, grad, fresh):
    """(6): dW_1 and db_1 from the same rows of X and D_1^T, into `grad` if that is `fresh`, else added."""
    memory, columns, direct, L = job.memory, block.columns, job.plan.direct, lanes(job.memory)
    sums_at, whole = columns_of(job, layer) + layer.n_out * direct, layer.n_in // L

    def of_units(units):
        def strip(cols, v, some):
            def inputs(r):
                x = inputs_of(job, layer, first + r)
                return [some(x, (v + c) * L) for c in range(cols)]

            sums = outer(
                zero_tile(memory, units, cols), count,
                lambda r: [broadcast(memory, layer.d + j * columns + r) for j in range(units)], inputs,
            )  # fmt: skip
            store_tile(sums, memory, [sums_at + j * direct + v * L for j in range(units)])

        most = largest(ROOM // units)
        in_groups(whole, sorted({most, max(1, most // 4), 1}, reverse=True), lambda cols, v: strip(cols, v, load))
        strip(1, whole, lambda x, at: load_first(x, at, layer.n_in - at))

    def add(i, j, gradient):
        at = grad + i * layer.stride + j
        either(fresh, lambda: put(memory, at, gradient), lambda: put(memory, at, gradient + element(memory, at)))

    def bias_gradient(j):
        def vector(v, total):
            return (total + load(memory, layer.d + j * columns + v * L),)

        add(layer.n_in, j, sum_lanes(carry(block.vectors, (splat(memory, 0.0),), vector)[0]))

    by_units(layer, of_units)
    repeat(layer.n_in, lambda i: repeat(layer.n_out, lambda j: add(i, j, element(memory, sums_at + j * direct + i))))
    repeat(layer.biased, lambda _: repeat(layer.n_out, bias_gradient))
