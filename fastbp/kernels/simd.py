"""The vector vocabulary: what a kernel may say about 64 (or 32, or 16) bytes at a time.

Everything has two meanings, chosen by what it is called with.

Compiled      `Traced` values emit LLVM (`fastbp.kernels.tracing`): a word is one or a few instructions. A machine with
              narrower registers (AVX2, NEON) gets each vector split by LLVM.
Plain Python  numpy arrays (NUMBA_DISABLE_JIT=1), so that a kernel can be stepped through, bounds-checked and covered.

Vectors       LANES elements of one float type.
Tiles         rows of vectors, as lists, that LLVM keeps in registers over a loop.
Memory        a pointer to the first element of an array, indexed by element offsets; plain Python sees the flat array. No
              word checks bounds when compiled, none allocates.
Numbers       64-bit integers and floats. A flag is an integer. Where a number may be traced, one of Python's does as well,
              and a loop over it is unrolled.
"""

import functools
import itertools
import time

import numpy as np
from llvmlite import ir

from fastbp.kernels import jit
from fastbp.kernels.tracing import (
    BYTES,
    DOUBLE,
    INT,
    INT32,
    Names,
    Traced,
    bit,
    external,
    integer,
    loop,
    operand,
    place,
    shuffle,
    spread,
    value_of,
    word,
)

SIDE_BY_SIDE = (8, 4, 2, 1)  # vectors of a row that may be summed side by side


# --- numbers ----------------------------------------------------------------------------------------------------------


@word(lambda memory, offset: memory[offset])
def element(memory, offset):
    """One element as a number; an integer of any size becomes one of 64 bits."""
    builder = memory.builder
    value = builder.load(builder.gep(memory.value, [operand(offset)]))
    return memory.new(builder.sext(value, INT) if isinstance(memory.of, ir.IntType) else value)


def python_put(memory, offset, number):
    memory[offset] = number


@word(python_put)
def put(memory, offset, number):
    """Store a number in memory of its type."""
    value = number.value if isinstance(number, Traced) else ir.Constant(memory.of, number)
    memory.builder.store(value, memory.builder.gep(memory.value, [operand(offset)]))


def add_to(memory, offset, number):
    """Add a number to one that stands in memory."""
    put(memory, offset, element(memory, offset) + number)


@word(float)
def widened(number):
    """A number as a double."""
    if number.type == INT:
        return number.new(number.builder.sitofp(number.value, DOUBLE))
    return number if number.type == DOUBLE else number.new(number.builder.fpext(number.value, DOUBLE))


@word(int)
def whole(number):
    """A double without what stands behind its point, as an integer."""
    return number.new(number.builder.fptosi(number.value, INT))


@word(min)
def smaller(a, b):
    """The smaller one of two integers."""
    a, b = (a, b) if isinstance(a, Traced) else (b, a)
    return choose(a < b, a, b)


@word(lambda flag, yes, no: yes if flag else no)
def choose(flag, yes, no):
    """One of two pointers or numbers, as an integer flag says; both are there before."""
    if not isinstance(flag, Traced):
        return yes if flag else no
    like = yes if isinstance(yes, Traced) else no if isinstance(no, Traced) else flag
    return flag.new(flag.builder.select(bit(flag), like.like(yes), like.like(no)))


def either_place(flag, yes, no):
    """One of two pointers with its offset."""
    return choose(flag, yes[0], no[0]), choose(flag, yes[1], no[1])


def named(memory, names, first=0):
    """Numbers that stand in memory one after the other, from `first` on, by their names."""
    return Names(**{name: element(memory, first + at) for at, name in enumerate(names)})


# --- vectors ----------------------------------------------------------------------------------------------------------


def lanes(like):
    """Elements per vector for memory or a vector `like`; a number of Python's."""
    return jit.vector_bytes // (BYTES[like.of] if isinstance(like, Traced) else like.dtype.itemsize)


def vector_of(like, count=1):
    """LLVM's type of some vectors of the elements of memory or of a vector."""
    return ir.VectorType(like.of, count * lanes(like))


def vector_count(like, units):
    """Vectors that hold so many units."""
    return (units + (lanes(like) - 1)) // lanes(like)


def is_float32(x):
    """Whether these are float32; the same for every lane and call."""
    return (BYTES[x.of] if isinstance(x, Traced) else x.dtype.itemsize) == 4


def load_many(memory, at, count):
    """Some vectors, which stand one after the other, as one with so many times the lanes; the count is a constant.

    LLVM makes an operation on it one on each vector, so that a function's chains stand side by side.
    """
    return load_some(memory, at, count * lanes(memory))


def load(memory, offset):
    """LANES elements."""
    return load_some(memory, offset, lanes(memory))


def load_like(vector, memory, at):
    """As many elements as `vector` has."""
    return load_some(memory, at, vector.type.count if isinstance(vector, Traced) else len(vector))


@word(lambda memory, at, count: memory[at : at + count].copy())
def load_some(memory, at, count):
    """So many elements, a constant."""
    vector = ir.VectorType(memory.of, count)
    return memory.new(memory.builder.load(place(memory, at, vector), align=BYTES[memory.of]))


def python_store(memory, offset, vector):
    memory[offset : offset + len(vector)] = vector


@word(python_store)
def store(memory, offset, vector):
    """As many elements as the vector has."""
    memory.builder.store(vector.value, place(memory, offset, vector.type), align=BYTES[memory.of])


def copy(source, at, target, to, count):
    """Copy so many elements, a constant."""
    store(target, to, load_some(source, at, count))


@word(lambda memory, offset: np.full(lanes(memory), memory[offset]))
def broadcast(memory, offset):
    """One element in every lane."""
    return memory.new(spread(memory.builder, element(memory, offset).value, lanes(memory)))


@word(lambda like, number: np.full(lanes(like), number, like.dtype))
def splat(like, number):
    """A number, rounded to the float type of the memory or vector `like`, in every lane."""
    if not isinstance(number, Traced):
        return like.new(ir.Constant(vector_of(like), [float(number)] * lanes(like)))
    builder, value = like.builder, number.value
    if number.type == INT:
        value = builder.sitofp(value, like.of)
    elif number.type != like.of:
        value = builder.fptrunc(value, like.of)
    return like.new(spread(builder, value, lanes(like)))


@word(lambda x, number: np.full_like(x, number))
def full_like(x, number):
    """The number in every lane of a vector of the type of x."""
    return x.new(x.like(number))


def python_fma(a, b, c):
    wide = np.float64 if a.dtype == np.float32 else np.longdouble
    b, c = np.asarray(b, a.dtype), np.asarray(c, a.dtype)
    return (a.astype(wide) * b + c).astype(a.dtype)


def type_name(vector):
    """How LLVM names the type of a vector in names of functions."""
    return f"v{vector.count}f{BYTES[vector.element] * 8}"


@word(python_fma)
def fma(a, b, c):
    """a*b + c, rounded once; the last two may be numbers."""
    return a.new(external(a.builder, f"llvm.fma.{type_name(a.type)}", a.type, a.value, a.like(b), a.like(c)))


@word(np.sqrt)
def square_root(x):
    """Of a vector, or of a double."""
    name = type_name(x.type) if isinstance(x.type, ir.VectorType) else "f64"
    return x.new(external(x.builder, f"llvm.sqrt.{name}", x.type, x.value))


def python_select(mask, yes, no):
    return np.where(mask, yes, no).astype((yes if isinstance(yes, np.ndarray) else no).dtype)


@word(python_select)
def select(mask, yes, no):
    """Lane by lane `yes` where the mask is set, else `no`; one of the two may be a number."""
    like = yes if isinstance(yes, Traced) else no
    return mask.new(mask.builder.select(mask.value, like.like(yes), like.like(no)))


@word(lambda x, number: ~(x < number))
def at_least(x, number):
    """Mask of the lanes where not x < number: a NaN counts."""
    return x.new(x.builder.fcmp_unordered(">=", x.value, x.like(number)))


@word(lambda x, number: ~(x <= number))
def beyond(x, number):
    """Mask of the lanes where not x <= number: a NaN counts."""
    return x.new(x.builder.fcmp_unordered(">", x.value, x.like(number)))


def larger(x, y):
    """Lane by lane the larger of two vectors, y where x is NaN."""
    return select(x > y, x, y)


def python_sum(value):
    while value.size > 1:
        value = value[: value.size // 2] + value[value.size // 2 :]
    return value[0]


@word(python_sum)
def sum_lanes(vector):
    """Sum of all lanes by halving: a tree, so that the order is defined and the chain short."""
    builder, value = vector.builder, vector.value
    while value.type.count > 1:
        half = value.type.count // 2
        value = builder.fadd(*(shuffle(builder, value, value, range(start, start + half)) for start in (0, half)))
    return vector.new(builder.extract_element(value, ir.Constant(INT32, 0)))


@word(lambda vector, order: vector[list(order)])
def permuted(vector, order):
    """The lanes of a vector in another order."""
    return vector.new(shuffle(vector.builder, vector.value, vector.value, order))


def across(vector, combine):
    """All lanes combined by halving, in every lane."""
    count = lanes(vector)
    distance = count // 2
    while distance:
        vector = combine(vector, permuted(vector, [lane ^ distance for lane in range(count)]))
        distance //= 2
    return vector


@word(lambda mask: int(np.argmax(mask)) if mask.any() else len(mask))
def first_lane(mask):
    """The number of the first lane that is set, or a number not below LANES."""
    builder, count = mask.builder, mask.type.count
    bits = builder.zext(builder.bitcast(mask.value, ir.IntType(count)), INT)
    return mask.new(builder.cttz(builder.or_(bits, integer(1 << count)), ir.Constant(ir.IntType(1), 1)))


def python_load_first(memory, at, count):
    vector = np.zeros(lanes(memory), memory.dtype)
    count = max(0, min(int(count), len(vector)))
    vector[:count] = memory[at : at + count]
    return vector


@word(python_load_first)
def load_first(memory, at, count):
    """As `load`, but for the first `count` elements alone, if any: no others are read, and zeros are in their place."""
    builder, vector = memory.builder, vector_of(memory)
    numbers = ir.Constant(ir.VectorType(INT, vector.count), list(range(vector.count)))
    mask = builder.icmp_signed("<", numbers, spread(builder, operand(count), vector.count))
    name, align = f"llvm.masked.load.{type_name(vector)}.p0{type_name(vector)}", ir.Constant(INT32, BYTES[memory.of])
    zero = ir.Constant(vector, [0.0] * vector.count)
    return memory.new(external(builder, name, vector, place(memory, at, vector), align, mask, zero))


# --- bits -------------------------------------------------------------------------------------------------------------


def float_format(x):
    """Bits of an element, bits of its mantissa, bias of its exponent."""
    return (32, 23, 127) if is_float32(x) else (64, 52, 1023)


@word(lambda x: x.view(f"uint{float_format(x)[0]}"))
def bits_of(x):
    """The bits of floats, as integers."""
    return x.new(x.builder.bitcast(x.value, ir.VectorType(ir.IntType(float_format(x)[0]), x.type.count)))


@word(lambda bits, like: bits.view(like.dtype))
def floats_of(bits, like):
    """The floats that have these bits."""
    return bits.new(bits.builder.bitcast(bits.value, like.type))


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
    return floats_of(bits_of(x) + (bits_of(k) << float_format(x)[1]), x)


def mantissa_and_exponent(x):
    """x = m * 2**k with m from sqrt(1/2) to sqrt(2) and a whole number k, both as floats; right for positive normal x.

    Adding to the bits of x what makes those of sqrt(1/2) into those of 1 leaves k + bias alone in the exponent's place, and
    m less sqrt(1/2), as integers, in the mantissa's. Put below a large power of two, the integer becomes a float.
    """
    bits, mantissa, bias = float_format(x)
    low = int(np.array(0.5**0.5, f"float{bits}").view(f"uint{bits}"))
    moved = bits_of(x) + ((bias << mantissa) - low)
    m = floats_of((moved & (1 << mantissa) - 1) + low, x)
    k = floats_of((moved >> mantissa) | (bias + mantissa << mantissa), x)
    return m, k - (2.0**mantissa + bias)


def polynomial(x, coefficients):
    """c[0] + c[1] x + c[2] x**2 + ...: even and odd powers apart, each by Horner's rule in x**2.

    The chain of dependent operations is half as long as with Horner's rule alone, for one multiplication more.
    """
    square = x * x

    def horner(terms):
        return functools.reduce(lambda result, term: fma(square, result, term), reversed(terms))

    return fma(x, horner(coefficients[1::2]), horner(coefficients[::2]))


def scrambled(x):
    """32 bits each of whose 32 bits depends on all of x, in both directions one to one.

    Two rounds of shift-xor-multiply, with the constants that Wellons found by search for the least bias ("Prospecting for
    hash functions", 2018).
    """
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * factor
    return x ^ (x >> 16)


def python_counters(like, start, step):
    return ((start + step * np.arange(lanes(like))) % 2**32).astype(np.uint32)


@word(python_counters)
def counters(like, start, step):
    """start, start + step, ... as 32-bit integers, one for each lane of the memory `like`."""
    builder, count = like.builder, lanes(like)
    start, step = (spread(builder, builder.trunc(operand(value), INT32), count) for value in (start, step))
    lane = ir.Constant(ir.VectorType(INT32, count), list(range(count)))
    return like.new(builder.add(start, builder.mul(lane, step)))


@word(lambda x, bound: x < bound)
def below(x, bound):
    """Mask of the lanes of 32-bit integers below an integer under 2**32."""
    bounds = spread(x.builder, x.builder.trunc(operand(bound), INT32), x.type.count)
    return x.new(x.builder.icmp_unsigned("<", x.value, bounds))


# --- tiles ------------------------------------------------------------------------------------------------------------


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


def outer(tile, depth, left, right):
    """For k < depth: tile[r][c] += left(k)[r] * right(k)[c]; the depth is at least 1."""
    cols = len(tile[0])

    def add(k, *sums):
        columns, rows = right(k), left(k)
        return tuple(fma(a, b, total) for (a, b), total in zip(itertools.product(rows, columns), sums, strict=True))

    sums = carry(depth, tuple(itertools.chain(*tile)), add)
    return [list(sums[first : first + cols]) for first in range(0, len(sums), cols)]


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


# --- memory -----------------------------------------------------------------------------------------------------------


@word(lambda memory, at: memory[at:])
def from_on(memory, at):
    """The memory that begins with an element of another."""
    return memory.new(memory.builder.gep(memory.value, [operand(at)]))


@word(lambda memory, at: memory[at:])
def from_there(memory, at):
    """As `from_on`, by an address of its own: code cannot tell where it comes from, and is not made to count it on."""
    address = from_on(memory, at).value
    same = ir.FunctionType(address.type, [address.type])
    return memory.new(memory.builder.asm(same, "", "=r,0", [address], False))


@word(lambda memory, at: None)
def prefetch(memory, at):
    """Ask for the memory around an element, which is about to be read and written."""
    address = memory.builder.bitcast(from_on(memory, at).value, ir.IntType(8).as_pointer())
    write, near, data = (ir.Constant(INT32, number) for number in (0, 3, 1))
    external(memory.builder, "llvm.prefetch.p0i8", ir.VoidType(), address, write, near, data)


# --- loops and branches -----------------------------------------------------------------------------------------------


def repeat(count, body):
    """body(0), body(1) ... body(count - 1)."""
    if not isinstance(count, Traced):
        for k in range(int(count)):
            body(k)
        return

    def run(k, _):
        body(count.new(k))
        return []

    with count.builder.if_then(bit(count > 0)):
        loop(count.builder, count.value, [], run)


def carry(count, values, body):
    """values = body(k, *values) for k = 0 ... count - 1; the count is at least 1."""
    if not isinstance(count, Traced):
        for k in range(int(count)):
            values = body(k, *values)
        return values

    def run(k, current):
        return [value_of(one) for one in body(count.new(k), *map(count.new, current))]

    return tuple(map(count.new, loop(count.builder, count.value, list(map(value_of, values)), run)))


def until_zero(number, values, body):
    """(number, *values) = body(number, *values) until the number, an integer, is 0; the values."""
    if not isinstance(number, Traced):
        while number:
            number, *values = body(number, *values)
        return values
    builder, start = number.builder, [number.value, *map(value_of, values)]
    before = builder.block
    head, inside, after = (builder.append_basic_block(name) for name in ("while", "inside", "after"))
    builder.branch(head)
    builder.position_at_end(head)
    phis = [builder.phi(value.type) for value in start]
    current = list(map(number.new, phis))
    builder.cbranch(bit(current[0]), inside, after)
    builder.position_at_end(inside)
    new = list(map(value_of, body(*current)))
    for phi, first, last in zip(phis, start, new, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(last, builder.block)
    builder.branch(head)
    builder.position_at_end(after)
    return current[1:]


def when(flag, body):
    """Call body() if an integer flag says so."""
    if not isinstance(flag, Traced):
        if flag:
            body()
        return
    with flag.builder.if_then(bit(flag)):
        body()


def either(flag, yes, no):
    """Call yes() or no() as an integer flag says."""
    if not isinstance(flag, Traced):
        yes() if flag else no()
        return
    with flag.builder.if_else(bit(flag)) as (then, otherwise):
        with then:
            yes()
        with otherwise:
            no()


def switch(code, cases):
    """What cases[code]() gives: nothing, a value, or several values as a tuple or a list.

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
    return joined(builder, results, ends)


def joined(builder, results, ends):
    """The value that one of several blocks has left."""
    first = results[0]
    if first is None:
        return None
    if isinstance(first, (tuple, list)):
        return type(first)(joined(builder, one, ends) for one in zip(*results, strict=True))
    values = list(map(value_of, results))
    phi = builder.phi(values[0].type)
    for value, end in zip(values, ends, strict=True):
        phi.add_incoming(value, end)
    return Traced(builder, phi)


def in_groups(count, sizes, body):
    """body(size, first) for groups that make up `count`, of falling sizes, which are constants."""
    done = 0
    for size in sizes:
        groups = (count - done) // size
        repeat(groups, lambda i, size=size, done=done: body(size, done + i * size))
        done = done + groups * size


def side_by_side(vectors, body):
    """body(number, first) for groups of vectors, whose numbers are constants."""
    in_groups(vectors, SIDE_BY_SIDE, body)


# --- subnormal numbers ------------------------------------------------------------------------------------------------

X86_FLUSHES, ARM_FLUSHES = 0x8040, 1 << 24  # bits by which subnormal operands and results are 0


def room(builder):
    """Room for 32 bits on the stack, and its address; elsewhere than at a function's start, it would take a register."""
    with builder.goto_entry_block():
        word = builder.alloca(INT32)
        return word, builder.bitcast(word, ir.IntType(8).as_pointer())


@word(lambda like: 0)
def flush_subnormals(like):
    """From now on this thread takes numbers below the normal ones for 0; gives what `restore_subnormals` wants.

    Processors need 10 to 100 times as long for them, and the moments of a weight whose gradient stays 0 become such numbers.
    """
    builder = like.builder
    if jit.x86():
        word, address = room(builder)
        external(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), address)
        before = builder.zext(builder.load(word), INT)
        restore_subnormals(like, like.new(before) | X86_FLUSHES)
    elif jit.arm():
        before = external(builder, "llvm.aarch64.get.fpcr", INT)
        restore_subnormals(like, like.new(before) | ARM_FLUSHES)
    else:
        before = integer(0)
    return like.new(before)


@word(lambda like, before: None)
def restore_subnormals(like, before):
    """Undo `flush_subnormals`."""
    builder = like.builder
    if jit.x86():
        word, address = room(builder)
        builder.store(builder.trunc(before.value, INT32), word)
        external(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), address)
    elif jit.arm():
        external(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), before.value)


# --- time, and other threads ------------------------------------------------------------------------------------------

SPINS = 20_000  # looks at a word before the rest of the time slice is given away: some 10 microseconds


@word(lambda like: time.perf_counter_ns())
def clock(like):
    """A counter of the processor that runs at a constant rate; 0 where it has none. Nanoseconds in plain Python.

    The argument, any memory, is not looked at.
    """
    return like.new(external(like.builder, "llvm.readcyclecounter", INT))


@word(None)
def add_atomically(memory, offset, number):
    """Add to an int64 that other threads see; gives what stood there before."""
    address = from_on(memory, offset).value
    return memory.new(memory.builder.atomic_rmw("add", address, operand(number), "seq_cst"))


@word(None)
def wait_for_change(memory, offset, value):
    """Look at an int64 until another thread has changed it from `value`."""
    builder, address = memory.builder, from_on(memory, offset).value
    look, idle, after = (builder.append_basic_block(name) for name in ("look", "idle", "changed"))
    before = builder.block
    builder.branch(look)
    builder.position_at_end(look)
    spins = builder.phi(INT)
    spins.add_incoming(integer(0), before)
    same = builder.icmp_signed("==", builder.load_atomic(address, "seq_cst", 8), value.value)
    builder.cbranch(same, idle, after)
    builder.position_at_end(idle)
    # no pause instruction: under a hypervisor a loop of them gives the processor away
    with builder.if_then(builder.icmp_signed(">", spins, integer(SPINS))):
        external(builder, jit.YIELD, INT32)
    spins.add_incoming(builder.add(spins, integer(1)), builder.block)
    builder.branch(look)
    builder.position_at_end(after)
