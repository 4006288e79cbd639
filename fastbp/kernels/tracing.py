"""How kernels become LLVM: values whose operators emit.

A kernel is plain Python. Run with numpy arrays, it computes; run once with `Traced` values, while it is compiled, it says
what the machine code does. Loops and branches that depend on such values are words of `fastbp.kernels.control`; whatever
else Python has (functions, objects, comprehensions) costs nothing later.
"""

import functools
import hashlib
import itertools
import types

from llvmlite import ir

INT, INT32, FLOAT, DOUBLE = ir.IntType(64), ir.IntType(32), ir.FloatType(), ir.DoubleType()
BYTES = {FLOAT: 4, DOUBLE: 8}
LLVM = {"float32": FLOAT, "float64": DOUBLE, "int32": INT32, "int64": INT}

MOST_LETTERS = 100  # of a function's name that says which constants it has


class Traced:
    """A value that will be computed: one of LLVM, and the builder that its operators emit into.

    A number, a vector of numbers, a mask (a vector of bits), or memory: a pointer to its first element.
    """

    __array_ufunc__ = None

    def __init__(self, builder, value):
        self.builder, self.value = builder, value

    @property
    def type(self):
        """LLVM's type."""
        return self.value.type

    @property
    def of(self):
        """The type of one element."""
        kind = self.type
        return kind.pointee if isinstance(kind, ir.PointerType) else getattr(kind, "element", kind)

    def new(self, value):
        """Another value, computed at the same place."""
        return Traced(self.builder, value)

    def like(self, number):
        """LLVM operand of this value's type: another traced value, or a number in every lane."""
        if isinstance(number, Traced):
            return number.value
        number = float(number) if self.of in BYTES else int(number)
        return ir.Constant(self.type, [number] * self.type.count if isinstance(self.type, ir.VectorType) else number)

    def operate(self, name, *operands):
        name = f"f{name}" if self.of in BYTES else name
        return self.new(getattr(self.builder, name)(*map(self.like, operands)))

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

    def __xor__(self, other):
        return self.operate("xor", self, other)

    def __and__(self, other):
        return self.operate("and_", self, other)

    def __or__(self, other):
        return self.operate("or_", self, other)

    def __lshift__(self, places):
        return self.operate("shl", self, places)

    def __rshift__(self, places):
        """Zeros come in from above."""
        return self.operate("lshr", self, places)

    __radd__, __rmul__ = __add__, __mul__

    def compare(self, sign, other):
        """A mask of vectors, 1 or 0 of numbers."""
        compare = self.builder.fcmp_ordered if self.of in BYTES else self.builder.icmp_signed
        flag = self.new(compare(sign, self.value, self.like(other)))
        return flag if isinstance(self.type, ir.VectorType) else self.new(self.builder.zext(flag.value, INT))

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

    __hash__ = None  # type: ignore[assignment]


class Names(types.SimpleNamespace):
    """Values by name, which a function takes as one argument."""


def traced_job(builder, kinds, types, job, rank, size):
    """The argument of a kernel: what stands at `job`, as `fastbp.kernels.jit.Kernel` packs it; types of T and I by name."""
    names = {"double*": "float64", "int*": "int64", "T*": types[0], "I*": types[-1]}
    result = Names(rank=Traced(builder, rank), size=Traced(builder, size))
    for place, (name, kind) in enumerate(kinds.items()):
        value = builder.load(builder.gep(job, [integer(place)]))
        if kind:
            value = builder.inttoptr(value, LLVM[names[kind]].as_pointer())
        setattr(result, name, Traced(builder, value))
    return result


def word(python):
    """Join a word's two meanings: `python` of numpy arrays, and the decorated function of `Traced` values."""

    def join(emit):
        @functools.wraps(emit)
        def call(*args):
            return (emit if any(isinstance(arg, Traced) for arg in args) else python)(*args)

        return call

    return join


def leaves(arg):
    """The traced values in an argument: a value, a tuple, a list or `Names` of arguments, or a constant."""
    if isinstance(arg, Traced):
        return [arg]
    parts = vars(arg).values() if isinstance(arg, Names) else arg if isinstance(arg, (tuple, list)) else ()
    return list(itertools.chain.from_iterable(map(leaves, parts)))


def rebuilt(arg, values):
    """The same argument with other traced values, in the order of `leaves`."""
    if isinstance(arg, Traced):
        return next(values)
    if isinstance(arg, (tuple, list)):
        return type(arg)(rebuilt(part, values) for part in arg)
    if isinstance(arg, Names):
        result = type(arg).__new__(type(arg))
        vars(result).update((name, rebuilt(part, values)) for name, part in vars(arg).items())
        return result
    return arg


def kind_of(arg):
    """What tells one argument of an outlined function from another: the types of values, and constants."""
    if isinstance(arg, Traced):
        return str(arg.type)
    if isinstance(arg, (tuple, list)):
        return f"({', '.join(map(kind_of, arg))})"
    if isinstance(arg, Names):
        return f"{{{', '.join(f'{name}: {kind_of(part)}' for name, part in vars(arg).items())}}}"
    return getattr(arg, "__qualname__", repr(arg))


def outlined(function):
    """Make a function that returns nothing one of its own in the machine code, called and not repeated.

    Arguments that are no traced values are constants: there is one function for each set of them.
    """

    @functools.wraps(function)
    def call(*args):
        values = leaves(args)
        if not values:
            function(*args)
            return
        builder, name = values[0].builder, f"{function.__name__} {kind_of(args)}"
        if len(name) > MOST_LETTERS:
            name = f"{function.__name__} {hashlib.sha256(name.encode()).hexdigest()}"
        if name not in builder.module.globals:
            llvm = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [value.type for value in values]), name)
            llvm.linkage = "internal"
            llvm.attributes.add("noinline")
            inside = ir.IRBuilder(llvm.append_basic_block())
            function(*rebuilt(args, (Traced(inside, arg) for arg in llvm.args)))
            inside.ret_void()
        builder.call(builder.module.globals[name], [value.value for value in values])

    return call


def integer(value):
    return ir.Constant(INT, int(value))


def operand(arg):
    """The LLVM value of an integer argument: a traced one, or a constant."""
    return arg.value if isinstance(arg, Traced) else integer(arg)


def value_of(arg):
    """The same of any number: one with a point is a double."""
    return ir.Constant(DOUBLE, arg) if isinstance(arg, float) else operand(arg)


def bit(flag):
    """What LLVM branches on, of an integer flag."""
    return flag.builder.icmp_signed("!=", flag.value, integer(0))


def external(builder, name, result, *args):
    """Call a function of LLVM or of the system."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), args)


def spread(builder, scalar, count):
    """A number in every lane."""
    undefined = ir.Constant(ir.VectorType(scalar.type, count), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(INT32, 0))
    return shuffle(builder, first, undefined, [0] * count)


def shuffle(builder, a, b, lanes):
    """Lanes of two vectors by their numbers, those of b behind those of a."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, len(lanes)), list(lanes)))


def pointer(memory, offset, vector):
    """A pointer to a vector in memory."""
    builder = memory.builder
    return builder.bitcast(builder.gep(memory.value, [operand(offset)]), vector.as_pointer())


def loop(builder, count, values, body):
    """for k in range(count): values = body(k, values); the values after the loop. The count is at least 1.

    Not unrolled: the bodies are long enough to hide the loop's own instructions, the counts often too small for more.
    """
    before, start = builder.block, builder.append_basic_block("loop")
    builder.branch(start)
    builder.position_at_end(start)
    k = builder.phi(INT)
    current = [builder.phi(value.type) for value in values]
    new = body(k, current)
    following = builder.add(k, integer(1))
    for phi, first, last in zip([k, *current], [integer(0), *values], [following, *new], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(last, builder.block)
    after = builder.append_basic_block("after")
    back = builder.cbranch(builder.icmp_signed("<", following, count), start, after)
    keep_rolled = builder.module.add_metadata(["llvm.loop.unroll.disable"])
    loop_id = builder.module.add_metadata([keep_rolled, integer(id(back))])
    loop_id.operands = (loop_id, keep_rolled)  # LLVM wants a loop's name to begin with itself
    back.set_metadata("llvm.loop", loop_id)
    builder.position_at_end(after)
    return new
