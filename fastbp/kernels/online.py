"""Training on batches of one row, with lanes over units.

With one row nothing of a product comes again but its weights, so there is nothing to tile, to copy together or to
transpose. A step reads the weights twice, once on the way up and once on the way down:

    up      z = b_l + sum over i of a[i] W_l[i, :]     sums of up to SIDE_BY_SIDE[0] vectors of z stay in registers
    down    D_{l-1}[i] = W_l[i, :] . D_l               and, while W_l[i, :] is in registers, its step from the gradient
            W_l[i, :] += step of a[i] D_l              a[i] D_l, which is stored nowhere

Loops, from the innermost. Up: rows of W_l; groups of vectors of z, the widest ones first; layers. Where a group has few
vectors, several rows are added up side by side, so that as many sums are under way as hide the time an addition takes.
Down: vectors of HEIGHT rows of W_l, each of which meets the same vector of D_l; groups of rows; layers. HEIGHT dot products
end together, in one `fold`.

A row of X is read where it stands. There are no threads: a step is too short for them.
"""

import numpy as np

from fastbp.kernels import steps
from fastbp.kernels.control import (
    SIDE_BY_SIDE,
    by_code,
    carry,
    carry_any,
    either,
    in_groups,
    repeat,
    side_by_side,
    when,
)
from fastbp.kernels.jit import registers
from fastbp.kernels.losses import Row, head_of, hit
from fastbp.kernels.numbers import choose, either_place, element, put, whole, widened
from fastbp.kernels.phases import mark
from fastbp.kernels.pointwise import ACTIVATIONS, DERIVATIVES
from fastbp.kernels.solvers import Solver, descend, step_length, update
from fastbp.kernels.steps import bias_of, layer_of, row_at
from fastbp.kernels.tiles import fold
from fastbp.kernels.vectors import broadcast, fma, lanes, load, select, splat, store, sum_lanes, vector_count
from fastbp.layout import LAYER

HEIGHT = registers() // 4  # rows on the way down: their sums, factors and steps share the registers


def weighted_rows(job, layer, a, a_at, vectors):
    """(1): z = b + sum over i of a[i] W[i, :], for all rows of W."""
    L, params, memory, stride = lanes(job.memory), job.params, job.memory, layer.stride
    bias, bias_at = bias_of(job, layer)

    def group(cols, v):
        height = SIDE_BY_SIDE[0] // cols
        tall = layer.n_in // height

        def add_rows(first, height, sums):
            """`sums`, row by row, plus those of some rows of W."""
            factors = [broadcast(a, a_at + first + r) for r in range(height)]
            places = [layer.offset + (first + r) * stride + (v + c) * L for r in range(height) for c in range(cols)]
            return tuple(fma(factors[n // cols], load(params, at), sums[n]) for n, at in enumerate(places))

        zero = splat(memory, 0.0)
        sums = carry_any(tall, (zero,) * (height * cols), lambda k, *sums: add_rows(k * height, height, sums))
        # beside the others, not after them: the rows that are left begin with the bias
        start = tuple(load(bias, bias_at + (v + c) * L) for c in range(cols))
        rest = carry_any(layer.n_in - tall * height, start, lambda k, *sums: add_rows(tall * height + k, 1, sums))
        while len(sums) > cols:
            half = len(sums) // 2
            sums = tuple(x + y for x, y in zip(sums[:half], sums[half:], strict=True))
        for c, (x, y) in enumerate(zip(sums, rest, strict=True)):
            store(memory, layer.a + (v + c) * L, x + y)

    side_by_side(vectors, group)


def propagate(job, x_at):
    """(1), (2): every A_l of a row, and Z_L. The padding of A_l is what the activation makes of 0."""
    L, memory = lanes(job.memory), job.memory

    def one(level):
        layer, hidden = layer_of(job, level), level > 0
        a, a_at = either_place(hidden, (memory, layer_of(job, level - hidden).a), (job.X, x_at))
        vectors = vector_count(memory, layer.n_out)
        weighted_rows(job, layer, a, a_at, vectors)

        def activate(function):
            def vector(v):
                store(memory, layer.a + v * L, function(load(memory, layer.a + v * L)))

            repeat(vectors, vector)

        by_code(layer.activation, (None, *ACTIVATIONS[1:]), activate)
        mark(job, "forward", level)

    repeat(job.n_layers, one)


def descend_rows(job, layer, a, a_at, below, step):
    """(5) without s', and (7), for all rows of W: their dot products with D into `below`, unless it is None."""
    L, params, memory, vectors = lanes(job.memory), job.params, job.memory, vector_count(job.memory, layer.n_out)

    def rows(height, first):
        factors = [broadcast(a, a_at + first + r) for r in range(height)]
        starts = [layer.offset + (first + r) * layer.stride for r in range(height)]

        def vector(v, *sums):
            delta, places = load(memory, layer.d + v * L), [start + v * L for start in starts]
            # before the steps, which change them
            sums = tuple(fma(load(params, at), delta, total) for at, total in zip(places, sums, strict=True)) if sums else ()
            for factor, at in zip(factors, places, strict=True):
                step(factor * delta, at)
            return sums

        if below is None:
            repeat(vectors, vector)
        else:
            sums = carry(vectors, (splat(memory, 0.0),) * height, vector)
            store(memory, below + first, fold([sums])[0])

    in_groups(layer.n_in, (HEIGHT, 1), rows)


def backpropagate(job, x_at, solver):
    """(5) to (7): from the last layer down, the step of every weight as soon as its delta has been taken.

    Both are one pass over the weights, whose time counts as the gradient's.
    """
    L, memory = lanes(job.memory), job.memory

    def one(back):
        level = job.n_layers - 1 - back
        layer, hidden = layer_of(job, level), level > 0
        below = layer_of(job, level - hidden)

        def learn(a, a_at, d_below):
            update(job, solver, lambda step: descend_rows(job, layer, a, a_at, d_below, step))

        def learn_biases():
            bias = layer.offset + layer.n_in * layer.stride

            def over(step):
                repeat(vector_count(memory, layer.n_out), lambda v: step(load(memory, layer.d + v * L), bias + v * L))

            update(job, solver, over, decays=False)

        def derive(function):
            def vector(v):
                delta = load(memory, below.d + v * L) * function(load(memory, below.a + v * L))
                # no weight of the padding, whatever has become of the others, is anything but 0
                store(memory, below.d + v * L, select(load(memory, below.valid + v * L) > 0, delta, 0))

            repeat(vector_count(memory, layer.n_in), vector)

        def learn_hidden():
            learn(memory, below.a, below.d)
            by_code(below.activation, DERIVATIVES, derive)

        either(hidden, learn_hidden, lambda: learn(job.X, x_at, None))
        when(layer.biased, learn_biases)
        mark(job, "gradient", level)

    repeat(job.n_layers, one)


@steps.with_own_floats(flushes=True)
def train(job):
    """As `fastbp.reference.train`, for batches of one row; a block is a row."""
    steps.name_numbers(job)
    memory, rule, last, y = job.memory, job.rule, layer_of(job, job.n_layers - 1), job.plan.targets
    n_out, outputs, head, solver = last.n_out, Row(memory, last.n_out, last.valid), whole(rule.head), Solver(job)
    zero = splat(memory, 0.0)

    def block(step):
        source = row_at(job, step.first + step.row)
        x_at, weight = source * element(job.layers, LAYER.n_in), step.weight
        # long before they are read, as vectors, which takes longer where the numbers are still on their way to the cache
        repeat(n_out, lambda j: put(memory, y + j, element(job.Y, source * n_out + j)))
        mark(job, "gather")
        propagate(job, x_at)
        scale = choose(rule.per_row == 0.0, weight, 1.0 / rule.per_row)
        loss, squares = head_of(outputs, last.a, y, last.d, head, splat(memory, scale), splat(memory, weight), (zero, zero))
        steps.note(job, step, "loss", widened(sum_lanes(loss)) * steps.loss_factor(job, step))
        steps.note(job, step, "squares", widened(sum_lanes(squares)))
        steps.note(job, step, "hits", widened(hit(outputs, last.a, y, n_out == 1)))
        steps.note(job, step, "rows", 1.0)
        mark(job, "loss")

        def penalty():
            steps.note_penalty(job, step)
            mark(job, "update")

        when(rule.alpha != 0.0, penalty)
        now = solver.at(
            rate=splat(memory, step_length(rule, step.steps + 1)), decay=splat(memory, steps.decay_of(job, step))
        )
        clips = rule.max_norm < np.inf
        backpropagate(job, x_at, now.at(code=choose(clips, 0, now.code)))

        def clip():
            descend(job, now, 0, job.plan.size, [splat(memory, factor) for factor in steps.shrink_of(job)])
            mark(job, "update")

        when(clips, clip)

    steps.run(job, lambda step: when(step.weight > 0.0, lambda: block(step)), single=True)
