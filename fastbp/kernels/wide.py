"""Training with lanes over units: for networks with wide layers, and for batches of a few rows.

Activations lie sample by sample, A_l (rows, stride), padded like the rows of the parameters. Every product of a step is one
function, `product`, whose register tile stays in registers while it runs down the sum:

    forward     A_l = s(A_{l-1} W_l + b_l)             broadcast A_{l-1}, load W_l; the tile begins with b_l
    delta       D_{l-1} = (D_l W_l^T) * s'             broadcast D_l, load W_l^T
    gradient    W_l += step of A_{l-1}^T D_l           broadcast A_{l-1}, load D_l; the tile ends in the solver's update

so that a gradient is only stored where a batch has several blocks, or where its norm has to be known first. Rows of X are
read where they stand, through a table of offsets, in whatever order an epoch visits them.

Loops, from the innermost: a tile, which one function sums for all products, `sum_tile`; all tiles of a strip, which use the
same few vectors of the right factor; STRIPS strips, which use the same left factors; parts of the sum; groups of strips;
ROWS rows. A part of DEPTH terms of a strip stays in the L1 cache, the left factors of a part and the sums of a group in the
L2 cache. A tile's activation, derivative or update is taken while the L1 cache holds it. Where a strip's factors are copied
together, one part of up to PACKED_DEPTH terms ran 15% faster than several that take turns with the sums, though it is more
than the L1 cache holds: the copy is read from end to end.

A tile is nearly square because loads, not multiplications, run short: 6 x 4 vectors take 10 loads for 24 multiplications and
ran a sixth faster than 8 x 2, which take 10 for 16. What the next tile needs from afar is asked for a tile ahead: rows of X
(a tenth of the forward pass), and weights, D_l and A_l where they have left the L2 cache (a tenth of a gradient, a third of
the delta below a narrow layer). Wide layers make it pay to copy factors together first, without gaps: the left ones of a
gradient, tile by tile, and the right ones of a strip. Those of a delta always are: that is where they are transposed, so
W_l^T is never there as a whole.

X may also list the values of each row with their columns, as scipy's CSR matrices do. Then the first layer's products visit
these alone: rows of W_l are added up in registers (`listed_sums`), and the gradient is added up where it is stored
(`listed_gradients`), from which the solver takes it. What X is, the types of its pointers say, when a kernel is compiled:

    X           the values, or all of a dense X
    indices     integers: the column of each value, in any order; a column may come again, and counts again
    starts      integers: where each row's values begin, and where the last one's end
                of a dense X both are of the float type, and unused

Every sum has the order of the dense one, so that the same matrix gives the same bits either way.

Threads share a block in two phases: rows of the batch (forward, loss, delta), then rows of the weights (gradient, update).
No sum is ever divided among threads, so their number does not change a bit.
"""

import math

import numpy as np

from fastbp.kernels.jit import inlined, tile_shape
from fastbp.kernels.losses import hit, output_row, prediction_row
from fastbp.kernels.phases import first_counter, mark, start_clock
from fastbp.kernels.pointwise import ACTIVATIONS, DERIVATIVES, mask_key, masked, taken
from fastbp.kernels.simd import (
    broadcast,
    carry,
    choose,
    copy,
    either,
    either_place,
    element,
    first_lane,
    flush_subnormals,
    fma,
    from_on,
    holds_integers,
    in_groups,
    in_place,
    lane_count,
    lanes,
    load,
    load_tile,
    outer,
    prefetch,
    put,
    repeat,
    restore_subnormals,
    side_by_side,
    smaller,
    splat,
    store,
    store_tile,
    sum_lanes,
    switch,
    transposed,
    vector_count,
    zero_tile,
)
from fastbp.kernels.threads import share, wait_for_all
from fastbp.kernels.tracing import outlined, traced
from fastbp.kernels.updates import (
    SGD,
    descend,
    loss_factor,
    over_tile,
    penalty_of,
    step_length,
    sum_squares,
    update,
    weight_of,
)
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
    PACKED_DEPTH,
    PANEL_ROWS,
    PANELS,
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
    UPDATE,
    VALID,
    ZEROS,
    A,
    D,
)
from fastbp.rule import ALPHA, BETA_2, DROPOUT, EPSILON, HEAD, MAX_NORM, MOMENTUM, PER_ROW, SEED, SOLVER

HEIGHT, COLS = tile_shape()
# Heights of tiles, the first one for those of one or two vectors.
HEIGHTS = 10 if COLS > 3 else 5, *(height for height in (6, 4, 2, 1) if height <= HEIGHT)
ROWS = 264  # rows of C at a time, whole tiles
STRIPS = 4  # strips at a time
# A part of a strip of right factors is copied together for so many rows of C, where a factor's rows are so many vectors
# apart: then each is a page of its own, and 5% is saved.
PACK_ROWS, PACK_VECTORS = 32, 64
PANEL_VECTORS = 16  # as many vectors of D_l pay for copying the left factors of a gradient together
FAR = 200_000  # of so many elements the first ones have left the L2 cache when they are needed again
# A gradient of so few vectors and so many left factors takes few samples at a time: each is a stream that is read ahead.
THIN_VECTORS, THIN_FACTORS, THIN_DEPTH = 2, 50_000, 32
BIAS_VECTORS = 4  # sums of bias gradients that run side by side


@outlined
def sum_tile(height, cols, listed, a, table, a_step, b, b_step, start, start_step, c, c_step, terms, descends, rate, decay):
    """C[i, :] = start[i, :] + sum over k of left(i, k) x B[k, :], for the vectors of one tile.

    A matrix is a pointer to its first element and the distance of its rows. left(i, k) is the element of `a` at

        table[i] + k * a_step   or, where `listed`,
        i + table[k]

    Where it `descends`, the sum is a gradient, C holds weights, and plain SGD takes them a step of length `rate` further;
    where that is 2, with an L2 term.
    """
    L = lane_count(c)
    rows = [] if listed else [from_on(a, element(table, i)) for i in range(height)]

    def left(k):
        if listed:
            sample = from_on(a, element(table, k))
            return [broadcast(sample, i) for i in range(height)]
        return [broadcast(row, k * a_step) for row in rows]

    def right(k):
        row = from_on(b, k * b_step)
        return [load(row, j * L) for j in range(cols)]

    def step(gradient):
        for g, place in in_place(sums, [c_step * i for i in range(height)]):
            w = load(c, place)
            store(c, place, fma(gradient(g, w), rate, w))

    sums = outer(load_tile(zero_tile(c, height, cols), start, 0, start_step), terms, left, right)

    def descend_tile():
        either(descends > 1, lambda: step(lambda g, w: fma(w, decay, g)), lambda: step(lambda g, w: g))

    either(descends, descend_tile, lambda: store_tile(sums, c, 0, c_step))


def product(memory, start, left, right, depth, most, c, solve, ahead, after, rows, vectors, pack):
    """Every tile of C = start + sum over k of left(k) x right[k].

    start, c          pointer, offset and row step: what the sums begin with, at the first vector; and C
    right             the same of the right factors, whose rows are k; or fill(k, terms, v, cols), which puts the factors of
                      some terms, from k on, and vectors, from v on, into the memory at `pack`, without gaps
    left(add, height, r, k)   calls add(listed, a, table, a_step), of `sum_tile`, for the left factors of rows r ... and of
                      terms k ...
    depth, most       terms of the sums, and how many of them at a time
    solve(last, tile, c)   what becomes of a gradient's tile, which is complete if `last`: where it goes instead of `c`,
                      whether and how it descends there, and what is done then. None where C is no gradient
    ahead(tile, k, terms)   asks for memory that the tile after this one needs
    after(tile)       what is done with a tile of C when it is complete, or None
    pack              offset in the memory of room for a part of a strip of the right factors, where they lie without gaps

    A tile is its first row, rows, first vector and vectors.
    """
    L = lane_count(memory)
    fill = right if callable(right) else None
    data, at, stride = (memory, pack, rows * 0) if fill else right
    target, place, row_step = c
    packed = rows > 0 if fill else (rows >= PACK_ROWS) * (stride >= PACK_VECTORS * L)
    # factors that only one tile uses, where they stand, need not stay in the L1 cache
    apart = choose((vectors < 3) * (rows <= HEIGHTS[0]), rows > 0, (depth + (most - 1)) // most)
    parts = choose(packed, (depth + (PACKED_DEPTH - 1)) // PACKED_DEPTH, apart)
    # whole vectors of terms
    part_depth = switch(parts > 1, [lambda: depth * 1, lambda: ((depth + (parts - 1)) // parts + (L - 1)) // L * L])
    parts = switch(parts > 1, [lambda: parts * 1, lambda: (depth + (part_depth - 1)) // part_depth])
    whole = vectors // COLS
    strips = whole + (vectors % COLS > 1) + vectors % COLS % 2

    def strip(number, part, first_row, count):
        v = smaller(number, whole) * COLS + (number > whole) * 2
        cols = smaller(vectors - v, choose(number < whole, COLS, 2))
        begin = part * part_depth
        terms, last = smaller(part_depth, depth - begin), part == parts - 1
        factors = choose(packed, from_on(memory, pack), from_on(data, at + begin * stride + v * L))
        step = choose(packed, cols * L, stride)
        before, before_at, before_step = (choose(part == 0, *pair) for pair in zip(start, c, strict=True))
        tallest = choose(cols > 2, HEIGHTS[1], HEIGHTS[0])

        def copy_row(k):
            repeat(
                cols, lambda j: store(memory, pack + (k * cols + j) * L, load(data, at + (begin + k) * stride + (v + j) * L))
            )

        def copy_rows():
            repeat(terms, copy_row)

        def rows_of_tile(number):
            r = first_row + number * tallest
            tile = r, smaller(count - number * tallest, tallest), v, cols
            (here, to, to_step), descent, finish = (target, place + r * row_step + v * L, row_step), (0, None, None), None
            if solve:
                (here, to, to_step), descent, finish = solve(last, tile, (here, to, to_step))
            ahead(tile, begin, terms)

            def some(height, first):
                origin = from_on(before, before_at + (r + first) * before_step + v * L)
                goal = from_on(here, to + first * to_step)

                def of_width(width):
                    def add(listed, *left):
                        sum_tile(height, width, listed, *left, factors, step, origin, before_step, goal, to_step, terms,
                                 *descent)  # fmt: skip

                    return lambda: left(add, height, r + first, begin)

                widths = [of_width(1), of_width(2), *[of_width(COLS)] * (COLS - 2)]
                switch(cols - 1, widths if height < HEIGHTS[0] else widths[:2])

            def one():
                either(cols > 2, lambda: some(HEIGHTS[1], r * 0), lambda: some(HEIGHTS[0], r * 0))

            either(tile[1] == tallest, one, lambda: in_groups(tile[1], HEIGHTS[1:], some))
            if finish:
                finish()
            if after:
                either(last, lambda: after(tile), lambda: None)

        if fill:
            fill(begin, terms, v, cols)
        else:
            either(packed, copy_rows, lambda: None)
        repeat((count + (tallest - 1)) // tallest, rows_of_tile)

    def block(number):
        first_row = number * ROWS
        count = smaller(ROWS, rows - first_row)

        def group(first):
            some = smaller(STRIPS, strips - first * STRIPS)
            repeat(parts, lambda part: repeat(some, lambda i: strip(first * STRIPS + i, part, first_row, count)))

        repeat((strips + (STRIPS - 1)) // STRIPS, group)

    repeat((rows + (ROWS - 1)) // ROWS, block)


def each_vector(tile, stride, L, body):
    """body(place, v) for every vector of a tile of a matrix: where it begins, and its number in the row."""
    first, height, v, cols = tile
    repeat(height, lambda r: repeat(cols, lambda j: body((first + r) * stride + (v + j) * L, v + j)))


@traced
@outlined
def activations(
    a, a_at, table, table_at, depth, w, w_at, bias, bias_at, memory, here, seen, stride, vectors, valid, code, rows, pack,
    drops, place, key, seed, scale, indices, starts, hidden,
) -> None:  # fmt: skip
    """(1), (2): A_l = s(A_{l-1} W_l + b_l), and zero in the padding; without s for the last layer, whose loss takes it.

    hidden        whether A_{l-1} is not X, whose values may be listed
    drops, place, key, seed, scale: of `masked`; A_l stays whole, what the next layer takes in stands at `seen`.
    """
    L, mask = lane_count(memory), mask_key(memory, drops, key, seed)

    def left(add, height, r, k):
        add(False, from_on(a, a_at + k), from_on(table, table_at + r), r * 0 + 1)

    def ahead(tile, k, terms):
        first, height, v, _ = tile

        def ask(r):
            row = a_at + element(table, table_at + first + height + r) + k
            repeat((terms + (L - 1)) // L, lambda n: prefetch(a, row + n * L))

        either((v == 0) * (hidden == 0), lambda: repeat(height, ask), lambda: None)

    def after(tile):
        def activate(function):
            def one(at, v):
                store(memory, here + at, function(load(memory, here + at)) * load(memory, valid + v * L))

            return lambda: each_vector(tile, stride, L, one)

        def drop(at, v):
            store(memory, seen + at, masked(load(memory, here + at), memory, place + at, 1, drops, mask, scale))

        # the identity leaves zeros in the padding
        switch(code, [lambda: None, *[activate(function) for function in ACTIVATIONS[1:]]])
        either(drops, lambda: each_vector(tile, stride, L, drop), lambda: None)

    def whole():
        product(memory, (bias, bias_at, rows * 0), left, (w, w_at, stride), depth, DEPTH, (memory, here, stride), None,
                ahead, after, rows, vectors, pack)  # fmt: skip

    def listed():
        def row(r):
            first, count = listed_row(starts, table, table_at + r)
            listed_sums(a, indices, first, count, w, w_at, bias, bias_at, memory, here + r * stride, stride, vectors)
            after((r, rows * 0 + 1, vectors * 0, vectors))

        repeat(rows, row)

    either(hidden, whole, listed) if holds_integers(starts) else whole()


@traced
@outlined
def deltas(
    memory, above, table, table_at, depth, params, w_at, n_in, w_stride, zeros, a_here, here, stride, vectors, code, rows,
    pack, drops, place, key, seed, scale, sync, counters, level,
) -> None:  # fmt: skip
    """(5): D_{l-1} = (D_l W_l^T) * s', times m_{l-1}; the factors are transposed where they are copied together."""
    L, mask = lane_count(memory), mask_key(memory, drops, key, seed)

    def left(add, height, r, k):
        add(False, from_on(memory, above + k), from_on(table, table_at + r), r * 0 + 1)

    def fill(k, terms, v, cols):
        """W_l^T, a square of vectors at a time, with zeros below W_l."""

        def row(i, k):
            inside = i < n_in
            return load(choose(inside, params, memory), choose(inside, w_at + i * w_stride, zeros) + k)

        def square(i, j):
            rows = [row((v + j) * L + lane, k + i * L) for lane in range(L)]
            for lane, column in enumerate(transposed(rows)):
                store(memory, pack + ((i * L + lane) * cols + j) * L, column)

        mark(sync, counters, DELTA, level)
        repeat(cols, lambda j: repeat((terms + (L - 1)) // L, lambda i: square(i, j)))
        mark(sync, counters, TRANSPOSE, level)

    def ahead(tile, k, terms):
        first, height, v, cols = tile

        def ask(at, v):
            prefetch(memory, here + at)
            prefetch(memory, a_here + at)

        either(2 * rows * stride > FAR, lambda: each_vector((first + height, height, v, cols), stride, L, ask), lambda: None)

    def after(tile):
        def derive(function):
            def one(at, v):
                store(memory, here + at, load(memory, here + at) * function(load(memory, a_here + at)))

            return lambda: each_vector(tile, stride, L, one)

        def drop(at, v):
            store(memory, here + at, masked(load(memory, here + at), memory, place + at, 1, drops, mask, scale))

        switch(code, [lambda: None, *[derive(function) for function in DERIVATIVES[1:]]])
        either(drops, lambda: each_vector(tile, stride, L, drop), lambda: None)

    product(memory, (memory, zeros, rows * 0), left, fill, depth, PACKED_DEPTH, (memory, here, stride), None,
            ahead, after, rows, vectors, pack)  # fmt: skip
    mark(sync, counters, DELTA, level)


@traced
def gather_panels(a, a_at, table, table_at, count, memory, panels, panel_rows, rows) -> None:
    """The left factors of a gradient, panel by panel: HEIGHT elements of every A_{l-1}, one after the other.

    Where the first factor of a row stands, `panels` plus its entry of the table from `panel_rows` on, and those of the
    next samples, HEIGHT elements apart, is also what `gradients` reads by.
    """

    def panel(height, first):
        place = panels + element(table, panel_rows + first)
        repeat(count, lambda k: copy(a, a_at + element(table, table_at + k) + first, memory, place + k * HEIGHT, height))

    # the last panel is not read beyond its rows: behind those of X there may be nothing
    in_groups(rows, HEIGHTS[1:], panel)


@traced
@outlined
def gradients(
    a, a_at, table, table_at, many, panels, panel_rows, memory, d, stride, vectors, count, start, start_step, params, at,
    state, size, grad, solver, rate, first, first_gain, second, second_gain, epsilon, decay, rows, pack, aside,
) -> None:  # fmt: skip
    """(6), (7) for some rows of W_l, which begin at `at`.

    a, table              A_{l-1}, from the first of these rows, and where its samples begin
    many, panels, panel_rows   whether A_{l-1} is to be found in panels, and where, as in `gather_panels`
    aside                 room for a tile that the solver takes from there
    start, start_step     what the sums begin with: zeros, or the gradient of the batch so far
    """
    L = lane_count(memory)
    numbers = rate, first, first_gain, second, second_gain, epsilon
    decays = first_lane(decay == 0) > 0

    def left(add, height, i, k):
        def together():
            add(False, from_on(memory, panels + k * HEIGHT), from_on(table, panel_rows + i), i * 0 + HEIGHT)

        def apart():
            add(True, from_on(a, a_at + i), from_on(table, table_at + k), i * 0)

        either(many, together, apart)

    def ahead(tile, k, terms):
        first, height, v, cols = tile

        def ask(place, v):
            prefetch(params, at + place)

        either(size > FAR, lambda: each_vector((first + height, height, v, cols), stride, L, ask), lambda: None)

    def solve(last, tile, c):
        first, height, v, cols = tile
        descends = last * (solver == SGD) * (1 + decays)

        def over(step):
            repeat(height, lambda r: repeat(cols, lambda j: step(
                load(memory, aside + (r * cols + j) * L), at + (first + r) * stride + (v + j) * L)))  # fmt: skip

        def finish():
            update(solver, over, params, state, size, memory, grad, numbers, decay)

        c = [choose(last, *pair) for pair in zip((memory, aside, cols * L), c, strict=True)]
        c = [choose(descends, *pair) for pair in zip((params, at + first * stride + v * L, stride), c, strict=True)]
        return c, (descends, rate, decay), lambda: either(last * (solver != SGD), finish, lambda: None)

    product(memory, (memory, start, start_step), left, (memory, d, stride), count,
            choose((vectors <= THIN_VECTORS) * (rows * count > THIN_FACTORS), THIN_DEPTH, GRADIENT_DEPTH),
            (memory, grad + at, stride), solve, ahead, None, rows, vectors, pack)  # fmt: skip


def listed_row(starts, table, place):
    """Where the values of the row at a place of the table begin, and how many there are."""
    row = element(table, place)
    first = element(starts, row)
    return first, element(starts, row + 1) - first


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
@outlined
def listed_gradients(
    values, indices, starts, table, table_at, count, memory, d, stride, vectors, fresh, finished, params, at, state, size,
    grad, solver, rate, first, first_gain, second, second_gain, epsilon, decay, begin, stop,
) -> None:  # fmt: skip
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


@traced
@outlined
def bias_gradients(
    memory, d, stride, vectors, count, start, params, at, state, size, grad, solver,
    rate, first, first_gain, second, second_gain, epsilon,
) -> None:  # fmt: skip
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
def distance_of_rows(starts, n_in):
    """From row to row of X, in what the table counts: elements, or rows where their values are listed."""
    return n_in * 0 + 1 if holds_integers(starts) else n_in * 1


@inlined
def list_rows(table, order, shuffled, place, begin, stop, distance):
    """Rows begin ... stop - 1 of a block, which are order[place + r], or place + r unless `shuffled`, times `distance`."""
    for r in range(begin, stop):
        one = place + r
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
@outlined
def propagate(
    layers, n_layers, params, X, indices, starts, memory, places, table, block_rows, zeros, begin, count, pack, drops,
    offset, key, seed, scale, sync, counters,
) -> None:  # fmt: skip
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


@traced
@outlined
def compare(
    memory, z, y, d, valid, single, stride, vectors, begin, stop, head, scale, row_weights, sums, sync, hits_at
) -> None:
    """(2) to (4) for the last layer and some rows; loss and squared errors by GROUP into `sums`, the hits to `hits_at`."""
    L = lane_count(memory)

    def group(number, hits):
        first = begin + number * GROUP

        def row(r, hits, loss, squares):
            at = (first + r) * stride
            weight = broadcast(memory, row_weights + first + r)
            loss, squares = output_row(
                memory, z + at, y + at, d + at, valid, vectors, head, scale * weight, weight, loss, squares
            )

            return hits + hit(memory, z + at, y + at, valid, vectors, single), loss, squares

        zero = splat(memory, 0.0)
        hits, loss, squares = carry(smaller(stop - first, GROUP), (hits, zero, zero), row)
        at = sums + first // GROUP * 2 * L
        store(memory, at, loss)
        store(memory, at + L, squares)
        return (hits,)

    put(sync, hits_at, *carry((stop - begin + (GROUP - 1)) // GROUP, (begin * 0,), group))


@traced
@outlined
def backpropagate(
    layers, n_layers, params, memory, places, table, block_rows, zeros, begin, count, pack, drops, offset, key, seed, scale,
    sync, counters,
) -> None:  # fmt: skip
    """(5): some rows of every D_l but the last; the last arguments as of `propagate`."""

    def layer(back):
        level = n_layers - 1 - back
        row, here, below = level * FIELDS, level * PLACES, (level - 1) * PLACES
        stride = element(layers, row - FIELDS + STRIDE)
        first = begin * stride
        deltas(memory, element(places, here + D), table, (level + 1) * block_rows + begin, element(layers, row + N_OUT),
               params, element(layers, row + OFFSET), element(layers, row + N_IN), element(layers, row + STRIDE), zeros,
               element(places, below + A) + first, element(places, below + D) + first, stride,
               vector_count(memory, element(layers, row + N_IN)), element(layers, row - FIELDS + ACTIVATION), count,
               pack, drops, offset * stride + first, key + (level - 1), seed, scale, sync, counters, level)  # fmt: skip

    repeat(n_layers - 1, layer)


@traced
@outlined
def learn(
    layers, n_layers, params, state, n_params, X, indices, starts, memory, places, table, block_rows, grad, zeros, panels,
    count, fresh, finished, solver, rate, first, first_gain, second, second_gain, epsilon, decay, pack, aside, drops,
    rank, size, sync, counters,
) -> None:  # fmt: skip
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
            panel_rows, rows = (n_layers + 1) * block_rows, stop - begin
            either(many, lambda: gather_panels(a, a_at, table, lines, count, memory, panels, panel_rows, rows), lambda: None)
            gradients(a, a_at, table, lines, many, panels, panel_rows, memory, d, stride, vectors, count,
                      choose(fresh, zeros, grad + at), choose(fresh, fresh * 0, stride),
                      params, at, state, n_params, grad, solver, *numbers, decay, rows, pack, aside)  # fmt: skip

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
@outlined
def descend_all(
    layers, n_layers, params, state, n_params, memory, grad, solver, rate, first, first_gain, second, second_gain, epsilon,
    shrink, rank, size,
) -> None:  # fmt: skip
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
    control = flush_subnormals(memory)
    counters = first_counter(n_layers, rank)
    start_clock(sync, counters)
    last = (n_layers - 1) * FIELDS
    n_out, out_stride, distance = layers[last + N_OUT], layers[last + STRIDE], distance_of_rows(starts, layers[N_IN])
    block_rows, targets, output = plan[BLOCK_ROWS], plan[TARGETS], (n_layers - 1) * PLACES
    pack = plan[PACK] + rank * plan[PACK_SIZE]
    aside = pack + plan[PACK_SIZE] - HEIGHT * COLS * lanes(memory)
    epoch, row, batch, step = cursor[EPOCH], cursor[ROW], cursor[BATCH], cursor[STEP]
    first_epoch, done = epoch, cursor[BLOCK]
    solver, alpha, per_row, max_norm = int(rule[SOLVER]), rule[ALPHA], rule[PER_ROW], rule[MAX_NORM]
    beta_1, beta_2, epsilon = splat(memory, rule[MOMENTUM]), splat(memory, rule[BETA_2]), splat(memory, rule[EPSILON])
    gain_1, gain_2 = splat(memory, 1.0 - rule[MOMENTUM]), splat(memory, 1.0 - rule[BETA_2])
    drops, seed, keep = int(rule[DROPOUT] * 4294967296.0), int(rule[SEED]), splat(memory, 1.0 / (1.0 - rule[DROPOUT]))
    # of the layer that has the most, by how many threads there are: no other layer's share of rows is larger
    most_rows = (plan[PANEL_ROWS] + SQUARE * size - 1) // (SQUARE * size) * SQUARE + HEIGHT
    panels = plan[PANELS] + rank * most_rows * block_rows
    for _ in range(blocks):
        mark(sync, counters, OVERHEAD, 0)
        wait_for_all(sync, size, counters)  # all have finished the block before, or read the cursor

        batch_stop = min(batch + batch_size, n)
        stop = min(row + block_rows, batch_stop)
        count, place = stop - row, (epoch - first_epoch) * n * shuffled
        weight = weight_of(weights, weighted, order, shuffled, place + batch, batch_stop - batch)
        scale = 1.0 if per_row == 0.0 else (1.0 / (weight * per_row) if weight > 0.0 else 0.0)
        begin, end = share(count, GROUP, rank, size), share(count, GROUP, rank + 1, size)
        list_rows(table, order, shuffled, place + row, begin, end, distance)
        copy_targets(Y, weights, weighted, order, shuffled, place + row, begin, end, n_out, memory, targets, out_stride,
                     plan[ROW_WEIGHTS])  # fmt: skip
        mark(sync, counters, GATHER, 0)
        offset = row - batch
        propagate(layers, n_layers, params, X, indices, starts, memory, places, table, block_rows, plan[ZEROS],
                  begin, end - begin, pack, drops, offset, step * n_layers, seed, keep, sync, counters)  # fmt: skip
        sync[NUMBERS + LINE * rank] = 0
        if end > begin:
            compare(
                memory, places[output + A], targets, places[output + D], places[output + VALID], int(n_out == 1), out_stride,
                vector_count(memory, n_out), begin, end, int(rule[HEAD]), splat(memory, scale),
                plan[ROW_WEIGHTS], plan[SUMS], sync, NUMBERS + LINE * rank,
            )  # fmt: skip
        mark(sync, counters, COMPARE, 0)
        backpropagate(layers, n_layers, params, memory, places, table, block_rows, plan[ZEROS], begin, end - begin, pack,
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
                  solver_now, rate, beta_1, gain_1, beta_2, gain_2, epsilon, decay, pack, aside, drops, rank, size,
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
    restore_subnormals(memory, control)


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
            list_rows(table, table, False, start, begin, stop, distance)
            propagate(layers, n_layers, params, X, indices, starts, memory, places, table, block_rows, plan[ZEROS],
                      begin, stop - begin, plan[PACK] + rank * plan[PACK_SIZE], 0, 0, 0, 0, splat(memory, 1.0),
                      sync, 0)  # fmt: skip
            for r in range(begin, stop):
                at = r * stride
                prediction_row(memory, places[output + A] + at, places[output + D] + at, places[output + VALID],
                               vector_count(memory, n_out), head)  # fmt: skip
                for j in range(n_out):
                    out[(start + r) * n_out + j] = memory[places[output + A] + at + j]
