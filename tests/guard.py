"""Memory that ends, or begins, where the process may not look: an access beyond it kills the process.

Run as a program, it sends cases through the kernels in such memory: ``python guard.py before|after CASE...`` with the
numbers of cases, or ``many before|after SEED...`` draws of many networks. Only where there is mprotect (Linux, macOS).
"""

import ctypes
import mmap
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from cases import CASES, forward, train

from fastbp import kernels

PAGE = mmap.PAGESIZE
PROT_NONE = 0
needs_mprotect = pytest.mark.skipif(os.name != "posix", reason="needs mprotect")


def guarded(array, side):
    """A copy of `array` that stands directly before or after a page without access."""
    size = -(-array.nbytes // PAGE) * PAGE
    memory = mmap.mmap(-1, size + 2 * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in (start, start + PAGE + size):
        if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(page), PAGE, PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect failed")
    offset = PAGE if side == "after" else PAGE + size - array.nbytes
    copy = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    copy[...] = array
    return copy


def main(side, *numbers):
    for number in map(int, numbers):
        case = CASES[number]
        # what died is known by the last line
        print(case, flush=True)
        for threads in (1, 2):
            together = replace(case, threads=threads)
            train(kernels, together, calls=[1, 5], place=lambda array: guarded(array, side))
            forward(kernels, together, place=lambda array: guarded(array, side))


def many(side, *seeds):
    from test_many import Draw  # which imports this module

    kernels.aligned_zeros = lambda count, dtype: guarded(np.zeros(count, dtype), side)
    for seed in seeds:
        print(seed, flush=True)
        values = Draw(int(seed)).arguments.values()
        arguments = [guarded(value, side) if getattr(value, "size", 0) else value for value in values]
        for threads in (1, 2):
            kernels.train_many(*arguments, threads=threads)


if __name__ == "__main__":
    many(*sys.argv[2:]) if sys.argv[1] == "many" else main(*sys.argv[1:])
