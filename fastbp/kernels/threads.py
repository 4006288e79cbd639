"""Threads that run one kernel together: each is called with its rank, and they wait for each other between phases.

Every thread runs the same code over the whole training; what a phase's work is divided into, and the order of every sum, do
not depend on how many there are.
"""

from fastbp.kernels.phases import mark
from fastbp.kernels.simd import add_atomically, either, smaller, switch, wait_for_change, when
from fastbp.layout import ARRIVED, PASSED, WAIT


def wait_for_all(job):
    """Return when all threads have come here; what they wrote before is then seen by all."""

    def meet():
        passed = add_atomically(job.sync, PASSED, 0)

        def release():
            add_atomically(job.sync, ARRIVED, job.size * -1)
            add_atomically(job.sync, PASSED, 1)

        last = add_atomically(job.sync, ARRIVED, 1) == job.size - 1
        either(last, release, lambda: wait_for_change(job.sync, PASSED, passed))
        mark(job, WAIT)

    when(job.size > 1, meet)


def share(job, count, unit):
    """Where this thread's part of `count` things begins and ends, `unit` of which stay together."""

    def begin(rank):
        return smaller(count, (count + (unit - 1)) // unit * rank // job.size * unit)

    # without a division where there is nothing to divide
    return switch(job.size > 1, [lambda: (0, count), lambda: (begin(job.rank), begin(job.rank + 1))])
