"""Training with lanes over samples: for networks whose layers are narrow.

Activations lie unit by unit, the samples of one block side by side, A_l^T (n_out, columns), so that one vector holds one
unit's values for LANES samples. A block has as many columns as keep all activations and deltas in the L2 cache, and goes
through the whole network before the next one starts:

    pack        rows of X and Y into a panel, transposed       (once where every panel fits the L2 cache)
    product     Z^T = W^T A^T + b for each layer, tile by tile; s once a strip of a few vectors of samples is complete
    loss        D^T of the output
    gradient    dW[i, j] = sum over the columns of A^T[i] D^T[j]; the update follows a batch's last block
    delta       D^T = (W D^T) * s' of the layer below, a strip at a time, in the place of its A^T

For a gradient of many weights from few samples, the sums over the lanes would take longer than the products. There D^T is
transposed back, sample by sample, and dW[i, :] is the sum over the columns of A^T[i, c] D[c, :], with lanes over units.

A panel has one row per input unit, one row per target, a row with the class of the target, and the weights of the samples.
Padding columns run through every product and are removed by their weight of zero. Where a workspace says so, training puts
no rows of X into panels: the products of a first layer of few units read them where they stand, see `fastbp.kernels.direct`.

The blocks of a batch take turns in adding to a few partial gradients, which are summed in their order in the end. A thread
takes all blocks of a partial gradient, so their number does not change a bit.
"""

import functools

import numpy as np

from fastbp.kernels import jit, steps
from fastbp.kernels.control import carry, either, in_groups, repeat, side_by_side, switch, when
from fastbp.kernels.direct import direct_activations, direct_gradients
from fastbp.kernels.dropout import Dropout
from fastbp.kernels.jit import registers, tile_shape
from fastbp.kernels.losses import Samples, head_and_hits, predict
from fastbp.kernels.numbers import ceil_div, choose, element, from_there, put, smaller, whole, widened
from fastbp.kernels.phases import mark
from fastbp.kernels.pointwise import (
    ACTIVATIONS,
    DERIVATIVES,
    RELU,
    identity,
    identity_derivative,
    logistic_derivative,
    relu,
    relu_derivative,
    tanh_derivative,
)
from fastbp.kernels.solvers import Solver, descend, step_length
from fastbp.kernels.steps import bias_of, layer_of, row_at
from fastbp.kernels.threads import wait_for_all
from fastbp.kernels.tiles import fold, in_place, load_tile, outer, store_tile, transposed, zero_tile
from fastbp.kernels.tracing import Names, outlined
from fastbp.kernels.vectors import (
    broadcast,
    fma,
    full_like,
    lanes,
    larger,
    load,
    load_first,
    load_like,
    load_many,
    select,
    splat,
    store,
    sum_lanes,
    vector_count,
    zeros,
)
from fastbp.layout import LAYER
from fastbp.rule import HEADS

# Register tiles of a product: rows, by width in vectors.
TILES = {4: (6, 3, 1), 2: (4, 1), 1: (4, 1)} if registers() == 32 else {2: (4, 2, 1), 1: (4, 1)}
# Rows and columns of the larger tiles of a gradient, whose every vector is an accumulator.
GRADIENT_ROWS, QUAD = ((4, 2, 1), 4) if registers() == 32 else ((2, 1), 4)
# Of so many samples per row of the weights, or fewer, deltas are transposed: for one that takes half a cycle, summing over
# the lanes for one weight takes three. Single vectors of units would wait for their own sums.
TRANSPOSED_SAMPLES, TRANSPOSED_VECTORS = 6, 2
SUM_TERMS = 4  # multiplications that take as long as one sum over the lanes, where many end together
HEIGHT, COLS = tile_shape()
# ReLU, which takes one or two instructions, is taken of a tile while it is in registers. Other activations need so many
# constants, as some derivatives do, that they stand in loops of their own, over a strip of samples.


@outlined
def pack(values, width, row_of, order, place, count, memory, panel, columns):
    """Rows of X or Y, which are so wide, as the columns of a panel, a square of vectors at a time.

    The rows are those at `count` places of the order from `place` on. Columns behind them, in the last vectors, repeat the
    last one: of other inputs an output could overflow, and infinity times a weight of 0 is no number.
    """
    L = lanes(memory)

    def square(v, i):
        def sample(lane):
            number = v * L + lane
            row = row_of(order, place + smaller(number, count - 1))
            return load_first(values, row * width + i, width - i)

        for unit, column in enumerate(transposed([sample(lane) for lane in range(L)])):
            at = panel + (i + unit) * columns + v * L
            when(i + unit < width, lambda at=at, column=column: store(memory, at, column))

    repeat(vector_count(memory, count), lambda v: repeat(vector_count(memory, width), lambda i: square(v, i * L)))


def as_they_stand(_, place):
    """The row at a place where rows are not shuffled."""
    return place


@outlined
def pack_classes(memory, targets, n_out, count, columns):
    """For each sample the class of its target, behind the targets: the largest of several, whether one is at least 0.5."""
    L = lanes(memory)

    def samples(v):
        first = load(memory, targets + v * L)

        def larger(j, best, winner):
            y = load(memory, targets + j * columns + v * L)
            return select(y > best, y, best), select(y > best, splat(memory, j), winner)

        _, winner = carry(n_out, (first, full_like(first, 0)), larger)
        single = select(first >= 0.5, full_like(first, 1), 0)
        store(memory, targets + n_out * columns + v * L, switch(n_out == 1, [lambda: winner, lambda: single]))

    repeat(vector_count(memory, count), samples)


def pack_rows(job, place, count, panel, n_out, direct):
    """A panel: A_0^T but where that is read from X, Y^T, classes of targets, and weights of samples; rows as in `pack`."""
    memory, columns, n_in = job.memory, job.plan.block_rows, job.n_in
    targets = panel + n_in * columns
    classes, row_weights = targets + n_out * columns, targets + (n_out + 1) * columns

    def pack_both(row_of):
        def both():
            when(direct == 0, lambda: pack(job.X, n_in, row_of, job.order, place, count, memory, panel, columns))
            pack(job.Y, n_out, row_of, job.order, place, count, memory, targets, columns)

        return both

    def weigh(c):
        either(
            job.weighted,
            lambda: put(memory, row_weights + c, element(job.weights, row_at(job, place + c))),
            lambda: put(memory, row_weights + c, 1.0),
        )

    def leave_out(c):
        put(memory, classes + c, -1.0)  # no class
        put(memory, row_weights + c, 0.0)

    either(job.shuffled, pack_both(element), pack_both(as_they_stand))
    pack_classes(memory, targets, n_out, count, columns)
    repeat(count, weigh)
    repeat(columns - count, lambda c: leave_out(count + c))


class Block(Names):
    """The samples that go through the network together, unit by unit, in the memory of a thread."""

    def __init__(self, job, panel, first, count, dropout):
        super().__init__(job=job, panel=panel, first=first, count=count, dropout=dropout, columns=job.plan.block_rows,
                         vectors=vector_count(job.memory, count), private=job.rank * job.plan.private)  # fmt: skip

    def layer(self, level):
        """A layer, with places in the memory of the thread."""
        layer = layer_of(self.job, level)
        layer.a, layer.d, layer.seen = (self.private + place for place in (layer.a, layer.d, layer.seen))
        return layer

    def taken(self, level):
        """The layer below, and where a layer finds what it takes in: X^T in the panel, or what the layer below gives."""
        hidden = level > 0
        below = self.layer(level - hidden)
        return below, choose(hidden, self.dropout.taken(below), self.panel)

    def drop(self, units, to, layer):
        """A layer's units, or their deltas, times m_l, from `units` to `to`."""
        drop(self.job.memory, units, to, self.columns, layer.n_out, self.vectors, layer.stride, layer.number, self.dropout)


def leave(v, cols):
    """Leave a strip as it is."""


def replacing(block, at, rows, code, functions):
    """What replaces rows of a strip by one of several functions of them, as a code says; None leaves them."""
    memory = block.job.memory

    def strip(v, cols):
        def by(function):
            def row(j):
                place = at + j * block.columns + v
                store(memory, place, function(load_many(memory, place, cols)))

            return (lambda: repeat(rows, row)) if function else (lambda: None)

        switch(code, list(map(by, functions)))

    return strip


def product(start, finish, left, depth, memory, b, c, rows, block, before=leave, after=leave):
    """C[r, :] = start + sum_k A[r, k] B[k, :], a tile of rows x vectors at a time.

    start         called with the number of each row of a tile and its vectors, gives what the sums begin with
    finish        called with a tile of sums and the place of each of its rows, stores it, or what becomes of it
    before        called with the first column and the number of vectors of a strip before its rows are computed
    after         the same behind that
    left    IN    with a, a_at, a_row, a_step = left, A[r, k] stands in `a` at a_at + r*a_row + k*a_step
    b, c    IN, OUT    B[k, :] and C[r, :] stand at b + k*columns and c + r*columns of the memory
    """
    (a, a_at, a_row, a_step), L, columns = left, lanes(memory), block.columns

    def strip(cols, v):
        def tile(height, first):
            places = [first + r for r in range(height)]
            sums = outer(
                start(places, cols), depth,
                lambda k: [broadcast(a, a_at + r * a_row + k * a_step) for r in places],
                lambda k: [load(memory, b + k * columns + v + j * L) for j in range(cols)],
            )  # fmt: skip
            finish(sums, [c + r * columns + v for r in places])

        before(v, cols)
        in_groups(rows, TILES[cols], tile)
        after(v, cols)

    # shorter vectors than the processor's are there for batches that one of them holds
    widths = TILES if jit.vector_bytes == jit.native_width() else {1}
    in_groups(block.vectors, widths, lambda cols, v: strip(cols, v * L))


@outlined
def drop(memory, units, to, columns, rows, vectors, step, level, dropout):
    """As `Block.drop`."""
    L, key = lanes(memory), dropout.layer_key(memory, level)

    def vector(j, v):
        at, number = j * columns + v * L, (dropout.first + v * L) * step + j
        store(memory, to + at, dropout.masked(load(memory, units + at), memory, number, step, key))

    repeat(rows, lambda j: repeat(vectors, lambda v: vector(j, v)))


def activations(job, layer, below, block):
    """(1), (2): A_l^T = s(W_l^T A_{l-1}^T + b_l); without s for the last layer, whose loss takes it."""
    memory = job.memory
    bias, bias_at = bias_of(job, layer)
    least = switch(layer.activation == RELU, [lambda: splat(memory, -np.inf), lambda: splat(memory, 0.0)])

    def start(rows, cols):
        return [[broadcast(bias, bias_at + r * layer.biased)] * cols for r in rows]

    def finish(sums, places):
        store_tile([[larger(least, z) for z in row] for row in sums], memory, places)

    functions = [None if s in (identity, relu) else s for s in ACTIVATIONS]
    after = replacing(block, layer.a, layer.n_out, layer.activation, functions)
    weights = job.params, layer.offset, 1, layer.stride
    product(start, finish, weights, layer.n_in, memory, below, layer.a, layer.n_out, block, after=after)


def deltas(job, layer, below, block):
    """(5): D_{l-1}^T = (W_l D_l^T) * s', in the place of A_{l-1}^T."""
    memory = job.memory
    # what is taken of a tile while it is in registers: of short vectors only what takes no instruction more
    cheap = identity_derivative, relu_derivative
    if jit.vector_bytes == jit.native_width():
        cheap += logistic_derivative, tanh_derivative
    functions = [None if s in cheap else s for s in DERIVATIVES]
    before = replacing(block, below.d, layer.n_in, below.activation, functions)

    def start(rows, cols):
        return zero_tile(memory, len(rows), cols)

    def finish(sums, places):
        def times(slope_of):
            def tile():
                for d, at in in_place(sums, places):
                    store(memory, at, slope_of(d, load(memory, at)))

            return tile

        slope = times(lambda d, slope: d * slope)
        choices = [times(lambda d, a, s=s: d * s(a)) if s in cheap else slope for s in DERIVATIVES]
        choices[0] = lambda: store_tile(sums, memory, places)
        choices[RELU] = times(lambda d, a: select(a > 0, d, a))  # what is not positive is 0, also of an infinite d, or NaN
        switch(below.activation, choices)

    weights = job.params, layer.offset, layer.stride, 1
    product(start, finish, weights, layer.n_out, memory, layer.d, below.d, layer.n_in, block, before=before)


def takes_rows(job):
    """Whether the first layer reads rows of X where they stand: None where it never does, with shorter vectors."""
    return job.plan.direct > 0 if jit.vector_bytes == jit.native_width() else None


def propagate(job, block, direct=None):
    """(1), (2): every A_l^T of a block from the panel's A_0^T or, if the first layer is `direct`, from X."""

    def one(level):
        layer, (_, below) = block.layer(level), block.taken(level)

        def from_panel():
            activations(job, layer, below, block)

        if direct is None:
            from_panel()
        else:
            either(
                direct * (level == 0), lambda: direct_activations(job, block, layer, block.first, block.count), from_panel
            )
        # A_l stays whole; what the next layer takes in stands beside it
        when(block.dropout.drops, lambda: when(level < job.n_layers - 1, lambda: block.drop(layer.a, layer.seen, layer)))
        mark(job, "forward", level)

    repeat(job.n_layers, one)


@outlined
def loss_and_delta_of(head, block, targets, last, scale, number):
    """`loss_and_delta` for one head, a function of its own whose constants stay in registers over the block."""
    memory, columns, n_out = block.job.memory, block.columns, last.n_out
    L, zero, samples = lanes(memory), splat(memory, 0.0), Samples(memory, n_out, columns)

    def vector(v, *sums):
        at = v * L
        classes, weights = (targets + (n_out + extra) * columns + at for extra in (0, 1))
        weight = load(memory, weights)
        return head_and_hits(samples, last.a + at, targets + at, last.d + at, classes, head, scale, weight, sums)

    for place, one in enumerate(carry(block.vectors, (zero, zero, zero), vector)):
        put(block.job.totals, number * 3 + place, widened(sum_lanes(one)))


def loss_and_delta(job, block, targets, last, scale, number):
    """(2) to (4) for the last layer: A_L^T in place of Z^T, D_L^T; to `totals` a block's loss, sum (A_L - Y)**2 and hits."""
    args = block, targets, last, scale, number
    switch(whole(job.rule.head), [functools.partial(loss_and_delta_of, head, *args) for head in range(len(HEADS))])


@outlined
def gradients(memory, vectors, columns, a, d, layer, units, grad, fresh):
    """(6): dW_l, db_l of some units from A_{l-1}^T at `a` and D_l^T at `d`, into `grad` if that is `fresh`, else added."""
    L, ones, zero = lanes(memory), splat(memory, 1.0), splat(memory, 0.0)

    def tile(height, cols, i, j, biased):
        # with offsets from one pointer, each would be counted on: 5 additions for 4 multiplications
        left = [from_there(memory, a + (i + r) * columns) for r in range(height)]
        right = [from_there(memory, d + (j + c) * columns) for c in range(cols)]
        sums = outer(
            zero_tile(memory, height + biased, cols), vectors,
            lambda v: [load(row, v * L) for row in left] + [ones] * biased,  # which are added, while others are multiplied
            lambda v: [load(row, v * L) for row in right],
        )  # fmt: skip
        sums = [row + [zero] * (cols == 3) for row in sums]
        folded = [g for part in (sums[:height], sums[height:]) if part for g in fold(part)]
        for r, g in zip([*range(height), layer.n_in - i][: height + biased], folded, strict=True):
            at = grad + (i + r) * layer.stride + j
            either(
                fresh,
                lambda g=g, at=at: store(memory, at, g),
                lambda g=g, at=at: store(memory, at, g + load_like(g, memory, at)),
            )

    def strip(cols, j):
        def tiles(height, i):
            first = layer.biased * (i == 0)
            either(first, lambda: tile(height, cols, i, j, 1), lambda: tile(height, cols, i, j, 0))

        in_groups(layer.n_in, GRADIENT_ROWS, tiles)

    quads, rest = units // QUAD, units % QUAD
    repeat(quads, lambda j: strip(QUAD, j * QUAD))
    switch(rest, [lambda: None, *[functools.partial(strip, cols, quads * QUAD) for cols in range(1, QUAD)]])


@outlined
def transposed_gradients(job, block, a, layer, grad, fresh):
    """As `gradients`, with D_l put sample by sample aside, but for units that would leave much of a vector empty."""
    memory, vectors, columns, stride = job.memory, block.vectors, block.columns, layer.stride
    transposed_at, L = block.private + job.plan.transposed, lanes(job.memory)
    left = layer.n_out % L
    few = left * (vectors + SUM_TERMS) < vectors * L
    width = layer.n_out // L + (1 - few)

    def square(v, j):
        units = [load(memory, layer.d + (j * L + unit) * columns + v * L) for unit in range(L)]
        for sample, column in enumerate(transposed(units)):
            store(memory, transposed_at + (v * L + sample) * stride + j * L, column)

    def tile(height, cols, i, j, left):
        places = [grad + (i + r) * stride + j * L for r in range(height)]
        zero = zero_tile(memory, height, cols)
        sums = outer(
            switch(fresh, [lambda: load_tile(memory, places, cols), lambda: zero]), vectors * L, left,
            lambda k: [load(memory, transposed_at + k * stride + (j + c) * L) for c in range(cols)],
        )  # fmt: skip
        store_tile(sums, memory, places)

    def strip(cols, j):
        def rows(height, i):
            tile(height, cols, i, j, lambda k: [broadcast(memory, a + (i + r) * columns + k) for r in range(height)])

        in_groups(layer.n_in, (HEIGHT, HEIGHT // 2, 1), rows)
        when(layer.biased, lambda: tile(1, cols, layer.n_in, j, lambda k: [splat(memory, 1.0)]))

    repeat(vectors, lambda v: repeat(width, lambda j: square(v, j)))
    in_groups(width, (COLS, 2, 1), strip)
    done = width * L
    rest = a, layer.d + done * columns, layer, layer.n_out - done, grad + done
    when(few * left, lambda: gradients(memory, vectors, columns, *rest, fresh))


def backpropagate(job, block, partial, fresh, direct):
    """(5), (6): the gradient of a block, into a partial one where that is `fresh`, else added to it."""
    L = lanes(job.memory)

    def one(back):
        level = job.n_layers - 1 - back
        layer, (below, a) = block.layer(level), block.taken(level)

        def delta():
            deltas(job, layer, below, block)
            when(block.dropout.drops, lambda: block.drop(below.d, below.d, below))
            mark(job, "delta", level)

        grad = partial + layer.offset
        args = job.memory, block.vectors, block.columns, a, layer.d, layer, layer.n_out, grad, fresh
        if jit.vector_bytes == jit.native_width():
            many = layer.n_rows * TRANSPOSED_SAMPLES >= block.vectors * L
            wide = layer.n_out >= TRANSPOSED_VECTORS * L
            transpose = functools.partial(transposed_gradients, job, block, a, layer, grad, fresh)
            rows = functools.partial(direct_gradients, job, block, layer, block.first, block.count, grad, fresh)
            switch(choose(direct * (level == 0), 2, wide * many), [lambda: gradients(*args), transpose, rows])
        else:
            gradients.__wrapped__(*args)  # of a single vector of samples, which a call would take longer than
        mark(job, "gradient", level)
        when(level > 0, delta)

    repeat(job.n_layers, one)


def finish_gradient(job, step, n_partials):
    """(6): the partial gradients together, the L2 term, and no longer than `max_norm`."""
    memory, plan, L = job.memory, job.plan, lanes(job.memory)

    def add_partials(count, v):
        at = plan.grad + v * L

        def add(s, total):
            return (total + load_many(memory, at + s * plan.size, count),)

        store(memory, at, carry(n_partials, (zeros(memory, count * L),), add)[0])

    def add_weights(level):
        layer, decay = layer_of(job, level), splat(memory, steps.decay_of(job, step))

        def vector(v):
            at = layer.offset + v * L
            store(memory, plan.grad + at, fma(load(job.params, at), decay, load(memory, plan.grad + at)))

        repeat(layer.n_in * layer.stride // L, vector)

    def shorten():
        first, second = (splat(memory, factor) for factor in steps.shrink_of(job))

        def vector(v):
            store(memory, plan.grad + v * L, load(memory, plan.grad + v * L) * first * second)

        repeat(plan.size // L, vector)

    when(plan.n_partials > 1, lambda: side_by_side(plan.size // L, add_partials))
    when(job.rule.alpha != 0.0, lambda: repeat(job.n_layers, add_weights))
    when(job.rule.max_norm < np.inf, shorten)


@steps.with_own_floats(flushes=True)
def train(job):
    """As `fastbp.reference.train`; a block is what one panel holds."""
    steps.name_numbers(job)
    job.n_in = element(job.layers, LAYER.n_in)
    memory, plan, solver, direct = job.memory, job.plan, Solver(job), takes_rows(job)

    def gradient(step, number):
        """The gradient of one block, which its thread computes."""
        panel = plan.panel + plan.panel_size * choose(plan.resident, step.done, job.rank)
        block = Block(job, panel, step.first + step.row, step.stop - step.row, Dropout(job, step))
        last, targets = block.layer(job.n_layers - 1), panel + job.n_in * plan.block_rows

        def fill_panel():
            pack_rows(job, block.first, block.count, panel, last.n_out, 0 if direct is None else direct)
            mark(job, "gather")

        when(step.packed == 0, fill_panel)
        propagate(job, block, direct)
        loss_and_delta(job, block, targets, last, splat(memory, steps.loss_scale(job, step)), step.number)
        mark(job, "loss")
        backpropagate(job, block, plan.grad + number * plan.size, step.number < plan.n_partials, direct)

    def finish(step):
        """The first thread's step, when all have done their blocks of the batch."""
        factor = steps.loss_factor(job, step)

        def note(number):
            steps.note(job, step, "loss", element(job.totals, number * 3) * factor)
            steps.note(job, step, "squares", element(job.totals, number * 3 + 1))
            steps.note(job, step, "hits", element(job.totals, number * 3 + 2))

        repeat(step.number + 1, note)
        steps.note(job, step, "rows", widened(step.count))
        when(job.rule.alpha != 0.0, lambda: steps.note_penalty(job, step))
        finish_gradient(job, step, smaller(plan.n_partials, step.number + 1))
        now = solver.at(rate=splat(memory, step_length(job.rule, step.steps + 1)))
        descend(job, now, 0, plan.size)
        mark(job, "update")

    def block(step):
        number = switch(plan.n_partials > 1, [lambda: 0, lambda: step.number % plan.n_partials])
        mine = switch(job.size > 1, [lambda: 1, lambda: number % job.size == job.rank])
        when(mine, lambda: gradient(step, number))

        def end_batch():
            wait_for_all(job)
            when((job.rank == 0) * (step.weight > 0.0), lambda: finish(step))
            wait_for_all(job)

        when(step.ended, end_batch)

    steps.run(job, block, plan.resident)


@steps.with_own_floats(flushes=False)
def forward(job):
    """As `fastbp.reference.forward`; a row's result does not depend on the other rows. Threads take blocks in turn."""
    steps.name_numbers(job)
    job.n_in = element(job.layers, LAYER.n_in)
    memory, plan, L = job.memory, job.plan, lanes(job.memory)
    columns, head, dropout = plan.block_rows, whole(job.rule.head), Dropout(job)
    panel = plan.panel + job.rank * plan.panel_size

    def one(number):
        start = (number * job.size + job.rank) * columns
        count = smaller(columns, job.n - start)
        block = Block(job, panel, start, count, dropout)
        last = block.layer(job.n_layers - 1)
        samples = Samples(memory, last.n_out, columns)
        pack(job.X, job.n_in, as_they_stand, job.places, start, count, memory, panel, columns)
        propagate(job, block)
        repeat(block.vectors, lambda v: predict(samples, last.a + v * L, last.d + v * L, head))

        def row(c):
            at = (start + c) * last.n_out
            repeat(last.n_out, lambda j: put(job.out, at + j, element(memory, last.a + j * columns + c)))

        repeat(count, row)

    blocks = ceil_div(job.n, columns)
    repeat((blocks + (job.size - 1) - job.rank) // job.size, one)
