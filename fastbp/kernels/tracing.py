"""How kernels become LLVM: types of vectors, and values whose operators emit.

A `traced` function is straight-line code that works on `Traced` values; numba sees one call of it and not the operations
inside, which makes compiling several times faster than sending every operation through numba's type inference. `word` and
`register` are how `fastbp.kernels.simd` gives what it says its meanings.
"""

import functools
import inspect

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import lower_builtin, models, register_model, type_callable

from fastbp.kernels import jit

INT = ir.IntType(64)


class Vector(types.Type):
    """Numba type of some elements, LANES by default; ``dtype`` float32 or float64."""

    def __init__(self, dtype, lanes=0):
        self.dtype, self.lanes = dtype, lanes or jit.vector_bytes * 8 // dtype.bitwidth
        self.llvm = ir.VectorType(llvm_element(dtype), self.lanes)
        super().__init__(name=f"Vector({dtype}, {self.lanes})")


class Tile(types.Type):
    """Numba type of rows x cols vectors."""

    def __init__(self, vector, rows, cols):
        self.vector, self.rows, self.cols = vector, rows, cols
        self.llvm = ir.ArrayType(vector.llvm, rows * cols)
        super().__init__(name=f"Tile({vector}, {rows}, {cols})")


def llvm_element(dtype):
    return {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}[dtype]


@register_model(Vector)
@register_model(Tile)
class VectorModel(models.PrimitiveModel):
    """Both are their LLVM type, in registers and in memory."""

    def __init__(self, manager, kind):
        super().__init__(manager, kind, kind.llvm)


# --- values that emit -------------------------------------------------------------------------------------------------


class Traced:
    """A value that is being computed: a numba type, an LLVM value, and the builder that its operators emit into."""

    __array_ufunc__ = None

    def __init__(self, builder, kind, value):
        self.builder, self.kind, self.value = builder, kind, value

    def like(self, number):
        """LLVM operand of this value's type: another traced value, or a number in every lane."""
        if isinstance(number, Traced):
            return number.value
        if isinstance(self.kind, Vector):
            return ir.Constant(self.kind.llvm, [float(number)] * self.kind.lanes)
        return integer(number)

    def operate(self, name, *operands):
        operands = [self.like(operand) for operand in operands]
        name = f"f{name}" if isinstance(self.kind, Vector) else name
        return Traced(self.builder, self.kind, getattr(self.builder, name)(*operands))

    def __add__(self, other):
        return self.operate("add", self, other)

    def __sub__(self, other):
        return self.operate("sub", self, other)

    def __rsub__(self, other):
        return self.operate("sub", other, self)

    def __mul__(self, other):
        return self.operate("mul", self, other)

    def __floordiv__(self, divisor):
        """Of integers that are not negative."""
        return self.operate("udiv", self, divisor)

    def __mod__(self, divisor):
        """Of integers that are not negative."""
        return self.operate("urem", self, divisor)

    def __truediv__(self, other):
        return self.operate("div", self, other)

    def __rtruediv__(self, other):
        return self.operate("div", other, self)

    def __neg__(self):
        return self.operate("neg", self)

    __radd__, __rmul__ = __add__, __mul__

    def compare(self, sign, other):
        if isinstance(self.kind, Vector):
            return Traced(self.builder, None, self.builder.fcmp_ordered(sign, self.value, self.like(other)))
        if isinstance(self.kind, types.Float):
            other = ir.Constant(self.value.type, other)
            return Traced(
                self.builder, types.intp, self.builder.zext(self.builder.fcmp_ordered(sign, self.value, other), INT)
            )
        flag = self.builder.icmp_signed(sign, self.value, self.like(other))
        return Traced(self.builder, types.intp, self.builder.zext(flag, INT))

    def __lt__(self, other):
        return self.compare("<", other)

    def __gt__(self, other):
        return self.compare(">", other)

    def __le__(self, other):
        return self.compare("<=", other)

    def __ge__(self, other):
        return self.compare(">=", other)

    def __eq__(self, other):
        return self.compare("==", other)

    def __ne__(self, other):
        return self.compare("!=", other)


def register(function, typing, parameters):
    """Let numba code call `function`.

    typing(*numba types) gives the result's type and emit(builder, *LLVM values), or None; `parameters` is a function whose
    parameters are those of a call.
    """

    # numba asks again and again while it infers types; the answer also depends on what the vocabulary speaks of
    @functools.cache
    def answer_for(vector_bytes, marks, *kinds):
        return typing(*kinds)

    def answer(*kinds):
        return answer_for(jit.vector_bytes, jit.marks, *kinds)

    @type_callable(function)
    def typer_of(context):
        def typer(*kinds):
            known = answer(*kinds)
            return known and known[0]

        typer.__signature__ = inspect.signature(parameters)
        return typer

    @lower_builtin(function, types.VarArg(types.Any))
    def lower(context, builder, sig, args):
        result = answer(*sig.args)[1](builder, *args)
        if isinstance(result, list):
            return context.make_tuple(builder, sig.return_type, result)
        return context.get_dummy_value() if result is None else result


def kind_of(arg):
    """The numba type of a word's argument in traced code: a traced value, an int or a float."""
    if isinstance(arg, Traced):
        return arg.kind
    return types.float64 if isinstance(arg, float) else types.literal(arg)


def operand(arg):
    """The LLVM value of the same."""
    if isinstance(arg, Traced):
        return arg.value
    return ir.Constant(ir.DoubleType(), arg) if isinstance(arg, float) else integer(arg)


def word(python):
    """Join a word's meanings: `python` on numpy arrays, and the decorated typing function for `register`."""

    def join(typing):
        def call(*args):
            builder = next((arg.builder for arg in args if isinstance(arg, Traced)), None)
            if builder is None:
                return python(*args)
            kinds = [kind_of(arg) for arg in args]
            result, emit = typing(*kinds)
            return Traced(builder, result, emit(builder, *[operand(arg) for arg in args]))

        call.__name__, call.__doc__ = typing.__name__, typing.__doc__
        if not jit.PLAIN_PYTHON:
            register(call, typing, typing)
        return call

    return join


def traced(function):
    """Make straight-line code callable from numba code; arguments of any kind, one result or several.

    A long function that returns nothing says so, "-> None", and is then traced only once.
    """
    if not jit.PLAIN_PYTHON:
        register(function, lambda *kinds: typing_of(function, kinds), function)
    return function


def typing_of(function, kinds):
    def run(builder, args):
        return function(*[Traced(builder, kind, arg) for kind, arg in zip(kinds, args, strict=True)])

    def emit(builder, *args):
        result = run(builder, args)
        if isinstance(result, tuple):
            return [one.value for one in result]
        return result and result.value

    if inspect.signature(function).return_annotation is None:
        return types.none, emit
    # what it returns is found by running it once into a function that is thrown away
    llvm_kinds = [llvm_of(kind) for kind in kinds]
    probe = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), llvm_kinds), "probe")
    result = run(ir.IRBuilder(probe.append_basic_block()), probe.args)
    if isinstance(result, tuple):
        return types.UniTuple(result[0].kind, len(result)), emit
    return result.kind if result is not None else types.none, emit


def outlined(function):
    """Make straight-line code a function of its own in the machine code, called and not repeated. For traced functions.

    It returns nothing. Arguments that are no traced values are constants: there is one function for each set of them.
    """

    @functools.wraps(function)
    def call(*args):
        traced_args = [arg for arg in args if isinstance(arg, Traced)]
        if not traced_args:
            function(*args)
            return
        kinds = [arg.kind if isinstance(arg, Traced) else arg for arg in args]
        module, name = traced_args[0].builder.module, " ".join([function.__name__, *map(str, kinds)])
        if name not in module.globals:
            llvm = ir.Function(module, ir.FunctionType(ir.VoidType(), [llvm_of(arg.kind) for arg in traced_args]), name)
            llvm.linkage = "internal"
            llvm.attributes.add("noinline")
            builder, given = ir.IRBuilder(llvm.append_basic_block()), iter(llvm.args)
            function(*[Traced(builder, arg.kind, next(given)) if isinstance(arg, Traced) else arg for arg in args])
            builder.ret_void()
        traced_args[0].builder.call(module.globals[name], [arg.value for arg in traced_args])

    return call


def llvm_of(kind):
    if isinstance(kind, types.CPointer):
        return llvm_of(kind.dtype).as_pointer()
    if isinstance(kind, types.Integer):
        return ir.IntType(kind.bitwidth)
    return kind.llvm if isinstance(kind, (Vector, Tile)) else llvm_element(kind)


# --- emitting LLVM ----------------------------------------------------------------------------------------------------


def integer(value):
    return ir.Constant(INT, value)


def emit_fma(builder, a, b, c):
    name = f"llvm.fma.v{a.type.count}f{32 if isinstance(a.type.element, ir.FloatType) else 64}"
    function = ir.FunctionType(a.type, [a.type] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), [a, b, c])


def emit_spread(builder, scalar, count):
    undefined = ir.Constant(ir.VectorType(scalar.type, count), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return emit_shuffle(builder, first, undefined, [0] * count)


def emit_splat(builder, scalar, vector):
    return emit_spread(builder, scalar, vector.lanes)


def emit_shuffle(builder, a, b, lanes):
    order = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(a, b, order)


def emit_address(builder, data, offset, vector):
    return builder.bitcast(builder.gep(data, [offset]), vector.llvm.as_pointer())


def emit_load(builder, vector, data, offset):
    return builder.load(emit_address(builder, data, offset, vector), align=vector.dtype.bitwidth // 8)


def emit_store(builder, vector, data, offset, value):
    builder.store(value, emit_address(builder, data, offset, vector), align=vector.dtype.bitwidth // 8)


def emit_broadcast(builder, vector, data, offset):
    return emit_splat(builder, builder.load(builder.gep(data, [offset])), vector)


def vectors_of(builder, tile, value):
    return [builder.extract_value(value, position) for position in range(tile.rows * tile.cols)]


def emit_tile(builder, tile, vectors):
    value = ir.Constant(tile.llvm, ir.Undefined)
    for position, vector in enumerate(vectors):
        value = builder.insert_value(value, vector, position)
    return value


def emit_loop(builder, count, values, body):
    """for k in range(count): values = body(k, values); the values after the loop. The count is at least 1.

    Not unrolled: the bodies are long enough to hide the loop's own instructions, the counts often too small for more.
    """
    before, loop = builder.block, builder.append_basic_block("loop")
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(INT)
    current = [builder.phi(value.type) for value in values]
    new = body(k, current)
    following = builder.add(k, integer(1))
    for phi, start, end in zip([k, *current], [integer(0), *values], [following, *new], strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(end, builder.block)
    after = builder.append_basic_block("after")
    back = builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    keep_rolled = builder.module.add_metadata(["llvm.loop.unroll.disable"])
    loop_id = builder.module.add_metadata([keep_rolled, integer(id(back))])
    loop_id.operands = (loop_id, keep_rolled)  # LLVM wants a loop's name to begin with itself
    back.set_metadata("llvm.loop", loop_id)
    builder.position_at_end(after)
    return new
