"""Sums without the factors that are zero: an image's background, codes of categories, units that ReLU or dropout holds at 0.

Some factors become an integer with a bit for each that is not zero, and a sum visits the bits that are set, from the lowest
on: each stands for a multiplication with a row of the other matrix, of up to WIDEST vectors, which are summed in registers.

    sum_rows       C = start + A B, by the bits of some terms of a row of A: forward passes and deltas
    sum_columns    C += A^T B, by those of some rows of a column of A: gradients

Rows of B of one integer stay in the L1 cache. A visit takes little more than its multiplications; what an integer costs
beside them (the end of its loop, which is not foreseen, and loads and stores of sums) is what `cost` tells of. With half of
784 inputs zero, a forward pass to 128 units took 0.70 of the time of the dense one, with four fifths of them 0.36.

A term that is left out would have added a zero, and the others are added in the order of the dense product, so that no bit
depends on which of the two is taken: factors that meet the zeros are `finite` (0 times infinity is NaN), or nothing is left
out; and no sum ends as -0.0 (`unsigned_zeros`), which another zero may or may not have made 0.0.
"""

from fastbp.kernels.control import carry, either, repeat, switch, until_zero, when
from fastbp.kernels.numbers import ceil_div, choose, count_bits, element, from_on, lowest_bit, smaller
from fastbp.kernels.solvers import update
from fastbp.kernels.tiles import load_tile, store_tile, transposed, unsigned_zeros
from fastbp.kernels.tracing import Names, outlined
from fastbp.kernels.vectors import (
    as_integers,
    broadcast,
    fma,
    itemsize,
    lanes,
    load,
    load_first,
    mask_bits,
    no_bits,
    nonzero,
    prefetch,
    splat,
    store,
    unsigned,
    vector_count,
    with_bit,
)
from fastbp.layout import ALIGNMENT_BYTES, GROUPS, SAMPLES, SQUARE, WIDEST

TERMS = 64  # of a row of A, with a bit each
ROWS = 32  # of A that are summed at a time
SAMPLED = 16  # of so many rows, one tells how many factors are zero


def cost(plan, nonzeros, integers, vectors):
    """Of multiplying so many factors with rows of so many vectors, in halves of the multiplication of one vector."""
    count = ceil_div(vectors, WIDEST)
    return nonzeros * (2 * vectors + 3 * count) + integers * count * plan.per_integer


def strips(vectors, body):
    """body(first, count) for groups of vectors that are about as large."""
    count = ceil_div(vectors, WIDEST)

    def strip(number):
        width = ceil_div(vectors, count)
        body(number * width, smaller(width, vectors - number * width))

    repeat(count, strip)


def of_width(vectors, body):
    """body(width) for a number of vectors, which is a constant there."""
    switch(vectors - 1, [lambda width=width: body(width) for width in range(1, WIDEST + 1)])


def row_bits(a, at, count):
    """The bits of so many factors, of which TERMS are looked at, that stand one after the other."""
    L = lanes(a)

    def all_terms():
        bits = mask_bits(nonzero(load(a, at)))
        for i in range(L, TERMS, L):
            bits = bits | mask_bits(nonzero(load(a, at + i))) << i
        return bits

    def some(v, bits):
        return (bits | mask_bits(nonzero(load_first(a, at + v * L, count - v * L))) << v * L,)

    return switch(count >= TERMS, [lambda: carry(ceil_div(count, L), (0,), some)[0], all_terms])


def nonzeros(a, table, rows, depth):
    """How many factors of the sampled rows are not zero."""

    def row(number, total):
        at = element(table, number * SAMPLED)

        def some(k, total):
            return (total + count_bits(row_bits(a, at + k * TERMS, depth - k * TERMS)),)

        return carry(ceil_div(depth, TERMS), (total,), some)

    return carry(ceil_div(rows, SAMPLED), (0,), row)[0]


def finite(b, row_at, rows, vectors):
    """Whether all elements of some rows are finite, of which there is one at least."""

    def vector(at):
        x = load(b, at)
        return x - x  # zero, or NaN

    def row(k, found):
        at = row_at(k)
        return carry(vectors, (found,), lambda v, found: (with_bit(found, vector(at + v * lanes(b)), 0),))

    return mask_bits(nonzero(carry(rows, (no_bits(b),), row)[0])) == 0


@outlined
def sum_rows(width, count, terms, left, right, start, c):
    """C[i, :] = start[i, :] + sum over k of left[i, k] right[k, :], for rows, `width` vectors, and TERMS terms at most.

    Left is memory, a table of where its rows begin in there, one of rows to ask for, and whether they are; the others are
    memory and the distance of their rows.
    """
    (a, table, ahead, asks), (b, b_step), (start, start_step), (c, c_step) = left, right, start, c
    L = lanes(c)

    def sum_row(i, bits):
        here = from_on(a, element(table, i))

        def add(bits, *sums):
            k = lowest_bit(bits)
            factor = broadcast(here, k)
            return bits & (bits - 1), *(fma(factor, load(b, k * b_step + j * L), one) for j, one in enumerate(sums))

        def ask():
            for line in range(0, TERMS, ALIGNMENT_BYTES // itemsize(a)):
                prefetch(a, element(ahead, i) + line)

        when(asks, ask)
        (sums,) = load_tile(start, [i * start_step], width)
        store_tile(unsigned_zeros([until_zero(bits, sums, add)]), c, [i * c_step])

    def row(i, bits, following):
        # a row's bits are found two rows before its sums, so that no loop waits for memory
        later = row_bits(a, element(table, smaller(i, count - 1)), terms)
        when(i > 1, lambda: sum_row(i - 2, bits))
        return following, later

    carry(count + 2, (0, 0), row)


def column_bits(a, table, count, integers):
    """For each of LANES columns of `a` a bit for each of so many rows, SAMPLES at most, into integers of a float's size."""
    bits = carry(count, (no_bits(a),), lambda k, bits: (with_bit(bits, load(a, element(table, k)), k),))
    store(integers, 0, bits[0])


@outlined
def sum_columns(width, count, left, right, integers, sums):
    """sums[i, :] += sum over k of left[k, i] right[k, :], for `count` columns i, `width` vectors, and SAMPLES terms.

    Left is memory, and a table of where its rows begin in there, right is memory and the distance of its rows; sums stand
    without gaps.
    """
    (a, table), (b, b_step) = left, right
    L = lanes(a)

    def column(i):
        def add(bits, *ones):
            k = lowest_bit(bits)
            factor = broadcast(a, element(table, k) + i)
            return bits & (bits - 1), *(fma(factor, load(b, k * b_step + j * L), one) for j, one in enumerate(ones))

        at = [i * width * L]
        (start,) = load_tile(sums, at, width)
        store_tile(unsigned_zeros([until_zero(unsigned(integers, i), start, add)]), sums, at)

    repeat(count, column)


class SparseGradient:
    """(6), (7) for whole vectors of rows of W_l, without factors that are zero: of A_{l-1} or, `by_deltas`, of D_l.

    Sums are of SQUARE columns of the factors that may be zero, and of some vectors of a row of the others. Where these are
    of A_{l-1}, sums are transposed, square by square; its rows, which may be those of X, at any address, are copied.

    Parameters
    ----------
    job, part, learning : what the thread works on
    layer
    a : pointer to the thread's columns of A_{l-1}, and a table of where rows begin
    begin, count, depth : row of W_l, vectors of such rows, and rows of the batch, all at least 1
    by_deltas : which factors may be zero
    """

    def __init__(self, job, part, layer, learning, a, begin, count, depth, by_deltas):
        self.job, self.part, self.learning, self.depth, self.by_deltas = job, part, learning, depth, by_deltas
        self.a, self.d, self.stride = a, deltas_of(job, part, layer), layer.stride
        self.at = layer.offset + begin * layer.stride
        units = vector_count(job.memory, layer.n_out)
        self.columns, self.vectors = choose(by_deltas, units, count) * lanes(job.memory), choose(by_deltas, count, units)
        self.parts = ceil_div(depth, SAMPLES)
        self.sums = from_on(job.memory, part.pack)
        self.bits = from_on(self.sums, SQUARE * WIDEST * lanes(job.memory))

    def run(self):
        """Compute it."""
        L, most = lanes(self.sums), GROUPS * SQUARE
        left, table = (choose(self.by_deltas, *pair) for pair in zip(self.d, self.a, strict=True))

        def some(number):
            first = number * most
            columns = Names(first=first, count=smaller(self.columns - first, most), a=from_on(left, first), table=table)
            repeat(columns.count // L, lambda v: self.find_bits(columns, v * L))
            strips(self.vectors, lambda v, width: self.strip(columns, v, width))

        repeat(ceil_div(self.columns, most), some)

    def bits_of(self, column, part):
        """Where those of some columns and SAMPLES rows stand: as many integers as columns in a group, part by part."""
        group, place = column // SQUARE, column % SQUARE
        return as_integers(from_on(self.bits, (group * self.parts + part) * SQUARE + place))

    def find_bits(self, columns, column):
        """Of a vector of columns."""

        def of_part(part):
            first = part * SAMPLES
            count = smaller(self.depth - first, SAMPLES)
            column_bits(from_on(columns.a, column), from_on(columns.table, first), count, self.bits_of(column, part))

        repeat(self.parts, of_part)

    def right(self, v, width):
        """Some vectors of the factors that are all taken: memory, and the distance of rows."""
        (a, table), (d, _), L = self.a, self.d, lanes(self.sums)
        copied = from_on(self.job.memory, self.learning.panels)

        def copy_row(k):
            row = element(table, k) + v * L
            repeat(width, lambda j: store(copied, (k * width + j) * L, load(a, row + j * L)))

        when(self.by_deltas, lambda: repeat(self.depth, copy_row))
        pairs = (copied, width * L), (from_on(d, v * L), self.stride)
        return tuple(choose(self.by_deltas, *pair) for pair in zip(*pairs, strict=True))

    def strip(self, columns, v, width):
        """All groups of columns, and some vectors."""
        right, step = self.right(v, width)

        def group(number):
            column = number * SQUARE
            tile = Tile(self, columns.first + column, smaller(columns.count - column, SQUARE), v, width)
            tile.begin()

            def part(p):
                left = from_on(columns.a, column), from_on(columns.table, p * SAMPLES)
                factors, bits = (left, (from_on(right, p * SAMPLES * step), step)), self.bits_of(column, p)
                of_width(width, lambda width: sum_columns(width, tile.count, *factors, bits, self.sums))

            repeat(self.parts, part)
            tile.finish()

        repeat(ceil_div(columns.count, SQUARE), group)


class Tile:
    """The sums of some columns and vectors of a `Gradient`, which stand without gaps, and the weights they belong to."""

    def __init__(self, gradient, column, count, v, width):
        self.gradient, self.count, self.width = gradient, count, width
        L, stride, by_deltas = lanes(gradient.sums), gradient.stride, gradient.by_deltas
        self.start = gradient.at + choose(by_deltas, v * L * stride + column, column * stride + v * L)
        self.far, self.step = choose(by_deltas, L, stride * L), choose(by_deltas, stride * L, L)

    def each(self, body):
        """body(k, place) for every vector: where it stands among the sums, and its weights among the parameters."""
        L, stride = lanes(self.gradient.sums), self.gradient.stride

        def vector(i, j):
            body((i * self.width + j) * L, self.start + i // L * self.far + i % L * stride + j * self.step)

        repeat(self.count, lambda i: repeat(self.width, lambda j: vector(i, j)))

    def transpose(self):
        """Squares of the sums, if they are of deltas' columns."""
        sums, L = self.gradient.sums, lanes(self.gradient.sums)

        def square(i, j):
            rows = [((i * L + lane) * self.width + j) * L for lane in range(L)]
            for row, column in zip(rows, transposed([load(sums, row) for row in rows]), strict=True):
                store(sums, row, column)

        squares = self.count // L * self.gradient.by_deltas
        repeat(squares, lambda i: repeat(self.width, lambda j: square(i, j)))

    def begin(self):
        """Begin with zero, or with the stored gradient of the rows so far."""
        job, sums = self.gradient.job, self.gradient.sums

        def go_on():
            self.each(lambda k, place: store(sums, k, load(job.memory, job.plan.grad + place)))
            self.transpose()

        either(self.gradient.learning.fresh, lambda: self.each(lambda k, _: store(sums, k, splat(sums, 0.0))), go_on)

    def finish(self):
        """Give the solver every vector."""
        job, sums, solver = self.gradient.job, self.gradient.sums, self.gradient.learning.solver
        self.transpose()
        update(job, solver, lambda step: self.each(lambda k, place: step(load(sums, k), place)))


def deltas_of(job, part, layer):
    """Pointer to D_l, and a table of where rows begin."""
    return from_on(job.memory, layer.d), from_on(job.table, part.lines(job, layer.number + 1))
