"""Threads that run one kernel together: each is called with its rank, and they wait for each other between phases.

Every thread runs the same code over the whole training; what a phase's work is divided into, and the order of every sum, do
not depend on how many there are.
"""

from fastbp.kernels.phases import mark
from fastbp.kernels.simd import add_atomically, either, smaller, switch, wait_for_change
from fastbp.kernels.tracing import traced
from fastbp.layout import ARRIVED, PASSED, WAIT


@traced
def wait_for_all(sync, size, counters):
    """Return when all threads have come here; what they wrote before is then seen by all.

    counters      of `fastbp.kernels.phases.mark`
    """

    def meet():
        passed = add_atomically(sync, PASSED, 0)

        def release():
            add_atomically(sync, ARRIVED, size * -1)
            add_atomically(sync, PASSED, 1)

        last = add_atomically(sync, ARRIVED, 1) == size - 1
        either(last, release, lambda: wait_for_change(sync, PASSED, passed))
        mark(sync, counters, WAIT, 0)

    either(size > 1, meet, lambda: None)


@traced
def share(count, unit, rank, size):
    """Where the part of `rank` of `count` things begins, `unit` of which stay together; that of rank + 1 where it ends."""

    def part():
        return smaller(count, (count + (unit - 1)) // unit * rank // size * unit)

    # without a division where there is nothing to divide
    return switch(size > 1, [lambda: count * rank, part])
