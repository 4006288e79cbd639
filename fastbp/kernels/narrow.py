"""Training with lanes over samples: for networks whose layers are narrow.

Activations lie unit by unit, the samples of one block side by side, A_l^T (n_out, columns), so that one vector holds one
unit's values for LANES samples. A block has as many columns as keep all activations and deltas in the L2 cache, and goes
through the whole network before the next one starts:

    pack        rows of X and Y into a panel, transposed       (once where every panel fits the L2 cache)
    product     Z^T = W^T A^T + b for each layer, tile by tile; s once two vectors of samples are complete
    delta       D^T of the output, then D^T = (W D^T) * s' for each layer downwards, in the same way
    gradient    dW[i, j] = sum over the columns of A^T[i] D^T[j]; the update follows a batch's last block

For a gradient of many weights from few samples, the sums over the lanes would take longer than the products. There D^T is
turned back, sample by sample, and dW[i, :] is the sum over the columns of A^T[i, c] D[c, :], with lanes over units.

A panel has one row per input unit, a row of ones (the bias's input), one row per target, a row with the class of the target,
and the weights of the samples. Padding columns run through every product and are removed by their weight of zero.

A batch of many blocks is cut into shares, block by block in turn; each share has a gradient of its own, and these are summed
in the order of the shares. Threads take whole shares, so their number does not change a bit.
"""

import functools
import math

import numpy as np

from fastbp.kernels import jit
from fastbp.kernels.jit import inlined, registers, tile_shape
from fastbp.kernels.losses import output_samples, predict_samples
from fastbp.kernels.phases import first_counter, mark, start_clock
from fastbp.kernels.pointwise import ACTIVATIONS, DERIVATIVES, mask_key, masked, taken
from fastbp.kernels.simd import (
    broadcast,
    carry,
    choose,
    either,
    element,
    fill,
    flush_subnormals,
    fma,
    fold,
    from_there,
    full_like,
    in_groups,
    in_place,
    lane_count,
    lanes,
    load,
    load_first,
    load_like,
    load_many,
    load_tile,
    outer,
    put,
    repeat,
    restore_subnormals,
    select,
    smaller,
    splat,
    store,
    store_like,
    store_tile,
    sum_lanes,
    switch,
    transposed,
    vector_count,
    zero_tile,
)
from fastbp.kernels.threads import wait_for_all
from fastbp.kernels.tracing import outlined, traced
from fastbp.kernels.updates import descend, loss_factor, penalty_of, step_length, sum_squares, weight_of
from fastbp.layout import (
    ACTIVATION,
    BATCH,
    BLOCK,
    BLOCK_ROWS,
    COMPARE,
    DELTA,
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
    PACKED,
    PANEL,
    PANEL_SIZE,
    PARTS,
    PENALTY,
    PLACES,
    PRIVATE,
    RECORD_SIZE,
    RESIDENT,
    ROW,
    SEEN,
    SHARES,
    SIZE,
    SQUARES,
    STEP,
    STRIDE,
    TURNED,
    UPDATE,
    ZEROS,
    A,
    D,
)
from fastbp.rule import ALPHA, BETA_2, DROPOUT, EPSILON, HEAD, HEADS, MAX_NORM, MOMENTUM, PER_ROW, SEED, SOLVER

# Register tiles of a product: by width in vectors, rows of the tall ones, where there are any, and of those for the rest.
TILES = {4: (6, 3), 2: (4,), 1: (4,)} if registers() == 32 else {2: (4, 2), 1: (4,)}
# Rows and columns of the larger tiles of a gradient, whose every vector is an accumulator.
GRADIENT_ROWS, QUAD = (4, 4) if registers() == 32 else (2, 4)
# Of so many samples per row of the weights, or fewer, deltas are turned: turning one takes half a cycle, summing over the
# lanes for one weight takes three. Single vectors of units would wait for their own sums.
TURNED_SAMPLES, TURNED_VECTORS = 6, 2
HEIGHT, COLS = tile_shape()


@traced
@outlined
def pack(values, width, order, shuffled, place, count, memory, panel, columns) -> None:
    """Rows of X or Y, which are so wide, as the columns of a panel, a square of vectors at a time.

    The rows are order[place], order[place + 1] ..., `count` of them, or place, place + 1 ... unless `shuffled`. In the last
    vectors, columns behind them are zero.
    """
    L = lane_count(memory)

    def square(v, i):
        def sample(lane):
            number = v * L + lane
            at = place + smaller(number, count - 1)
            row = switch(shuffled, [lambda: at * 1, lambda: element(order, at)])
            return load_first(values, row * width + i, choose(number < count, width - i, 0))

        def put_row(unit, column):
            either(i + unit < width, lambda: store(memory, panel + (i + unit) * columns + v * L, column), lambda: None)

        for unit, column in enumerate(transposed([sample(lane) for lane in range(L)])):
            put_row(unit, column)

    repeat(vector_count(memory, count), lambda v: repeat(vector_count(memory, width), lambda i: square(v, i * L)))


@traced
@outlined
def pack_classes(memory, targets, n_out, count, columns) -> None:
    """For each sample the class of its target, behind the targets: the largest of several, whether one is at least 0.5."""
    L = lane_count(memory)

    def samples(v):
        first = load(memory, targets + v * L)

        def compare(j, best, winner):
            y = load(memory, targets + j * columns + v * L)
            return select(y > best, y, best), select(y > best, splat(memory, j), winner)

        _, winner = carry(n_out, (first, full_like(first, 0)), compare)
        single = select(first >= 0.5, full_like(first, 1), 0)
        store(memory, targets + n_out * columns + v * L, switch(n_out == 1, [lambda: winner, lambda: single]))

    repeat(vector_count(memory, count), samples)


@inlined
def pack_rows(X, n_in, Y, n_out, weights, weighted, order, shuffled, place, count, memory, panel, columns):
    """A panel: A_0^T, ones, Y^T, the class of each target, and the weights of the samples; rows as in `pack`."""
    ones, targets = panel + n_in * columns, panel + (n_in + 1) * columns
    classes, row_weights = targets + n_out * columns, targets + (n_out + 1) * columns
    pack(X, n_in, order, shuffled, place, count, memory, panel, columns)
    pack(Y, n_out, order, shuffled, place, count, memory, targets, columns)
    pack_classes(memory, targets, n_out, count, columns)
    for c in range(columns):
        memory[ones + c] = 1.0
        if c < count:
            memory[row_weights + c] = weights[order[place + c] if shuffled else place + c] if weighted else 1.0
        else:
            memory[classes + c], memory[row_weights + c] = -1.0, 0.0  # no class


def product(start, after, a, a_at, a_row, a_step, depth, b, b_at, b_step, c, c_at, rows, columns, vectors):
    """C[r, :] = start + sum_k A[r, k] B[k, :], a tile of rows x vectors at a time.

    start         called with a tile of zeros and the number of each of its rows, gives what the sums begin with
    after         called with the first column and the number of vectors of a strip whose rows are complete
    a, b    IN    A[r, k] stands at a_at + r*a_row + k*a_step, B[k, :] at b_at + k*b_step
    c       OUT   C[r, :] stands at c_at + r*columns
    """
    L = lane_count(c)

    def strip(cols, v):
        def tile(places):
            sums = outer(
                start(zero_tile(c, len(places), cols), places), depth,
                lambda k: [broadcast(a, a_at + r * a_row + k * a_step) for r in places],
                lambda k: [load(b, b_at + k * b_step + v + j * L) for j in range(cols)],
            )  # fmt: skip
            for vector, at in in_place(sums, [c_at + r * columns + v for r in places]):
                store(c, at, vector)

        *tall, short = TILES[cols]
        done = rows * 0
        for height in tall:
            repeat(rows // height, lambda r, height=height: tile([r * height + i for i in range(height)]))
            done = rows // height * height

        def again(r):
            first = smaller(done + r * short, rows - short)
            tile([first + i for i in range(short)])

        # what is over the rest does rows again, in the time that it would wait for its own sums
        either(
            rows < short,
            lambda: tile([smaller(i, rows - 1) for i in range(short)]),
            lambda: repeat((rows - done + (short - 1)) // short, again),
        )
        after(v, cols)

    # shorter vectors than the processor's are there for batches that one of them holds
    widths = TILES if jit.vector_bytes == jit.native_width() else {1}
    in_groups(vectors, widths, lambda cols, v: strip(cols, v * L))


@traced
@outlined
def drop(memory, units, to, columns, rows, vectors, place, step, drops, key, seed, scale) -> None:
    """A layer's units, or their deltas, times m_l, from `units` to `to`; the last arguments are those of `masked`."""
    L, mask = lane_count(memory), mask_key(memory, drops, key, seed)

    def vector(j, v):
        at, number = j * columns + v * L, (place + v * L) * step + j
        store(memory, to + at, masked(load(memory, units + at), memory, number, step, drops, mask, scale))

    repeat(rows, lambda j: repeat(vectors, lambda v: vector(j, v)))


@traced
def activations(
    w, w_at, w_stride, depth, bias, bias_at, bias_step, memory, below, here, columns, rows, vectors, code
) -> None:  # fmt: skip
    """(1), (2): A_l^T = s(W_l^T A_{l-1}^T + b_l); without s for the last layer, whose loss takes it."""

    def start(tile, rows):
        return fill(tile, [broadcast(bias, bias_at + r * bias_step) for r in rows])

    def after(v, cols):
        def activate(function):
            def unit(j):
                at = here + j * columns + v
                store_like(function(load_many(memory, at, cols)), memory, at)

            return lambda: repeat(rows, unit)

        switch(code, [lambda: None, *[activate(function) for function in ACTIVATIONS[1:]]])

    product(start, after, w, w_at, 1, w_stride, depth, memory, below, columns, memory, here, rows, columns, vectors)


@traced
def deltas(w, w_at, w_stride, depth, memory, above, here, a_here, columns, rows, vectors, code) -> None:
    """(5): D_{l-1}^T = (W_l D_l^T) * s'."""

    def after(v, cols):
        def derive(function):
            def unit(j):
                at = j * columns + v
                slope = function(load_many(memory, a_here + at, cols))
                store_like(load_like(slope, memory, here + at) * slope, memory, here + at)

            return lambda: repeat(rows, unit)

        switch(code, [lambda: None, *[derive(function) for function in DERIVATIVES[1:]]])

    product(lambda tile, _: tile, after, w, w_at, w_stride, 1, depth, memory, above, columns, memory, here,
            rows, columns, vectors)  # fmt: skip


@traced
def propagate(
    layers, n_layers, params, memory, panel, places, private, columns, vectors, zero, drops, offset, key, seed, keep,
    sync, counters,
) -> None:  # fmt: skip
    """(1), (2): every A_l^T of a block from the panel's A_0^T; the last arguments are those of `masked` and of `mark`."""

    def layer(level):
        row, place, hidden = level * FIELDS, level * PLACES, level > 0
        n_in, w, stride = (element(layers, row + field) for field in (N_IN, OFFSET, STRIDE))
        biased = element(layers, row + N_ROWS) > n_in
        bias, bias_at = choose(biased, params, memory), choose(biased, w + n_in * stride, zero)
        below = choose(hidden, private + element(places, place - hidden * PLACES + taken(drops)), panel)
        here, n_out = private + element(places, place + A), element(layers, row + N_OUT)
        activations(params, w, stride, n_in, bias, bias_at, biased, memory, below, here, columns, n_out, vectors,
                    element(layers, row + ACTIVATION))  # fmt: skip

        def leave_out():
            # A_l stays whole; what the next layer takes in stands beside it
            drop(memory, here, private + element(places, place + SEEN), columns, n_out, vectors, offset, stride, drops,
                 key + level, seed, keep)  # fmt: skip

        either(drops * (level < n_layers - 1), leave_out, lambda: None)
        mark(sync, counters, FORWARD, level)

    repeat(n_layers, layer)


@outlined
def compare_with(head, memory, targets, z, d, n_out, columns, vectors, scale, totals, number):
    """`compare` for one head, a function of its own whose constants stay in registers over the block."""
    L, zero = lane_count(memory), splat(memory, 0.0)

    def samples(v, loss, squares, hits):
        at = v * L
        weight, wanted = (load(memory, targets + (n_out + extra) * columns + at) for extra in (1, 0))
        loss, squares, best, winner = output_samples(
            memory, z + at, targets + at, d + at, columns, n_out, head, scale, weight, loss, squares
        )
        upper = select(best >= 0.5, full_like(best, 1), 0)
        got = switch(n_out == 1, [lambda: winner, lambda: upper])
        return loss, squares, hits + select(got == wanted, full_like(best, 1), 0)

    for place, one in enumerate(carry(vectors, (zero, zero, zero), samples)):
        put(totals, number * 3 + place, sum_lanes(one))


@traced
def compare(memory, targets, z, d, n_out, columns, vectors, head, scale, totals, number) -> None:
    """(2) to (4) for the last layer: A_L^T in place of Z^T, D_L^T; to `totals` a block's loss, sum (A_L - Y)**2 and hits."""
    block = memory, targets, z, d, n_out, columns, vectors, scale, totals, number
    switch(head, [functools.partial(compare_with, one, *block) for one in range(len(HEADS))])


def accumulate(g, memory, at, first):
    """Store `g` where a batch begins, else add it to what stands there."""
    either(first, lambda: store_like(g, memory, at), lambda: store_like(g + load_like(g, memory, at), memory, at))


@traced
def gradients(memory, vectors, columns, a, d, grad, stride, rows, quads, singles, first) -> None:
    """(6): dW_l from A_{l-1}^T at `a` and D_l^T at `d`, into `grad` where a share begins, else added to it."""
    L = lane_count(memory)

    def tile(height, cols, i, j):
        # with offsets from one pointer, each would be counted on: 5 additions for 4 multiplications
        left = [from_there(memory, a + (i + r) * columns) for r in range(height)]
        right = [from_there(memory, d + (j + c) * columns) for c in range(cols)]
        sums = outer(
            zero_tile(memory, height, cols), vectors,
            lambda v: [load(row, v * L) for row in left], lambda v: [load(row, v * L) for row in right],
        )  # fmt: skip
        for r, g in enumerate(fold(sums)):
            accumulate(g, memory, grad + (i + r) * stride + j, first)

    def strip(cols, j):
        tall = rows // GRADIENT_ROWS
        repeat(tall, lambda i: tile(GRADIENT_ROWS, cols, i * GRADIENT_ROWS, j))
        repeat(rows - tall * GRADIENT_ROWS, lambda i: tile(1, cols, tall * GRADIENT_ROWS + i, j))

    repeat(quads, lambda j: strip(QUAD, j * QUAD))
    repeat(singles, lambda j: strip(1, quads * QUAD + j))


@traced
@outlined
def turned_gradients(memory, vectors, columns, a, d, turned, grad, stride, rows, n_out, first) -> None:
    """As `gradients`, with D_l, sample by sample, in the memory at `turned`."""
    L = lane_count(memory)
    width = vector_count(memory, n_out)

    def square(v, j):
        units = [load(memory, d + (j * L + unit) * columns + v * L) for unit in range(L)]
        for sample, column in enumerate(transposed(units)):
            store(memory, turned + (v * L + sample) * stride + j * L, column)

    def tile(height, cols, i, j):
        zero, at = zero_tile(memory, height, cols), grad + i * stride + j * L
        sums = outer(
            switch(first, [lambda: load_tile(zero, memory, at, stride), lambda: zero]), vectors * L,
            lambda k: [broadcast(memory, a + (i + r) * columns + k) for r in range(height)],
            lambda k: [load(memory, turned + k * stride + (j + c) * L) for c in range(cols)],
        )  # fmt: skip
        store_tile(sums, memory, at, stride)

    def strip(cols, j):
        in_groups(rows, (HEIGHT, HEIGHT // 2, 1), lambda height, i: tile(height, cols, i, j))

    repeat(vectors, lambda v: repeat(width, lambda j: square(v, j)))
    in_groups(width, (COLS, 2, 1), strip)


@traced
def backpropagate(
    layers, n_layers, params, memory, panel, places, private, turned, columns, vectors, grad, first, drops, offset, key,
    seed, keep, sync, counters,
) -> None:  # fmt: skip
    """(5), (6); the last arguments are those of `masked` and of `mark`."""

    def layer(back):
        level = n_layers - 1 - back
        row, place, hidden = level * FIELDS, level * PLACES, level > 0
        n_in, n_out, w, stride = (element(layers, row + field) for field in (N_IN, N_OUT, OFFSET, STRIDE))
        below, d = place - hidden * PLACES, private + element(places, place + D)

        def delta():
            here = private + element(places, below + D)
            deltas(params, w, stride, n_out, memory, d, here, private + element(places, below + A), columns, n_in, vectors,
                   element(layers, row - FIELDS + ACTIVATION))  # fmt: skip

            def leave_out():
                drop(memory, here, here, columns, n_in, vectors, offset, element(layers, row - FIELDS + STRIDE), drops,
                     key + (level - 1), seed, keep)  # fmt: skip

            either(drops, leave_out, lambda: None)
            mark(sync, counters, DELTA, level)

        either(hidden, delta, lambda: None)
        a = choose(hidden, private + element(places, below + taken(drops)), panel)
        rows = element(layers, row + N_ROWS)

        def straight():
            # three columns are done as four, the last of them zero
            quads = (n_out + 1) // QUAD
            singles = n_out - smaller(n_out, quads * QUAD)
            gradients(memory, vectors, columns, a, d, grad + w, stride, rows, quads, singles, first)

        def turn():
            turned_gradients(memory, vectors, columns, a, d, turned, grad + w, stride, rows, n_out, first)

        if jit.vector_bytes == jit.native_width():
            L = lane_count(memory)
            either((n_out >= TURNED_VECTORS * L) * (rows * TURNED_SAMPLES >= vectors * L), turn, straight)
        else:
            straight()
        mark(sync, counters, GRADIENT, level)

    repeat(n_layers, layer)


@traced
def add_parts(memory, parts, size, shares, grad, vectors) -> None:
    """The gradient of a batch: the sum of its shares, in their order."""
    L = lane_count(memory)

    def one(v):
        def add(s, total):
            return (total + load(memory, parts + s * size + v * L),)

        store(memory, grad + v * L, carry(shares, (splat(memory, 0.0),), add)[0])

    repeat(vectors, one)


@traced
def change(memory, grad, vectors, params, at, decay, shrink) -> None:
    """gradient = shrink * gradient + decay * parameters."""
    L = lane_count(memory)

    def one(v):
        place = grad + at + v * L
        store(memory, place, fma(load(params, at + v * L), decay, load(memory, place) * shrink))

    repeat(vectors, one)


@traced
def take_step(params, memory, grad, size, state, solver, rate, first, first_gain, second, second_gain, epsilon) -> None:
    """(7): every parameter takes its step."""
    numbers = rate, first, first_gain, second, second_gain, epsilon
    descend(params, state, size, memory, grad, solver, numbers, 0, size, splat(memory, 1.0), None)


@inlined
def finish_gradient(layers, n_layers, params, memory, plan, shares, decay, max_norm):
    """(6): the shares together, the L2 term, and no longer than `max_norm`."""
    grad, size, L = plan[GRAD], plan[SIZE], lanes(memory)
    if plan[SHARES] > 1:
        add_parts(memory, plan[PARTS], size, shares, grad, size // L)
    if decay != 0.0:
        for layer in range(0, n_layers * FIELDS, FIELDS):
            change(memory, grad, layers[layer + N_IN] * layers[layer + STRIDE] // L, params, layers[layer + OFFSET],
                   splat(memory, decay), splat(memory, 1.0))  # fmt: skip
    if max_norm < np.inf:
        norm = math.sqrt(float(sum_squares(memory, grad, size)))
        if norm > max_norm:
            change(memory, grad, size // L, params, 0, splat(memory, 0.0), splat(memory, max_norm / norm))


def train(layers, n_layers, params, state, X, Y, weights, weighted, n, order, shuffled, batch_size, rule, blocks,
          cursor, record, memory, plan, places, table, totals, sync, rank, size):  # fmt: skip
    """As `fastbp.reference.train`; a block is what one panel holds, and a call may end within a batch."""
    control = flush_subnormals(memory)
    counters = first_counter(n_layers, rank)
    start_clock(sync, counters)
    n_in, n_out, output = layers[N_IN], layers[(n_layers - 1) * FIELDS + N_OUT], (n_layers - 1) * PLACES
    columns, resident, panel_size, shares = plan[BLOCK_ROWS], plan[RESIDENT], plan[PANEL_SIZE], plan[SHARES]
    private, n_params, grad = rank * plan[PRIVATE], plan[SIZE], plan[GRAD]
    head, solver, alpha, per_row, max_norm = int(rule[HEAD]), int(rule[SOLVER]), rule[ALPHA], rule[PER_ROW], rule[MAX_NORM]
    beta_1, beta_2, epsilon = splat(memory, rule[MOMENTUM]), splat(memory, rule[BETA_2]), splat(memory, rule[EPSILON])
    gain_1, gain_2 = splat(memory, 1.0 - rule[MOMENTUM]), splat(memory, 1.0 - rule[BETA_2])
    # the cursor lives in registers while blocks run
    epoch, row, step, batch = cursor[EPOCH], cursor[ROW], cursor[STEP], cursor[BATCH]
    panel, packed, first_epoch = cursor[BLOCK], cursor[PACKED], cursor[EPOCH]
    drops, seed, keep = int(rule[DROPOUT] * 4294967296.0), int(rule[SEED]), splat(memory, 1.0 / (1.0 - rule[DROPOUT]))
    # blocks of the batch done, and the share that the next one belongs to
    number = (row - batch) // columns
    part = number % shares
    mark(sync, counters, OVERHEAD, 0)
    wait_for_all(sync, size, counters)  # all have read the cursor, which the first thread writes in the end
    for _ in range(blocks):
        batch_stop = min(batch + batch_size, n)
        stop = min(row + columns, batch_stop)
        place = (epoch - first_epoch) * n * shuffled
        weight = weight_of(weights, weighted, order, shuffled, place + batch, batch_stop - batch)
        mark(sync, counters, OVERHEAD, 0)
        if size == 1 or part % size == rank:
            vectors = (stop - row + lanes(memory) - 1) // lanes(memory)
            inputs = plan[PANEL] + panel_size * (panel if resident else rank)
            targets = inputs + (n_in + 1) * columns
            if not packed:
                pack_rows(X, n_in, Y, n_out, weights, weighted, order, shuffled, place + row, stop - row, memory, inputs,
                          columns)  # fmt: skip
                mark(sync, counters, GATHER, 0)
            propagate(layers, n_layers, params, memory, inputs, places, private, columns, vectors, plan[ZEROS],
                      drops, row - batch, step * n_layers, seed, keep, sync, counters)  # fmt: skip
            scale = 1.0 if per_row == 0.0 else (1.0 / (weight * per_row) if weight > 0.0 else 0.0)
            compare(memory, targets, private + places[output + A], private + places[output + D], n_out, columns, vectors,
                    head, splat(memory, scale), totals, number)  # fmt: skip
            mark(sync, counters, COMPARE, 0)
            backpropagate(layers, n_layers, params, memory, inputs, places, private, private + plan[TURNED], columns,
                          vectors, plan[PARTS] + part * n_params, int(number < shares),
                          drops, row - batch, step * n_layers, seed, keep, sync, counters)  # fmt: skip
        if stop == batch_stop:
            wait_for_all(sync, size, counters)
            if rank == 0 and weight > 0.0:
                factor = loss_factor(rule, stop - batch, weight)
                for block in range(0, 3 * number + 3, 3):
                    record[epoch * RECORD_SIZE + LOSS] += totals[block] * factor
                    record[epoch * RECORD_SIZE + SQUARES] += totals[block + 1]
                    record[epoch * RECORD_SIZE + HITS] += totals[block + 2]
                if alpha != 0.0:
                    record[epoch * RECORD_SIZE + PENALTY] += penalty_of(layers, n_layers, params) * factor
                finish_gradient(layers, n_layers, params, memory, plan, min(shares, number + 1),
                                alpha if per_row == 0.0 else alpha / weight, max_norm)  # fmt: skip
                take_step(params, memory, grad, n_params, state, solver, splat(memory, step_length(rule, step + 1)),
                          beta_1, gain_1, beta_2, gain_2, epsilon)  # fmt: skip
                mark(sync, counters, UPDATE, 0)
            wait_for_all(sync, size, counters)
            step += weight > 0.0
            batch, number, part = stop, -1, -1
        row = stop
        number += 1
        part = part + 1 if part + 1 < shares else 0
        panel += 1
        if stop == n:
            epoch += 1
            row, batch, panel, packed = 0, 0, 0, resident
    if rank == 0:
        cursor[EPOCH], cursor[ROW], cursor[STEP], cursor[BATCH] = epoch, row, step, batch
        cursor[BLOCK], cursor[PACKED] = panel, packed
    mark(sync, counters, OVERHEAD, 0)
    restore_subnormals(memory, control)


def forward(layers, n_layers, params, X, n, out, rule, memory, plan, places, table, totals, sync, rank, size):
    """As `fastbp.reference.forward`; a row's result does not depend on the other rows. Threads take blocks in turn."""
    n_in, n_out, output = layers[N_IN], layers[(n_layers - 1) * FIELDS + N_OUT], (n_layers - 1) * PLACES
    columns, private, head = plan[BLOCK_ROWS], rank * plan[PRIVATE], int(rule[HEAD])
    panel, z = plan[PANEL] + rank * plan[PANEL_SIZE], private + places[output + A]
    for start in range(rank * columns, n, size * columns):
        count = min(columns, n - start)
        vectors = (count + lanes(memory) - 1) // lanes(memory)
        pack(X, n_in, places, 0, start, count, memory, panel, columns)
        for v in range(panel + n_in * columns, panel + (n_in + 1) * columns, lanes(memory)):
            store(memory, v, splat(memory, 1.0))
        propagate(layers, n_layers, params, memory, panel, places, private, columns, vectors, plan[ZEROS],
                  0, 0, 0, 0, splat(memory, 1.0), sync, 0)  # fmt: skip
        for v in range(0, vectors * lanes(memory), lanes(memory)):
            predict_samples(memory, z + v, private + places[output + D] + v, columns, n_out, head)
        for c in range(count):
            for j in range(n_out):
                out[(start + c) * n_out + j] = memory[z + j * columns + c]
