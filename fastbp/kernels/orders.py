"""Orders of rows, drawn as numpy draws them, which takes Python's own call a multiple of the time for few rows."""

import ctypes

from llvmlite import ir

from fastbp.kernels.control import repeat, until_zero
from fastbp.kernels.numbers import choose, element, put
from fastbp.kernels.tracing import INT, INT32, word

NEXT = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p)


@word(lambda function, state: NEXT(function)(state))
def next_word(function, state):
    """The next 32 random bits of one of numpy's bit generators, by the addresses of its function and its state."""
    builder = function.builder
    kind = ir.FunctionType(INT32, [INT]).as_pointer()
    return function.new(builder.zext(builder.call(builder.inttoptr(function.value, kind), [state.value]), INT))


def shuffle(job):
    """Shuffle `job.order` again and again, and write down each order that comes of it, as row of `job.orders`.

    It draws what `numpy.random.RandomState.shuffle` draws: for every place but the first one, from the last one down, words
    of as many bits as it has, up to the first one that is no larger. Whether it is, is no branch: no processor foresees it.
    """
    order, n = job.order, job.n

    def swap(i, mask):
        mask = choose(i <= mask >> 1, mask >> 1, mask)
        drawn = next_word(job.next, job.state) & mask
        right = drawn <= i
        other = choose(right, drawn, i)
        first, second = element(order, i), element(order, other)
        put(order, i, second)
        put(order, other, first)
        return i - right, mask

    def one(number):
        until_zero(n - 1, (job.mask,), swap)
        repeat(n, lambda row: put(job.orders, number * n + row, element(order, row)))

    repeat(job.count, one)
