"""The vector vocabulary: what a kernel may say about 64 bytes at a time.

Everything has two meanings. Compiled, a vector is an LLVM vector and a word is one or a few instructions; a machine with
narrower registers (AVX2, NEON) gets each vector split by LLVM. Run as plain Python (NUMBA_DISABLE_JIT=1), a vector is a
numpy array, so that a kernel can be stepped through, bounds-checked and covered.

Words         what numba code says: `load`, `store`, `splat`, and tiles. Memory is a pointer to the first element of an
              array, indexed by element offsets; plain Python sees the flat array. No word checks bounds, none allocates.
Tile          rows x cols vectors that LLVM keeps in registers over a loop; in Python an array (rows, cols, lanes).
Traced        functions of vectors without memory or control flow (see `fastbp.kernels.pointwise`). They are plain Python:
              run on numpy arrays they compute, run on `Traced` values they emit one LLVM instruction per operation, which
              compiles several times faster than sending each operation through numba's type inference.
"""

import inspect

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

from fastbp.kernels.jit import PLAIN_PYTHON

VECTOR_BYTES = 64


class Vector(types.Type):
    """Numba type of LANES elements; ``dtype`` float32 or float64."""

    def __init__(self, dtype, lanes):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")


class Tile(types.Type):
    """Numba type of rows x cols float vectors."""

    def __init__(self, dtype, rows, cols):
        self.dtype, self.rows, self.cols = dtype, rows, cols
        self.vector = vector_of(dtype)
        super().__init__(name=f"Tile({dtype}, {rows}, {cols})")


def vector_of(dtype):
    return Vector(dtype, VECTOR_BYTES * 8 // dtype.bitwidth)


def llvm_vector(vector):
    element = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}[vector.dtype]
    return ir.VectorType(element, vector.lanes)


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, llvm_vector(vector))


@register_model(Tile)
class TileModel(models.PrimitiveModel):
    def __init__(self, manager, tile):
        super().__init__(manager, tile, ir.ArrayType(llvm_vector(tile.vector), tile.rows * tile.cols))


def word(python):
    """Join a word's two meanings: `python` on numpy arrays, and the decorated numba typing function."""

    def choose(typing):
        return python if PLAIN_PYTHON else intrinsic(prefer_literal=True)(typing)

    return choose


# --- emitting LLVM ----------------------------------------------------------------------------------------------------


def call(builder, name, result, args):
    """Call an LLVM intrinsic such as llvm.fma, overloaded on its result type."""
    element = "i" if isinstance(result.element, ir.IntType) else "f"
    width = {ir.FloatType(): 32, ir.DoubleType(): 64}.get(result.element) or result.element.width
    function = ir.FunctionType(result, [a.type for a in args])
    return builder.call(
        cgutils.get_or_insert_function(builder.module, function, f"{name}.v{result.count}{element}{width}"), args
    )


def emit_splat(builder, scalar, vector):
    if isinstance(scalar, ir.Constant):
        return ir.Constant(vector, [scalar] * vector.count)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, zeros)


def emit_shuffle(builder, a, b, lanes):
    order = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(a, b, order)


def emit_load(builder, memory, data, offset):
    """The vector at element `offset`, aligned like its elements."""
    vector = llvm_vector(vector_of(memory.dtype))
    address = builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())
    return builder.load(address, align=memory.dtype.bitwidth // 8)


def emit_store(builder, memory, data, offset, value):
    address = builder.bitcast(builder.gep(data, [offset]), value.type.as_pointer())
    builder.store(value, address, align=memory.dtype.bitwidth // 8)


def emit_broadcast(builder, memory, data, offset):
    return emit_splat(builder, builder.load(builder.gep(data, [offset])), llvm_vector(vector_of(memory.dtype)))


def emit_sum(builder, value):
    """Sum of all lanes by halving: a tree, so that the order is defined and the chain short."""
    while value.type.count > 1:
        half = value.type.count // 2
        low = emit_shuffle(builder, value, value, range(half))
        high = emit_shuffle(builder, value, value, range(half, 2 * half))
        value = builder.fadd(low, high)
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


def emit_fma(builder, a, b, c):
    return call(builder, "llvm.fma", a.type, [a, b, c])


def integer(value):
    return ir.Constant(ir.IntType(64), value)


def emit_loop(builder, count, values, body):
    """for k in range(count): values = body(k, values); the values after the loop.

    Not unrolled: the bodies are long enough to hide the loop's own instructions, the counts often too small for more.
    """
    before, loop, after = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed(">", count, integer(0)), loop, after)
    builder.position_at_end(loop)
    k = builder.phi(count.type)
    current = [builder.phi(value.type) for value in values]
    new = body(k, current)
    following = builder.add(k, integer(1))
    back = builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    keep_rolled = builder.module.add_metadata(["llvm.loop.unroll.disable"])
    loop_id = builder.module.add_metadata([keep_rolled, integer(id(back))])
    loop_id.operands = (loop_id, keep_rolled)  # LLVM wants a loop's name to begin with itself
    back.set_metadata("llvm.loop", loop_id)
    k.add_incoming(integer(0), before)
    k.add_incoming(following, loop)
    builder.position_at_end(after)
    result = []
    for value, phi, end in zip(values, current, new, strict=True):
        phi.add_incoming(value, before)
        phi.add_incoming(end, loop)
        final = builder.phi(value.type)
        final.add_incoming(value, before)
        final.add_incoming(end, loop)
        result.append(final)
    return result


# --- memory -----------------------------------------------------------------------------------------------------------


def python_lanes(like):
    return VECTOR_BYTES // like.dtype.itemsize


@word(python_lanes)
def lanes(typing, like):
    """Elements per vector for an pointer or vector `like`; a constant."""
    count = vector_of(like.dtype).lanes

    def emit(context, builder, sig, args):
        return context.get_constant(types.intp, count)

    return types.intp(like), emit


@word(lambda memory, offset: memory[offset : offset + python_lanes(memory)].copy())
def load(typing, memory, offset):
    def emit(context, builder, sig, args):
        return emit_load(builder, memory, args[0], args[1])

    return vector_of(memory.dtype)(memory, types.intp), emit


def python_store(memory, offset, value):
    memory[offset : offset + python_lanes(memory)] = value


@word(python_store)
def store(typing, memory, offset, value):
    def emit(context, builder, sig, args):
        emit_store(builder, memory, *args)
        return context.get_dummy_value()

    return types.none(memory, types.intp, value), emit


@word(lambda memory, offset: np.full(python_lanes(memory), memory[offset]))
def broadcast(typing, memory, offset):
    """One element in every lane."""

    def emit(context, builder, sig, args):
        return emit_broadcast(builder, memory, args[0], args[1])

    return vector_of(memory.dtype)(memory, types.intp), emit


@word(lambda like, value: np.full(python_lanes(like), value, like.dtype))
def splat(typing, like, value):
    """A scalar, rounded to the float type of the pointer or vector `like`, in every lane."""
    result = vector_of(like.dtype)

    def emit(context, builder, sig, args):
        scalar = context.cast(builder, args[1], sig.args[1], result.dtype)
        return emit_splat(builder, scalar, llvm_vector(result))

    return result(like, types.float64), emit


# --- traced functions -------------------------------------------------------------------------------------------------


class Traced:
    """A vector (or a mask of one bit per lane) that is being computed: its operators emit LLVM."""

    __array_ufunc__ = None

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    def constant(self, number):
        """The operand as an LLVM vector: another traced value, or a number in every lane."""
        if isinstance(number, Traced):
            return number.value
        return ir.Constant(self.value.type, [float(number)] * self.value.type.count)

    def emit(self, instruction, *operands):
        return Traced(self.builder, instruction(*[self.constant(operand) for operand in operands]))

    def __add__(self, other):
        return self.emit(self.builder.fadd, self, other)

    def __sub__(self, other):
        return self.emit(self.builder.fsub, self, other)

    def __rsub__(self, other):
        return self.emit(self.builder.fsub, other, self)

    def __mul__(self, other):
        return self.emit(self.builder.fmul, self, other)

    def __truediv__(self, other):
        return self.emit(self.builder.fdiv, self, other)

    def __rtruediv__(self, other):
        return self.emit(self.builder.fdiv, other, self)

    def __neg__(self):
        return self.emit(self.builder.fneg, self)

    __radd__, __rmul__ = __add__, __mul__

    def compare(self, sign, other):
        return Traced(self.builder, self.builder.fcmp_ordered(sign, self.value, self.constant(other)))

    def __lt__(self, other):
        return self.compare("<", other)

    def __gt__(self, other):
        return self.compare(">", other)

    def __ge__(self, other):
        return self.compare(">=", other)

    def __eq__(self, other):
        return self.compare("==", other)


def traced(function):
    """Make a function of vectors callable from numba code; its results are vectors of the type of its first argument."""
    if PLAIN_PYTHON:
        return function

    # numba wants to see the arguments by name
    names = ", ".join(inspect.signature(function).parameters)
    scope = {"typing_of": lambda *vectors: typing_of(*vectors)}
    exec(f"def {function.__name__}(typing, {names}): return typing_of({names})", scope)

    def typing_of(*vectors):
        module = ir.Module()
        probe = ir.Function(module, ir.FunctionType(ir.VoidType(), [llvm_vector(v) for v in vectors]), "probe")
        builder = ir.IRBuilder(probe.append_basic_block())
        result = function(*[Traced(builder, arg) for arg in probe.args])
        several = isinstance(result, tuple)
        result_type = types.UniTuple(vectors[0], len(result)) if several else vectors[0]

        def emit(context, builder, sig, args):
            result = function(*[Traced(builder, arg) for arg in args])
            if several:
                return context.make_tuple(builder, sig.return_type, [vector.value for vector in result])
            return result.value

        return result_type(*vectors), emit

    return intrinsic(scope[function.__name__])


def is_float32(x):
    """Whether a traced function computes in float32; the same for every lane and call."""
    if isinstance(x, Traced):
        return isinstance(x.value.type.element, ir.FloatType)
    return x.dtype == np.float32


def python_fma(a, b, c):
    wide = np.float64 if a.dtype == np.float32 else np.longdouble
    b, c = np.asarray(b, a.dtype), np.asarray(c, a.dtype)
    return (a.astype(wide) * b + c).astype(a.dtype)


def fma(a, b, c):
    """a*b + c, rounded once; the last two may be numbers."""
    if not isinstance(a, Traced):
        return python_fma(a, b, c)
    return a.emit(lambda *args: emit_fma(a.builder, *args), a, b, c)


def select(mask, yes, no):
    """Lane by lane `yes` where the mask is set, else `no`; one of the two may be a number."""
    vector = yes if isinstance(yes, (Traced, np.ndarray)) else no
    if not isinstance(mask, Traced):
        return np.where(mask, yes, no).astype(vector.dtype)
    return Traced(mask.builder, mask.builder.select(mask.value, vector.constant(yes), vector.constant(no)))


def add_to_exponent(x, n):
    """x * 2**k where k stands in the low bits of the float `n`; exact while the result is a normal number."""
    bits, mantissa = (32, 23) if is_float32(x) else (64, 52)
    if not isinstance(x, Traced):
        integers = np.dtype(f"int{bits}")
        return (x.view(integers) + (n.view(integers) << mantissa)).view(x.dtype)
    builder, vector = x.builder, x.value.type
    integers = ir.VectorType(ir.IntType(bits), vector.count)
    power = builder.shl(builder.bitcast(n.value, integers), ir.Constant(integers, [mantissa] * vector.count))
    return Traced(builder, builder.bitcast(builder.add(builder.bitcast(x.value, integers), power), vector))


def polynomial(x, coefficients):
    """c[0] + c[1] x + c[2] x**2 + ..., pairing neighbours (Estrin, 1960).

    The chain of dependent operations is log2(degree) long where Horner's rule takes degree.
    """
    terms = list(coefficients)
    while len(terms) > 1:
        odd = [terms.pop()] if len(terms) % 2 else []
        terms = [fma(x, high, low) for low, high in zip(terms[::2], terms[1::2], strict=True)] + odd
        x = x * x
    return terms[0]


# --- tiles ------------------------------------------------------------------------------------------------------------


def vectors_of(builder, tile, value):
    return [builder.extract_value(value, position) for position in range(tile.rows * tile.cols)]


def emit_tile(builder, tile, vectors):
    value = ir.Constant(ir.ArrayType(llvm_vector(tile.vector), tile.rows * tile.cols), ir.Undefined)
    for position, vector in enumerate(vectors):
        value = builder.insert_value(value, vector, position)
    return value


@word(lambda like, rows, cols: np.zeros((rows, cols, python_lanes(like)), like.dtype))
def zero_tile(typing, like, rows, cols):
    tile = Tile(like.dtype, rows.literal_value, cols.literal_value)

    def emit(context, builder, sig, args):
        zero = ir.Constant(llvm_vector(tile.vector), [0.0] * tile.vector.lanes)
        return emit_tile(builder, tile, [zero] * (tile.rows * tile.cols))

    return tile(like, rows, cols), emit


@word(lambda like: np.zeros((1, python_lanes(like), python_lanes(like)), like.dtype))
def zero_square(typing, like):
    """Tile of one row and LANES columns, what `sum_columns` folds into one vector."""
    tile = Tile(like.dtype, 1, vector_of(like.dtype).lanes)

    def emit(context, builder, sig, args):
        zero = ir.Constant(llvm_vector(tile.vector), [0.0] * tile.vector.lanes)
        return emit_tile(builder, tile, [zero] * tile.cols)

    return tile(like), emit


def python_add_outer(tile, depth, a, a_at, a_row, a_step, b, b_at, b_step):
    rows, cols, count = tile.shape
    for k in range(depth):
        right = b[b_at + k * b_step :][: cols * count].reshape(1, cols, count)
        left = a[a_at + k * a_step + a_row * np.arange(rows)].reshape(rows, 1, 1)
        tile = python_fma(*np.broadcast_arrays(left, right, tile))
    return tile


@word(python_add_outer)
def add_outer(typing, tile, depth, a, a_at, a_row, a_step, b, b_at, b_step):
    """For k < depth: tile[r, c] += a[a_at + r*a_row + k*a_step] in every lane * load(b, b_at + k*b_step + c*LANES)."""

    def emit(context, builder, sig, args):
        old, depth, a_data, a_at, a_row, a_step, b_data, b_at, b_step = args
        count = tile.vector.lanes

        def body(k, vectors):
            a_k, b_k = (builder.add(at, builder.mul(k, step)) for at, step in ((a_at, a_step), (b_at, b_step)))
            right = [emit_load(builder, b, b_data, builder.add(b_k, integer(c * count))) for c in range(tile.cols)]
            result = []
            for r in range(tile.rows):
                left = emit_broadcast(builder, a, a_data, builder.add(a_k, builder.mul(integer(r), a_row)))
                row = vectors[r * tile.cols : (r + 1) * tile.cols]
                result += [emit_fma(builder, left, *pair) for pair in zip(right, row, strict=True)]
            return result

        return emit_tile(builder, tile, emit_loop(builder, depth, vectors_of(builder, tile, old), body))

    return tile(tile, types.intp, a, *[types.intp] * 3, b, types.intp, types.intp), emit


def python_add_products(tile, depth, a, a_at, b, b_at, b_col):
    _, cols, count = tile.shape
    for v in range(0, depth * count, count):
        right = np.stack([b[b_at + c * b_col + v :][:count] for c in range(cols)])[None]
        tile = python_fma(*np.broadcast_arrays(a[a_at + v :][:count], right, tile))
    return tile


@word(python_add_products)
def add_products(typing, tile, depth, a, a_at, b, b_at, b_col):
    """For k < depth: tile[0, c] += load(a, a_at + k*LANES) * load(b, b_at + c*b_col + k*LANES), lane by lane."""

    def emit(context, builder, sig, args):
        old, depth, a_data, a_at, b_data, b_at, b_col = args

        def body(k, vectors):
            v = builder.mul(k, integer(tile.vector.lanes))
            left = emit_load(builder, a, a_data, builder.add(a_at, v))
            b_v = builder.add(b_at, v)
            right = [
                emit_load(builder, b, b_data, builder.add(b_v, builder.mul(integer(c), b_col)))
                for c in range(tile.cols)
            ]
            return [emit_fma(builder, left, *pair) for pair in zip(right, vectors, strict=True)]

        return emit_tile(builder, tile, emit_loop(builder, depth, vectors_of(builder, tile, old), body))

    return tile(tile, types.intp, a, types.intp, b, types.intp, types.intp), emit


def python_store_tile(tile, memory, offset, row):
    for r, vectors in enumerate(tile):
        memory[offset + r * row :][: vectors.size] = vectors.ravel()


@word(python_store_tile)
def store_tile(typing, tile, memory, offset, row):
    """memory[offset + r*row + c*LANES ...] = tile[r, c]."""

    def emit(context, builder, sig, args):
        value, data, offset, row = args
        for position, vector in enumerate(vectors_of(builder, tile, value)):
            r, c = divmod(position, tile.cols)
            place = builder.add(offset, builder.add(builder.mul(integer(r), row), integer(c * tile.vector.lanes)))
            emit_store(builder, memory, data, place, vector)
        return context.get_dummy_value()

    return types.none(tile, memory, types.intp, types.intp), emit


def python_sum(value):
    while value.size > 1:
        value = value[: value.size // 2] + value[value.size // 2 :]
    return value[0]


@word(python_sum)
def sum_lanes(typing, vector):
    def emit(context, builder, sig, args):
        return emit_sum(builder, args[0])

    return vector.dtype(vector), emit


@word(lambda tile: python_sum(tile[0, 0]))
def sum_tile(typing, tile):
    """Sum over the lanes of a tile of one vector."""

    def emit(context, builder, sig, args):
        return emit_sum(builder, builder.extract_value(args[0], 0))

    return tile.dtype(tile), emit


@word(lambda vector, lane, value: np.where(np.arange(vector.size) == lane, value, vector))
def replace_lane(typing, vector, lane, value):
    """`vector` with `value` in one lane."""

    def emit(context, builder, sig, args):
        lanes = ir.VectorType(ir.IntType(64), vector.lanes)
        here = builder.icmp_signed("==", ir.Constant(lanes, list(range(vector.lanes))), emit_splat(builder, args[1], lanes))
        return builder.select(here, emit_splat(builder, args[2], args[0].type), args[0])

    return vector(vector, types.intp, vector.dtype), emit


@word(lambda tile: np.array([python_sum(row) for row in tile[0]], tile.dtype))
def sum_columns(typing, tile):
    """Lane c of the result is the sum over the lanes of tile[0, c]; for a tile of LANES columns.

    Folding pairs of vectors sums LANES vectors with LANES-1 additions, where summing each by itself takes log2(LANES) each.
    """

    def emit(context, builder, sig, args):
        count = tile.vector.lanes
        vectors = vectors_of(builder, tile, args[0])
        group = count
        while group > 1:
            # vectors i and i + n meet, so that the last fold leaves the sums in the order of their columns
            n, half = len(vectors) // 2, group // 2
            low = [s * count + g + t for g in range(0, count, group) for s in (0, 1) for t in range(half)]
            high = [lane + half for lane in low]
            pairs = zip(vectors[:n], vectors[n:], strict=True)
            vectors = [builder.fadd(emit_shuffle(builder, a, b, low), emit_shuffle(builder, a, b, high)) for a, b in pairs]
            group = half
        return vectors[0]

    return tile.vector(tile), emit
