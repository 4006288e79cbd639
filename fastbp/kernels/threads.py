"""Threads that run one kernel together: each is called with its rank, and they wait for each other between phases.

Every thread runs the same code over the whole training; what a phase's work is divided into, and the order of every sum, do
not depend on how many there are.
"""

from fastbp.kernels import jit
from fastbp.kernels.control import either, switch, when
from fastbp.kernels.numbers import from_on, smaller
from fastbp.kernels.phases import mark
from fastbp.kernels.tracing import INT, INT32, external, integer, operand, word
from fastbp.layout import ARRIVED, PASSED

SPINS = 20_000  # looks at a word before the rest of the time slice is given away: some 10 microseconds


def python_add(memory, offset, number):
    memory[offset] += number
    return memory[offset] - number


@word(python_add)
def add_atomically(memory, offset, number):
    """Add to an int64 that other threads see; gives what stood there before."""
    address = from_on(memory, offset).value
    return memory.new(memory.builder.atomic_rmw("add", address, operand(number), "seq_cst"))


@word(None)
def wait_for_change(memory, offset, value):
    """Look at an int64 until another thread has changed it from `value`."""
    builder, address = memory.builder, from_on(memory, offset).value
    look, idle, after = (builder.append_basic_block(name) for name in ("look", "idle", "changed"))
    before = builder.block
    builder.branch(look)
    builder.position_at_end(look)
    spins = builder.phi(INT)
    spins.add_incoming(integer(0), before)
    same = builder.icmp_signed("==", builder.load_atomic(address, "seq_cst", 8), value.value)
    builder.cbranch(same, idle, after)
    builder.position_at_end(idle)
    # no pause instruction: under a hypervisor a loop of them gives the processor away
    with builder.if_then(builder.icmp_signed(">", spins, integer(SPINS))):
        external(builder, jit.YIELD, INT32)
    spins.add_incoming(builder.add(spins, integer(1)), builder.block)
    builder.branch(look)
    builder.position_at_end(after)


def wait_for_all(job):
    """Return when all threads have come here; what they wrote before is then seen by all."""

    def meet():
        passed = add_atomically(job.sync, PASSED, 0)

        def release():
            add_atomically(job.sync, ARRIVED, job.size * -1)
            add_atomically(job.sync, PASSED, 1)

        last = add_atomically(job.sync, ARRIVED, 1) == job.size - 1
        either(last, release, lambda: wait_for_change(job.sync, PASSED, passed))
        mark(job, "wait")

    when(job.size > 1, meet)


def share(job, count, unit):
    """Where this thread's part of `count` things begins and ends, `unit` of which stay together."""

    def begin(rank):
        return smaller(count, (count + (unit - 1)) // unit * rank // job.size * unit)

    # without a division where there is nothing to divide
    return switch(job.size > 1, [lambda: (0, count), lambda: (begin(job.rank), begin(job.rank + 1))])
