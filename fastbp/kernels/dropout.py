"""Dropout: units that a step leaves out, as random bits say that depend on the seed and the unit's place alone."""

from fastbp.kernels.simd import below, choose, counters, scrambled, select, splat, switch, whole
from fastbp.kernels.tracing import Names


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
