"""Marks that count the time of a training's phases, in kernels that are compiled for it; in others they leave no trace.

A mark stands where a phase ends: the time since the thread's last mark belongs to that phase. Phases therefore sum to all
the time from the start of a call to its last mark, and a phase costs one mark.

Where blocks take no longer than some marks, only every so-maniest block is counted. In the others a mark is a look at one
number, and the time of all that stand side by side is added up as a whole: it belongs to no phase, but it is known. Every
thread counts its blocks, all of them from the same number with the same period, so they agree on those that are counted.

What takes longer than a limit has been interrupted by another program. It is an overhead of the call and of no block: were
it counted in a block that stands for many others, one interruption would become many of them.

A kernel calls `first_counter` once, `start_clock` at once after it, `next_block` once in every block, `mark` behind every
phase, and `stop_clock` in the end. Where threads wait for each other, `wait_for_all` has its own mark; what stands before it
needs one, too. `next_block` and `stop_clock` are a mark of OVERHEAD.
"""

from fastbp.kernels import jit
from fastbp.kernels.jit import inlined
from fastbp.kernels.simd import choose, clock, either, element, put
from fastbp.kernels.tracing import traced
from fastbp.layout import (
    BLOCKS,
    CLOCK,
    COUNTED,
    COUNTER_GROUP,
    COUNTERS,
    COUNTS_IN,
    LIMIT,
    NEXT,
    OVERHEAD,
    PERIOD,
    UNCOUNTED,
)


@inlined
def first_counter(n_layers, rank):
    """Where the counters of a thread begin in what threads tell each other: what `counters` is for the others."""
    return COUNTERS + rank * (n_layers + 2) * COUNTER_GROUP


@traced
def start_clock(sync, counters):
    """What went before is nobody's; what comes before the first block is counted apart from the blocks."""
    if jit.marks:
        put(sync, counters + CLOCK, clock(sync))
        put(sync, counters + COUNTS_IN, counters + COUNTER_GROUP)


@traced
def mark(sync, counters, phase, layer):
    """The time since the thread's last mark belongs to a phase, one of OF_LAYERS with the layer's number, others with 0."""
    if jit.marks:
        group = element(sync, counters + COUNTS_IN)
        either(group, lambda: count(sync, counters, group + layer * COUNTER_GROUP + phase * 2), lambda: None)


@traced
def next_block(sync, counters):
    """Another block begins here, and the one before ends: here it is decided whether marks count in it."""
    if jit.marks:
        block = element(sync, counters + BLOCKS) + 1
        put(sync, counters + BLOCKS, block)

        def begin():
            stop_clock(sync, counters)
            put(sync, counters + NEXT, block + element(sync, counters + PERIOD))
            increase(sync, counters + COUNTED, 1)
            put(sync, counters + COUNTS_IN, counters + 2 * COUNTER_GROUP)

        def skip():
            mark(sync, counters, OVERHEAD, 0)
            put(sync, counters + COUNTS_IN, counters * 0)

        either(block == element(sync, counters + NEXT), begin, skip)


@traced
def stop_clock(sync, counters):
    """The last mark of a call, or before a block that is counted: one block ends, or some that were not counted."""
    if jit.marks:
        group = element(sync, counters + COUNTS_IN)
        either(
            group,
            lambda: count(sync, counters, group + OVERHEAD * 2),
            lambda: add_time(sync, counters, counters + UNCOUNTED),
        )


def count(sync, counters, pair):
    """A phase ends that has this pair. For traced functions."""
    add_time(sync, counters, pair)
    increase(sync, pair + 1, 1)


def add_time(sync, counters, at):
    """Add the time since the thread's last mark, or to the call's overhead if it was interrupted. For traced functions."""
    now = clock(sync)
    passed = now - element(sync, counters + CLOCK)
    put(sync, counters + CLOCK, now)
    interrupted = passed > element(sync, counters + LIMIT)
    increase(sync, choose(interrupted, counters + COUNTER_GROUP + OVERHEAD * 2, at), passed)


def increase(sync, at, number):
    """Add to an int64. For traced functions."""
    put(sync, at, element(sync, at) + number)


def count_marks(sync, counters, number):
    """`number` phases in which nothing is done, from which a mark's own time is known. An entry point."""
    start_clock(sync, counters)
    for _ in range(number):
        mark(sync, counters, OVERHEAD, 0)
