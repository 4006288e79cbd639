"""Dropout: units that a step leaves out, as random bits say that depend on the seed and the unit's place alone."""

import numpy as np
from llvmlite import ir

from fastbp.kernels.control import switch
from fastbp.kernels.numbers import choose, whole
from fastbp.kernels.tracing import INT32, Names, operand, spread, word
from fastbp.kernels.vectors import lanes, select, splat


def scrambled(x):
    """32 bits each of whose 32 bits depends on all of x, in both directions one to one.

    Two rounds of shift-xor-multiply, with the constants that Wellons found by search for the least bias ("Prospecting for
    hash functions", 2018).
    """
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> shift)) * factor
    return x ^ (x >> 16)


def python_counters(like, start, step):
    return ((start + step * np.arange(lanes(like))) % 2**32).astype(np.uint32)


@word(python_counters)
def counters(like, start, step):
    """start, start + step, ... as 32-bit integers, one for each lane of the memory `like`."""
    builder, count = like.builder, lanes(like)
    start, step = (spread(builder, builder.trunc(operand(value), INT32), count) for value in (start, step))
    lane = ir.Constant(ir.VectorType(INT32, count), list(range(count)))
    return like.new(builder.add(start, builder.mul(lane, step)))


@word(lambda x, bound: x < bound)
def below(x, bound):
    """Mask of the lanes of 32-bit integers below an integer under 2**32."""
    bounds = spread(x.builder, x.builder.trunc(operand(bound), INT32), x.type.count)
    return x.new(x.builder.icmp_unsigned("<", x.value, bounds))


class Dropout(Names):
    """The masks m_l of a block.

    drops         units are left out whose 32 random bits are below it; 0 leaves none out
    scale         vector: what those left are multiplied with
    seed, key     what tells a step's masks apart: the seed, and a number that differs by the layers from step to step
    first         number of the block's first row in the batch
    """

    def __init__(self, job, step=None):
        if step is None:
            super().__init__(drops=0, scale=splat(job.memory, 1.0), seed=0, key=0, first=0)
            return
        rate = job.rule.dropout
        super().__init__(
            drops=whole(rate * 4294967296.0),
            scale=splat(job.memory, 1.0 / (1.0 - rate)),
            seed=whole(job.rule.seed),
            key=step.steps * job.n_layers,
            first=step.row - step.batch,
        )

    def layer_key(self, memory, layer):
        """What tells the masks of a layer apart, in every lane."""

        def scramble():
            return scrambled(scrambled(counters(memory, self.key + layer, 0)) + counters(memory, self.seed, 0))

        # behind a branch, so that nothing is computed where nothing is left out
        return switch(self.drops > 0, [lambda: counters(memory, 0, 0), scramble])

    def masked(self, x, memory, place, step, key):
        """x * scale, or 0 in the lanes that are left out; the lanes' numbers begin at `place` and grow by `step`."""
        return select(below(scrambled(counters(memory, place, step) + key), self.drops), 0, x * self.scale)

    def taken(self, layer):
        """Where the next layer finds what it takes in: A_l, or beside it where units are left out."""
        return choose(self.drops > 0, layer.seen, layer.a)
