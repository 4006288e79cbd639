"""Threads that run one kernel together: each is called with its rank, and they wait for each other between phases.

Every thread runs the same code over the whole training; what a phase's work is divided into, and the order of every sum, do
not depend on how many there are.

The caller's thread leads. The others are workers, who live as long as the process (`fastbp.kernels.pool`) and look into a
mailbox each: for a while after some work, because the next one is often near, then parked, which takes no time of any
processor. A leader takes the workers that are idle, posts its job to them, runs its own part, and returns when they have.

What a step costs in p threads of the wide kernel: its arithmetic / p, three barriers, and what the others wrote, (p - 1) / p
of the weights, activations and deltas, at some 10 GB/s for each core. Measured with two (Zen 4, 784-128-10, 128 rows,
float32): 480 us alone, 270 together, 30 beside the half; a barrier takes 0.2 us. By that 8 threads take 110 us and 16 take
85. More of them gain nothing: 128 rows are 16 groups of GROUP, and the weights of the others take 51 us.
"""

from llvmlite import ir

from fastbp.kernels import jit
from fastbp.kernels.control import carry, either, repeat, switch, when
from fastbp.kernels.numbers import element, from_on, put
from fastbp.kernels.phases import mark
from fastbp.kernels.tracing import INT, INT32, external, integer, operand, word
from fastbp.layout import ARRIVED, FREE, LINE, MAILBOX, PASSED

SPINS = 20_000  # looks at a word before the rest of the time slice is given away: some 10 microseconds
PATIENCE = SPINS + 2_000  # looks before a worker parks: some hundred microseconds, more than a step's own Python takes
BYTE = ir.IntType(8).as_pointer()


def python_add(memory, offset, number):
    memory[offset] += number
    return memory[offset] - number


@word(python_add)
def add_atomically(memory, offset, number):
    """Add to an int64 that other threads see; gives what stood there before."""
    address = from_on(memory, offset).value
    return memory.new(memory.builder.atomic_rmw("add", address, operand(number), "seq_cst"))


@word(None)
def wait_for_change(memory, offset, value, looks=2**62):
    """Look at an int64 until another thread has changed it from `value`, at most so often; whether it has changed."""
    builder, address = memory.builder, from_on(memory, offset).value
    again, idle, after = (builder.append_basic_block(name) for name in ("look", "idle", "changed"))
    before = builder.block
    builder.branch(again)
    builder.position_at_end(again)
    spins = builder.phi(INT)
    spins.add_incoming(integer(0), before)
    same = builder.icmp_signed("==", builder.load_atomic(address, "seq_cst", 8), operand(value))
    builder.cbranch(same, idle, after)
    builder.position_at_end(idle)
    # no pause instruction: under a hypervisor a loop of them gives the processor away
    with builder.if_then(builder.icmp_signed(">", spins, integer(SPINS))):
        external(builder, jit.YIELD, INT32)
    spins.add_incoming(builder.add(spins, integer(1)), builder.block)
    last = builder.block
    builder.cbranch(builder.icmp_signed("<", spins, integer(looks)), again, after)
    builder.position_at_end(after)
    changed = builder.phi(INT)
    changed.add_incoming(integer(1), again)
    changed.add_incoming(integer(0), last)
    return memory.new(changed)


@word(None)
def look(memory, offset):
    """An int64 that other threads change."""
    return memory.new(memory.builder.load_atomic(from_on(memory, offset).value, "seq_cst", 8))


@word(None)
def exchange(memory, offset, number):
    """Put a number into an int64 that other threads see; gives what stood there before."""
    return memory.new(memory.builder.atomic_rmw("xchg", from_on(memory, offset).value, operand(number), "seq_cst"))


@word(None)
def claim(memory, offset, number):
    """Put a number where FREE stands, unless another thread is faster; whether it was put."""
    builder, free = memory.builder, integer(FREE)
    put_there = builder.cmpxchg(from_on(memory, offset).value, free, operand(number), "seq_cst", "seq_cst")
    return memory.new(builder.zext(builder.extract_value(put_there, 1), INT))


@word(None)
def run_kernel(function, job, rank, size):
    """Call a kernel by its address; numba's functions take two leading pointers, to a result and an exception."""
    builder = function.builder
    with builder.goto_entry_block():
        left = [builder.bitcast(builder.alloca(INT), BYTE) for _ in range(2)]
    kind = ir.FunctionType(INT32, [BYTE, BYTE, BYTE, INT, INT]).as_pointer()
    job = builder.inttoptr(job.value, BYTE)
    builder.call(builder.inttoptr(function.value, kind), [*left, job, operand(rank), operand(size)])


@word(None)
def acquire(lock):
    """Wait for a lock of Python's, by its address."""
    external(lock.builder, jit.ACQUIRE, INT32, lock.builder.inttoptr(lock.value, BYTE), ir.Constant(INT32, 1))


@word(None)
def release(lock):
    """Let another thread have a lock of Python's."""
    external(lock.builder, jit.RELEASE, ir.VoidType(), lock.builder.inttoptr(lock.value, BYTE))


def lead(job):
    """Run a kernel in this thread and those of idle workers.

    boxes     INOUT  `count` mailboxes
    wanted           workers at most
    function, work   addresses of the kernel and of its job
    got       OUT    in how many threads it was run
    """

    def box(number):
        return from_on(job.boxes, number * LINE)

    def take(number, taken):
        mine = switch(taken < job.wanted, [lambda: 0, lambda: claim(box(number), MAILBOX.owner, job.work)])
        when(mine, lambda: put(box(number), MAILBOX.rank, taken + 1))
        return (taken + mine,)

    def with_mine(body):
        repeat(job.count, lambda n: when(look(box(n), MAILBOX.owner) == job.work, lambda: body(box(n))))

    def post(box):
        put(box, MAILBOX.function, job.function)
        put(box, MAILBOX.size, size)
        exchange(box, MAILBOX.posted, 1)
        when(exchange(box, MAILBOX.parked, 0), lambda: release(element(box, MAILBOX.lock)))

    def wait_for(box):
        wait_for_change(box, MAILBOX.posted, 1)
        exchange(box, MAILBOX.owner, FREE)

    size = carry(job.count, (0,), take)[0] + 1
    with_mine(post)
    run_kernel(job.function, job.work, job.rank, size)
    with_mine(wait_for)
    put(job.got, 0, size)


def follow(job):
    """Look into `box` so many `times`, and run what is posted there."""
    box = job.box

    def park():
        exchange(box, MAILBOX.parked, 1)
        # Whoever takes that 1 back has seen the other: this thread the work, or the leader that it must wake the worker.
        seen = switch(look(box, MAILBOX.posted), [lambda: 0, lambda: exchange(box, MAILBOX.parked, 0)])
        when(seen == 0, lambda: acquire(element(box, MAILBOX.lock)))

    def work():
        run_kernel(*(element(box, getattr(MAILBOX, name)) for name in ("function", "owner", "rank", "size")))
        exchange(box, MAILBOX.posted, 0)

    def once(_):
        when(wait_for_change(box, MAILBOX.posted, 0, PATIENCE) == 0, park)
        # a leader that was slow may wake the worker for what it has done already
        when(look(box, MAILBOX.posted), work)

    repeat(job.times, once)


def wait_for_all(job):
    """Return when all threads have come here; what they wrote before is then seen by all."""

    def meet():
        passed = add_atomically(job.sync, PASSED, 0)

        def let_all_go():
            add_atomically(job.sync, ARRIVED, job.size * -1)
            add_atomically(job.sync, PASSED, 1)

        last = add_atomically(job.sync, ARRIVED, 1) == job.size - 1
        either(last, let_all_go, lambda: wait_for_change(job.sync, PASSED, passed))
        mark(job, "wait")

    when(job.size > 1, meet)
