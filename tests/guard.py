"""Memory that ends, or begins, where the process may not look: an access beyond it kills the process.

Run as a program, it sends cases through the kernels in such memory: ``python guard.py before|after CASE...`` with the
numbers of cases, ``many before|after SEED...`` draws of many networks, or ``zeros before|after SEED...`` draws of wide ones,
with zeros in X, whose scratch is guarded room by room. Only where there is mprotect (Linux, macOS).
"""

import ctypes
import itertools
import mmap
import os
import sys
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from cases import CASES, KERNELS, forward, train

from fastbp import kernels, layout
from fastbp.kernels import gate
from fastbp.workspace import WideWorkspace

PAGE = mmap.PAGESIZE
PROT_NONE = 0
needs_mprotect = pytest.mark.skipif(os.name != "posix", reason="needs mprotect")


def rooms_between_pages(sizes, side):
    """Memory, and where in it rooms of so many bytes begin, each directly before or after a page without access."""
    spans = [-(-size // PAGE) * PAGE for size in sizes]
    memory, closed, begins = mmap.mmap(-1, sum(spans) + (len(spans) + 1) * PAGE), [0], []
    for size, span in zip(sizes, spans, strict=True):
        first = closed[-1] + PAGE
        begins.append(first if side == "after" else first + span - size)
        closed.append(first + span)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for page in closed:
        if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(start + page), PAGE, PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect failed")
    return memory, begins


def guarded(array, side):
    """A copy of `array` that stands directly before or after a page without access; one that does so already."""
    if isinstance(array.base, memoryview):
        return array
    memory, (begin,) = rooms_between_pages([array.nbytes], side)
    copy = np.frombuffer(memory, array.dtype, array.size, begin).reshape(array.shape)
    copy[...] = array
    return copy


class RoomsApart(WideWorkspace):
    """A workspace each of whose rooms stands directly before or after a page without access."""

    side = "before"

    def __init__(self, of, *args, **options):
        super().__init__(of, *args, **options)
        memory, plan, places, *others = self.arrays
        lanes = layout.ALIGNMENT_BYTES // memory.itemsize
        names = gate.rooms(self.plan, of.rows, lanes)
        rooms = [(plan, layout.PLAN._fields.index(name), size) for name, size in names.items()]
        for place, layer in zip(places, of.rows, strict=True):
            rooms += [(place, column, size) for column, size in enumerate(gate.rooms_of_layer(self.plan, layer))]
        sizes = [-(-size // lanes) * layout.ALIGNMENT_BYTES for *_, size in rooms]
        pages, begins = rooms_between_pages(sizes, self.side)
        apart = np.frombuffer(pages, memory.dtype)
        for (numbers, column, size), begin in zip(rooms, begins, strict=True):
            before, numbers[column] = numbers[column], begin // memory.itemsize
            apart[numbers[column] :][:size] = memory[before:][:size]
        self.arrays = gate.Arrays((apart, plan, places, *others))


def run(case, side):
    # what died is known by the last line
    print(case, flush=True)
    for threads in (1, 2):
        together = replace(case, threads=threads)
        train(kernels, together, calls=[1, 5], place=lambda array: guarded(array, side))
        forward(kernels, together, place=lambda array: guarded(array, side))


def main(side, *numbers):
    for number in map(int, numbers):
        run(CASES[number], side)


def zeros(side, *seeds):
    from random_networks import network

    RoomsApart.side = side
    for seed in map(int, seeds):
        drawn = (network(seed, number)[0] for number in itertools.count())
        case = next(case for case in drawn if case.zeros and case.kernel == "wide")
        with mock.patch.dict(KERNELS, wide=RoomsApart):
            run(case, side)


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
    draws = {"many": many, "zeros": zeros}.get(sys.argv[1])
    draws(*sys.argv[2:]) if draws else main(*sys.argv[1:])
