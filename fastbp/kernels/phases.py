"""Marks that count the time of a training's phases, in kernels that are compiled for it; in others they leave no trace.

A mark stands where a phase ends: the time since the thread's last mark belongs to that phase. Phases therefore sum to all
the time from the start of a call to its last mark, and a phase costs one mark.

A kernel calls `first_counter` once, `start_clock` at once after it, and `mark` behind every phase; what comes between them,
before the first block and after the last one, is OVERHEAD. Where threads wait for each other, `wait_for_all` has its own
mark; what stands before it needs one, too.
"""

from fastbp.kernels import jit
from fastbp.kernels.jit import inlined
from fastbp.kernels.simd import clock, element, put
from fastbp.kernels.tracing import traced
from fastbp.layout import CLOCK, COUNTER_GROUP, COUNTERS, OVERHEAD


@inlined
def first_counter(n_layers, rank):
    """Where the counters of a thread begin in what threads tell each other: what `counters` is for the others."""
    return COUNTERS + rank * n_layers * COUNTER_GROUP


@traced
def start_clock(sync, counters):
    """What went before is nobody's."""
    if jit.marks:
        put(sync, counters + CLOCK, clock(sync))


@traced
def mark(sync, counters, phase, layer):
    """The time since the thread's last mark belongs to a phase, one of OF_LAYERS with the layer's number, others with 0."""
    if jit.marks:
        now, pair = clock(sync), counters + layer * COUNTER_GROUP + phase * 2
        put(sync, pair, element(sync, pair) + now - element(sync, counters + CLOCK))
        put(sync, pair + 1, element(sync, pair + 1) + 1)
        put(sync, counters + CLOCK, now)


def count_marks(sync, counters, number):
    """`number` phases in which nothing is done, from which a mark's own time is known. An entry point."""
    start_clock(sync, counters)
    for _ in range(number):
        mark(sync, counters, OVERHEAD, 0)
