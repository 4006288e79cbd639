"""Loops that do nothing but what a machine is limited by: fused multiply-adds, loads, pointwise functions."""

from fastbp.kernels.jit import registers
from fastbp.kernels.pointwise import FUNCTIONS
from fastbp.kernels.simd import (
    broadcast,
    carry,
    lane_count,
    load,
    load_tile,
    outer,
    repeat,
    splat,
    store,
    store_tile,
    switch,
    zero_tile,
)
from fastbp.kernels.tracing import traced

# Independent sums: more than the 8 to 16 that the fma units keep under way (2 units of 4 or 5 cycles on x86, 4 of 4 on the
# wider ARM cores), and with their two factors no more than there are registers.
SUMS = 24 if registers() == 32 else 12
STREAMS = 8  # vectors loaded side by side, each into a sum of its own, so that additions never wait for each other


@traced
def spin(memory, terms):
    """Add the product of two elements to each sum, `terms` times; everything stays in registers."""
    a, b = broadcast(memory, 0), broadcast(memory, 1)
    # out of memory and back to it, so that the compiler can neither merge the sums nor leave them out
    sums = load_tile(zero_tile(memory, SUMS, 1), memory, 0, lane_count(memory))
    store_tile(outer(sums, terms, lambda k: [a] * SUMS, lambda k: [b]), memory, 0, lane_count(memory))


def multiply_add(memory, terms):
    """2 * SUMS * LANES * terms operations; `memory` holds SUMS vectors."""
    spin(memory, terms)


@traced
def add_up(x, groups, out):
    """The sum of STREAMS vectors at a time."""
    L = lane_count(x)

    def group(g, *sums):
        return tuple(total + load(x, (g * STREAMS + stream) * L) for stream, total in enumerate(sums))

    for stream, total in enumerate(carry(groups, (splat(x, 0.0),) * STREAMS, group)):
        store(out, stream * L, total)


def read(x, groups, out, times):
    """Load groups * STREAMS * LANES elements so many times; their sum goes into STREAMS vectors of `out`."""
    for _ in range(times):
        add_up(x, groups, out)


@traced
def over_vectors(code, x, vectors, out):
    L = lane_count(x)

    def loop(function):
        return lambda: repeat(vectors, lambda v: store(out, v * L, function(load(x, v * L))))

    switch(code, [loop(function) for function in FUNCTIONS])


def apply(code, x, vectors, out, times):
    """FUNCTIONS[code] of each element of some vectors, so many times."""
    for _ in range(times):
        over_vectors(code, x, vectors, out)
