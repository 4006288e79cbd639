"""Tiles: rows of vectors, as lists, that stay in registers over a loop."""

import itertools

import numpy as np
from llvmlite import ir

from fastbp.kernels.control import carry
from fastbp.kernels.tracing import INT32, Traced, shuffle
from fastbp.kernels.vectors import fma, lanes, load, python_sum, splat, store


def zero_tile(like, rows, cols):
    """Rows of vectors of zeros."""
    return [[splat(like, 0.0)] * cols for _ in range(rows)]


def places_of(like, rows, cols):
    """Of rows that begin at some places, the place of each vector."""
    return [[row + c * lanes(like) for c in range(cols)] for row in rows]


def load_tile(memory, rows, cols):
    """Vectors that stand one after the other from some places on, one place for each row."""
    return [[load(memory, at) for at in row] for row in places_of(memory, rows, cols)]


def in_place(tile, rows):
    """Every vector of a tile with its place in memory, where row r begins at rows[r]."""
    places = places_of(tile[0][0], rows, len(tile[0]))
    return list(zip(itertools.chain(*tile), itertools.chain(*places), strict=True))


def store_tile(tile, memory, rows):
    """What `load_tile` loads."""
    for vector, at in in_place(tile, rows):
        store(memory, at, vector)


def unsigned_zeros(tile):
    """0.0 for -0.0, which a sum may begin with, or become where a product is too small, and another zero changes or not."""
    return [[vector + 0.0 for vector in row] for row in tile]


def flat(tile):
    """The vectors of a tile, row by row, as `carry` takes them."""
    return tuple(itertools.chain(*tile))


def in_rows(vectors, cols):
    """The tile again."""
    return [list(vectors[first : first + cols]) for first in range(0, len(vectors), cols)]


def outer(tile, depth, left, right):
    """For k < depth: tile[r][c] += left(k)[r] * right(k)[c]; the depth is at least 1."""

    def add(k, *sums):
        columns, rows = right(k), left(k)
        return tuple(fma(a, b, total) for (a, b), total in zip(itertools.product(rows, columns), sums, strict=True))

    return in_rows(carry(depth, flat(tile), add), len(tile[0]))


def python_fold(tile):
    return [np.array([python_sum(vector) for vector in row]) for row in tile]


def fold(tile):
    """The sum over the lanes of every vector of a tile: for each row one vector of as many lanes as the tile has columns.

    Rows and columns are powers of two. Folding two vectors into one costs two shuffles and an addition, so that many sums
    together take far fewer instructions than each by itself.
    """
    first, cols = tile[0][0], len(tile[0])
    if not isinstance(first, Traced):
        return python_fold(tile)
    builder, vectors, group = first.builder, [vector.value for row in tile for vector in row], lanes(first)
    while group > 1:
        # two vectors meet in one as long as there are two: i and i + n, which leaves the sums in the order of the tile
        n, sources = max(1, len(vectors) // 2), min(2, len(vectors))
        half, count = group // 2, vectors[0].type.count
        low = [s * count + g + t for g in range(0, count, group) for s in range(sources) for t in range(half)]
        high = [lane + half for lane in low]
        pairs = zip(vectors[:n], vectors[-n:], strict=True)
        vectors = [builder.fadd(shuffle(builder, a, b, low), shuffle(builder, a, b, high)) for a, b in pairs]
        group = half
    # lane l of vector i now is the sum of vector l*n + i of the tile
    n, result = len(vectors), []
    for r in range(len(tile)):
        wanted = range(r * cols, (r + 1) * cols)
        if n == 1:
            value = shuffle(builder, vectors[0], vectors[0], wanted)
        else:
            value = ir.Constant(ir.VectorType(first.of, cols), ir.Undefined)
            for c, position in enumerate(wanted):
                one = builder.extract_element(vectors[position % n], ir.Constant(INT32, position // n))
                value = builder.insert_element(value, one, ir.Constant(INT32, c))
        result.append(first.new(value))
    return result


def transposed(rows):
    """The columns of a square of LANES vectors, as vectors.

    Stage by stage, pairs of vectors exchange the lanes that differ in one bit of the lane's number.
    """
    if not isinstance(rows[0], Traced):
        return list(np.stack(rows).T.copy())
    builder, count = rows[0].builder, lanes(rows[0])
    values, bit = [row.value for row in rows], 1
    while bit < count:
        low = [lane if not lane & bit else count + lane - bit for lane in range(count)]
        high = [lane + bit if not lane & bit else count + lane for lane in range(count)]
        for i in range(count):
            if not i & bit:
                a, b = values[i], values[i + bit]
                values[i], values[i + bit] = shuffle(builder, a, b, low), shuffle(builder, a, b, high)
        bit *= 2
    return list(map(rows[0].new, values))
