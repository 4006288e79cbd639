"""Products of matrices, tile by tile: the three of a step in the wide kernel.

Loops, from the innermost: a tile, which one function sums for all products, `sum_tile`; all tiles of a strip, which use the
same few vectors of the right factor; STRIPS strips, which use the same left factors; parts of the sum; groups of strips;
ROWS rows. A part of DEPTH terms of a strip stays in the L1 cache, the left factors of a part and the sums of a group in the
L2 cache. A tile's activation, derivative or update is taken while the L1 cache holds it. Where a strip's factors are copied
together, one part of up to PACKED_DEPTH terms ran 15% faster than several that take turns with the sums, though it is more
than the L1 cache holds: the copy is read from end to end. Where the L2 cache is fast enough for the processor, the same goes
for factors where they stand, and LONG_DEPTH terms make a part.

A tile is nearly square because loads, not multiplications, run short: 6 x 4 vectors take 10 loads for 24 multiplications and
ran a sixth faster than 8 x 2, which take 10 for 16. What the next tile needs from afar is asked for a tile ahead: rows of X
(a tenth of the forward pass), and weights, D_l and A_l where they have left the L2 cache (a tenth of a gradient, a third of
the delta below a narrow layer). Wide layers make it pay to copy factors together first, without gaps: the left ones of a
gradient, tile by tile, and the right ones of a strip. Those of a delta always are: that is where they are transposed, so
W_l^T is never there as a whole.

Where many of the left factors are zero, `zeros` sums without them, row by row; a gradient also where those of D_l are.
"""

from fastbp.kernels import zeros
from fastbp.kernels.control import by_code, carry, either, in_groups, repeat, switch, when
from fastbp.kernels.jit import registers, tile_shape
from fastbp.kernels.numbers import ceil_div, choose, either_place, element, from_on, smaller
from fastbp.kernels.phases import mark
from fastbp.kernels.pointwise import ACTIVATIONS, DERIVATIVES, RELU
from fastbp.kernels.solvers import SGD, update
from fastbp.kernels.steps import layer_of
from fastbp.kernels.tiles import flat, in_place, in_rows, load_tile, outer, store_tile, transposed, unsigned_zeros
from fastbp.kernels.tracing import Names, outlined
from fastbp.kernels.vectors import broadcast, first_lane, fma, lanes, load, load_some, prefetch, store, vector_count
from fastbp.layout import PACKED_DEPTH

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
GRADIENT_DEPTH = 256  # terms of a gradient at a time, whose parts would have to be stored aside
# A gradient of so few vectors and so many left factors takes few samples at a time: each is a stream that is read ahead.
THIN_VECTORS, THIN_FACTORS, THIN_DEPTH = 2, 50_000, 32


def copy(source, at, target, to, count):
    """Copy so many elements, a constant."""
    store(target, to, load_some(source, at, count))


def ask_for(job, place):
    """`prefetch` for some weights and what the solver knows of them, if it does."""
    for data, at in ((job.params, place), (job.state, place), (job.state, job.plan.size + place)):
        prefetch(data, at)


@outlined
def sum_tile(height, cols, by_columns, left, right, start, c, terms, descent, meanwhile):
    """C[i, :] = start[i, :] + sum over k of left(i, k) x right[k, :], for the vectors of one tile.

    A matrix is a pointer to its first element and the distance of its rows. With a, table, step = left, left(i, k) is the
    element of `a` at

        table[i] + k * step   or, where `by_columns`,
        i + table[k]

    With descends, rate, decay = descent: where it `descends`, the sum is a gradient, C holds weights, and plain SGD takes
    them a step of length `rate` further; where that is 2, with an L2 term.

    A turn of `meanwhile` is taken so many times, after as many terms each, of which there are more, unless it is None.
    """
    (a, table, a_step), (b, b_step), (start, start_step), (c, c_step) = left, right, start, c
    descends, rate, decay = descent
    L = lanes(c)
    rows = [] if by_columns else [element(table, i) for i in range(height)]

    def add(tile, first, count):
        """Some of the terms."""
        factors, lefts, places = from_on(b, first * b_step), from_on(a, first * a_step), from_on(table, first)

        def of_rows(k):
            sample = from_on(a, element(places, k)) if by_columns else None
            return [broadcast(sample, i) if by_columns else broadcast(lefts, rows[i] + k * a_step) for i in range(height)]

        def of_columns(k):
            return [load(factors, k * b_step + j * L) for j in range(cols)]

        return outer(tile, count, of_rows, of_columns)

    def step(gradient):
        for g, place in in_place(sums, [c_step * i for i in range(height)]):
            w = load(c, place)
            store(c, place, fma(gradient(g, w), rate, w))

    sums, done = load_tile(start, [start_step * i for i in range(height)], cols), 0
    if meanwhile:
        each = (terms - 1) // meanwhile.times

        def turn(number, *vectors):
            tile = add(in_rows(vectors, cols), number * each, each)
            meanwhile.turn(number)
            return flat(tile)

        sums, done = in_rows(carry(meanwhile.times, flat(sums), turn), cols), each * meanwhile.times
    sums = add(sums, done, terms - done)

    def descend_tile():
        either(descends > 1, lambda: step(lambda g, w: fma(w, decay, g)), lambda: step(lambda g, w: g))

    # Gradients of plain SGD keep -0.0, which is seen where a weight is -0.0 as well: there too, it took a register from
    # the loop, which has none to spare.
    either(descends, descend_tile, lambda: store_tile(unsigned_zeros(sums), c, [c_step * i for i in range(height)]))


class Descending(Names):
    """(7) for the tile before, whose gradients stand `aside` until this one is summed, and whose weights begin at `at`.

    What takes a solver long, its divisions and the memory of its moments, leaves the multiplications of the sums alone: with
    one vector after every few terms a gradient took Adam 3 to 10% less time in float32, and 9 to 14% less in float64.
    """

    def turn(self, number):
        """One of its vectors; the memory of that of the next tile is asked for."""
        job, memory = self.job, self.job.memory
        gradient = load(memory, self.aside + number * lanes(memory))
        place = self.at + number // self.cols * self.stride + number % self.cols * lanes(memory)
        ask_for(job, place + self.height * self.stride)
        update(job, self.solver, lambda step: step(gradient, place))


class Asking(Names):
    """Rows of X are asked for that the next tile needs, `height` of them from an entry of the table on.

    All at once, they would hold up this one: of 60,000 rows that lie anywhere in memory, a step took 5% longer.
    """

    def turn(self, number):
        """A vector of each."""
        for r in range(self.height):
            prefetch(self.a, element(self.table, self.first + r) + self.at + number * lanes(self.a))


class Product:
    """Every tile of C = start + sum over k of left(k) x right[k]; a tile is its first row, rows, first vector and vectors.

    Parameters
    ----------
    job, part : what the thread works on
    rows, depth, vectors : rows of C, terms of the sums, and vectors of a row of C
    start, c : pointer, offset and row step: what the sums begin with, at the first vector; and C
    most : terms of the sums that are taken at a time

    Attributes
    ----------
    layer
    a : pointer and offset of the left factors
    level : of the layer that takes in what their rows are of, see `Part.lines`
    """

    # pointer, offset and row step of the right factors, whose rows are k; or None where `fill` gives them
    right = None

    def __init__(self, job, part, rows, depth, vectors, start, c, most):
        self.job, self.part, self.rows, self.depth, self.vectors = job, part, rows, depth, vectors
        self.start, self.c, self.most = start, c, most

    def left_rows(self):
        """Pointer to the left factors, and a table of where rows begin."""
        return from_on(*self.a), from_on(self.job.table, self.part.lines(self.job, self.level))

    def left(self, add, r, k):
        """Call add(by_columns, a, table, a_step), of `sum_tile`, for the left factors of rows r ... and of terms k ..."""
        a, table = self.left_rows()
        add(False, from_on(a, k), from_on(table, r), 1)

    def fill(self, k, terms, v, cols):
        """Put the right factors of some terms, from k on, and vectors, from v on, at `part.pack`, without gaps."""
        memory, pack, L = self.job.memory, self.part.pack, lanes(self.job.memory)
        data, at, stride = self.right

        def row(i):
            repeat(cols, lambda j: store(memory, pack + (i * cols + j) * L, load(data, at + (k + i) * stride + (v + j) * L)))

        repeat(terms, row)

    def ahead(self, tile):
        """Ask for memory that the tile after this one needs."""

    def waits(self, last, vectors, terms):
        """Whether what `after` does with a tile of so many vectors is done while the next one is summed."""
        return 0

    def meanwhile(self, tile, k, terms, behind):
        """What is done while a tile is summed, if that is `wanted`, for `sum_tile`; whether the tile before waits for it."""

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
        apart = choose((self.vectors < 3) * (self.rows <= HEIGHTS[0]), self.rows > 0, ceil_div(depth, self.most))
        parts = choose(packed, ceil_div(depth, PACKED_DEPTH), apart)
        # whole vectors of terms
        part_depth = switch(parts > 1, [lambda: depth, lambda: ceil_div(ceil_div(depth, parts), L) * L])
        parts = switch(parts > 1, [lambda: parts, lambda: ceil_div(depth, part_depth)])
        return packed, parts, part_depth

    def run(self):
        """Compute it, in full or without the left factors that are zero, whichever is the faster."""
        either(self.zeros_pay(), self.without_zeros, self.in_full)

    def rows_ahead(self):
        """A table of rows of left factors that are asked for meanwhile, and whether they are."""
        return self.left_rows()[1], 0

    def zeros_pay(self):
        """Whether so many left factors of the sampled rows are zero that it is faster without them; W_l has to be finite."""
        a, table = self.left_rows()
        job, layer, depth, vectors = self.job, self.layer, self.depth, self.vectors
        units = vector_count(job.memory, layer.n_out)

        def sampled():
            rows = ceil_div(self.rows, zeros.SAMPLED)
            integers, found = rows * ceil_div(depth, zeros.TERMS), zeros.nonzeros(a, table, self.rows, depth)
            saved = 2 * rows * depth * vectors - zeros.cost(job.plan, found, integers, vectors)
            # to look at all W_l takes about as long as to multiply it with one row: of a few rows, nothing is saved
            return switch(self.rows * saved > 2 * rows * layer.n_in * units, [lambda: 0, finite])

        def finite():
            return zeros.finite(job.params, lambda k: layer.offset + k * layer.stride, layer.n_in, units)

        # nothing is saved by the rows of one vector
        return switch((self.rows > 0) * (vectors > 1) * has_zeros(job, self.part, self.level), [lambda: 0, sampled])

    def without_zeros(self):
        """Compute it, by the left factors that are not zero."""
        packed, _, _ = self.packed()
        parts = ceil_div(self.depth, zeros.TERMS)

        def strip(v, cols):
            repeat(parts, lambda part: self.strip_without_zeros(v, cols, part, packed))

        zeros.strips(self.vectors, strip)

    def strip_without_zeros(self, v, cols, part, packed):
        """All rows of some vectors, for one part of the sums."""
        L, k = lanes(self.job.memory), part * zeros.TERMS
        terms, last = smaller(self.depth - k, zeros.TERMS), k + zeros.TERMS >= self.depth
        right, c, start = self.factors(v, cols, k, packed), self.c, self.begun(k == 0)
        (a, table), (ahead, asks) = self.left_rows(), self.rows_ahead()

        def rows_of(matrix, r):
            data, at, step = matrix
            return from_on(data, at + r * step + v * L), step

        def some(number):
            r = number * zeros.ROWS
            count = smaller(self.rows - r, zeros.ROWS)
            left = from_on(a, k), from_on(table, r), from_on(ahead, r), asks
            sums = rows_of(start, r), rows_of(c, r)
            zeros.of_width(cols, lambda width: zeros.sum_rows(width, count, terms, left, right, *sums))
            self.after(last, (r, count, v, cols))

        when(packed, lambda: self.fill(k, terms, v, cols))
        repeat(ceil_div(self.rows, zeros.ROWS), some)

    def factors(self, v, cols, k, packed):
        """The right factors of some vectors, from term k on: memory, and the distance of rows."""
        L, pack = lanes(self.job.memory), (from_on(self.job.memory, self.part.pack), cols * lanes(self.job.memory))
        if self.right is None:
            return pack
        data, at, stride = self.right
        there = from_on(data, at + k * stride + v * L), stride
        return tuple(choose(packed, *pair) for pair in zip(pack, there, strict=True))

    def begun(self, first):
        """Pointer, offset and row step of what sums go on from, for the first part and for others."""
        return [choose(first, *pair) for pair in zip(self.start, self.c, strict=True)]

    def in_full(self):
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

            repeat(ceil_div(strips, STRIPS), group)

        repeat(ceil_div(self.rows, ROWS), block)

    def strip(self, v, cols, part, rows, packed, parts, part_depth):
        """All tiles of some rows and vectors, for one part of the sums."""
        begin, (first, count) = part * part_depth, rows
        terms, last = smaller(part_depth, self.depth - begin), part == parts - 1
        factors, start = self.factors(v, cols, begin, packed), self.begun(part == 0)
        tallest = choose(cols > 2, HEIGHTS[1], HEIGHTS[0])
        strip = Names(
            v=v, cols=cols, begin=begin, terms=terms, last=last, factors=factors, start=start, tallest=tallest, first=first,
            count=count, waits=self.waits(last, tallest * cols, terms),
        )  # fmt: skip
        when(packed, lambda: self.fill(begin, terms, v, cols))
        repeat(ceil_div(count, tallest), lambda number: self.tile(strip, number))

    def tile(self, strip, number):
        """One tile of a strip, or of the rows that are left for the last one, several."""
        r, (c, c_at, c_step) = strip.first + number * strip.tallest, self.c
        rows = smaller(strip.count - number * strip.tallest, strip.tallest)
        tile, behind = (r, rows, strip.v, strip.cols), strip.waits * (number > 0)
        c, descent = self.target(strip.last, tile, (c, c_at + r * c_step + strip.v * lanes(self.job.memory), c_step))
        when(1 - strip.waits, lambda: self.ahead(tile))

        def some(height, first):
            def of_width(width):
                return lambda: self.sums(strip, (r, first, height, width), c, descent, behind)

            widths = [of_width(1), of_width(2), *[of_width(COLS)] * (COLS - 2)]
            switch(strip.cols - 1, widths if height < HEIGHTS[0] else widths[:2])

        def one():
            either(strip.cols > 2, lambda: some(HEIGHTS[1], 0), lambda: some(HEIGHTS[0], 0))

        either(rows == strip.tallest, one, lambda: in_groups(rows, HEIGHTS[1:], some))
        follows = strip.first + strip.count - r >= 2 * strip.tallest  # a tile as tall, which does it
        self.after(strip.last * (1 - strip.waits * follows), tile)

    def sums(self, strip, rows, c, descent, behind):
        """`sum_tile` for `height` rows from r + first on; meanwhile, what the tile before left `behind`, or others need."""
        (r, first, height, width), (start, start_at, start_step), (c, c_at, c_step) = rows, strip.start, c
        origin = from_on(start, start_at + (r + first) * start_step + strip.v * lanes(self.job.memory)), start_step
        goal = from_on(c, c_at + first * c_step), c_step

        def add(by_columns, *left):
            def sum_up(meanwhile):
                sum_tile(height, width, by_columns, left, strip.factors, origin, goal, strip.terms, descent, meanwhile)

            tall, tile = height == HEIGHTS[width > 2], (r, height, strip.v, width)
            turns = self.meanwhile(tile, strip.begin, strip.terms, behind) if tall else None
            if turns:
                either(turns.wanted, lambda: sum_up(turns), lambda: sum_up(None))
            else:
                sum_up(None)

        self.left(add, r + first, strip.begin)


def has_zeros(job, part, level):
    """Whether what a layer takes in, X or A_{level-1} and D_{level-1}, may be zero for a reason."""
    below = layer_of(job, choose(level > 0, level - 1, 0))
    hidden = (level > 0) * (level < job.n_layers)
    return choose(hidden, (below.activation == RELU) + (part.dropout.drops > 0) > 0, level == 0)


class Part(Names):
    """What a thread does of a block: rows begin ... begin + count - 1, its room for factors, and the masks."""

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
        self.layer, self.a, self.level, self.hidden, self.here = layer, a, layer.number, hidden, part.begin * stride
        self.key = part.dropout.layer_key(memory, layer.number)
        self.right = job.params, layer.offset, stride
        super().__init__(
            job, part, part.count, layer.n_in, vector_count(memory, layer.n_out),
            (*either_place(layer.biased, bias, (memory, job.plan.zeros)), 0), (memory, layer.a + self.here, stride),
            job.plan.depth,
        )  # fmt: skip

    def rows_ahead(self):
        """The next block's rows of X."""
        return from_on(self.job.table, self.part.lines(self.job, self.job.n_layers + 1)), 1 - self.hidden

    def meanwhile(self, tile, k, terms, behind):
        first, height, v, _ = tile
        a, at = self.a
        lines, L = self.part.lines(self.job, self.layer.number), lanes(self.job.memory)
        return Asking(wanted=(v == 0) * (self.hidden == 0) * (terms > L), times=ceil_div(terms, L), a=a, at=at + k,
                      table=self.job.table, first=lines + first + height, height=height)  # fmt: skip

    def after(self, last, tile):
        memory, layer, dropout, stride = self.job.memory, self.layer, self.part.dropout, self.layer.stride
        L = lanes(memory)

        def activate(function):
            def one(at, v):
                at = layer.a + self.here + at
                store(memory, at, function(load(memory, at)) * load(memory, layer.valid + v * L))

            self.each_vector(tile, stride, one)

        def drop(at, v):
            at, number = self.here + at, dropout.first * stride + self.here + at
            store(memory, layer.seen + at, dropout.masked(load(memory, layer.a + at), memory, number, 1, self.key))

        def complete():
            # the identity leaves zeros in the padding
            by_code(layer.activation, (None, *ACTIVATIONS[1:]), activate)
            when(dropout.drops, lambda: when(layer.number < self.job.n_layers - 1, drop_all))

        def drop_all():
            self.each_vector(tile, stride, drop)

        when(last, complete)


class Delta(Product):
    """(5): D_{l-1} = (D_l W_l^T) * s', times m_{l-1}; the factors are transposed where they are put together."""

    def __init__(self, job, part, layer, below):
        memory = job.memory
        self.layer, self.below, self.here = layer, below, part.begin * below.stride
        self.a, self.level = (memory, layer.d), layer.number + 1
        self.key = part.dropout.layer_key(memory, below.number)
        super().__init__(
            job, part, part.count, layer.n_out, vector_count(memory, layer.n_in), (memory, job.plan.zeros, 0),
            (memory, below.d + self.here, below.stride), PACKED_DEPTH,
        )  # fmt: skip

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

        mark(job, "delta", layer.number)
        repeat(cols, lambda j: repeat(ceil_div(terms, L), lambda i: square(i, j)))
        mark(job, "transpose", layer.number)

    def ahead(self, tile):
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

            self.each_vector(tile, stride, one)

        def drop(at, v):
            at, number = below.d + self.here + at, dropout.first * stride + self.here + at
            store(memory, at, dropout.masked(load(memory, at), memory, number, 1, self.key))

        def complete():
            by_code(below.activation, (None, *DERIVATIVES[1:]), derive)
            when(dropout.drops, lambda: self.each_vector(tile, stride, drop))

        when(last, complete)


class Gradient(Product):
    """(6), (7): W_l += step of A_{l-1}^T D_l, for the rows of W_l that belong to a thread."""

    def __init__(self, job, part, layer, learning, a, rows):
        memory, stride = job.memory, layer.stride
        begin, stop = self.span = rows
        count, vectors = stop - begin, vector_count(memory, layer.n_out)
        self.layer, self.learning, self.a, self.many = layer, learning, a, vectors >= PANEL_VECTORS
        self.level, self.at = layer.number, layer.offset + begin * stride
        grad, fresh, few = job.plan.grad + self.at, learning.fresh, part.count
        self.right = memory, layer.d, stride
        super().__init__(
            job, part, count, few, vectors, (memory, choose(fresh, job.plan.zeros, grad), choose(fresh, 0, stride)),
            (memory, grad, stride),
            choose((vectors <= THIN_VECTORS) * (count * few > THIN_FACTORS), THIN_DEPTH, GRADIENT_DEPTH),
        )  # fmt: skip

    def run(self):
        """Compute it, in full or without factors that are zero, whichever is the fastest; then what is no whole vector."""
        job, part, layer, (begin, stop) = self.job, self.part, self.layer, self.span
        whole = self.rows // lanes(job.memory)
        side = switch((whole > 0) * (self.depth > 0), [lambda: 0, lambda: self.side_without_zeros(whole)])
        done, (a, at) = choose(side > 0, whole * lanes(job.memory), 0), self.a

        def without_zeros():
            factors = self.left_rows()
            zeros.SparseGradient(job, part, layer, self.learning, factors, begin, whole, self.depth, side > 1).run()

        when(side > 0, without_zeros)

        def in_full():
            rest = Gradient(job, part, layer, self.learning, (a, at + done), (begin + done, stop))
            when(rest.many, rest.gather_panels)
            rest.in_full()

        when(stop > begin + done, in_full)

    def side_without_zeros(self, whole):
        """1 or 2 where it is the fastest without zeros of A_{l-1}, or of D_l, else 0; the other factors must be finite."""
        job, layer, depth, units = self.job, self.layer, self.depth, self.vectors
        samples, L = ceil_div(depth, zeros.SAMPLED), lanes(job.memory)
        parts = ceil_div(depth, zeros.SAMPLES)
        a, d = self.left_rows(), zeros.deltas_of(job, self.part, layer)
        full = 2 * whole * L * depth * units

        def cost(level, factors, columns, vectors):
            def found():
                nonzeros = zeros.nonzeros(*factors, depth, columns) * depth // samples
                return zeros.cost(job.plan, nonzeros, columns * parts, vectors)

            return switch((vectors > 1) * has_zeros(job, self.part, level), [lambda: full, found])

        by_left = cost(self.level, a, whole * L, units)
        by_deltas = cost(self.level + 1, d, layer.n_out, whole)

        def finite(factors, vectors, result):
            data, table = factors
            return lambda: zeros.finite(data, lambda k: element(table, k), depth, vectors) * result

        best = choose(by_left < by_deltas, by_left < full, 2 * (by_deltas < full))
        return switch(best, [lambda: 0, finite(d, units, 1), finite(a, whole, 2)])

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

    def left(self, add, i, k):
        job, (a, at), learning = self.job, self.a, self.learning
        lines = self.part.lines(job, self.layer.number)

        def together():
            panels = from_on(job.memory, learning.panels + k * HEIGHT)
            add(False, panels, from_on(job.table, learning.panel_rows + i), HEIGHT)

        either(self.many, together, lambda: add(True, from_on(a, at + i), from_on(job.table, lines + k), 0))

    def ahead(self, tile):
        (first, height, v, cols), stride = tile, self.layer.stride
        following, moments = (first + height, height, v, cols), self.learning.solver.code > SGD

        def ask(what):
            return lambda: self.each_vector(following, stride, lambda at, v: what(self.at + at))

        def ask_for_all():
            either(moments, ask(lambda at: ask_for(self.job, at)), ask(lambda at: prefetch(self.job.params, at)))

        when(self.job.plan.size * (1 + 2 * moments) > FAR, ask_for_all)

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

    def waits(self, last, vectors, terms):
        # fewer registers would be emptied for each vector
        return last * (self.learning.solver.code > SGD) * (terms > vectors) if registers() == 32 else 0

    def meanwhile(self, tile, k, terms, behind):
        if registers() < 32:
            return None
        (first, height, v, cols), stride, learning = tile, self.layer.stride, self.learning
        at = self.at + (first - height) * stride + v * lanes(self.job.memory)
        return Descending(wanted=behind, times=behind * (height * cols), job=self.job, solver=learning.solver, at=at,
                          aside=learning.aside, stride=stride, height=height, cols=cols)  # fmt: skip
