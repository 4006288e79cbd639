"""Training with lanes over samples: for networks whose layers are narrow.

Activations lie unit by unit, the samples of one block side by side, A_l^T (n_out, columns), so that one vector holds one
unit's values for LANES samples. A block has as many columns as keep all activations and deltas in the L1 cache, and goes
through the whole network before the next one starts:

    pack        rows of X and Y into a panel, transposed       (once where every panel fits the L2 cache)
    product     Z^T = W^T A^T for each layer, then the activation in place
    delta       D^T of the output, then product D^T = W D^T for each layer downwards, then the derivative in place
    gradient    dW[i, j] = sum over the columns of A^T[i] D^T[j]; on a batch's last block the update follows in registers

A panel has one row per input unit, a row of ones (the bias's input), one row per target, a row with the class of the target,
and a row that is 1 for samples and 0 for padding columns. Padding columns run through every product and are removed by the
zero in the output's delta.
"""

import numpy as np

from fastbp.kernels.jit import inlined
from fastbp.kernels.pointwise import (
    add,
    count_hits,
    count_hits_of_one,
    descend,
    hidden_delta,
    logistic,
    output_delta,
    take_larger,
)
from fastbp.kernels.simd import (
    add_outer,
    add_products,
    lanes,
    load,
    replace_lane,
    splat,
    store,
    store_tile,
    sum_columns,
    sum_lanes,
    sum_tile,
    zero_square,
    zero_tile,
)
from fastbp.layout import (
    COLUMNS,
    EPOCH,
    FIELDS,
    GRAD,
    N_IN,
    N_OUT,
    N_ROWS,
    OFFSET,
    PACKED,
    PANEL,
    PANEL_SIZE,
    RESIDENT,
    ROW,
    STRIDE,
    A,
    D,
)


@inlined
def pack_inputs(X, n_in, order, shuffled, place, count, memory, panel, columns):
    """A_0^T: `count` rows of X as the columns of a panel, zero columns behind them.

    The rows are order[place], order[place + 1] ..., or place, place + 1 ... unless `shuffled`.
    """
    for v in range(panel, panel + n_in * columns, lanes(memory)):
        store(memory, v, splat(memory, 0.0))
    for v in range(panel + n_in * columns, panel + (n_in + 1) * columns, lanes(memory)):
        store(memory, v, splat(memory, 1.0))
    for c in range(count):
        row = order[place + c] if shuffled else place + c
        for i in range(n_in):
            memory[panel + i * columns + c] = X[row * n_in + i]


@inlined
def pack_targets(Y, n_out, order, shuffled, place, count, memory, targets, columns):
    """Y^T, the class of each target, and which columns are samples; rows as in `pack_inputs`."""
    for v in range(targets, targets + (n_out + 2) * columns, lanes(memory)):
        store(memory, v, splat(memory, 0.0))
    for c in range(count):
        row = order[place + c] if shuffled else place + c
        best = 0
        for j in range(n_out):
            memory[targets + j * columns + c] = Y[row * n_out + j]
            if Y[row * n_out + j] > Y[row * n_out + best]:
                best = j
        if n_out == 1 and Y[row] >= 0.5:
            best = 1
        memory[targets + n_out * columns + c] = best
        memory[targets + (n_out + 1) * columns + c] = 1.0


@inlined
def product(a, a_at, a_row, a_step, b, b_at, b_step, depth, c, c_at, c_row, rows, columns):
    """C[r, :] = sum_k A[r, k] B[k, :], a tile of rows x vectors at a time.

    a, b, c   IN, IN, OUT   flat arrays; A[r, k] stands at a_at + r*a_row + k*a_step, B[k, :] at b_at + k*b_step
    columns   a multiple of the vector length
    """
    L = lanes(c)
    wide = columns // (2 * L) * 2 * L
    for v in range(0, wide, 2 * L):
        tall = rows // 4 * 4
        for r in range(0, tall, 4):
            tile = add_outer(zero_tile(c, 4, 2), depth, a, a_at + r * a_row, a_row, a_step, b, b_at + v, b_step)
            store_tile(tile, c, c_at + r * c_row + v, c_row)
        for r in range(tall, rows):
            line = add_outer(zero_tile(c, 1, 2), depth, a, a_at + r * a_row, a_row, a_step, b, b_at + v, b_step)
            store_tile(line, c, c_at + r * c_row + v, c_row)
    if wide < columns:
        for r in range(rows):
            vector = add_outer(zero_tile(c, 1, 1), depth, a, a_at + r * a_row, a_row, a_step, b, b_at + wide, b_step)
            store_tile(vector, c, c_at + r * c_row + wide, c_row)


@inlined
def propagate(layers, n_layers, params, memory, panel, places, columns, used):
    """(1), (2): every A_l^T of a block from the panel's A_0^T."""
    L = lanes(memory)
    below = panel
    for level in range(n_layers):
        layer = level * FIELDS
        n_out, here = layers[layer + N_OUT], places[2 * level + A]
        product(params, layers[layer + OFFSET], 1, layers[layer + STRIDE], memory, below, columns, layers[layer + N_ROWS],
                memory, here, columns, n_out, used)  # fmt: skip
        for row in range(here, here + n_out * columns, columns):
            for v in range(row, row + used, L):
                store(memory, v, logistic(load(memory, v)))
        below = here


@inlined
def compare(memory, targets, activation, delta, n_out, columns, used, scale):
    """(4) into D_L^T; returns sum (A_L - Y)**2 and the hits of the block."""
    L = lanes(memory)
    zero = splat(memory, 0.0)
    squares, hits, scales = zero, zero, splat(memory, scale)
    for v in range(0, used, L):
        wanted = load(memory, targets + n_out * columns + v)
        sample = load(memory, targets + (n_out + 1) * columns + v)
        best, winner = splat(memory, -np.inf), zero
        for j in range(n_out):
            a = load(memory, activation + j * columns + v)
            d, squares = output_delta(a, load(memory, targets + j * columns + v), sample, scales, squares)
            store(memory, delta + j * columns + v, d)
            best, winner = take_larger(a, splat(memory, j), best, winner)
        hits = count_hits(hits, winner, wanted, sample) if n_out > 1 else count_hits_of_one(hits, best, wanted, sample)
    return sum_lanes(squares), sum_lanes(hits)


@inlined
def gradient(memory, a, d, columns, used, i, j, n_out):
    """(6): dW[i, j : j+LANES] as one vector, zero beyond n_out."""
    L = lanes(memory)
    a += i * columns
    d += j * columns
    if 2 * (n_out - j) > L:
        return sum_columns(add_products(zero_square(memory), used // L, memory, a, memory, d, columns))
    result = splat(memory, 0.0)
    for lane in range(n_out - j):
        tile = add_products(zero_tile(memory, 1, 1), used // L, memory, a, memory, d + lane * columns, columns)
        result = replace_lane(result, lane, sum_tile(tile))
    return result


@inlined
def backpropagate(layers, n_layers, params, memory, panel, places, columns, used, grad, first, last, learning_rate):
    """(5), (6) and, after the last block of a batch, (7)."""
    L = lanes(memory)
    step = splat(memory, -learning_rate)
    for back in range(n_layers):
        level = n_layers - 1 - back
        layer = level * FIELDS
        n_in, n_out, offset, stride = (
            layers[layer + N_IN], layers[layer + N_OUT], layers[layer + OFFSET], layers[layer + STRIDE],
        )  # fmt: skip
        d = places[2 * level + D]
        a = panel
        if level:
            # before this layer's update: the delta below needs the weights that made the loss
            a, d_below = places[2 * level - 2 + A], places[2 * level - 2 + D]
            product(params, offset, stride, 1, memory, d, columns, n_out, memory, d_below, columns, n_in, used)
            for row in range(0, n_in * columns, columns):
                for v in range(row, row + used, L):
                    store(memory, d_below + v, hidden_delta(load(memory, d_below + v), load(memory, a + v)))
        for i in range(layers[layer + N_ROWS]):
            for j in range(0, stride, L):
                at = offset + i * stride + j
                g = gradient(memory, a, d, columns, used, i, j, n_out)
                if not first:
                    g = add(g, load(memory, grad + at))
                if last:
                    store(params, at, descend(load(params, at), g, step))
                else:
                    store(memory, grad + at, g)


def train(layers, n_layers, params, X, Y, n, order, shuffled, batch_size, learning_rate, mean, blocks,
          cursor, sse, correct, memory, plan, places):  # fmt: skip
    """As `fastbp.reference.train`; a block is what one panel holds, and a call may end within a batch."""
    n_in, n_out = layers[N_IN], layers[(n_layers - 1) * FIELDS + N_OUT]
    columns, resident, panel_size, grad = plan[COLUMNS], plan[RESIDENT], plan[PANEL_SIZE], plan[GRAD]
    output, first_epoch = 2 * n_layers - 2, cursor[EPOCH]
    for _ in range(blocks):
        epoch, row = cursor[EPOCH], cursor[ROW]
        batch_start = row - row % batch_size
        batch_stop = min(batch_start + batch_size, n)
        stop = min(row + columns, batch_stop)
        used = -((row - stop) // lanes(memory)) * lanes(memory)
        panel = cursor[PANEL] * panel_size * resident
        targets = panel + (n_in + 1) * columns
        if not cursor[PACKED]:
            place = (epoch - first_epoch) * n * shuffled + row
            pack_inputs(X, n_in, order, shuffled, place, stop - row, memory, panel, columns)
            pack_targets(Y, n_out, order, shuffled, place, stop - row, memory, targets, columns)
        propagate(layers, n_layers, params, memory, panel, places, columns, used)
        scale = 1.0 / ((batch_stop - batch_start) * n_out) if mean else 1.0
        squares, hits = compare(memory, targets, places[output + A], places[output + D], n_out, columns, used, scale)
        sse[epoch] += squares
        correct[epoch] += hits
        backpropagate(layers, n_layers, params, memory, panel, places, columns, used, grad,
                      row == batch_start, stop == batch_stop, learning_rate)  # fmt: skip
        cursor[ROW] = stop
        cursor[PANEL] += 1
        if stop == n:
            cursor[EPOCH] = epoch + 1
            cursor[ROW] = 0
            cursor[PANEL] = 0
            cursor[PACKED] = resident


def forward(layers, n_layers, params, X, n, out, memory, plan, places):
    """As `fastbp.reference.forward`; a row's result does not depend on the other rows."""
    n_in, n_out = layers[N_IN], layers[(n_layers - 1) * FIELDS + N_OUT]
    columns, result = plan[COLUMNS], places[2 * n_layers - 2 + A]
    for start in range(0, n, columns):
        count = min(columns, n - start)
        used = -(-count // lanes(memory)) * lanes(memory)
        pack_inputs(X, n_in, places, 0, start, count, memory, 0, columns)
        propagate(layers, n_layers, params, memory, 0, places, columns, used)
        for c in range(count):
            for j in range(n_out):
                out[(start + c) * n_out + j] = memory[result + j * columns + c]
