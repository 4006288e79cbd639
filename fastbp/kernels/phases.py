"""Where the time of a training goes, marked inside the compiled loop; without `jit.marks` no word here is an instruction.

A mark stands where a phase ends: the time since the thread's last mark belongs to that phase. Phases therefore sum to all
the time from the start of a call to its last mark, and a phase costs one mark.

What comes before the first block, between blocks and after the last one is overhead. Where threads wait for each other,
`wait_for_all` has its own mark; what stands before it needs one, too.
"""

import time

from fastbp.kernels import jit
from fastbp.kernels.control import repeat
from fastbp.kernels.levels import level
from fastbp.kernels.numbers import add_to, element, put
from fastbp.kernels.tracing import INT, external, integer, word
from fastbp.layout import CLOCK, COUNTER_GROUP, PHASES


@word(lambda like: time.perf_counter_ns())
def clock(like):
    """A counter of the processor that runs at a constant rate; 0 where none is known. Nanoseconds in plain Python.

    The argument, any memory, is not looked at.
    """
    builder = like.builder
    if level().machine == "aarch64":  # whose cycles, which LLVM before version 22 reads, most systems hide
        register = builder.module.add_metadata(["cntvct_el0"])
        return like.new(external(builder, "llvm.read_volatile_register.i64", INT, register))
    return like.new(external(builder, "llvm.readcyclecounter", INT) if level().machine == "x86_64" else integer(0))


def start_clock(job):
    """What went before is nobody's."""
    if jit.marks:
        put(job.sync, job.counters + CLOCK, clock(job.sync))


def mark(job, phase, level=0):
    """The time since the thread's last mark belongs to one of `fastbp.layout.PHASES`, where it may be a layer's."""
    if jit.marks:
        now, pair = clock(job.sync), job.counters + level * COUNTER_GROUP + getattr(PHASES, phase) * 2
        add_to(job.sync, pair, now - element(job.sync, job.counters + CLOCK))
        add_to(job.sync, pair + 1, 1)
        put(job.sync, job.counters + CLOCK, now)


def count_marks(job):
    """As many marks as `job.number` says, in which nothing is done; `job.sync` counts from `job.counters` on."""
    start_clock(job)
    repeat(job.number, lambda _: mark(job, "overhead"))
