"""Vectors: LANES elements of one float type, as many as a register holds: 64, 32 or 16 bytes.

A vector that is wider than the processor's registers is split by LLVM, as where vectors of other sizes are tested.
"""

import numpy as np
from llvmlite import ir

from fastbp.kernels import jit
from fastbp.kernels.numbers import ceil_div, element, from_on, lowest_bit
from fastbp.kernels.tracing import BYTES, INT, INT32, Traced, external, operand, pointer, shuffle, spread, word


def itemsize(like):
    """Bytes of an element of memory or of a vector; a number of Python's."""
    if not isinstance(like, Traced):
        return like.dtype.itemsize
    return BYTES.get(like.of) or like.of.width // 8


def lanes(like):
    """Elements per vector for memory or a vector `like`; a number of Python's."""
    return jit.vector_bytes // itemsize(like)


def vector_of(like):
    """LLVM's type of a vector of the elements of memory or of a vector."""
    return ir.VectorType(like.of, lanes(like))


def vector_count(like, units):
    """Vectors that hold so many units."""
    return ceil_div(units, lanes(like))


def is_float32(x):
    """Whether these are float32; the same for every lane and call."""
    return itemsize(x) == 4


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
    return memory.new(memory.builder.load(pointer(memory, at, vector), align=BYTES[memory.of]))


@word(lambda memory, count: np.zeros(count, memory.dtype))
def zeros(memory, count):
    """So many zeros, a constant number, as one vector."""
    return memory.new(ir.Constant(ir.VectorType(memory.of, count), [0.0] * count))


def python_store(memory, offset, vector):
    memory[offset : offset + len(vector)] = vector


@word(python_store)
def store(memory, offset, vector):
    """As many elements as the vector has."""
    memory.builder.store(vector.value, pointer(memory, offset, vector.type), align=itemsize(memory))


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


def wholes(builder, value):
    """A vector of integers in pieces that fill a register of 64 bytes; what is over in the last one is undefined."""
    count, L, undefined = value.type.count, 512 // value.type.element.width, ir.Constant(value.type, ir.Undefined)
    places = [[min(at, count) for at in range(first, first + L)] for first in range(0, count, L)]
    return [shuffle(builder, value, undefined, place) for place in places]


def together(builder, pieces, count):
    """The first lanes of the pieces, one after the other; their number is a power of two."""
    while len(pieces) > 1:
        pieces = [shuffle(builder, a, b, range(2 * a.type.count)) for a, b in zip(pieces[::2], pieces[1::2], strict=True)]
    return pieces[0] if pieces[0].type.count == count else shuffle(builder, pieces[0], pieces[0], range(count))


@word(lambda k, table: np.array(table, k.dtype)[k.view(f"uint{k.itemsize * 8}") % len(table)])
def picked(k, table):
    """Of a table of 16 numbers those whose places stand in the low bits of floats; where `jit.has_avx512`."""
    builder, L = k.builder, 64 // BYTES[k.of]
    vector, integers = ir.VectorType(k.of, L), ir.VectorType(ir.IntType(8 * BYTES[k.of]), k.type.count)
    parts = [ir.Constant(vector, list(table[first : first + L])) for first in range(0, len(table), L)]

    def pick(at):
        if is_float32(k):
            return external(builder, "llvm.x86.avx512.permvar.sf.512", vector, *parts, at)
        return external(builder, "llvm.x86.avx512.vpermi2var.pd.512", vector, parts[0], at, parts[1])

    pieces = wholes(builder, builder.bitcast(k.value, integers))
    return k.new(together(builder, list(map(pick, pieces)), k.type.count))


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


@word(lambda mask: sum(1 << int(lane) for lane in np.flatnonzero(mask)))
def mask_bits(mask):
    """An integer with a bit for each lane, which is set where the mask is."""
    builder = mask.builder
    return mask.new(builder.zext(builder.bitcast(mask.value, ir.IntType(mask.type.count)), INT))


def first_lane(mask):
    """The number of the first lane that is set, or LANES."""
    return lowest_bit(mask_bits(mask) | 1 << (mask.type.count if isinstance(mask, Traced) else len(mask)))


@word(lambda x: x != 0)
def nonzero(x):
    """Mask of the lanes that are not zero; NaN is not, though compiled x != 0 leaves it out."""
    compare = x.builder.fcmp_unordered if x.of in BYTES else x.builder.icmp_signed
    return x.new(compare("!=", x.value, x.like(0)))


@word(lambda memory: memory.view(f"int{memory.itemsize * 8}"))
def as_integers(memory):
    """The same memory, of integers of the size of its floats."""
    return memory.new(memory.builder.bitcast(memory.value, ir.IntType(8 * BYTES[memory.of]).as_pointer()))


@word(lambda like: np.zeros(lanes(like), f"int{like.itemsize * 8}"))
def no_bits(like):
    """A vector of integers, one for each lane of the memory `like`, without any bit."""
    return like.new(ir.Constant(ir.VectorType(ir.IntType(8 * BYTES[like.of]), lanes(like)), [0] * lanes(like)))


@word(lambda bits, x, number: np.where(x != 0, bits | np.left_shift(1, number, dtype=bits.dtype), bits))
def with_bit(bits, x, number):
    """The integers of the lanes, with one more bit, of this number, where x is not zero."""
    builder, number = bits.builder, operand(number)
    number = number if bits.of == INT else builder.trunc(number, bits.of)
    one = spread(builder, builder.shl(ir.Constant(bits.of, 1), number), bits.type.count)
    return bits.new(builder.select(nonzero(x).value, builder.or_(bits.value, one), bits.value))


@word(lambda integers, at: int(integers[at]) % 2 ** (8 * integers.itemsize))
def unsigned(integers, at):
    """An element that is no negative number, whatever its highest bit."""
    builder, bits = integers.builder, integers.of.width
    value = builder.load(builder.gep(integers.value, [operand(at)]))
    return integers.new(value if bits == INT.width else builder.zext(value, INT))


@word(lambda like, count: np.arange(lanes(like)) < count)
def first_lanes(like, count):
    """Mask of the first `count` lanes, if any."""
    numbers = ir.Constant(ir.VectorType(INT, lanes(like)), list(range(lanes(like))))
    return like.new(like.builder.icmp_signed("<", numbers, spread(like.builder, operand(count), lanes(like))))


def python_load_first(memory, at, count):
    vector = np.zeros(lanes(memory), memory.dtype)
    count = max(0, min(int(count), len(vector)))
    vector[:count] = memory[at : at + count]
    return vector


@word(python_load_first)
def load_first(memory, at, count):
    """As `load`, but for the first `count` elements alone, if any: no others are read, and zeros are in their place."""
    builder, vector = memory.builder, vector_of(memory)
    mask = first_lanes(memory, count).value
    name, align = f"llvm.masked.load.{type_name(vector)}.p0{type_name(vector)}", ir.Constant(INT32, BYTES[memory.of])
    zero = ir.Constant(vector, [0.0] * vector.count)
    return memory.new(external(builder, name, vector, pointer(memory, at, vector), align, mask, zero))


@word(lambda memory, at: None)
def prefetch(memory, at):
    """Ask for the memory around an element, which is about to be used."""
    address = memory.builder.bitcast(from_on(memory, at).value, ir.IntType(8).as_pointer())
    write, near, data = (ir.Constant(INT32, number) for number in (0, 3, 1))
    external(memory.builder, "llvm.prefetch.p0i8", ir.VoidType(), address, write, near, data)
