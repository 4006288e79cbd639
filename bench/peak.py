"""The fused multiply-adds per second that one core can do, measured: what a kernel's speed is a fraction of."""

import functools
import time

import numpy as np

from fastbp.kernels import jit
from fastbp.kernels.simd import broadcast, lane_count, load_tile, outer, store_tile, traced, zero_tile

# Independent sums: more than the 8 to 10 that two units with a latency of 4 or 5 cycles keep busy, and with their two
# factors no more than 16 registers.
SUMS = 12
TERMS = 100_000
REPEATS = 50  # some 10 ms: one repeat that nothing else on the machine disturbs is enough


@traced
def add_products(memory, terms):
    """Add the product of two elements to each sum, `terms` times; everything stays in registers."""
    a, b = broadcast(memory, 0), broadcast(memory, 1)
    # out of memory and back to it, so that the compiler can neither merge the sums nor leave them out
    sums = load_tile(zero_tile(memory, SUMS, 1), memory, 0, lane_count(memory))
    store_tile(outer(sums, terms, lambda k: [a] * SUMS, lambda k: [b]), memory, 0, lane_count(memory))


def spin(memory, terms):
    add_products(memory, terms)


class PeakKernel(jit.Kernel):
    """`spin` compiled as the kernels are, though it lives outside their package."""

    def function(self):
        return spin


@functools.cache
def compiled(dtype):
    """`spin` for one float type, and the code that it must not outlive."""
    kernel = PeakKernel("peak", "spin", "T* int")
    library, symbol = kernel.compile(dtype, jit.native_width())
    return kernel.prototype(library.get_pointer_to_function(symbol)), library


def peak_gflops(dtype):
    """Billions of floating-point operations per second of one core just now, two for every fused multiply-add.

    Clocks change within a run, so this is worth measuring next to whatever is compared with it.
    """
    call, _ = compiled(dtype)
    lanes = jit.native_width() // np.dtype(dtype).itemsize
    memory = np.linspace(1e-3, 2e-3, SUMS * lanes).astype(dtype)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call(memory.ctypes.data, TERMS)
        seconds.append(time.perf_counter() - start)
    assert memory[0] > 1e-3  # it did add
    return 2 * SUMS * lanes * TERMS / min(seconds) / 1e9
