"""The steps of a training, whatever the kernel: batches, their weights, the record of an epoch, and the cursor.

A kernel says what happens with the rows of one block, `block(step)`, where a step has these numbers:

epoch         epochs that are over
row, stop     the first row of the block, and the one behind its last
batch, count  the first row of the batch that it belongs to, and how many that has
first         where the epoch's rows begin in `job.order`
number, ended its number in the batch, from 0, and whether it is the last one there
done          blocks of the epoch before it
packed        what `job.resident` was at the end of the first epoch
steps         steps of the solver so far
weight        the sum of the weights of the batch's rows; without any, no step is taken
"""

import functools

import numpy as np
from llvmlite import ir

from fastbp.kernels.control import SIDE_BY_SIDE, carry, carry_any, switch, when
from fastbp.kernels.levels import level
from fastbp.kernels.numbers import add_to, choose, either_place, element, named, put, smaller, widened
from fastbp.kernels.phases import mark, start_clock
from fastbp.kernels.threads import wait_for_all
from fastbp.kernels.tracing import INT, INT32, Names, external, integer, word
from fastbp.kernels.vectors import fma, is_float32, lanes, load_some, square_root, sum_lanes, zeros
from fastbp.layout import CURSOR, LAYER, PLACE, PLAN, RECORD, counters_of
from fastbp.rule import RULE

# Of a smaller sum of squares, squares may be missing that were too small to be numbers.
LEAST_SQUARES = 2.0**-60


def run(job, block, resident=0, single=False):
    """As `fastbp.reference.train`: `job.blocks` blocks of `job.plan.block_rows` rows; a call may end within a batch.

    Where that is known to be `single`, every batch is a row, and every row a block.
    """
    start_clock(job)
    start = named(job.cursor, CURSOR._fields)
    mark(job, "overhead")
    wait_for_all(job)  # all have read the cursor, which the first thread writes in the end
    block_rows = job.plan.block_rows

    def one(_, epoch, row, steps, batch, done, packed, number):
        batch, count = (row, 1) if single else (batch, smaller(job.batch_size, job.n - batch))
        batch_stop = batch + count
        stop = batch_stop if single else smaller(row + block_rows, batch_stop)
        first, ended = (epoch - start.epoch) * (job.n * job.shuffled), 1 if single else stop == batch_stop
        weight = weight_of(job, first + batch, count)
        mark(job, "overhead")
        block(Names(epoch=epoch, row=row, stop=stop, batch=batch, count=count, first=first, number=number, ended=ended,
                    done=done, packed=packed, steps=steps, weight=weight))  # fmt: skip
        over = stop == job.n
        row = choose(over, 0, stop)
        return (
            epoch + over, row, steps + ended * (weight > 0.0), choose(ended, row, batch), choose(over, 0, done + 1),
            choose(over, resident, packed), choose(ended, 0, number + 1),
        )  # fmt: skip

    def blocks():
        begin = *vars(start).values(), (start.row - start.batch) // block_rows
        *end, _ = carry(job.blocks, begin, one)

        def write():
            for place, number in enumerate(end):
                put(job.cursor, place, number)

        when(job.rank == 0, write)

    when(job.blocks > 0, blocks)
    mark(job, "overhead")


def name_numbers(job):
    """Let the numbers of a job's rule and of its workspace's plan have names."""
    job.rule, job.plan = named(job.rule, RULE._fields), named(job.plan, PLAN._fields)
    job.counters = counters_of(job.rank, job.n_layers)


def layer_of(job, number):
    """A layer's entries in the tables, its number, and whether it has biases."""
    row = named(job.layers, LAYER._fields, number * len(LAYER))
    places = named(job.places, PLACE._fields, number * len(PLACE))
    return Names(**vars(row), **vars(places), number=number, biased=row.n_rows > row.n_in)


def bias_of(job, layer):
    """Where b_l stands, or as many zeros."""
    bias = job.params, layer.offset + layer.n_in * layer.stride
    return either_place(layer.biased, bias, (job.memory, job.plan.zeros))


def row_at(job, place):
    """The row of the data that is visited at a place of the order."""
    return switch(job.shuffled, [lambda: place, lambda: element(job.order, place)])


def weight_of(job, place, count):
    """The sum of the weights of the rows at some places of the order."""

    def total():
        return carry(count, (0.0,), lambda r, total: (total + widened(element(job.weights, row_at(job, place + r))),))[0]

    return switch(job.weighted, [lambda: widened(count), total])


def loss_scale(job, step):
    """What the loss of a batch is multiplied with, but for the weights of its rows."""
    return switch((job.rule.per_row != 0.0) * (1 + (step.weight > 0.0)),
                  [lambda: 1.0, lambda: 0.0, lambda: 1.0 / (step.weight * job.rule.per_row)])  # fmt: skip


def decay_of(job, step):
    """The factor of the weights in the gradient of the L2 term."""
    return switch(job.rule.per_row != 0.0, [lambda: job.rule.alpha, lambda: job.rule.alpha / step.weight])


def loss_factor(job, step):
    """What the loss of a batch is multiplied with in the record, where its weight is not 0."""
    return switch(job.rule.by_rows != 0.0, [lambda: 1.0, lambda: widened(step.count) / step.weight])


def note(job, step, column, number):
    """Add to a column of the record of the epoch, one of `fastbp.layout.RECORD`."""
    add_to(job.record, step.epoch * len(RECORD) + getattr(RECORD, column), number)


def note_penalty(job, step):
    """Add the sum of the squares of all weights to the record, where there is an L2 term."""

    def add(level, total):
        layer = named(job.layers, LAYER._fields, level * len(LAYER))
        return (total + widened(sum_squares(job.params, layer.offset, layer.n_in * layer.stride)),)

    note(job, step, "penalty", carry(job.n_layers, (0.0,), add)[0] * loss_factor(job, step))


def sum_squares(data, at, count, factor=1.0):
    """The sum of the squares of `count` elements, a multiple of LANES, each times a factor, a constant.

    It takes many at a time, as an addition takes its time.
    """

    def of(at, count, size):
        def add(k, total):
            x = load_some(data, at + k * size, size) * factor
            return (fma(x, x, total),)

        return sum_lanes(carry_any(count // size, (zeros(data, size),), add)[0])

    wide = SIDE_BY_SIDE[0] * lanes(data)
    done = count // wide * wide
    return of(at, done, wide) + of(at + done, count - done, lanes(data))


def shrink_of(job):
    """Two factors that make the stored gradient no longer than `max_norm`, one after the other.

    The first one is not 1 where its squares are beyond the numbers, or lost below them.
    """
    memory, plan, most = job.memory, job.plan, job.rule.max_norm
    total = widened(sum_squares(memory, plan.grad, plan.size))

    def by(factor, total):
        norm = square_root(total)
        return switch(norm > most * factor, [lambda: (1.0, 1.0), lambda: (factor, most / norm)])

    def scaled(factor):
        return lambda: by(factor, widened(sum_squares(memory, plan.grad, plan.size, factor)))

    case = choose(total < np.inf, choose(total < LEAST_SQUARES, 1, 0), 2)
    return switch(case, [lambda: by(1.0, total), *map(scaled, scales(memory))])


def scales(like):
    """Factors of gradients whose squares are lost, and of those whose squares are beyond the numbers."""
    return (2.0**64, 2.0**-96) if is_float32(like) else (2.0**512, 2.0**-768)


# --- how processors compute with floats ---------------------------------------------------------------------------------

# Control words: with the bits of both exceptions are masked, and numbers rounded to the nearest; with those of the others,
# subnormal operands and results are 0.
X86_DEFAULT, X86_FLUSHES, ARM_FLUSHES = 0x1F80, 0x8040, 1 << 24


def with_own_floats(flushes):
    """A decorator: whatever its caller has set, a kernel rounds to the nearest, and takes subnormals for 0 if it `flushes`.

    Other libraries set it for a thread, and workers do not see that: bits would depend on threads. Processors need 10 to 100
    times as long for numbers below the normal ones, and the moments of a weight whose gradient stays 0 become such numbers.
    """

    def of(kernel):
        @functools.wraps(kernel)
        def entry(job):
            before = set_floats(job.memory, flushes)
            kernel(job)
            restore_floats(job.memory, before)

        return entry

    return of


def room(builder):
    """Room for 32 bits on the stack, and its address; elsewhere than at a function's start, it would take a register."""
    with builder.goto_entry_block():
        stored = builder.alloca(INT32)
        return stored, builder.bitcast(stored, ir.IntType(8).as_pointer())


@word(lambda like, flushes: 0)
def set_floats(like, flushes):
    """Set this thread's control word; gives what `restore_floats` wants."""
    builder = like.builder
    if level().machine == "x86_64":
        stored, address = room(builder)
        external(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), address)
        before = builder.zext(builder.load(stored), INT)
        restore_floats(like, like.new(integer(X86_DEFAULT | X86_FLUSHES * flushes)))
    elif level().machine == "aarch64":
        before = external(builder, "llvm.aarch64.get.fpcr", INT)
        restore_floats(like, like.new(integer(ARM_FLUSHES * flushes)))
    else:
        before = integer(0)
    return like.new(before)


@word(lambda like, before: None)
def restore_floats(like, before):
    """Undo `set_floats`."""
    builder = like.builder
    if level().machine == "x86_64":
        stored, address = room(builder)
        builder.store(builder.trunc(before.value, INT32), stored)
        external(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), address)
    elif level().machine == "aarch64":
        external(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), before.value)
