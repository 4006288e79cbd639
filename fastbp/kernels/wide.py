"""Training with lanes over units: for networks with wide layers, and for batches of a few rows.

Activations lie sample by sample, A_l (rows, stride), padded like the rows of the parameters. Every product of a step is one
function, `product`, whose register tile stays in registers while it runs down the sum:

    forward     A_l = s(A_{l-1} W_l + b_l)             broadcast A_{l-1}, load W_l; the tile begins with b_l
    delta       D_{l-1} = (D_l W_l^T) * s'             broadcast D_l, load W_l^T
    gradient    W_l += step of A_{l-1}^T D_l           broadcast A_{l-1}, load D_l; the tile ends in the solver's update

so that a gradient is only stored where a batch has several blocks, or where its norm has to be known first. Rows of X are
read where they stand, through a table of offsets, in whatever order an epoch visits them.

Loops, from the innermost: a tile; all tiles of a strip, which use the same few vectors of the right factor; STRIPS strips,
which use the same left factors; parts of the sum; groups of strips; ROWS rows. A part of DEPTH terms of a strip stays in the
L1 cache (128 deep ran at 136 GFLOP/s of 147 where 784 deep ran at 108, float32), the left factors of a part and the sums of
a group in the L2 cache. Many rows make it pay to copy a part of a strip together first, many strips to copy the left
factors of a gradient together, tile by tile. A strip's activation or derivative is taken when its sums are complete.

X may also list the values of each row with their columns, as scipy's CSR matrices do. Then the first layer's products visit
these alone: rows of W_l are added up in registers (`listed_sums`), and the gradient is added up where it is stored
(`listed_gradients`), from which the solver takes it. What X is, the types of its pointers say, when a kernel is compiled:

    X           the values, or all of a dense X
    indices     integers: the column of each value, in any order; a column may come again, and counts again
    starts      integers: where each row's values begin, and where the last one's end
                of a dense X both are of the float type, and unused

Every sum has the order of the dense one, so that the same matrix gives the same bits either way.

Threads share a block in two phases: rows of the batch (forward, loss, delta), then rows of the weights (gradient, update,
W^T). No sum is ever divided among threads, so their number does not change a bit.
"""

import math

import numpy as np

from fastbp.kernels.jit import inlined, tile_shape
from fastbp.kernels.losses import output_row, prediction_row
from fastbp.kernels.phases import first_counter, mark, start_clock
from fastbp.kernels.pointwise import ACTIVATIONS, DERIVATIVES, mask_key, masked, taken
from fastbp.kernels.simd import (
    across,
    broadcast,
    carry,
    choose,
    copy,
    either,
    element,
    first_lane,
    fma,
    holds_integers,
    lane_count,
    lanes,
    larger,
    load,
    load_tile,
    outer,
    repeat,
    select,
    smaller,
    splat,
    store,
    store_tile,
    sum_lanes,
    switch,
    traced,
    transposed,
    zero_tile,
)
from fastbp.kernels.threads import share, wait_for_all
from fastbp.kernels.updates import loss_factor, over_tile, penalty_of, step_length, sum_squares, update, weight_of
from fastbp.layout import (
    ACTIVATION,
    BATCH,
    BLOCK,
    BLOCK_ROWS,
    COMPARE,
    DELTA,
    DEPTH,
    EPOCH,
    FIELDS,
    FORWARD,
    GATHER,
    GRAD,
    GRADIENT,
    GRADIENT_DEPTH,
    GROUP,
    HITS,
    LINE,
    LOSS,
    N_IN,
    N_OUT,
    N_ROWS,
    NUMBERS,
    OFFSET,
    OVERHEAD,
    PACK,
    PACK_SIZE,
    PANELS,
    PANELS_SIZE,
    PENALTY,
    PLACES,
    RECORD_SIZE,
    ROW,
    ROW_WEIGHTS,
    SEEN,
    SIZE,
    SQUARE,
    SQUARES,
    STEP,
    STRIDE,
    SUMS,
    TARGETS,
    TRANSPOSE,
    TRANSPOSED,
    UPDATE,
    VALID,
    ZEROS,
    A,
    D,
)
from fastbp.rule import ALPHA, BETA_2, DROPOUT, EPSILON, HEAD, MAX_NORM, MOMENTUM, PER_ROW, SEED, SOLVER

HEIGHT, COLS = tile_shape()
ROWS = 256  # rows of C at a time
STRIPS = 8  # strips at a time
PACK_ROWS = 32  # as many rows of C pay for copying a strip of the right factors together
PANEL_VECTORS = 5  # as many vectors of D_l pay for copying the left factors of a gradient together
BIAS_VECTORS = 4  # sums of bias gradients that run side by side
LISTED_VECTORS = (8, 4, 2, 1)  # vectors of a row that run side by side, where the values of X are listed


def product(memory, start, left, right, depth, most, c, finish, after, rows, vectors, pack, spare):
    """Every tile of C = start + sum over k of left(k) x right[k].

    depth, most       terms of the sums, and how many of them at a time
    start             pointer, offset and row step of what the sums begin with, at the first vector
    left(r, height)   the left factors of rows r ... as a function of k: vectors of one value
    right             pointer, offset and stride of the right factors: row k, unpadded vectors side by side
    c                 pointer, offset and stride of C
    finish(c, r, v)   does something else than storing a completed tile, unless it is None
    after             what follows, with vector and columns, first row and rows, when these are complete in a strip; or None
    pack              offset in the memory of room for a part of a strip of the right factors, where they lie without gaps
    spare             whether C has room for rows beyond the last one, so that a tile may be higher than needed
    """
    L = lane_count(memory)
    data, at, stride = right
    target, place, row_step = c
    parts = (depth + (most - 1)) // most
    part_depth = switch(parts > 1, [lambda: depth * 1, lambda: (depth + (parts - 1)) // parts])

    def strip(cols, v, number, first_row, count):
        begin = number * part_depth
        terms, last, packed = smaller(part_depth, depth - begin), number == parts - 1, count >= PACK_ROWS
        source, origin = choose(packed, memory, data), choose(packed, pack, at + begin * stride + v * L)
        step = choose(packed, cols * L, stride)
        before, before_at, before_step = (choose(number == 0, *pair) for pair in zip(start, c, strict=True))

        def copy_row(k):
            for j in range(cols):
                store(memory, pack + (k * cols + j) * L, load(data, at + (begin + k) * stride + (v + j) * L))

        def tile(height, r):
            factors = left(r, height)
            sums = outer(
                load_tile(zero_tile(memory, height, cols), before, before_at + r * before_step + v * L, before_step),
                terms,
                lambda k: factors(begin + k),
                lambda k: [load(source, origin + k * step + j * L) for j in range(cols)],
            )

            def keep():
                store_tile(sums, target, place + r * row_step + v * L, row_step)

            either(last, lambda: finish(sums, r, v), keep) if finish else keep()

        either(packed, lambda: repeat(terms, copy_row), lambda: None)
        tall, rest = count // HEIGHT, count % HEIGHT
        if spare:
            tall, half, single = tall + (rest > HEIGHT // 2), (rest > 1) * (rest <= HEIGHT // 2), rest == 1
        else:
            half, single = rest // (HEIGHT // 2), rest % (HEIGHT // 2)
        repeat(tall, lambda r: tile(HEIGHT, first_row + r * HEIGHT))
        repeat(half, lambda _: tile(HEIGHT // 2, first_row + tall * HEIGHT))
        repeat(single, lambda r: tile(1, first_row + tall * HEIGHT + half * (HEIGHT // 2) + r))
        if after:
            either(last, lambda: after(v, cols, first_row, count), lambda: None)

    def block(number):
        first_row = number * ROWS
        count, strips = smaller(ROWS, rows - first_row), vectors // COLS

        def group(first):
            some = smaller(STRIPS, strips - first * STRIPS)
            repeat(parts, lambda part: repeat(
                some, lambda i: strip(COLS, (first * STRIPS + i) * COLS, part, first_row, count)))  # fmt: skip

        repeat((strips + (STRIPS - 1)) // STRIPS, group)
        repeat(parts, lambda part: repeat(
            vectors % COLS, lambda i: strip(1, strips * COLS + i, part, first_row, count)))  # fmt: skip

    repeat((rows + (ROWS - 1)) // ROWS, block)


@traced
def activations(
    a, a_at, table, table_at, depth, w, w_at, bias, bias_at, memory, here, seen, stride, vectors, valid, code, rows, pack,
    drops, place, key, seed, scale, indices, starts, hidden,
):  # fmt: skip
    """(1), (2): A_l = s(A_{l-1} W_l + b_l), and zero in the padding; without s for the last layer, whose loss takes it.

    hidden        whether A_{l-1} is not X, whose values may be listed
    drops, place, key, seed, scale: of `masked`; A_l stays whole, what the next layer takes in stands at `seen`.
    """
    L, mask = lane_count(memory), mask_key(memory, drops, key, seed)

    def left(r, height):
        places = [a_at + element(table, table_at + r + i) for i in range(height)]
        return lambda k: [broadcast(a, place + k) for place in places]

    def after(v, cols, first_row, count):
        def activate(function):
            def row(r):
                for j in range(cols):
                    at = here + (first_row + r) * stride + (v + j) * L
                    store(memory, at, function(load(memory, at)) * load(memory, valid + (v + j) * L))

            return lambda: repeat(count, row)

        def drop(r):
            for j in range(cols):
                at = (first_row + r) * stride + (v + j) * L
                store(memory, seen + at, masked(load(memory, here + at), memory, place + at, 1, drops, mask, scale))

        # the identity leaves zeros in the padding
        switch(code, [lambda: None, *[activate(function) for function in ACTIVATIONS[1:]]])
        either(drops, lambda: repeat(count, drop), lambda: None)

    def whole():
        product(memory, (bias, bias_at, 0), left, (w, w_at, stride), depth, DEPTH, (memory, here, stride), None, after,
                rows, vectors, pack, True)  # fmt: skip

    def listed():
        def row(r):
            first, count = listed_row(starts, table, table_at + r)
            listed_sums(a, indices, first, count, w, w_at, bias, bias_at, memory, here + r * stride, stride, vectors)
            repeat(vectors, lambda v: after(v, 1, r, 1))

        repeat(rows, row)

    either(hidden, whole, listed) if holds_integers(starts) else whole()


@traced
def deltas(
    memory, above, above_stride, depth, transpose, zeros, a_here, here, stride, vectors, code, rows, pack,
    drops, place, key, seed, scale,
):  # fmt: skip
    """(5): D_{l-1} = (D_l W_l^T) * s', times m_{l-1}."""
    L, mask = lane_count(memory), mask_key(memory, drops, key, seed)

    def left(r, height):
        return lambda k: [broadcast(memory, above + (r + i) * above_stride + k) for i in range(height)]

    def after(v, cols, first_row, count):
        def derive(function):
            def row(r):
                for j in range(cols):
                    at = (first_row + r) * stride + (v + j) * L
                    store(memory, here + at, load(memory, here + at) * function(load(memory, a_here + at)))

            return lambda: repeat(count, row)

        def drop(r):
            for j in range(cols):
                at = (first_row + r) * stride + (v + j) * L
                store(memory, here + at, masked(load(memory, here + at), memory, place + at, 1, drops, mask, scale))

        switch(code, [lambda: None, *[derive(function) for function in DERIVATIVES[1:]]])
        either(drops, lambda: repeat(count, drop), lambda: None)

    product(memory, (memory, zeros, 0), left, (memory, transpose, stride), depth, DEPTH, (memory, here, stride), None, after,
            rows, vectors, pack, True)  # fmt: skip


@traced
def gather_panels(a, a_at, table, table_at, count, memory, panels, rows):
    """The left factors of a gradient, tile by tile: HEIGHT elements of every A_{l-1}, one after the other."""

    def panel(i):
        def one(k):
            place = panels + (i * count + k) * HEIGHT
            copy(a, a_at + element(table, table_at + k) + i * HEIGHT, memory, place, HEIGHT)

        repeat(count, one)

    repeat(rows // HEIGHT, panel)


@traced
def gradients(
    a, a_at, table, table_at, tall, tall_at, tall_table_at, tall_row, memory, d, stride, vectors, count, start, start_step,
    params, at, state, size, grad, solver, rate, first, first_gain, second, second_gain, epsilon, decay, rows, pack,
):  # fmt: skip
    """(6), (7) for some rows of W_l, which begin at `at`.

    a, table              A_{l-1}, from the first of these rows, and where its samples begin
    tall, tall_row        the same for whole tiles, each `tall_row` * HEIGHT elements after the one before
    start, start_step     what the sums begin with: zeros, or the gradient of the batch so far
    """
    L = lane_count(memory)
    numbers = rate, first, first_gain, second, second_gain, epsilon

    def left(i, height):
        def factors(k):
            if height == HEIGHT:
                data, place = tall, tall_at + i * tall_row + element(table, tall_table_at + k)
            else:
                data, place = a, a_at + i + element(table, table_at + k)
            return [broadcast(data, place + n) for n in range(height)]

        return factors

    def finish(sums, i, v):
        over = over_tile(sums, at + i * stride + v * L, stride)
        update(solver, over, params, state, size, memory, grad, numbers, decay)

    product(memory, (memory, start, start_step), left, (memory, d, stride), count, GRADIENT_DEPTH,
            (memory, grad + at, stride), finish,
            None, rows, vectors, pack, False)  # fmt: skip


def listed_row(starts, table, place):
    """Where the values of the row at a place of the table begin, and how many there are."""
    row = element(table, place)
    first = element(starts, row)
    return first, element(starts, row + 1) - first


def side_by_side(vectors, body):
    """body(number, first) for groups of vectors, whose numbers are constants."""
    done = vectors * 0
    for number in LISTED_VECTORS:
        groups = (vectors - done) // number
        repeat(groups, lambda i, number=number, done=done: body(number, done + i * number))
        done = done + groups * number


def listed_sums(values, indices, first, count, w, w_at, bias, bias_at, memory, here, stride, vectors):
    """(1) for one row of X: the bias plus, for each of its values, the value times its row of W_l."""
    L = lane_count(memory)

    def group(number, v):
        start = load_tile(zero_tile(memory, 1, number), bias, bias_at + v * L, stride)

        def add_up():
            def right(k):
                at = w_at + element(indices, first + k) * stride + v * L
                return [load(w, at + c * L) for c in range(number)]

            return outer(start, count, lambda k: [broadcast(values, first + k)], right)

        store_tile(switch(count > 0, [lambda: start, add_up]), memory, here + v * L, stride)

    side_by_side(vectors, group)


@traced
def listed_gradients(
    values, indices, starts, table, table_at, count, memory, d, stride, vectors, fresh, finished, params, at, state, size,
    grad, solver, rate, first, first_gain, second, second_gain, epsilon, decay, begin, stop,
):  # fmt: skip
    """(6), (7) for rows begin ... stop - 1 of W_l: for each value of X in their columns, the value times its row of D_l.

    at                    where the first of these rows stands among the parameters
    fresh, finished       whether a gradient begins, and whether it is complete after these samples
    """
    L = lane_count(memory)
    here, elements = grad + at, (stop - begin) * stride

    def sample(k):
        origin, stored = listed_row(starts, table, table_at + k)

        def group(number, v):
            rows = [load(memory, d + k * stride + (v + c) * L) for c in range(number)]

            def value(i):
                j = element(indices, origin + i)

                def add():
                    x, place = broadcast(values, origin + i), here + (j - begin) * stride + v * L
                    for c, row in enumerate(rows):
                        store(memory, place + c * L, fma(x, row, load(memory, place + c * L)))

                either((j >= begin) * (j < stop), add, lambda: None)

            repeat(stored, value)

        side_by_side(vectors, group)

    repeat(fresh * elements // L, lambda v: store(memory, here + v * L, splat(memory, 0.0)))
    repeat(count, sample)
    numbers = rate, first, first_gain, second, second_gain, epsilon

    def finish():
        descend(params, state, size, memory, grad, solver, numbers, at, elements, splat(memory, 1.0), decay)

    either(finished, finish, lambda: None)


def descend(params, state, size, memory, grad, solver, numbers, at, elements, shrink, decay):
    """(7) for some elements of the parameters from `at` on, from the stored gradient times `shrink`."""
    L = lane_count(memory)

    def over(step):
        repeat(elements // L, lambda v: step(load(memory, grad + at + v * L) * shrink, at + v * L))

    update(solver, over, params, state, size, memory, grad, numbers, decay)


@traced
def bias_gradients(
    memory, d, stride, vectors, count, start, params, at, state, size, grad, solver,
    rate, first, first_gain, second, second_gain, epsilon,
):  # fmt: skip
    """(6), (7) for b_l: the sum of the rows of D_l."""
    L = lane_count(memory)
    numbers, one = (rate, first, first_gain, second, second_gain, epsilon), splat(memory, 1.0)

    def some(cols, v):
        sums = outer(
            load_tile(zero_tile(memory, 1, cols), memory, start + v * L, 0),
            count,
            lambda _: [one],
            lambda k: [load(memory, d + k * stride + (v + c) * L) for c in range(cols)],
        )
        update(solver, over_tile(sums, at + v * L, stride), params, state, size, memory, grad, numbers, None)

    wide = vectors // BIAS_VECTORS
    repeat(wide, lambda v: some(BIAS_VECTORS, v * BIAS_VECTORS))
    repeat(vectors % BIAS_VECTORS, lambda v: some(1, wide * BIAS_VECTORS + v))


@traced
def transpose(params, w_at, n_in, stride, memory, at, below, zeros, begin, squares):
    """W_l^T (stride, below) of W_l (n_in, stride), from row `begin` on, a square of vectors at a time."""
    L = lane_count(memory)

    def row(i, j):
        inside = i < n_in
        return load(choose(inside, params, memory), choose(inside, w_at + i * stride, zeros) + j * L)

    def square(i, j):
        rows = [row(begin + i * L + t, j) for t in range(L)]
        for t, column in enumerate(transposed(rows)):
            store(memory, at + (j * L + t) * below + begin + i * L, column)

    repeat(squares, lambda i: repeat(stride // L, lambda j: square(i, j)))


@traced
def vector_count(memory, units):
    """Vectors that hold so many units."""
    L = lane_count(memory)
    return (units + (L - 1)) // L


@traced
def distance_of_rows(starts, n_in):
    """From row to row of X, in what the table counts: elements, or rows where their values are listed."""
    return n_in * 0 + 1 if holds_integers(starts) else n_in * 1


@inlined
def list_rows(table, order, shuffled, place, begin, stop, count, distance):
    """Rows begin ... stop - 1 of a block, which are order[place + r], or place + r unless `shuffled`, times `distance`.

    Rows beyond the last one, for tiles that are higher than needed, are the last one again.
    """
    for r in range(begin, stop):
        one = place + min(r, count - 1)
        table[r] = (order[one] if shuffled else one) * distance


@inlined
def copy_targets(Y, weights, weighted, order, shuffled, place, begin, stop, n_out, memory, targets, stride, row_weights):
    """Targets and weights of rows begin ... stop - 1 of a block; rows as in `list_rows`."""
    for r in range(begin, stop):
        one = order[place + r] if shuffled else place + r
        memory[row_weights + r] = weights[one] if weighted else 1.0
        for j in range(n_out):
            memory[targets + r * stride + j] = Y[one * n_out + j]


@traced
def propagate(
    layers,
    n_layers,
    params,
    X,
    indices,
    starts,
    memory,
    places,
    table,
    block_rows,
    zeros,
    begin,
    count,
    pack,
    drops,
    offset,
    key,
    seed,
    scale,
    sync,
    counters,
):
    """(1), (2): some rows of every A_l of a block, whose rows of X are listed in the table.

    sync, counters: of `mark`.
    drops, offset, key, seed, scale: of `masked`, but for what a layer adds to the place and the key.
    """

    def layer(level):
        row, place = level * FIELDS, level * PLACES
        stride, n_in, w = (element(layers, row + field) for field in (STRIDE, N_IN, OFFSET))
        first, hidden = begin * stride, level > 0
        below = element(places, place - hidden * PLACES + taken(drops))
        bias, bias_at = either_place(element(layers, row + N_ROWS) > n_in, (params, w + n_in * stride), (memory, zeros))
        a, a_at = either_place(hidden, (memory, below), (X, level * 0))
        activations(a, a_at, table, level * block_rows + begin, n_in, params, w, bias, bias_at,
                    memory, element(places, place + A) + first, element(places, place + SEEN) + first, stride,
                    vector_count(memory, element(layers, row + N_OUT)), element(places, place + VALID),
                    element(layers, row + ACTIVATION), count, pack,
                    drops * (level < n_layers - 1), offset * stride + first, key + level, seed, scale,
                    indices, starts, hidden)  # fmt: skip
        mark(sync, counters, FORWARD, level)

    repeat(n_layers, layer)


def either_place(flag, yes, no):
    """One of two pointers with its offset."""
    return choose(flag, yes[0], no[0]), choose(flag, yes[1], no[1])


@traced
def compare(memory, z, y, d, valid, single, stride, vectors, begin, stop, head, scale, row_weights, sums):
    """(2) to (4) for the last layer and some rows; loss and squared errors by GROUP into `sums`. Returns the hits."""
    L = lane_count(memory)

    def group(number, hits):
        first = begin + number * GROUP

        def row(r, hits, loss, squares):
            at = (first + r) * stride
            weight = broadcast(memory, row_weights + first + r)
            loss, squares = output_row(
                memory, z + at, y + at, d + at, valid, vectors, head, scale * weight, weight, loss, squares
            )

            def same_winner():
                return winner(memory, z + at, valid, vectors) == winner(memory, y + at, valid, vectors)

            def same_side():
                return (element(memory, z + at) >= 0.5) == (element(memory, y + at) >= 0.5)

            return hits + switch(single, [same_winner, same_side]), loss, squares

        zero = splat(memory, 0.0)
        hits, loss, squares = carry(smaller(stop - first, GROUP), (hits, zero, zero), row)
        at = sums + first // GROUP * 2 * L
        store(memory, at, loss)
        store(memory, at + L, squares)
        return (hits,)

    return carry((stop - begin + (GROUP - 1)) // GROUP, (begin * 0,), group)[0]


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
def backpropagate(
    layers, n_layers, memory, places, zeros, begin, count, pack, drops, offset, key, seed, scale, sync, counters
):
    """(5): some rows of every D_l but the last; the last arguments as of `propagate`."""

    def layer(back):
        level = n_layers - 1 - back
        row, here, below = level * FIELDS, level * PLACES, (level - 1) * PLACES
        above, stride = element(layers, row + STRIDE), element(layers, row - FIELDS + STRIDE)
        first = begin * stride
        deltas(memory, element(places, here + D) + begin * above, above, element(layers, row + N_OUT),
               element(places, here + TRANSPOSED), zeros, element(places, below + A) + first,
               element(places, below + D) + first, stride, vector_count(memory, element(layers, row + N_IN)),
               element(layers, row - FIELDS + ACTIVATION), count, pack,
               drops, offset * stride + first, key + (level - 1), seed, scale)  # fmt: skip
        mark(sync, counters, DELTA, level)

    repeat(n_layers - 1, layer)


@traced
def transpose_all(layers, n_layers, params, memory, places, zeros, rank, size, sync, counters):
    """The part of every W_l^T that belongs to a thread."""

    def layer(back):
        level = back + 1
        row = level * FIELDS
        n_in = element(layers, row + N_IN)
        begin, stop = share(n_in, SQUARE, rank, size), share(n_in, SQUARE, rank + 1, size)
        transpose(params, element(layers, row + OFFSET), n_in, element(layers, row + STRIDE), memory,
                  element(places, level * PLACES + TRANSPOSED), element(layers, row - FIELDS + STRIDE), zeros,
                  begin, vector_count(memory, stop - begin))  # fmt: skip
        mark(sync, counters, TRANSPOSE, level)

    repeat(n_layers - 1, layer)


@traced
def learn(
    layers, n_layers, params, state, n_params, X, indices, starts, memory, places, table, block_rows, grad, zeros, panels,
    count, fresh, finished, solver, rate, first, first_gain, second, second_gain, epsilon, decay, pack, drops,
    rank, size, sync, counters,
):  # fmt: skip
    """(6), (7) for the rows of the weights that belong to a thread; solver 0 leaves the gradient.

    fresh         whether a gradient begins, else it is added to the one so far
    finished      whether it is complete after these rows of the batch
    """
    numbers = rate, first, first_gain, second, second_gain, epsilon

    def layer(level):
        row, hidden = level * FIELDS, level > 0
        stride, w, n_in = (element(layers, row + field) for field in (STRIDE, OFFSET, N_IN))
        d, vectors = element(places, level * PLACES + D), vector_count(memory, element(layers, row + N_OUT))
        begin, stop = share(n_in, SQUARE, rank, size), share(n_in, SQUARE, rank + 1, size)
        lines, at = level * block_rows, w + begin * stride

        def whole():
            below = element(places, (level - hidden) * PLACES + taken(drops))
            a, a_at = either_place(hidden, (memory, below + begin), (X, begin))
            many = vectors >= PANEL_VECTORS
            either(many, lambda: gather_panels(a, a_at, table, lines, count, memory, panels, stop - begin), lambda: None)
            tall, tall_at = either_place(many, (memory, panels), (a, a_at))
            tall_table, tall_row = choose(many, n_layers * block_rows, lines), choose(many, count, many * 0 + 1)
            gradients(a, a_at, table, lines, tall, tall_at, tall_table, tall_row, memory, d, stride, vectors, count,
                      choose(fresh, zeros, grad + at), choose(fresh, fresh * 0, stride),
                      params, at, state, n_params, grad, solver, *numbers, decay, stop - begin, pack)  # fmt: skip

        def listed():
            listed_gradients(X, indices, starts, table, lines, count, memory, d, stride, vectors, fresh, finished,
                             params, at, state, n_params, grad, solver, *numbers, decay, begin, stop)  # fmt: skip

        either(hidden, whole, listed) if holds_integers(starts) else whole()
        bias = w + n_in * stride

        def learn_biases():
            bias_gradients(memory, d, stride, vectors, count, choose(fresh, zeros, grad + bias), params, bias, state,
                           n_params, grad, solver, *numbers)  # fmt: skip

        either((element(layers, row + N_ROWS) > n_in) * (rank == size - 1), learn_biases, lambda: None)
        mark(sync, counters, GRADIENT, level)

    repeat(n_layers, layer)


@traced
def descend_all(
    layers, n_layers, params, state, n_params, memory, grad, solver, rate, first, first_gain, second, second_gain, epsilon,
    shrink, rank, size,
):  # fmt: skip
    """(7) for the rows of the weights that belong to a thread, from the stored gradient times `shrink`."""
    numbers = rate, first, first_gain, second, second_gain, epsilon

    def some(at, elements):
        descend(params, state, n_params, memory, grad, solver, numbers, at, elements, shrink, None)

    def layer(level):
        row = level * FIELDS
        n_in, w, stride = (element(layers, row + field) for field in (N_IN, OFFSET, STRIDE))
        begin, stop = share(n_in, SQUARE, rank, size), share(n_in, SQUARE, rank + 1, size)
        some(w + begin * stride, (stop - begin) * stride)
        biased = (element(layers, row + N_ROWS) > n_in) * (rank == size - 1)
        either(biased, lambda: some(w + n_in * stride, stride), lambda: None)

    repeat(n_layers, layer)


@inlined
def total_losses(memory, sums, groups):
    """The loss and the squared errors of a block."""
    loss, squares = splat(memory, 0.0), splat(memory, 0.0)
    for at in range(sums, sums + groups * 2 * lanes(memory), 2 * lanes(memory)):
        loss, squares = add_vectors(memory, at, loss, squares)
    return sum_lanes(loss), sum_lanes(squares)


@traced
def add_vectors(memory, at, first, second):
    return first + load(memory, at), second + load(memory, at + lane_count(memory))


def train(layers, n_layers, params, state, X, indices, starts, Y, weights, weighted, n, order, shuffled, batch_size, rule,
          blocks, cursor, record, memory, plan, places, table, totals, sync, rank, size):  # fmt: skip
    """As `fastbp.reference.train`; a block has BLOCK_ROWS rows at most, and a call may end within a batch."""
    counters = first_counter(n_layers, rank)
    start_clock(sync, counters)
    last = (n_layers - 1) * FIELDS
    n_out, out_stride, distance = layers[last + N_OUT], layers[last + STRIDE], distance_of_rows(starts, layers[N_IN])
    block_rows, targets, output = plan[BLOCK_ROWS], plan[TARGETS], (n_layers - 1) * PLACES
    pack = plan[PACK] + rank * plan[PACK_SIZE]
    epoch, row, batch, step = cursor[EPOCH], cursor[ROW], cursor[BATCH], cursor[STEP]
    first_epoch, done = epoch, cursor[BLOCK]
    solver, alpha, per_row, max_norm = int(rule[SOLVER]), rule[ALPHA], rule[PER_ROW], rule[MAX_NORM]
    beta_1, beta_2, epsilon = splat(memory, rule[MOMENTUM]), splat(memory, rule[BETA_2]), splat(memory, rule[EPSILON])
    gain_1, gain_2 = splat(memory, 1.0 - rule[MOMENTUM]), splat(memory, 1.0 - rule[BETA_2])
    drops, seed, keep = int(rule[DROPOUT] * 4294967296.0), int(rule[SEED]), splat(memory, 1.0 / (1.0 - rule[DROPOUT]))
    panels = plan[PANELS] + rank * plan[PANELS_SIZE]
    for _ in range(blocks):
        mark(sync, counters, OVERHEAD, 0)
        if row == batch:
            transpose_all(layers, n_layers, params, memory, places, plan[ZEROS], rank, size, sync, counters)
        wait_for_all(sync, size, counters)  # all have finished the block before, or read the cursor

        batch_stop = min(batch + batch_size, n)
        stop = min(row + block_rows, batch_stop)
        count, place = stop - row, (epoch - first_epoch) * n * shuffled
        weight = weight_of(weights, weighted, order, shuffled, place + batch, batch_stop - batch)
        scale = 1.0 if per_row == 0.0 else (1.0 / (weight * per_row) if weight > 0.0 else 0.0)
        begin, end = share(count, GROUP, rank, size), share(count, GROUP, rank + 1, size)
        spare = end if end < count else (count + HEIGHT - 1) // HEIGHT * HEIGHT
        list_rows(table, order, shuffled, place + row, begin, spare, count, distance)
        copy_targets(Y, weights, weighted, order, shuffled, place + row, begin, end, n_out, memory, targets, out_stride,
                     plan[ROW_WEIGHTS])  # fmt: skip
        mark(sync, counters, GATHER, 0)
        offset = row - batch
        propagate(layers, n_layers, params, X, indices, starts, memory, places, table, block_rows, plan[ZEROS],
                  begin, end - begin, pack, drops, offset, step * n_layers, seed, keep, sync, counters)  # fmt: skip
        sync[NUMBERS + LINE * rank] = 0
        if end > begin:
            sync[NUMBERS + LINE * rank] = compare(
                memory, places[output + A], targets, places[output + D], places[output + VALID], int(n_out == 1), out_stride,
                vector_count(memory, n_out), begin, end, int(rule[HEAD]), splat(memory, scale),
                plan[ROW_WEIGHTS], plan[SUMS],
            )  # fmt: skip
        mark(sync, counters, COMPARE, 0)
        backpropagate(layers, n_layers, memory, places, plan[ZEROS], begin, end - begin, pack,
                      drops, offset, step * n_layers, seed, keep, sync, counters)  # fmt: skip
        wait_for_all(sync, size, counters)

        if rank == 0 and weight > 0.0:
            loss, squares = total_losses(memory, plan[SUMS], (count + GROUP - 1) // GROUP)
            record[epoch * RECORD_SIZE + LOSS] += loss * loss_factor(rule, batch_stop - batch, weight)
            record[epoch * RECORD_SIZE + SQUARES] += squares
            for thread in range(size):
                record[epoch * RECORD_SIZE + HITS] += sync[NUMBERS + LINE * thread]
        whole = count == batch_stop - batch
        if stop == batch_stop:
            step += 1
        rate = splat(memory, step_length(rule, step))
        l2 = alpha if per_row == 0.0 else (alpha / weight if weight > 0.0 else 0.0)
        at_once = whole and max_norm == np.inf
        mark(sync, counters, OVERHEAD, 0)
        if weight > 0.0:
            if alpha != 0.0:
                if rank == 0 and stop == batch_stop:
                    penalty = penalty_of(layers, n_layers, params)
                    record[epoch * RECORD_SIZE + PENALTY] += penalty * loss_factor(rule, batch_stop - batch, weight)
                    mark(sync, counters, UPDATE, 0)
                wait_for_all(sync, size, counters)  # the weights change now
            # beside the call: numba allows a call of so many arguments no branch in them
            solver_now, decay = solver if at_once else 0, splat(memory, l2 if stop == batch_stop else 0.0)
            learn(layers, n_layers, params, state, plan[SIZE], X, indices, starts, memory, places, table, block_rows,
                  plan[GRAD], plan[ZEROS], panels, count, int(row == batch), int(stop == batch_stop),
                  solver_now, rate, beta_1, gain_1, beta_2, gain_2, epsilon, decay, pack, drops, rank, size,
                  sync, counters)  # fmt: skip
            if not at_once and stop == batch_stop:
                wait_for_all(sync, size, counters)
                shrink = 1.0
                if max_norm < np.inf:
                    norm = math.sqrt(float(sum_squares(memory, plan[GRAD], plan[SIZE])))
                    shrink = max_norm / norm if norm > max_norm else 1.0
                    mark(sync, counters, UPDATE, 0)
                    wait_for_all(sync, size, counters)  # all have read the gradient, which solver 0 now changes
                descend_all(layers, n_layers, params, state, plan[SIZE], memory, plan[GRAD], solver,
                            rate, beta_1, gain_1, beta_2, gain_2, epsilon, splat(memory, shrink),
                            rank, size)  # fmt: skip
                mark(sync, counters, UPDATE, 0)
        elif stop == batch_stop:
            step -= 1
        row = stop
        done += 1
        if stop == batch_stop:
            batch = stop
        if stop == n:
            epoch += 1
            row, batch, done = 0, 0, 0
    if rank == 0:
        cursor[EPOCH], cursor[ROW], cursor[STEP], cursor[BATCH], cursor[BLOCK] = epoch, row, step, batch, done
    mark(sync, counters, OVERHEAD, 0)


def forward(layers, n_layers, params, X, indices, starts, n, out, rule, memory, plan, places, table, totals, sync, rank,
            size):  # fmt: skip
    """As `fastbp.reference.forward`; a row's result does not depend on the other rows. Each thread takes its own rows."""
    last, output = (n_layers - 1) * FIELDS, (n_layers - 1) * PLACES
    n_out, stride, distance = layers[last + N_OUT], layers[last + STRIDE], distance_of_rows(starts, layers[N_IN])
    head, block_rows = int(rule[HEAD]), plan[BLOCK_ROWS]
    begin, end = share(block_rows, GROUP, rank, size), share(block_rows, GROUP, rank + 1, size)
    for start in range(0, n, block_rows):
        stop = min(end, n - start)
        if stop > begin:
            list_rows(table, table, False, start, begin, (stop + HEIGHT - 1) // HEIGHT * HEIGHT, n - start, distance)
            propagate(layers, n_layers, params, X, indices, starts, memory, places, table, block_rows, plan[ZEROS],
                      begin, stop - begin, plan[PACK] + rank * plan[PACK_SIZE], 0, 0, 0, 0, splat(memory, 1.0),
                      sync, 0)  # fmt: skip
            for r in range(begin, stop):
                at = r * stride
                prediction_row(memory, places[output + A] + at, places[output + D] + at, places[output + VALID],
                               vector_count(memory, n_out), head)  # fmt: skip
                for j in range(n_out):
                    out[(start + r) * n_out + j] = memory[places[output + A] + at + j]
