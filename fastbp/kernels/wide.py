"""Training with lanes over units: for networks with wide layers.

Activations lie sample by sample, A_l (rows, stride), padded like the rows of the parameters. Every product of a step is one
function, `product`, with tiles of 8 rows x 2 vectors that stay in registers while it runs down the sum:

    forward     A_l = s(A_{l-1} W_l + b_l)             broadcast A_{l-1}, load W_l; the tile begins with b_l
    delta       D_{l-1} = (D_l W_l^T) * s'             broadcast D_l, load W_l^T, which is transposed once per step
    gradient    W_l += step * A_{l-1}^T D_l            broadcast A_{l-1}, load D_l; the tile ends in the update

so that plain gradient descent never stores a gradient unless a batch has several blocks. Rows of X are read where they
stand, through a table of offsets, in whatever order an epoch visits them.

Loops: a strip of two vectors of the right factor, copied together where many rows use it, serves all rows before the next
one is touched, so that it stays in the L1 or L2 cache; a tile uses each broadcast for two vectors and each vector for eight
rows.
"""

from fastbp.kernels.jit import inlined
from fastbp.kernels.pointwise import hidden_delta, logistic, output_delta
from fastbp.kernels.simd import (
    broadcast,
    by_vector,
    choose,
    either,
    element,
    fma,
    lane_count,
    lanes,
    load,
    load_tile,
    outer,
    repeat,
    smaller,
    splat,
    store,
    store_tile,
    sum_lanes,
    traced,
    transposed,
    zero_tile,
)
from fastbp.layout import (
    BATCH,
    BLOCK_ROWS,
    EPOCH,
    FIELDS,
    N_IN,
    N_OUT,
    N_ROWS,
    OFFSET,
    PACK,
    PANEL,
    PLACES,
    ROW,
    STRIDE,
    TARGETS,
    TRANSPOSED,
    VALID,
    WIDE_GRAD,
    WIDE_SIZE,
    ZEROS,
    A,
    D,
)

PACK_ROWS = 32  # as many rows of C pay for copying a strip of the right factors together; a power of two
HEIGHT = 8  # rows of a register tile: with 2 columns, 16 sums, 2 loads and a broadcast fit 32 registers


def product(memory, start, left, right, depth, finish, rows, vectors, pack):
    """Every tile of C = start + sum over k of left(k) x right[k].

    start(tile, v)    first value of a tile, given one of zeros, whose first vector is v
    left(r, height)   the left factors of rows r ... as a function of k: vectors of one value
    right             pointer, offset and stride of the right factors: row k, unpadded vectors side by side
    finish(c, r, v)   stores a tile
    pack              offset in the memory of room for a strip of the right factors, where they then lie without gaps
    """
    L = lane_count(memory)
    data, at, stride = right
    packed = rows // PACK_ROWS

    def tile(height, cols, r, v, strip):
        source, first, step = strip
        begin = start(zero_tile(memory, height, cols), v)
        factors = outer(
            begin, depth, left(r, height), lambda k: [load(source, first + k * step + c * L) for c in range(cols)]
        )
        finish(factors, r, v)

    def strip(cols, v):
        def copy(k):
            for c in range(cols):
                store(memory, pack + (k * cols + c) * L, load(data, at + k * stride + (v + c) * L))

        either(packed, lambda: repeat(depth, copy), lambda: None)
        place = choose(packed, memory, data), choose(packed, pack, at + v * L), choose(packed, cols * L, stride)
        repeat(rows // HEIGHT, lambda r: tile(HEIGHT, cols, r * HEIGHT, v, place))
        repeat(rows % HEIGHT, lambda r: tile(1, cols, rows // HEIGHT * HEIGHT + r, v, place))

    repeat(vectors // 2, lambda v: strip(2, v * 2))
    repeat(vectors % 2, lambda _: strip(1, vectors // 2 * 2))


@traced
def activations(a, a_at, table, table_at, depth, w, w_at, bias, bias_at, memory, here, stride, valid, rows, pack):
    """(1), (2): A_l = s(A_{l-1} W_l + b_l), and zero in the padding."""
    L = lanes(memory)

    def left(r, height):
        places = [a_at + element(table, table_at + r + i) for i in range(height)]
        return lambda k: [broadcast(a, place + k) for place in places]

    def finish(z, r, v):
        units = by_vector(lambda z, mask: logistic(z) * mask, z, load_tile(z, memory, valid + v * L, 0))
        store_tile(units, memory, here + r * stride + v * L, stride)

    product(memory, lambda tile, v: load_tile(tile, bias, bias_at + v * L, 0), left, (w, w_at, stride), depth,
            finish, rows, stride // lane_count(memory), pack)  # fmt: skip


@traced
def deltas(memory, above, above_stride, depth, transpose, a_here, here, stride, rows, pack):
    """(5): D_{l-1} = (D_l W_l^T) * s'."""
    L = lanes(memory)

    def left(r, height):
        return lambda k: [broadcast(memory, above + (r + i) * above_stride + k) for i in range(height)]

    def finish(errors, r, v):
        at = r * stride + v * L
        delta = by_vector(hidden_delta, errors, load_tile(errors, memory, a_here + at, stride))
        store_tile(delta, memory, here + at, stride)

    product(memory, lambda tile, v: tile, left, (memory, transpose, stride), depth,
            finish, rows, stride // lane_count(memory), pack)  # fmt: skip


@traced
def gradients(a, a_at, table, table_at, memory, d, stride, count, target, target_at, step, n_in, pack):
    """(6), (7): target += step * A_{l-1}^T D_l; the weights themselves, or a gradient in the making."""
    L = lanes(memory)

    def left(i, height):
        def factors(k):
            place = a_at + element(table, table_at + k) + i
            return [broadcast(a, place + n) for n in range(height)]

        return factors

    def finish(g, i, v):
        at = target_at + i * stride + v * L
        store_tile(by_vector(lambda g, w: fma(g, step, w), g, load_tile(g, target, at, stride)), target, at, stride)

    product(memory, lambda tile, v: tile, left, (memory, d, stride), count,
            finish, n_in, stride // lane_count(memory), pack)  # fmt: skip


@traced
def bias_gradients(memory, d, stride, count, target, target_at, step):
    """(6), (7) for the biases: target += step * the sum of the rows of D_l."""
    L = lanes(memory)
    one = splat(memory, 1.0)

    def vector(v):
        at = target_at + v * L
        g = outer(zero_tile(memory, 1, 1), count, lambda _: [one], lambda k: [load(memory, d + k * stride + v * L)])
        store_tile(by_vector(lambda g, w: fma(g, step, w), g, load_tile(g, target, at, 0)), target, at, 0)

    repeat(stride // lane_count(memory), vector)


@traced
def transpose(params, w_at, n_in, stride, memory, at, below):
    """W_l^T (stride, below) of W_l (n_in, stride), a square of vectors at a time."""
    L = lane_count(memory)

    def square(i, j):
        rows = [load(params, w_at + smaller(i * L + t, n_in - 1) * stride + j * L) for t in range(L)]
        for t, column in enumerate(transposed(rows)):
            store(memory, at + (j * L + t) * below + i * L, column)

    repeat(below // L, lambda i: repeat(stride // L, lambda j: square(i, j)))


@traced
def descend(params, memory, grad, vectors, step):
    """(7) from a stored gradient, which is zero again afterwards."""
    L = lanes(memory)

    def one(v):
        store(params, v * L, fma(load(memory, grad + v * L), step, load(params, v * L)))
        store(memory, grad + v * L, splat(memory, 0.0))

    repeat(vectors, one)


@traced
def output_vector(memory, a_at, y_at, d_at, scale, squares):
    """(4) for LANES outputs of one sample."""
    delta, squares = output_delta(load(memory, a_at), load(memory, y_at), splat(memory, 1.0), scale, squares)
    store(memory, d_at, delta)
    return squares


@inlined
def winner(memory, at, n_out):
    """Place of the largest of n_out values; of a single one, whether it is at least 0.5."""
    if n_out == 1:
        return int(memory[at] >= 0.5)
    best = 0
    for j in range(1, n_out):
        if memory[at + j] > memory[at + best]:
            best = j
    return best


@inlined
def compare(memory, a, y, d, n_out, stride, count, scale):
    """(4) into D_L; returns sum (A_L - Y)**2 and the hits of the block."""
    squares, hits, scales = splat(memory, 0.0), 0, splat(memory, scale)
    for row in range(0, count * stride, stride):
        for v in range(row, row + stride, lanes(memory)):
            squares = output_vector(memory, a + v, y + v, d + v, scales, squares)
        hits += winner(memory, a + row, n_out) == winner(memory, y + row, n_out)
    return sum_lanes(squares), hits


@inlined
def propagate(layers, n_layers, params, X, memory, places, table, block_rows, plan, count):
    """(1), (2): every A_l of a block, whose rows of X are listed in the table."""
    for level in range(n_layers):
        layer, place = level * FIELDS, level * PLACES
        stride, n_in, w = layers[layer + STRIDE], layers[layer + N_IN], layers[layer + OFFSET]
        a, a_at = (memory, places[place - PLACES + A]) if level else (X, 0)
        biased = layers[layer + N_ROWS] > n_in
        bias, bias_at = (params, w + n_in * stride) if biased else (memory, plan[ZEROS])
        activations(a, a_at, table, level * block_rows, n_in, params, w, bias, bias_at,
                    memory, places[place + A], stride, places[place + VALID], count, plan[PACK])  # fmt: skip


@inlined
def list_rows(table, order, shuffled, place, count, n_in):
    """Offsets in X of the rows order[place], ... or place, place + 1 ... unless `shuffled`."""
    for r in range(count):
        table[r] = (order[place + r] if shuffled else place + r) * n_in


def train(layers, n_layers, params, X, Y, n, order, shuffled, batch_size, learning_rate, mean, blocks,
          cursor, sse, correct, memory, plan, places, table):  # fmt: skip
    """As `fastbp.reference.train`; a block has BLOCK_ROWS rows at most, and a call may end within a batch."""
    last = (n_layers - 1) * FIELDS
    n_in, n_out, out_stride = layers[N_IN], layers[last + N_OUT], layers[last + STRIDE]
    block_rows, grad, targets, first_epoch = plan[BLOCK_ROWS], plan[WIDE_GRAD], plan[TARGETS], cursor[EPOCH]
    output = (n_layers - 1) * PLACES
    for _ in range(blocks):
        epoch, row, batch = cursor[EPOCH], cursor[ROW], cursor[BATCH]
        batch_stop = min(batch + batch_size, n)
        stop = min(row + block_rows, batch_stop)
        count = stop - row
        place = (epoch - first_epoch) * n * shuffled + row
        list_rows(table, order, shuffled, place, count, n_in)
        for r in range(count):
            source = (order[place + r] if shuffled else place + r) * n_out
            for j in range(n_out):
                memory[targets + r * out_stride + j] = Y[source + j]
        propagate(layers, n_layers, params, X, memory, places, table, block_rows, plan, count)
        scale = 1.0 / ((batch_stop - batch) * n_out) if mean else 1.0
        squares, hits = compare(memory, places[output + A], targets, places[output + D], n_out, out_stride, count, scale)
        sse[epoch] += squares
        correct[epoch] += hits

        whole = count == batch_stop - batch
        target, target_at = (params, 0) if whole else (memory, grad)
        step = splat(memory, -learning_rate if whole else 1.0)
        for back in range(n_layers):
            level = n_layers - 1 - back
            layer, here = level * FIELDS, level * PLACES
            stride, w, rows_below = layers[layer + STRIDE], layers[layer + OFFSET], layers[layer + N_IN]
            a, a_at = X, 0
            if level:
                # before this layer's update: the delta below needs the weights that made the loss
                a, a_at = memory, places[here - PLACES + A]
                below = layers[layer - FIELDS + STRIDE]
                transpose(params, w, rows_below, stride, memory, plan[TRANSPOSED], below)
                deltas(memory, places[here + D], stride, layers[layer + N_OUT], plan[TRANSPOSED],
                       a_at, places[here - PLACES + D], below, count, plan[PACK])  # fmt: skip
            gradients(a, a_at, table, level * block_rows, memory, places[here + D], stride, count,
                      target, target_at + w, step, rows_below, plan[PACK])  # fmt: skip
            if layers[layer + N_ROWS] > rows_below:
                bias_gradients(memory, places[here + D], stride, count, target, target_at + w + rows_below * stride, step)

        cursor[ROW] = stop
        cursor[PANEL] += 1
        if stop == batch_stop:
            cursor[BATCH] = stop
            if not whole:
                descend(params, memory, grad, plan[WIDE_SIZE] // lanes(memory), splat(memory, -learning_rate))
        if stop == n:
            cursor[EPOCH] = epoch + 1
            cursor[ROW], cursor[BATCH], cursor[PANEL] = 0, 0, 0


def forward(layers, n_layers, params, X, n, out, memory, plan, places, table):
    """As `fastbp.reference.forward`; a row's result does not depend on the other rows."""
    last = (n_layers - 1) * FIELDS
    n_in, n_out, stride = layers[N_IN], layers[last + N_OUT], layers[last + STRIDE]
    result = places[(n_layers - 1) * PLACES + A]
    for start in range(0, n, plan[BLOCK_ROWS]):
        count = min(plan[BLOCK_ROWS], n - start)
        list_rows(table, table, False, start, count, n_in)
        propagate(layers, n_layers, params, X, memory, places, table, plan[BLOCK_ROWS], plan, count)
        for r in range(count):
            for j in range(n_out):
                out[(start + r) * n_out + j] = memory[result + r * stride + j]
