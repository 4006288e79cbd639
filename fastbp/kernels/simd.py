"""The vector vocabulary: what a kernel may say about 64 (or 32) bytes at a time.

Everything has three meanings, chosen by what it is called with.

Compiled      LLVM vectors: a word is one or a few instructions. A machine with narrower registers (AVX2, NEON) gets each
              vector split by LLVM.
Plain Python  numpy arrays (NUMBA_DISABLE_JIT=1), so that a kernel can be stepped through, bounds-checked and covered.
Traced        values whose operators and words emit LLVM at once (`fastbp.kernels.tracing`).

Vectors       LANES elements of one float type.
Tiles         rows x cols vectors that LLVM keeps in registers over a loop; in plain Python an array (rows, cols, lanes).
Memory        a pointer to the first element of an array, indexed by element offsets; plain Python sees the flat array. No
              word checks bounds when compiled, none allocates.
"""

import functools
import time

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types

from fastbp.kernels import jit
from fastbp.kernels.tracing import (
    INT,
    Tile,
    Traced,
    Vector,
    emit_address,
    emit_broadcast,
    emit_fma,
    emit_load,
    emit_loop,
    emit_shuffle,
    emit_splat,
    emit_spread,
    emit_store,
    emit_tile,
    integer,
    operand,
    traced,
    vectors_of,
    word,
)

SIDE_BY_SIDE = (8, 4, 2, 1)  # vectors of a row that may be summed side by side


# --- vectors ----------------------------------------------------------------------------------------------------------


def python_lanes(like):
    return jit.vector_bytes // like.dtype.itemsize


@word(python_lanes)
def lanes(like):
    """Elements per vector for memory or a vector `like`; a constant."""
    return types.intp, lambda builder, _: integer(Vector(like.dtype).lanes)


def lane_count(like):
    """`lanes` as a number that Python can count to. For traced functions."""
    return Vector(like.kind.dtype).lanes if isinstance(like, Traced) else python_lanes(like)


@word(lambda memory, offset: memory[offset])
def element(memory, offset):
    """One element as a number; an integer of any size becomes one of 64 bits."""
    if isinstance(memory.dtype, types.Integer):
        return types.intp, lambda builder, data, at: builder.sext(builder.load(builder.gep(data, [at])), INT)
    return memory.dtype, lambda builder, data, at: builder.load(builder.gep(data, [at]))


def python_put(memory, offset, number):
    memory[offset] = number


@word(python_put)
def put(memory, offset, number):
    """Store a number in memory of its type; a float32 also in memory of float64."""

    def emit(builder, data, at, value):
        if (number, memory.dtype) == (types.float32, types.float64):
            value = builder.fpext(value, ir.DoubleType())
        builder.store(value, builder.gep(data, [at]))

    return types.none, emit


@word(min)
def smaller(a, b):
    """The smaller one of two integers."""
    return types.intp, lambda builder, a, b: builder.select(builder.icmp_signed("<", a, b), a, b)


@word(lambda memory, offset: memory[offset : offset + python_lanes(memory)].copy())
def load(memory, offset):
    vector = Vector(memory.dtype)
    return vector, lambda builder, data, at: emit_load(builder, vector, data, at)


@word(lambda memory, offset: np.full(python_lanes(memory), memory[offset]))
def broadcast(memory, offset):
    """One element in every lane."""
    vector = Vector(memory.dtype)
    return vector, lambda builder, data, at: emit_broadcast(builder, vector, data, at)


def python_store(memory, offset, value):
    memory[offset : offset + python_lanes(memory)] = value


@word(python_store)
def store(memory, offset, vector):
    return types.none, lambda builder, data, at, value: emit_store(builder, vector, data, at, value)


@word(lambda like, value: np.full(python_lanes(like), value, like.dtype))
def splat(like, number):
    """An int or a double, rounded to the float type of the memory or vector `like`, in every lane."""
    vector = Vector(like.dtype)

    def emit(builder, _, value):
        if isinstance(number, types.Integer):
            value = builder.sitofp(value, vector.llvm.element)
        elif vector.dtype == types.float32:
            value = builder.fptrunc(value, vector.llvm.element)
        return emit_splat(builder, value, vector)

    return vector, emit


def is_float32(x):
    """Whether a traced function computes in float32; the same for every lane and call."""
    return (x.kind.dtype == types.float32) if isinstance(x, Traced) else (x.dtype == np.float32)


def holds_integers(memory):
    """Whether these are integers, which is known while a traced function is traced."""
    return isinstance(memory.kind.dtype, types.Integer) if isinstance(memory, Traced) else memory.dtype.kind == "i"


def python_fma(a, b, c):
    wide = np.float64 if a.dtype == np.float32 else np.longdouble
    b, c = np.asarray(b, a.dtype), np.asarray(c, a.dtype)
    return (a.astype(wide) * b + c).astype(a.dtype)


def fma(a, b, c):
    """a*b + c, rounded once; the last two may be numbers. For traced functions."""
    if not isinstance(a, Traced):
        return python_fma(a, b, c)
    return Traced(a.builder, a.kind, emit_fma(a.builder, a.value, a.like(b), a.like(c)))


def square_root(x):
    """For traced functions."""
    if not isinstance(x, Traced):
        return np.sqrt(x)
    vector = x.kind
    name = f"llvm.sqrt.v{vector.lanes}f{vector.dtype.bitwidth}"
    function = ir.FunctionType(vector.llvm, [vector.llvm])
    return Traced(
        x.builder, vector, x.builder.call(cgutils.get_or_insert_function(x.builder.module, function, name), [x.value])
    )


def select(mask, yes, no):
    """Lane by lane `yes` where the mask is set, else `no`; one of the two may be a number. For traced functions."""
    vector = yes if isinstance(yes, (Traced, np.ndarray)) else no
    if not isinstance(mask, Traced):
        return np.where(mask, yes, no).astype(vector.dtype)
    return Traced(mask.builder, vector.kind, mask.builder.select(mask.value, vector.like(yes), vector.like(no)))


def at_least(x, number):
    """Mask of the lanes where not x < number: a NaN counts. For traced functions."""
    if not isinstance(x, Traced):
        return ~(x < number)
    return Traced(x.builder, None, x.builder.fcmp_unordered(">=", x.value, x.like(number)))


def float_format(x):
    """Bits of an element, bits of its mantissa, bias of its exponent."""
    return (32, 23, 127) if is_float32(x) else (64, 52, 1023)


def full_like(x, number):
    """The number in every lane of a vector of the type of x. For traced functions."""
    return Traced(x.builder, x.kind, x.like(number)) if isinstance(x, Traced) else np.full_like(x, number)


def beyond(x, number):
    """Mask of the lanes where not x <= number: a NaN counts. For traced functions."""
    if not isinstance(x, Traced):
        return ~(x <= number)
    return Traced(x.builder, None, x.builder.fcmp_unordered(">", x.value, x.like(number)))


def exponent_bias(x):
    """What stands in the exponent's place of 1 in the type of x."""
    return float_format(x)[2]


def power_of_two(k):
    """2**(k - `exponent_bias`) for an integer k that stands in the low bits of a float; right if that is a normal number."""
    return times_power_of_two(full_like(k, 0), k)


def times_power_of_two(x, k):
    """x * 2**k for an integer k in the low bits of a float; right while x and the result are normal numbers.

    A NaN may become anything.
    """
    bits, mantissa, _ = float_format(x)
    if not isinstance(x, Traced):
        integers = f"uint{bits}"
        return (x.view(integers) + (k.view(integers) << mantissa)).view(x.dtype)
    builder, vector = x.builder, x.kind
    integers = ir.VectorType(ir.IntType(bits), vector.lanes)
    shifted = builder.shl(builder.bitcast(k.value, integers), ir.Constant(integers, [mantissa] * vector.lanes))
    return Traced(builder, vector, builder.bitcast(builder.add(builder.bitcast(x.value, integers), shifted), vector.llvm))


def mantissa_and_exponent(x):
    """x = m * 2**k with m from sqrt(1/2) to sqrt(2) and a whole number k, both as floats; right for positive normal x.

    Adding to the bits of x what makes those of sqrt(1/2) into those of 1 leaves k + bias alone in the exponent's place, and
    m less sqrt(1/2), as integers, in the mantissa's. Put below a large power of two, the integer becomes a float.
    """
    bits, mantissa, bias = float_format(x)
    low = int(np.array(0.5**0.5, f"float{bits}").view(f"uint{bits}"))
    one, kept, large = bias << mantissa, (1 << mantissa) - 1, bias + mantissa << mantissa
    if not isinstance(x, Traced):
        moved = x.view(f"uint{bits}") + (one - low)
        m, k = ((moved & kept) + low).view(x.dtype), (moved >> mantissa | large).view(x.dtype)
    else:
        builder, vector = x.builder, x.kind
        integers = ir.VectorType(ir.IntType(bits), vector.lanes)
        kept, low, change, places, large = (
            ir.Constant(integers, [number] * vector.lanes) for number in (kept, low, one - low, mantissa, large)
        )
        moved = builder.add(builder.bitcast(x.value, integers), change)
        m, k = builder.add(builder.and_(moved, kept), low), builder.or_(builder.lshr(moved, places), large)
        m, k = (Traced(builder, vector, builder.bitcast(value, vector.llvm)) for value in (m, k))
    return m, k - (2.0**mantissa + bias)


def polynomial(x, coefficients):
    """c[0] + c[1] x + c[2] x**2 + ...: even and odd powers apart, each by Horner's rule in x**2.

    The chain of dependent operations is half as long as with Horner's rule alone, for one multiplication more.
    """
    square = x * x

    def horner(terms):
        return functools.reduce(lambda result, term: fma(square, result, term), reversed(terms))

    return fma(x, horner(coefficients[1::2]), horner(coefficients[::2]))


# --- tiles ------------------------------------------------------------------------------------------------------------


@word(lambda like, rows, cols: np.zeros((rows, cols or python_lanes(like), python_lanes(like)), like.dtype))
def zero_tile(like, rows, cols):
    """Tile of zeros; rows and cols are constants, cols = 0 stands for LANES."""
    if not (isinstance(rows, types.IntegerLiteral) and isinstance(cols, types.IntegerLiteral)):
        return None
    vector = Vector(like.dtype)
    tile = Tile(vector, rows.literal_value, cols.literal_value or vector.lanes)
    zero = ir.Constant(vector.llvm, [0.0] * vector.lanes)
    return tile, lambda builder, *_: emit_tile(builder, tile, [zero] * (tile.rows * tile.cols))


def python_load_tile(like, memory, offset, row):
    rows, cols, count = like.shape
    return np.stack([memory[offset + r * row :][: cols * count].reshape(cols, count) for r in range(rows)])


def tile_places(builder, tile, offset, row):
    """Offset of each vector of a tile that stands in memory with `row` elements from row to row."""
    for r in range(tile.rows):
        start = builder.add(offset, builder.mul(integer(r), row))
        for c in range(tile.cols):
            yield builder.add(start, integer(c * tile.vector.lanes))


@word(python_load_tile)
def load_tile(tile, memory, offset, row):
    """Tile of the shape of the first argument: [r, c] = load(memory, offset + r*row + c*LANES)."""

    def emit(builder, _, data, offset, row):
        places = tile_places(builder, tile, offset, row)
        return emit_tile(builder, tile, [emit_load(builder, tile.vector, data, place) for place in places])

    return tile, emit


def python_store_tile(tile, memory, offset, row):
    for r, vectors in enumerate(tile):
        memory[offset + r * row :][: vectors.size] = vectors.ravel()


@word(python_store_tile)
def store_tile(tile, memory, offset, row):
    """memory[offset + r*row + c*LANES ...] = tile[r, c]."""

    def emit(builder, value, data, offset, row):
        places = tile_places(builder, tile, offset, row)
        for place, vector in zip(places, vectors_of(builder, tile, value), strict=True):
            emit_store(builder, tile.vector, data, place, vector)

    return types.none, emit


def in_place(tile, rows):
    """Every vector of a tile with its place in memory, where row r begins at rows[r]. For traced functions."""
    if not isinstance(tile, Traced):
        return [(vector, at + c * len(vector)) for row, at in zip(tile, rows, strict=True) for c, vector in enumerate(row)]
    kind = tile.kind
    vectors = [Traced(tile.builder, kind.vector, one) for one in vectors_of(tile.builder, kind, tile.value)]
    return [(one, rows[n // kind.cols] + n % kind.cols * kind.vector.lanes) for n, one in enumerate(vectors)]


def outer(tile, depth, left, right):
    """For k < depth: tile[r, c] += left(k)[r] * right(k)[c]; the depth is at least 1. For traced functions.

    left, right : functions of k that return as many vectors as the tile has rows, and columns.
    """
    if not isinstance(tile, Traced):
        for k in range(depth):
            columns = right(k)
            tile = np.stack(
                [[fma(a, b, c) for b, c in zip(columns, row, strict=True)] for a, row in zip(left(k), tile, strict=True)]
            )
        return tile
    builder, kind = tile.builder, tile.kind

    def body(k, sums):
        k = Traced(builder, types.intp, k)
        columns = right(k)
        pairs = [(a.value, b.value) for a in left(k) for b in columns]
        return [emit_fma(builder, *pair, total) for pair, total in zip(pairs, sums, strict=True)]

    sums = emit_loop(builder, operand(depth), vectors_of(builder, kind, tile.value), body)
    return Traced(builder, kind, emit_tile(builder, kind, sums))


def fold(tile):
    """The sum over the lanes of every vector of a tile: for each row one vector of as many lanes as the tile has columns.

    For traced functions; rows and columns are powers of two. Folding two vectors into one costs two shuffles and an
    addition, so that many sums together take far fewer instructions than each by itself.
    """
    if not isinstance(tile, Traced):
        return [np.array([python_sum(vector) for vector in row], tile.dtype) for row in tile]
    builder, kind = tile.builder, tile.kind
    vectors, group = vectors_of(builder, kind, tile.value), kind.vector.lanes
    while group > 1:
        # two vectors meet in one as long as there are two: i and i + n, which leaves the sums in the order of the tile
        n, sources = max(1, len(vectors) // 2), min(2, len(vectors))
        half, lanes = group // 2, vectors[0].type.count
        low = [s * lanes + g + t for g in range(0, lanes, group) for s in range(sources) for t in range(half)]
        high = [lane + half for lane in low]
        pairs = zip(vectors[:n], vectors[-n:], strict=True)
        vectors = [builder.fadd(emit_shuffle(builder, a, b, low), emit_shuffle(builder, a, b, high)) for a, b in pairs]
        group = half
    # lane l of vector i now is the sum of vector l*n + i of the tile
    n = len(vectors)
    result = []
    for r in range(kind.rows):
        wanted = range(r * kind.cols, (r + 1) * kind.cols)
        part = Vector(kind.vector.dtype, kind.cols)
        value = ir.Constant(part.llvm, ir.Undefined)
        if n == 1:
            value = emit_shuffle(builder, vectors[0], vectors[0], wanted)
        else:
            for c, position in enumerate(wanted):
                lane = ir.Constant(ir.IntType(32), position // n)
                element = builder.extract_element(vectors[position % n], lane)
                value = builder.insert_element(value, element, ir.Constant(ir.IntType(32), c))
        result.append(Traced(builder, part, value))
    return result


def row_tile(vectors):
    """A tile of one row. For traced functions."""
    if not isinstance(vectors[0], Traced):
        return np.stack(vectors)[None]
    builder, tile = vectors[0].builder, Tile(vectors[0].kind, 1, len(vectors))
    return Traced(builder, tile, emit_tile(builder, tile, [vector.value for vector in vectors]))


def transposed(rows):
    """The columns of a square of LANES vectors, as vectors. For traced functions.

    Stage by stage, pairs of vectors exchange the lanes that differ in one bit of the lane's number.
    """
    if not isinstance(rows[0], Traced):
        return list(np.stack(rows).T.copy())
    builder, kind = rows[0].builder, rows[0].kind
    values, bit = [row.value for row in rows], 1
    while bit < kind.lanes:
        low = [lane if not lane & bit else kind.lanes + lane - bit for lane in range(kind.lanes)]
        high = [lane + bit if not lane & bit else kind.lanes + lane for lane in range(kind.lanes)]
        for i in range(kind.lanes):
            if not i & bit:
                a, b = values[i], values[i + bit]
                values[i], values[i + bit] = emit_shuffle(builder, a, b, low), emit_shuffle(builder, a, b, high)
        bit *= 2
    return [Traced(builder, kind, value) for value in values]


def load_first(memory, at, count):
    """As `load`, but for the first `count` elements alone, if any: no others are read, and zeros are in their place.

    For traced functions.
    """
    if not isinstance(memory, Traced):
        vector = np.zeros(python_lanes(memory), memory.dtype)
        count = max(0, min(int(count), len(vector)))
        vector[:count] = memory[at : at + count]
        return vector
    builder, vector = memory.builder, Vector(memory.kind.dtype)
    lane = ir.VectorType(INT, vector.lanes)
    numbers = ir.Constant(lane, list(range(vector.lanes)))
    mask = builder.icmp_signed("<", numbers, emit_spread(builder, count.value, vector.lanes))
    place, zero = emit_address(builder, memory.value, at.value, vector), ir.Constant(vector.llvm, [0.0] * vector.lanes)
    width = vector.dtype.bitwidth
    function = ir.FunctionType(vector.llvm, [place.type, ir.IntType(32), mask.type, vector.llvm])
    name = f"llvm.masked.load.v{vector.lanes}f{width}.p0v{vector.lanes}f{width}"
    load = cgutils.get_or_insert_function(builder.module, function, name)
    return Traced(builder, vector, builder.call(load, [place, ir.Constant(ir.IntType(32), width // 8), mask, zero]))


def load_many(memory, at, count):
    """Some vectors, which stand one after the other, as one with so many times the lanes; the count is a constant.

    LLVM makes an operation on it one on each vector, so that a function's chains stand side by side. For traced functions.
    """
    if not isinstance(memory, Traced):
        return memory[at : at + count * python_lanes(memory)].copy()
    vector = Vector(memory.kind.dtype, count * lane_count(memory))
    return Traced(memory.builder, vector, emit_load(memory.builder, vector, memory.value, operand(at)))


def load_like(vector, memory, at):
    """As many elements as `vector` has. For traced functions."""
    if not isinstance(vector, Traced):
        return memory[at : at + len(vector)].copy()
    return Traced(vector.builder, vector.kind, emit_load(vector.builder, vector.kind, memory.value, at.value))


def store_like(vector, memory, at):
    if not isinstance(vector, Traced):
        memory[at : at + len(vector)] = vector
    else:
        emit_store(vector.builder, vector.kind, memory.value, at.value, vector.value)


def from_on(memory, at):
    """The memory that begins with an element of another. For traced functions."""
    if not isinstance(memory, Traced):
        return memory[at:]
    return Traced(memory.builder, memory.kind, memory.builder.gep(memory.value, [operand(at)]))


def from_there(memory, at):
    """As `from_on`, by an address of its own: code cannot tell where it comes from, and is not made to count it on."""
    if not isinstance(memory, Traced):
        return memory[at:]
    address = from_on(memory, at).value
    same = ir.FunctionType(address.type, [address.type])
    return Traced(memory.builder, memory.kind, memory.builder.asm(same, "", "=r,0", [address], False))


def prefetch(memory, at):
    """Ask for the memory around an element, which is about to be read and written. For traced functions."""
    if not isinstance(memory, Traced):
        return
    builder, byte = memory.builder, ir.IntType(8).as_pointer()
    function = ir.FunctionType(ir.VoidType(), [byte] + [ir.IntType(32)] * 3)
    place = builder.bitcast(builder.gep(memory.value, [at.value]), byte)
    write, near, data = (ir.Constant(ir.IntType(32), number) for number in (0, 3, 1))
    builder.call(cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0i8"), [place, write, near, data])


def copy(source, at, target, to, count):
    """Copy `count` elements, a constant. For traced functions."""
    if not isinstance(source, Traced):
        target[to : to + count] = source[at : at + count]
        return
    some = Vector(source.kind.dtype, count)
    emit_store(source.builder, some, target.value, to.value, emit_load(source.builder, some, source.value, at.value))


def repeat(count, body):
    """body(0), body(1) ... body(count - 1). For traced functions."""
    if not isinstance(count, Traced):
        for k in range(int(count)):
            body(k)
        return
    builder = count.builder

    def emit_body(k, _):
        body(Traced(builder, types.intp, k))
        return []

    with builder.if_then(builder.icmp_signed(">", count.value, integer(0))):
        emit_loop(builder, count.value, [], emit_body)


def either(flag, yes, no):
    """Call yes() or no() as an integer flag says. For traced functions."""
    if not isinstance(flag, Traced):
        yes() if flag else no()
        return
    builder = flag.builder
    with builder.if_else(builder.icmp_signed("!=", flag.value, integer(0))) as (then, otherwise):
        with then:
            yes()
        with otherwise:
            no()


def switch(code, cases):
    """What cases[code]() gives: nothing, a vector, a tile or several vectors. For traced functions.

    A function that stands in several places is emitted once.
    """
    if not isinstance(code, Traced):
        return cases[int(code)]()
    builder = code.builder
    after = builder.append_basic_block("chosen")
    blocks = {case: builder.append_basic_block("case") for case in dict.fromkeys(cases)}
    branch = builder.switch(code.value, blocks[cases[-1]])
    for number, case in enumerate(cases[:-1]):
        branch.add_case(integer(number), blocks[case])
    results, ends = [], []
    for case, block in blocks.items():
        builder.position_at_end(block)
        results.append(case())
        ends.append(builder.block)
        builder.branch(after)
    builder.position_at_end(after)
    return join(builder, results, ends)


def join(builder, results, ends):
    """The value that one of several blocks has left; a tile meets vector by vector, which keeps it in registers."""
    first = results[0]
    if first is None:
        return None
    if isinstance(first, tuple):
        return tuple(join(builder, one, ends) for one in zip(*results, strict=True))
    if isinstance(first.kind, Tile):
        parts = []
        for position in range(first.kind.rows * first.kind.cols):
            phi = builder.phi(first.kind.vector.llvm)
            parts.append((phi, position))
        for result, end in zip(results, ends, strict=True):
            builder.position_before(end.terminator)
            for phi, position in parts:
                phi.add_incoming(builder.extract_value(result.value, position), end)
        builder.position_at_end(parts[0][0].parent)
        return Traced(builder, first.kind, emit_tile(builder, first.kind, [phi for phi, _ in parts]))
    phi = builder.phi(first.value.type)
    for result, end in zip(results, ends, strict=True):
        phi.add_incoming(result.value, end)
    return Traced(builder, first.kind, phi)


def carry(count, values, body):
    """values = body(k, *values) for k = 0 ... count - 1; the count is at least 1. For traced functions."""
    if not isinstance(count, Traced):
        for k in range(int(count)):
            values = body(k, *values)
        return values
    builder, kinds = count.builder, [value.kind for value in values]

    def emit_body(k, current):
        current = [Traced(builder, kind, value) for kind, value in zip(kinds, current, strict=True)]
        return [value.value for value in body(Traced(builder, types.intp, k), *current)]

    results = emit_loop(builder, count.value, [value.value for value in values], emit_body)
    return tuple(Traced(builder, kind, value) for kind, value in zip(kinds, results, strict=True))


def choose(flag, yes, no):
    """One of two pointers or integers, as an integer flag says. For traced functions."""
    if not isinstance(flag, Traced):
        return yes if flag else no
    builder = flag.builder
    value = builder.select(builder.icmp_signed("!=", flag.value, integer(0)), operand(yes), operand(no))
    return Traced(builder, next((one.kind for one in (yes, no) if isinstance(one, Traced)), types.intp), value)


def either_place(flag, yes, no):
    """One of two pointers with its offset. For traced functions."""
    return choose(flag, yes[0], no[0]), choose(flag, yes[1], no[1])


def in_groups(count, sizes, body):
    """body(size, first) for groups that make up `count`, of falling sizes, which are constants. For traced functions."""
    done = count * 0
    for size in sizes:
        groups = (count - done) // size
        repeat(groups, lambda i, size=size, done=done: body(size, done + i * size))
        done = done + groups * size


def side_by_side(vectors, body):
    """body(number, first) for groups of vectors, whose numbers are constants. For traced functions."""
    in_groups(vectors, SIDE_BY_SIDE, body)


def fill(tile, rows):
    """A tile like `tile` whose row r is rows[r] in every column. For traced functions."""
    if not isinstance(tile, Traced):
        return np.broadcast_to(np.stack(rows)[:, None], tile.shape)
    vectors = [vector.value for vector in rows for _ in range(tile.kind.cols)]
    return Traced(tile.builder, tile.kind, emit_tile(tile.builder, tile.kind, vectors))


def python_sum(value):
    while value.size > 1:
        value = value[: value.size // 2] + value[value.size // 2 :]
    return value[0]


@word(python_sum)
def sum_lanes(vector):
    """Sum of all lanes by halving: a tree, so that the order is defined and the chain short."""

    def emit(builder, value):
        while value.type.count > 1:
            half = value.type.count // 2
            low, high = (emit_shuffle(builder, value, value, range(start, start + half)) for start in (0, half))
            value = builder.fadd(low, high)
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return vector.dtype, emit


def across(vector, combine):
    """All lanes combined by halving, in every lane. For traced functions."""
    count = lane_count(vector)
    distance = count // 2
    while distance:
        order = [lane ^ distance for lane in range(count)]
        if isinstance(vector, Traced):
            other = Traced(vector.builder, vector.kind, emit_shuffle(vector.builder, vector.value, vector.value, order))
        else:
            other = vector[order]
        vector = combine(vector, other)
        distance //= 2
    return vector


def larger(x, y):
    """Lane by lane the larger of two vectors, y where x is NaN. For traced functions."""
    return select(x > y, x, y)


def first_lane(mask):
    """The number of the first lane that is set, or a number not below LANES. For traced functions."""
    if not isinstance(mask, Traced):
        return int(np.argmax(mask)) if mask.any() else len(mask)
    builder, lanes = mask.builder, mask.value.type.count
    bits = builder.zext(builder.bitcast(mask.value, ir.IntType(lanes)), INT)
    bits = builder.or_(bits, integer(1 << lanes))
    return Traced(builder, types.intp, builder.cttz(bits, ir.Constant(ir.IntType(1), 1)))


@traced
def vector_count(memory, units):
    """Vectors that hold so many units."""
    L = lane_count(memory)
    return (units + (L - 1)) // L


# --- random bits ------------------------------------------------------------------------------------------------------


def scrambled(x):
    """32 bits each of whose 32 bits depends on all of x, in both directions one to one.

    Two rounds of shift-xor-multiply, with the constants that Wellons found by search for the least bias ("Prospecting for
    hash functions", 2018).
    """
    if isinstance(x, np.ndarray):
        x = x ^ (x >> np.uint32(16))
        x = x * np.uint32(0x7FEB352D)
        x = x ^ (x >> np.uint32(15))
        x = x * np.uint32(0x846CA68B)
        return x ^ (x >> np.uint32(16))
    builder, value = x.builder, x.value

    def constant(number):
        return ir.Constant(value.type, [number] * value.type.count)

    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        value = builder.mul(builder.xor(value, builder.lshr(value, constant(shift))), constant(factor))
    value = builder.xor(value, builder.lshr(value, constant(16)))
    return Traced(builder, x.kind, value)


def counters(like, start, step):
    """start, start + step, ... as 32-bit integers, one for each lane of the memory `like`. For traced functions."""
    count = lane_count(like)
    if not isinstance(like, Traced):
        return ((start + step * np.arange(count)) % 2**32).astype(np.uint32)
    builder, narrow = like.builder, ir.IntType(32)
    start, step = (emit_spread(builder, builder.trunc(operand(value), narrow), count) for value in (start, step))
    lane = ir.Constant(ir.VectorType(narrow, count), list(range(count)))
    return Traced(builder, None, builder.add(start, builder.mul(lane, step)))


def below(x, bound):
    """Mask of the lanes of 32-bit integers below an integer under 2**32. For traced functions."""
    if not isinstance(x, Traced):
        return x < bound
    count, narrow = x.value.type.count, ir.IntType(32)
    bounds = emit_spread(x.builder, x.builder.trunc(operand(bound), narrow), count)
    return Traced(x.builder, None, x.builder.icmp_unsigned("<", x.value, bounds))


def together(x, y):
    """x + y of 32-bit integers, modulo 2**32. For traced functions."""
    return x + y if not isinstance(x, Traced) else Traced(x.builder, None, x.builder.add(x.value, y.value))


# --- subnormal numbers ------------------------------------------------------------------------------------------------

X86_FLUSHES, ARM_FLUSHES = 0x8040, 1 << 24  # bits by which subnormal operands and results are 0


def emit_control(builder, name, kind, *args):
    function = ir.FunctionType(kind, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), args)


@word(lambda like: 0)
def flush_subnormals(like):
    """From now on this thread takes numbers below the normal ones for 0; gives what `restore_subnormals` wants.

    Processors need 10 to 100 times as long for them, and the moments of a weight whose gradient stays 0 become such numbers.
    """

    def emit(builder, _):
        if jit.x86():
            place = cgutils.alloca_once(builder, ir.IntType(32))
            at = builder.bitcast(place, ir.IntType(8).as_pointer())
            emit_control(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), at)
            before = builder.load(place)
            builder.store(builder.or_(before, ir.Constant(ir.IntType(32), X86_FLUSHES)), place)
            emit_control(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), at)
            return builder.zext(before, INT)
        if jit.arm():
            before = emit_control(builder, "llvm.aarch64.get.fpcr", INT)
            emit_control(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), builder.or_(before, integer(ARM_FLUSHES)))
            return before
        return integer(0)

    return types.int64, emit


@word(lambda like, before: None)
def restore_subnormals(like, before):
    """Undo `flush_subnormals`."""

    def emit(builder, _, before):
        if jit.x86():
            place = cgutils.alloca_once(builder, ir.IntType(32))
            builder.store(builder.trunc(before, ir.IntType(32)), place)
            at = builder.bitcast(place, ir.IntType(8).as_pointer())
            emit_control(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), at)
        elif jit.arm():
            emit_control(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), before)

    return types.none, emit


# --- time -------------------------------------------------------------------------------------------------------------


@word(lambda like: time.perf_counter_ns())
def clock(like):
    """A counter of the processor that runs at a constant rate; 0 where it has none. Nanoseconds in plain Python.

    The argument, any memory, is not looked at.
    """

    def emit(builder, _):
        function = ir.FunctionType(INT, [])
        return builder.call(cgutils.get_or_insert_function(builder.module, function, "llvm.readcyclecounter"), [])

    return types.int64, emit


# --- threads ----------------------------------------------------------------------------------------------------------

SPINS = 20_000  # looks at a word before the rest of the time slice is given away: some 10 microseconds


@word(None)
def add_atomically(memory, offset, number):
    """Add to an int64 that other threads see; gives what stood there before."""
    return types.int64, lambda builder, data, at, value: builder.atomic_rmw("add", builder.gep(data, [at]), value, "seq_cst")


@word(None)
def wait_for_change(memory, offset, value):
    """Look at an int64 until another thread has changed it from `value`."""

    def emit(builder, data, at, value):
        place = builder.gep(data, [at])
        loop, idle, after = (builder.append_basic_block(name) for name in ("look", "idle", "changed"))
        before = builder.block
        builder.branch(loop)
        builder.position_at_end(loop)
        spins = builder.phi(INT)
        spins.add_incoming(integer(0), before)
        same = builder.icmp_signed("==", builder.load_atomic(place, "seq_cst", 8), value)
        builder.cbranch(same, idle, after)
        builder.position_at_end(idle)
        # no pause instruction: under a hypervisor a loop of them gives the processor away
        with builder.if_then(builder.icmp_signed(">", spins, integer(SPINS))):
            function = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, function, jit.YIELD), [])
        spins.add_incoming(builder.add(spins, integer(1)), builder.block)
        builder.branch(loop)
        builder.position_at_end(after)

    return types.none, emit
