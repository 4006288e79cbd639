"""Training with lanes over samples: for networks whose layers are narrow.

Activations lie unit by unit, the samples of one block side by side, A_l^T (n_out, columns), so that one vector holds one
unit's values for LANES samples. A block has as many columns as keep all activations and deltas in the L1 cache, and goes
through the whole network before the next one starts:

    pack        rows of X and Y into a panel, transposed       (once where every panel fits the L2 cache)
    product     A^T = s(W^T A^T + b) for each layer, tile by tile while it is in registers
    delta       D^T of the output, then D^T = (W D^T) * s' for each layer downwards, in the same way
    gradient    dW[i, j] = sum over the columns of A^T[i] D^T[j]; the update follows a batch's last block

A panel has one row per input unit, a row of ones (the bias's input), one row per target, a row with the class of the target,
and a row that is 1 for samples and 0 for padding columns. Padding columns run through every product and are removed by the
zero in the output's delta.
"""

import numpy as np

from fastbp.kernels.jit import inlined
from fastbp.kernels.pointwise import (
    count_hits,
    count_hits_of_one,
    hidden_delta,
    logistic,
    output_delta,
    take_larger,
)
from fastbp.kernels.simd import (
    broadcast,
    by_vector,
    either,
    fill,
    fma,
    fold,
    lanes,
    load,
    load_like,
    load_tile,
    outer,
    repeat,
    splat,
    store,
    store_like,
    store_tile,
    sum_lanes,
    traced,
    zero_tile,
)
from fastbp.layout import (
    BATCH,
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
    SIZE,
    STRIDE,
    ZERO,
    A,
    D,
)

TALL = 4  # rows of the larger register tiles
QUAD = 4  # columns of the larger tiles of a gradient


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


def product(start, finish, a, a_at, a_row, a_step, depth, b, b_at, b_step, c, c_at, talls, rests, columns, pairs, single):
    """C[r, :] = finish(start + sum_k A[r, k] B[k, :]), a tile of rows x vectors at a time.

    start         called with a tile of zeros and its first row, gives what the sums begin with
    finish        called with a tile of sums and the place of its C, gives the tile to store
    a, b    IN    A[r, k] stands at a_at + r*a_row + k*a_step, B[k, :] at b_at + k*b_step
    c       OUT   C[r, :] stands at c_at + r*columns
    talls, rests  rows: so many times TALL, and so many more
    pairs, single columns: so many times two vectors, and 0 or 1 more vector
    """
    L = lanes(c)

    def strip(cols, v):
        def tile(rows, r):
            sums = outer(
                start(zero_tile(c, rows, cols), r), depth,
                lambda k: [broadcast(a, a_at + (r + i) * a_row + k * a_step) for i in range(rows)],
                lambda k: [load(b, b_at + k * b_step + v + j * L) for j in range(cols)],
            )  # fmt: skip
            at = c_at + r * columns + v
            store_tile(finish(sums, at), c, at, columns)

        repeat(talls, lambda r: tile(TALL, r * TALL))
        repeat(rests, lambda r: tile(1, talls * TALL + r))

    repeat(pairs, lambda v: strip(2, v * (2 * L)))
    repeat(single, lambda _: strip(1, pairs * (2 * L)))


@traced
def activations(
    w, w_at, w_stride, depth, bias, bias_at, bias_step, memory, below, here, columns, talls, rests, pairs, single
):
    """(1), (2): A_l^T = s(W_l^T A_{l-1}^T + b_l)."""

    def start(tile, r):
        rows = len(tile) if isinstance(tile, np.ndarray) else tile.kind.rows
        return fill(tile, [broadcast(bias, bias_at + (r + i) * bias_step) for i in range(rows)])

    product(start, lambda z, at: by_vector(logistic, z), w, w_at, 1, w_stride, depth,
            memory, below, columns, memory, here, talls, rests, columns, pairs, single)  # fmt: skip


@traced
def deltas(w, w_at, w_stride, depth, memory, above, here, a_here, columns, talls, rests, pairs, single):
    """(5): D_{l-1}^T = (W_l D_l^T) * s'."""

    def finish(errors, at):
        return by_vector(hidden_delta, errors, load_tile(errors, memory, at - here + a_here, columns))

    product(lambda tile, _: tile, finish, w, w_at, w_stride, 1, depth,
            memory, above, columns, memory, here, talls, rests, columns, pairs, single)  # fmt: skip


@inlined
def propagate(layers, n_layers, params, memory, panel, places, columns, vectors, zero):
    """(1), (2): every A_l^T of a block from the panel's A_0^T."""
    below = panel
    for level in range(n_layers):
        layer = level * FIELDS
        here, n_in, n_out = places[2 * level + A], layers[layer + N_IN], layers[layer + N_OUT]
        w, stride = layers[layer + OFFSET], layers[layer + STRIDE]
        bias, bias_at, bias_step = params, w + n_in * stride, 1
        if layers[layer + N_ROWS] == n_in:
            bias, bias_at, bias_step = memory, zero, 0
        activations(params, w, stride, n_in, bias, bias_at, bias_step, memory, below, here,
                    columns, n_out // TALL, n_out % TALL, vectors // 2, vectors % 2)  # fmt: skip
        below = here


@traced
def output_unit(memory, at, y_at, d_at, sample, scale, squares, j, best, winner):
    """(4) for one output and LANES samples, whose squared errors and largest outputs are collected on the way."""
    a = load(memory, at)
    delta, squares = output_delta(a, load(memory, y_at), sample, scale, squares)
    store(memory, d_at, delta)
    return squares, *take_larger(a, j, best, winner)


@inlined
def compare(memory, targets, activation, delta, n_out, columns, vectors, scale):
    """(4) into D_L^T; returns sum (A_L - Y)**2 and the hits of the block."""
    L = lanes(memory)
    squares, hits, scales = splat(memory, 0.0), splat(memory, 0.0), splat(memory, scale)
    for v in range(0, vectors * L, L):
        wanted = load(memory, targets + n_out * columns + v)
        sample = load(memory, targets + (n_out + 1) * columns + v)
        best, winner = splat(memory, -np.inf), splat(memory, 0.0)
        at = v
        for j in range(n_out):
            squares, best, winner = output_unit(memory, activation + at, targets + at, delta + at, sample, scales,
                                                squares, splat(memory, j), best, winner)  # fmt: skip
            at += columns
        hits = count_hits(hits, winner, wanted, sample) if n_out > 1 else count_hits_of_one(hits, best, wanted, sample)
    return sum_lanes(squares), sum_lanes(hits)


def accumulate(g, memory, at, first):
    """Store `g` where a batch begins, else add it to what stands there."""
    either(first, lambda: store_like(g, memory, at), lambda: store_like(g + load_like(g, memory, at), memory, at))


@traced
def gradients(memory, vectors, columns, a, d, grad, stride, talls, rests, quads, singles, first):
    """(6): dW_l from A_{l-1}^T at `a` and D_l^T at `d`, into `grad` where the batch begins, else added to it."""
    L = lanes(memory)

    def tile(rows, cols, i, j):
        sums = outer(
            zero_tile(memory, rows, cols), vectors,
            lambda v: [load(memory, a + (i + r) * columns + v * L) for r in range(rows)],
            lambda v: [load(memory, d + (j + c) * columns + v * L) for c in range(cols)],
        )  # fmt: skip
        for r, g in enumerate(fold(sums)):
            accumulate(g, memory, grad + (i + r) * stride + j, first)

    def strip(cols, j):
        repeat(talls, lambda i: tile(TALL, cols, i * TALL, j))
        repeat(rests, lambda i: tile(1, cols, talls * TALL + i, j))

    repeat(quads, lambda j: strip(QUAD, j * QUAD))
    repeat(singles, lambda j: strip(1, quads * QUAD + j))


@traced
def descend(params, memory, grad, vectors, minus_learning_rate):
    """(7): a step against the gradient."""
    L = lanes(memory)

    def step(v):
        at = v * L
        store(params, at, fma(load(memory, grad + at), minus_learning_rate, load(params, at)))

    repeat(vectors, step)


@inlined
def backpropagate(layers, n_layers, params, memory, panel, places, columns, vectors, grad, first):
    """(5), (6)."""
    for back in range(n_layers):
        level = n_layers - 1 - back
        layer = level * FIELDS
        n_rows, n_out = layers[layer + N_ROWS], layers[layer + N_OUT]
        offset, stride, d = layers[layer + OFFSET], layers[layer + STRIDE], places[2 * level + D]
        a = panel
        if level:
            a, n_in = places[2 * level - 2 + A], layers[layer + N_IN]
            deltas(params, offset, stride, n_out, memory, d, places[2 * level - 2 + D], a, columns,
                   n_in // TALL, n_in % TALL, vectors // 2, vectors % 2)  # fmt: skip
        # three columns are done as four, the last of them zero
        quads = (n_out + 1) // QUAD
        gradients(memory, vectors, columns, a, d, grad + offset, stride,
                  n_rows // TALL, n_rows % TALL, quads, max(0, n_out - quads * QUAD), first)  # fmt: skip


def train(layers, n_layers, params, X, Y, n, order, shuffled, batch_size, learning_rate, mean, blocks,
          cursor, sse, correct, memory, plan, places):  # fmt: skip
    """As `fastbp.reference.train`; a block is what one panel holds, and a call may end within a batch."""
    n_in, n_out = layers[N_IN], layers[(n_layers - 1) * FIELDS + N_OUT]
    columns, resident, panel_size, grad = plan[COLUMNS], plan[RESIDENT], plan[PANEL_SIZE], plan[GRAD]
    output, first_epoch = 2 * n_layers - 2, cursor[EPOCH]
    step, size = splat(memory, -learning_rate), plan[SIZE]
    # the cursor lives in registers while blocks run
    epoch, row, batch, panel, packed = cursor[EPOCH], cursor[ROW], cursor[BATCH], cursor[PANEL], cursor[PACKED]
    for _ in range(blocks):
        batch_stop = min(batch + batch_size, n)
        stop = min(row + columns, batch_stop)
        vectors = (stop - row + lanes(memory) - 1) // lanes(memory)
        inputs = panel * panel_size * resident
        targets = inputs + (n_in + 1) * columns
        if not packed:
            place = (epoch - first_epoch) * n * shuffled + row
            pack_inputs(X, n_in, order, shuffled, place, stop - row, memory, inputs, columns)
            pack_targets(Y, n_out, order, shuffled, place, stop - row, memory, targets, columns)
        propagate(layers, n_layers, params, memory, inputs, places, columns, vectors, plan[ZERO])
        scale = 1.0 / ((batch_stop - batch) * n_out) if mean else 1.0
        squares, hits = compare(memory, targets, places[output + A], places[output + D], n_out, columns, vectors, scale)
        sse[epoch] += squares
        correct[epoch] += hits
        backpropagate(layers, n_layers, params, memory, inputs, places, columns, vectors, grad, int(row == batch))
        if stop == batch_stop:
            descend(params, memory, grad, size // lanes(memory), step)
        row = stop
        panel += 1
        if stop == batch_stop:
            batch = stop
        if stop == n:
            epoch += 1
            row, batch, panel, packed = 0, 0, 0, resident
    cursor[EPOCH], cursor[ROW], cursor[BATCH], cursor[PANEL], cursor[PACKED] = epoch, row, batch, panel, packed


def forward(layers, n_layers, params, X, n, out, memory, plan, places):
    """As `fastbp.reference.forward`; a row's result does not depend on the other rows."""
    n_in, n_out = layers[N_IN], layers[(n_layers - 1) * FIELDS + N_OUT]
    columns, result = plan[COLUMNS], places[2 * n_layers - 2 + A]
    for start in range(0, n, columns):
        count = min(columns, n - start)
        vectors = (count + lanes(memory) - 1) // lanes(memory)
        pack_inputs(X, n_in, places, 0, start, count, memory, 0, columns)
        propagate(layers, n_layers, params, memory, 0, places, columns, vectors, plan[ZERO])
        for c in range(count):
            for j in range(n_out):
                out[(start + c) * n_out + j] = memory[result + j * columns + c]
