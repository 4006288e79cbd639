"""Numbers and memory: what a kernel may say about one element at a time.

The words of this module, of `vectors`, `tiles` and `control` have two meanings, chosen by what they are called with.

Compiled      `Traced` values emit LLVM (`fastbp.kernels.tracing`): a word is one or a few instructions.
Plain Python  numpy arrays (NUMBA_DISABLE_JIT=1), so that a kernel can be stepped through, bounds-checked and covered.

Numbers       64-bit integers and floats. A flag is an integer. Where a number may be traced, one of Python's does as well,
              and a loop over it is unrolled.
Memory        a pointer to the first element of an array, indexed by element offsets; plain Python sees the flat array. No
              word checks bounds when compiled, none allocates.
"""

from llvmlite import ir

from fastbp.kernels.tracing import DOUBLE, INT, Names, Traced, bit, operand, word


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


@word(lambda bits: (bits & -bits).bit_length() - 1)
def lowest_bit(bits):
    """The number of the lowest bit of an integer that has one."""
    return bits.new(bits.builder.cttz(bits.value, ir.Constant(ir.IntType(1), 1)))


@word(lambda bits: bits.bit_count())
def count_bits(bits):
    """How many bits of an integer are set."""
    return bits.new(bits.builder.ctpop(bits.value))


def ceil_div(count, size):
    """How many groups of so many there are, where the last one may be smaller."""
    return (count + (size - 1)) // size


@word(min)
def smaller(a, b):
    """The smaller one of two integers."""
    a, b = (a, b) if isinstance(a, Traced) else (b, a)
    return choose(a < b, a, b)


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
