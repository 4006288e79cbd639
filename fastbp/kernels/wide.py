"""Training with lanes over units: for networks with wide layers, and for batches of a few rows.

Activations lie sample by sample, A_l (rows, stride), padded like the rows of the parameters. Every product of a step is a
`Product`, whose register tile stays in registers while it runs down the sum:

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

import functools

import numpy as np
from llvmlite import ir

from fastbp.kernels import steps
from fastbp.kernels.dropout import Dropout
from fastbp.kernels.jit import tile_shape
from fastbp.kernels.losses import Row, head_of, hit, predict
from fastbp.kernels.phases import counters_of, mark
from fastbp.kernels.pointwise import ACTIVATIONS, DERIVATIVES
from fastbp.kernels.simd import (
    broadcast,
    carry,
    choose,
    copy,
    either,
    either_place,
    element,
    first_lane,
    fma,
    from_on,
    in_groups,
    in_place,
    lanes,
    load,
    load_tile,
    named,
    outer,
    prefetch,
    put,
    repeat,
    side_by_side,
    smaller,
    splat,
    store,
    store_tile,
    sum_lanes,
    switch,
    transposed,
    vector_count,
    when,
    whole,
    widened,
)
from fastbp.kernels.solvers import SGD, Solver, descend, over_tile, rule_of, step_length, update
from fastbp.kernels.steps import layer_of, row_at
from fastbp.kernels.threads import share, wait_for_all
from fastbp.kernels.tracing import Names, Traced, outlined
from fastbp.layout import (
    COMPARE,
    DELTA,
    DEPTH,
    FORWARD,
    GATHER,
    GRADIENT,
    GRADIENT_DEPTH,
    GROUP,
    HITS,
    LINE,
    LOSS,
    N_IN,
    NUMBERS,
    OVERHEAD,
    PACKED_DEPTH,
    SQUARE,
    SQUARES,
    TRANSPOSE,
    UPDATE,
    WIDE_PLAN,
)

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
    L = lanes(c)
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

    sums = outer(load_tile(start, [start_step * i for i in range(height)], cols), terms, left, right)

    def descend_tile():
        either(descends > 1, lambda: step(lambda g, w: fma(w, decay, g)), lambda: step(lambda g, w: g))

    either(descends, descend_tile, lambda: store_tile(sums, c, [c_step * i for i in range(height)]))


class Product:
    """Every tile of C = start + sum over k of left(k) x right[k]; a tile is its first row, rows, first vector and vectors.

    Parameters
    ----------
    job, part : what the thread works on
    rows, depth, vectors : rows of C, terms of the sums, and vectors of a row of C
    start, c : pointer, offset and row step: what the sums begin with, at the first vector; and C
    most : terms of the sums that are taken at a time
    """

    # pointer, offset and row step of the right factors, whose rows are k; or None where `fill` gives them
    right = None

    def __init__(self, job, part, rows, depth, vectors, start, c, most):
        self.job, self.part, self.rows, self.depth, self.vectors = job, part, rows, depth, vectors
        self.start, self.c, self.most = start, c, most

    def left(self, add, height, r, k):
        """Call add(listed, a, table, a_step), of `sum_tile`, for the left factors of rows r ... and of terms k ..."""
        raise NotImplementedError

    def fill(self, k, terms, v, cols):
        """Put the right factors of some terms, from k on, and vectors, from v on, at `part.pack`, without gaps."""
        memory, pack, L = self.job.memory, self.part.pack, lanes(self.job.memory)
        data, at, stride = self.right

        def row(i):
            repeat(cols, lambda j: store(memory, pack + (i * cols + j) * L, load(data, at + (k + i) * stride + (v + j) * L)))

        repeat(terms, row)

    def ahead(self, tile, k, terms):
        """Ask for memory that the tile after this one needs."""

    def target(self, last, tile, c):
        """Where a tile goes, and the last three arguments of `sum_tile`; it is complete if `last`."""
        return c, (0, None, None)

    def after(self, last, tile):
        """Do what is to be done with a tile of C; it is complete if `last`."""

    def each_vector(self, tile, stride, body):
        """body(place, v) for every vector of a tile of a matrix: where it begins, and its number in the row."""
        first, height, v, cols = tile
        L = lanes(self.job.memory)
        repeat(height, lambda r: repeat(cols, lambda j: body((first + r) * stride + (v + j) * L, v + j)))

    def packed(self):
        """Whether the right factors are put together, and in how many parts the sums are taken."""
        depth, L = self.depth, lanes(self.job.memory)
        filled = self.right is None
        packed = self.rows > 0 if filled else (self.rows >= PACK_ROWS) * (self.right[2] >= PACK_VECTORS * L)
        # factors that only one tile uses, where they stand, need not stay in the L1 cache
        apart = choose((self.vectors < 3) * (self.rows <= HEIGHTS[0]), self.rows > 0, (depth + (self.most - 1)) // self.most)
        parts = choose(packed, (depth + (PACKED_DEPTH - 1)) // PACKED_DEPTH, apart)
        # whole vectors of terms
        part_depth = switch(parts > 1, [lambda: depth, lambda: ((depth + (parts - 1)) // parts + (L - 1)) // L * L])
        parts = switch(parts > 1, [lambda: parts, lambda: (depth + (part_depth - 1)) // part_depth])
        return packed, parts, part_depth

    def run(self):
        """Compute it, strip by strip."""
        layout = self.packed()
        _, parts, _ = layout
        whole = self.vectors // COLS
        strips = whole + (self.vectors % COLS > 1) + self.vectors % COLS % 2

        def strip(number, part, rows):
            v = smaller(number, whole) * COLS + (number > whole) * 2
            self.strip(v, smaller(self.vectors - v, choose(number < whole, COLS, 2)), part, rows, *layout)

        def block(number):
            rows = number * ROWS, smaller(ROWS, self.rows - number * ROWS)

            def group(first):
                some = smaller(STRIPS, strips - first * STRIPS)
                repeat(parts, lambda part: repeat(some, lambda i: strip(first * STRIPS + i, part, rows)))

            repeat((strips + (STRIPS - 1)) // STRIPS, group)

        repeat((self.rows + (ROWS - 1)) // ROWS, block)

    def strip(self, v, cols, part, rows, packed, parts, part_depth):
        """All tiles of some rows and vectors, for one part of the sums."""
        memory, pack, L = self.job.memory, self.part.pack, lanes(self.job.memory)
        begin, (first_row, count) = part * part_depth, rows
        terms, last = smaller(part_depth, self.depth - begin), part == parts - 1
        factors, step = from_on(memory, pack), cols * L
        if self.right is not None:
            data, at, stride = self.right
            factors, step = choose(packed, factors, from_on(data, at + begin * stride + v * L)), choose(packed, step, stride)
        before, before_at, before_step = (choose(part == 0, *pair) for pair in zip(self.start, self.c, strict=True))
        c, c_at, c_step = self.c
        tallest = choose(cols > 2, HEIGHTS[1], HEIGHTS[0])

        def rows_of_tile(number):
            r = first_row + number * tallest
            tile = r, smaller(count - number * tallest, tallest), v, cols
            (here, to, to_step), descent = self.target(last, tile, (c, c_at + r * c_step + v * L, c_step))
            self.ahead(tile, begin, terms)

            def some(height, first):
                origin = from_on(before, before_at + (r + first) * before_step + v * L)
                goal = from_on(here, to + first * to_step)

                def of_width(width):
                    def add(listed, *left):
                        sum_tile(height, width, listed, *left, factors, step, origin, before_step, goal, to_step, terms,
                                 *descent)  # fmt: skip

                    return lambda: self.left(add, height, r + first, begin)

                widths = [of_width(1), of_width(2), *[of_width(COLS)] * (COLS - 2)]
                switch(cols - 1, widths if height < HEIGHTS[0] else widths[:2])

            def one():
                either(cols > 2, lambda: some(HEIGHTS[1], 0), lambda: some(HEIGHTS[0], 0))

            either(tile[1] == tallest, one, lambda: in_groups(tile[1], HEIGHTS[1:], some))
            self.after(last, tile)

        when(packed, lambda: self.fill(begin, terms, v, cols))
        repeat((count + (tallest - 1)) // tallest, rows_of_tile)


class Part(Names):
    """What a thread does of a block: rows begin ... begin + count - 1, its room for factors, and the masks.

    drop_at       number of the first unit of a layer of one unit, among all of the batch
    """

    def __init__(self, job, begin, count, dropout):
        pack = job.plan.pack + job.rank * job.plan.pack_size
        super().__init__(begin=begin, count=count, dropout=dropout, pack=pack)

    def lines(self, job, level):
        """Where the table says where the rows of A_{level - 1} begin: those of X for the first layer."""
        return level * job.plan.block_rows + self.begin


class Forward(Product):
    """(1), (2): A_l = s(A_{l-1} W_l + b_l), and zero in the padding; without s for the last layer, whose loss takes it.

    A_l stays whole; where units are left out, what the next layer takes in stands beside it.
    """

    def __init__(self, job, part, layer, a, hidden):
        memory, stride = job.memory, layer.stride
        bias = job.params, layer.offset + layer.n_in * stride
        self.layer, self.a, self.hidden, self.here = layer, a, hidden, part.begin * stride
        self.key = part.dropout.layer_key(memory, layer.number)
        self.right = job.params, layer.offset, stride
        super().__init__(
            job, part, part.count, layer.n_in, vector_count(memory, layer.n_out),
            (*either_place(layer.biased, bias, (memory, job.plan.zeros)), 0), (memory, layer.a + self.here, stride), DEPTH,
        )  # fmt: skip

    def left(self, add, height, r, k):
        a, at = self.a
        add(False, from_on(a, at + k), from_on(self.job.table, self.part.lines(self.job, self.layer.number) + r), 1)

    def ahead(self, tile, k, terms):
        first, height, v, _ = tile
        a, at = self.a
        L, lines = lanes(self.job.memory), self.part.lines(self.job, self.layer.number)

        def ask(r):
            row = at + element(self.job.table, lines + first + height + r) + k
            repeat((terms + (L - 1)) // L, lambda n: prefetch(a, row + n * L))

        when((v == 0) * (self.hidden == 0), lambda: repeat(height, ask))

    def after(self, last, tile):
        memory, layer, dropout, stride = self.job.memory, self.layer, self.part.dropout, self.layer.stride
        L = lanes(memory)

        def activate(function):
            def one(at, v):
                at = layer.a + self.here + at
                store(memory, at, function(load(memory, at)) * load(memory, layer.valid + v * L))

            return lambda: self.each_vector(tile, stride, one)

        def drop(at, v):
            at, number = self.here + at, dropout.first * stride + self.here + at
            store(memory, layer.seen + at, dropout.masked(load(memory, layer.a + at), memory, number, 1, self.key))

        def complete():
            # the identity leaves zeros in the padding
            switch(layer.activation, [lambda: None, *map(activate, ACTIVATIONS[1:])])
            when(dropout.drops, lambda: when(layer.number < self.job.n_layers - 1, drop_all))

        def drop_all():
            self.each_vector(tile, stride, drop)

        when(last, complete)


class Delta(Product):
    """(5): D_{l-1} = (D_l W_l^T) * s', times m_{l-1}; the factors are transposed where they are put together."""

    def __init__(self, job, part, layer, below):
        memory, zeros = job.memory, job.plan.zeros
        self.layer, self.below, self.here = layer, below, part.begin * below.stride
        self.key = part.dropout.layer_key(memory, below.number)
        super().__init__(
            job, part, part.count, layer.n_out, vector_count(memory, layer.n_in), (memory, zeros, 0),
            (memory, below.d + self.here, below.stride), PACKED_DEPTH,
        )  # fmt: skip

    def left(self, add, height, r, k):
        lines = self.part.lines(self.job, self.layer.number + 1)
        add(False, from_on(self.job.memory, self.layer.d + k), from_on(self.job.table, lines + r), 1)

    def fill(self, k, terms, v, cols):
        """W_l^T, a square of vectors at a time, with zeros below W_l."""
        job, layer, pack, L = self.job, self.layer, self.part.pack, lanes(self.job.memory)

        def row(i, k):
            weights = job.params, layer.offset + i * layer.stride
            row, at = either_place(i < layer.n_in, weights, (job.memory, job.plan.zeros))
            return load(row, at + k)

        def square(i, j):
            rows = [row((v + j) * L + lane, k + i * L) for lane in range(L)]
            for lane, column in enumerate(transposed(rows)):
                store(job.memory, pack + ((i * L + lane) * cols + j) * L, column)

        mark(job, DELTA, layer.number)
        repeat(cols, lambda j: repeat((terms + (L - 1)) // L, lambda i: square(i, j)))
        mark(job, TRANSPOSE, layer.number)

    def ahead(self, tile, k, terms):
        memory, (first, height, v, cols) = self.job.memory, tile

        def ask(at, v):
            prefetch(memory, self.below.d + self.here + at)
            prefetch(memory, self.below.a + self.here + at)

        following = first + height, height, v, cols
        when(2 * self.rows * self.below.stride > FAR, lambda: self.each_vector(following, self.below.stride, ask))

    def after(self, last, tile):
        memory, below, dropout, stride = self.job.memory, self.below, self.part.dropout, self.below.stride

        def derive(function):
            def one(at, v):
                at = self.here + at
                store(memory, below.d + at, load(memory, below.d + at) * function(load(memory, below.a + at)))

            return lambda: self.each_vector(tile, stride, one)

        def drop(at, v):
            at, number = below.d + self.here + at, dropout.first * stride + self.here + at
            store(memory, at, dropout.masked(load(memory, at), memory, number, 1, self.key))

        def complete():
            switch(below.activation, [lambda: None, *map(derive, DERIVATIVES[1:])])
            when(dropout.drops, lambda: self.each_vector(tile, stride, drop))

        when(last, complete)


class Gradient(Product):
    """(6), (7): W_l += step of A_{l-1}^T D_l, for the rows of W_l that belong to a thread."""

    def __init__(self, job, part, layer, learning, a, rows):
        memory, stride, zeros = job.memory, layer.stride, job.plan.zeros
        begin, self.stop = rows
        count, vectors = self.stop - begin, vector_count(memory, layer.n_out)
        self.layer, self.learning, self.a, self.many = layer, learning, a, vectors >= PANEL_VECTORS
        self.at = layer.offset + begin * stride
        grad, fresh, few = job.plan.grad + self.at, learning.fresh, part.count
        self.right = memory, layer.d, stride
        super().__init__(
            job, part, count, few, vectors, (memory, choose(fresh, zeros, grad), choose(fresh, 0, stride)),
            (memory, grad, stride),
            choose((vectors <= THIN_VECTORS) * (count * few > THIN_FACTORS), THIN_DEPTH, GRADIENT_DEPTH),
        )  # fmt: skip

    def gather_panels(self):
        """The left factors, panel by panel: HEIGHT elements of every A_{l-1}, one after the other."""
        job, (a, at), lines = self.job, self.a, self.part.lines(self.job, self.layer.number)

        def panel(height, first):
            to = self.learning.panels + element(job.table, self.learning.panel_rows + first)
            repeat(
                self.depth,
                lambda k: copy(a, at + element(job.table, lines + k) + first, job.memory, to + k * HEIGHT, height),
            )

        # the last panel is not read beyond its rows: behind those of X there may be nothing
        in_groups(self.rows, HEIGHTS[1:], panel)

    def left(self, add, height, i, k):
        job, (a, at), learning = self.job, self.a, self.learning
        lines = self.part.lines(job, self.layer.number)

        def together():
            panels = from_on(job.memory, learning.panels + k * HEIGHT)
            add(False, panels, from_on(job.table, learning.panel_rows + i), HEIGHT)

        either(self.many, together, lambda: add(True, from_on(a, at + i), from_on(job.table, lines + k), 0))

    def ahead(self, tile, k, terms):
        (first, height, v, cols), stride = tile, self.layer.stride
        following = first + height, height, v, cols
        ask = functools.partial(self.each_vector, following, stride, lambda at, v: prefetch(self.job.params, self.at + at))
        when(self.job.plan.size > FAR, ask)

    def target(self, last, tile, c):
        (first, _, v, cols), L, job, solver = tile, lanes(self.job.memory), self.job, self.learning.solver
        descends = last * (solver.code == SGD) * (1 + (first_lane(solver.decay == 0) > 0))
        weights = job.params, self.at + first * self.layer.stride + v * L, self.layer.stride
        c = [choose(last, *pair) for pair in zip((job.memory, self.learning.aside, cols * L), c, strict=True)]
        return [choose(descends, *pair) for pair in zip(weights, c, strict=True)], (descends, solver.rate, solver.decay)

    def after(self, last, tile):
        (first, height, v, cols), L, solver = tile, lanes(self.job.memory), self.learning.solver

        def over(step):
            def one(r, j):
                gradient = load(self.job.memory, self.learning.aside + (r * cols + j) * L)
                step(gradient, self.at + (first + r) * self.layer.stride + (v + j) * L)

            repeat(height, lambda r: repeat(cols, lambda j: one(r, j)))

        when(last * (solver.code != SGD), lambda: update(self.job, solver, over))


# --- rows of X whose values are listed --------------------------------------------------------------------------------


def is_listed(job):
    """Whether the values of X are listed, which is known when a kernel is compiled."""
    return isinstance(job.starts.of, ir.IntType) if isinstance(job.starts, Traced) else job.starts is not None


def listed_row(job, place):
    """Where the values of the row at a place of the table begin, and how many there are."""
    row = element(job.table, place)
    first = element(job.starts, row)
    return first, element(job.starts, row + 1) - first


def listed_sums(job, part, layer, product):
    """(1) for some rows of X: the bias plus, for each value of a row, the value times its row of W_l."""
    L, stride = lanes(job.memory), layer.stride
    bias, bias_at, _ = product.start
    _, here, _ = product.c

    def row(r):
        first, count = listed_row(job, part.lines(job, layer.number) + r)

        def group(number, v):
            start = load_tile(bias, [bias_at + v * L], number)

            def add_up():
                def right(k):
                    at = layer.offset + element(job.indices, first + k) * stride + v * L
                    return [load(job.params, at + c * L) for c in range(number)]

                return outer(start, count, lambda k: [broadcast(job.X, first + k)], right)

            store_tile(switch(count > 0, [lambda: start, add_up]), job.memory, [here + r * stride + v * L])

        side_by_side(product.vectors, group)
        product.after(1, (r, 1, 0, product.vectors))

    repeat(part.count, row)


def listed_gradients(job, part, layer, learning, rows):
    """(6), (7) for some rows of W_l: for each value of X in their columns, the value times its row of D_l."""
    L, stride, memory, (begin, stop) = lanes(job.memory), layer.stride, job.memory, rows
    at, elements = layer.offset + begin * stride, (stop - begin) * stride
    here = job.plan.grad + at

    def sample(k):
        origin, stored = listed_row(job, part.lines(job, layer.number) + k)

        def group(number, v):
            deltas = [load(memory, layer.d + k * stride + (v + c) * L) for c in range(number)]

            def value(i):
                j = element(job.indices, origin + i)

                def add():
                    x, place = broadcast(job.X, origin + i), here + (j - begin) * stride + v * L
                    for c, delta in enumerate(deltas):
                        store(memory, place + c * L, fma(x, delta, load(memory, place + c * L)))

                when((j >= begin) * (j < stop), add)

            repeat(stored, value)

        side_by_side(vector_count(memory, layer.n_out), group)

    repeat(learning.fresh * elements // L, lambda v: store(memory, here + v * L, splat(memory, 0.0)))
    repeat(part.count, sample)
    when(learning.finished, lambda: descend(job, learning.solver, at, elements, splat(memory, 1.0), decays=True))


# --- a block ----------------------------------------------------------------------------------------------------------


def list_rows(job, part, first, row_of):
    """Where the thread's rows of X begin, which are those at places of the order from `first` on, into the table."""
    distance = 1 if is_listed(job) else element(job.layers, N_IN)
    repeat(part.count, lambda r: put(job.table, part.begin + r, row_of(first + part.begin + r) * distance))


def copy_targets(job, part, last, first):
    """Targets and weights of the thread's rows; rows as in `list_rows`."""
    memory, plan, n_out = job.memory, job.plan, last.n_out

    def row(r):
        r = part.begin + r
        one = row_at(job, first + r)
        either(
            job.weighted,
            lambda: put(memory, plan.row_weights + r, element(job.weights, one)),
            lambda: put(memory, plan.row_weights + r, 1.0),
        )
        at = plan.targets + r * last.stride
        repeat(n_out, lambda j: put(memory, at + j, element(job.Y, one * n_out + j)))

    repeat(part.count, row)


def taken(job, part, level):
    """The layer below, and where a layer finds what it takes in: X, or what the layer below gives."""
    hidden = level > 0
    below = layer_of(job, level - hidden)
    return below, either_place(hidden, (job.memory, part.dropout.taken(below)), (job.X, 0))


@outlined
def activations(job, part, level):
    """(1), (2) for a layer."""
    layer, (_, a) = layer_of(job, level), taken(job, part, level)
    product = Forward(job, part, layer, a, level > 0)
    if is_listed(job):
        either(level > 0, product.run, lambda: listed_sums(job, part, layer, product))
    else:
        product.run()
    mark(job, FORWARD, level)


@outlined
def deltas(job, part, level):
    """(5) for a layer but the first."""
    Delta(job, part, layer_of(job, level), layer_of(job, level - 1)).run()
    mark(job, DELTA, level)


@outlined
def compare(job, part, scale):
    """(2) to (4) for the last layer and the thread's rows; loss and squared errors by GROUP, and the hits, for `total`."""
    memory, plan, last, L = job.memory, job.plan, layer_of(job, job.n_layers - 1), lanes(job.memory)
    outputs, head, zero = Row(memory, last.n_out, last.valid), whole(job.rule.head), splat(memory, 0.0)

    def group(number, hits):
        first = number * GROUP

        def row(r, hits, *sums):
            r = part.begin + first + r
            z, y, d = (place + r * last.stride for place in (last.a, plan.targets, last.d))
            weight = broadcast(memory, plan.row_weights + r)
            sums = head_of(outputs, z, y, d, head, scale * weight, weight, sums)
            return hits + hit(outputs, z, y, last.n_out == 1), *sums

        hits, *sums = carry(smaller(part.count - first, GROUP), (hits, zero, zero), row)
        for place, one in enumerate(sums):
            store(memory, plan.sums + ((part.begin + first) // GROUP * 2 + place) * L, one)
        return (hits,)

    hits = switch(part.count > 0, [lambda: 0, lambda: carry((part.count + (GROUP - 1)) // GROUP, (0,), group)[0]])
    put(job.sync, NUMBERS + LINE * job.rank, hits)


def total(job, step):
    """Add what the threads have found in `compare` to the record."""
    memory, L = job.memory, lanes(job.memory)

    def add(number, *sums):
        at = job.plan.sums + number * 2 * L
        return tuple(one + load(memory, at + place * L) for place, one in enumerate(sums))

    groups = (step.stop - step.row + (GROUP - 1)) // GROUP
    loss, squares = carry(groups, (splat(memory, 0.0),) * 2, add)
    steps.note(job, step, LOSS, widened(sum_lanes(loss)) * steps.loss_factor(job, step))
    steps.note(job, step, SQUARES, widened(sum_lanes(squares)))
    repeat(job.size, lambda rank: steps.note(job, step, HITS, widened(element(job.sync, NUMBERS + LINE * rank))))


def bias_gradients(job, part, layer, learning):
    """(6), (7) for b_l: the sum of the rows of D_l."""
    memory, L, stride = job.memory, lanes(job.memory), layer.stride
    at, one = layer.offset + layer.n_in * stride, splat(memory, 1.0)
    start = choose(learning.fresh, job.plan.zeros, job.plan.grad + at)

    def some(cols, v):
        sums = outer(
            load_tile(memory, [start + v * L], cols), part.count, lambda _: [one],
            lambda k: [load(memory, layer.d + k * stride + (v + c) * L) for c in range(cols)],
        )  # fmt: skip
        update(job, learning.solver, over_tile(sums, at + v * L, stride), decays=False)

    in_groups(vector_count(memory, layer.n_out), (BIAS_VECTORS, 1), some)


@outlined
def learn(job, part, learning, level):
    """(6), (7) for the rows of a layer's weights that belong to a thread; solver 0 leaves the gradient.

    learning
        fresh         whether a gradient begins, else it is added to the one so far
        finished      whether it is complete after these rows of the batch
        solver
        panels, panel_rows    where left factors are gathered, and the table of where each row of the weights begins there
        aside         room for a tile that the solver takes from there
    """
    layer, (_, (a, a_at)) = layer_of(job, level), taken(job, part, level)
    rows = share(job, layer.n_in, SQUARE)

    def dense():
        product = Gradient(job, part, layer, learning, (a, a_at + rows[0]), rows)
        when(product.many, product.gather_panels)
        product.run()

    if is_listed(job):
        either(level > 0, dense, lambda: listed_gradients(job, part, layer, learning, rows))
    else:
        dense()
    when(layer.biased * (job.rank == job.size - 1), lambda: bias_gradients(job, part, layer, learning))
    mark(job, GRADIENT, level)


@outlined
def descend_all(job, solver, shrink):
    """(7) for the rows of the weights that belong to a thread, from the stored gradient times `shrink`."""

    def one(level):
        layer = layer_of(job, level)
        begin, stop = share(job, layer.n_in, SQUARE)
        descend(job, solver, layer.offset + begin * layer.stride, (stop - begin) * layer.stride, shrink)
        bias = layer.offset + layer.n_in * layer.stride
        when(layer.biased * (job.rank == job.size - 1), lambda: descend(job, solver, bias, layer.stride, shrink))

    repeat(job.n_layers, one)


def panels_of(job):
    """Where a thread gathers left factors: behind those of the threads before it, which have no more rows than this."""
    plan = job.plan
    most = (plan.panel_rows + (SQUARE * job.size - 1)) // (SQUARE * job.size) * SQUARE + HEIGHT
    return plan.panels + job.rank * most * plan.block_rows


def train(job):
    """As `fastbp.reference.train`; a block has `block_rows` rows at most, which the threads share, as they do weights."""
    job.rule, job.plan, job.counters = rule_of(job.rule), named(job.plan, WIDE_PLAN), counters_of(job, job.rank)
    memory, plan, rule, solver, n_layers = job.memory, job.plan, job.rule, Solver(job), job.n_layers
    learning = Names(panels=panels_of(job), panel_rows=(n_layers + 1) * plan.block_rows,
                     aside=plan.pack + (job.rank + 1) * plan.pack_size - HEIGHT * COLS * lanes(memory))  # fmt: skip

    def propagate_and_back(step):
        begin, stop = share(job, step.stop - step.row, GROUP)
        part = Part(job, begin, stop - begin, Dropout(job, step))
        first = step.first + step.row
        either(
            job.shuffled,
            lambda: list_rows(job, part, first, lambda place: element(job.order, place)),
            lambda: list_rows(job, part, first, lambda place: place),
        )
        copy_targets(job, part, layer_of(job, n_layers - 1), first)
        mark(job, GATHER)
        repeat(n_layers, lambda level: activations(job, part, level))
        compare(job, part, splat(memory, steps.loss_scale(job, step)))
        mark(job, COMPARE)
        repeat(n_layers - 1, lambda back: deltas(job, part, n_layers - 1 - back))

    def penalty(step):
        def add():
            steps.note_penalty(job, step)
            mark(job, UPDATE)

        when((job.rank == 0) * step.ended, add)
        wait_for_all(job)  # the weights change now

    def take_step(step, solver):
        wait_for_all(job)

        def shrunk():
            result = steps.shrink_of(job)
            mark(job, UPDATE)
            wait_for_all(job)  # all have read the gradient, which solver 0 now changes
            return result

        shrink = switch(rule.max_norm < np.inf, [lambda: 1.0, shrunk])
        descend_all(job, solver, splat(memory, shrink))
        mark(job, UPDATE)

    def gradients_and_update(step):
        when(job.rank == 0, lambda: total(job, step))
        when(rule.alpha != 0.0, lambda: penalty(step))
        at_once = (step.stop - step.row == step.batch_stop - step.batch) * (rule.max_norm == np.inf)
        now = solver.at(
            rate=splat(memory, step_length(rule, step.steps + 1)),
            decay=splat(memory, choose(step.ended, steps.decay_of(job, step), 0.0)),
        )
        part = Part(job, 0, step.stop - step.row, Dropout(job, step))
        this = Names(**vars(learning), fresh=step.row == step.batch, finished=step.ended,
                     solver=now.at(code=choose(at_once, now.code, 0)))  # fmt: skip
        mark(job, OVERHEAD)
        repeat(n_layers, lambda level: learn(job, part, this, level))
        when((at_once == 0) * step.ended, lambda: take_step(step, now))

    def block(step):
        propagate_and_back(step)
        wait_for_all(job)
        when(step.weight > 0.0, lambda: gradients_and_update(step))
        wait_for_all(job)  # before the next block, all have finished this one

    steps.run(job, block)


def forward(job):
    """As `fastbp.reference.forward`; a row's result does not depend on the other rows. Each thread takes its own rows."""
    job.rule, job.plan, job.counters = rule_of(job.rule), named(job.plan, WIDE_PLAN), counters_of(job, job.rank)
    memory, block_rows, head = job.memory, job.plan.block_rows, whole(job.rule.head)
    begin, stop = share(job, block_rows, GROUP)
    last, dropout = layer_of(job, job.n_layers - 1), Dropout(job)
    outputs = Row(memory, last.n_out, last.valid)

    def rows(start, count):
        part = Part(job, begin, count, dropout)
        list_rows(job, part, start, lambda place: place)
        repeat(job.n_layers, lambda level: activations(job, part, level))

        def row(r):
            at, to = (begin + r) * last.stride, (start + begin + r) * last.n_out
            predict(outputs, last.a + at, last.d + at, head)
            repeat(last.n_out, lambda j: put(job.out, to + j, element(memory, last.a + at + j)))

        repeat(count, row)

    def block(number):
        start = number * block_rows
        count = smaller(stop, job.n - start) - begin
        when(count > 0, lambda: rows(start, count))

    repeat((job.n + (block_rows - 1)) // block_rows, block)
