"""Loops that do nothing but what a machine is limited by: fused multiply-adds, and loads."""

from fastbp.kernels.control import carry, repeat
from fastbp.kernels.jit import registers
from fastbp.kernels.tiles import load_tile, outer, store_tile
from fastbp.kernels.vectors import broadcast, lanes, load, splat, store

# Independent sums: more than the 8 to 16 that the fma units keep under way (2 units of 4 or 5 cycles on x86, 4 of 4 on the
# wider ARM cores), and with their two factors no more than there are registers.
SUMS = 24 if registers() == 32 else 12
STREAMS = 8  # vectors loaded side by side, each into a sum of its own, so that additions never wait for each other


def multiply_add(job):
    """2 * SUMS * LANES * terms operations; `memory` holds SUMS vectors.

    The product of two elements is added to each sum, `terms` times; everything stays in registers.
    """
    memory, rows = job.memory, [n * lanes(job.memory) for n in range(SUMS)]
    a, b = broadcast(memory, 0), broadcast(memory, 1)
    # out of memory and back to it, so that the compiler can neither merge the sums nor leave them out
    sums = load_tile(memory, rows, 1)
    store_tile(outer(sums, job.terms, lambda k: [a] * SUMS, lambda k: [b]), memory, rows)


def read(job):
    """Load groups * STREAMS * LANES elements of x so many times; their sum goes into STREAMS vectors of `out`."""
    L = lanes(job.x)

    def group(g, *sums):
        return tuple(total + load(job.x, (g * STREAMS + stream) * L) for stream, total in enumerate(sums))

    def once(_):
        for stream, total in enumerate(carry(job.groups, (splat(job.x, 0.0),) * STREAMS, group)):
            store(job.out, stream * L, total)

    repeat(job.times, once)
