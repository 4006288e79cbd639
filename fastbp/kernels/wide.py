"""Training with lanes over units: for networks with wide layers, and for batches of a few rows.

Activations lie sample by sample, A_l (rows, stride), padded like the rows of the parameters. Every product of a step is a
`Product`, whose register tile stays in registers while it runs down the sum:

    forward     A_l = s(A_{l-1} W_l + b_l)             broadcast A_{l-1}, load W_l; the tile begins with b_l
    delta       D_{l-1} = (D_l W_l^T) * s'             broadcast D_l, load W_l^T
    gradient    W_l += step of A_{l-1}^T D_l           broadcast A_{l-1}, load D_l; the tile ends in the solver's update

so that a gradient is only stored where a batch has several blocks, or where its norm has to be known first. Rows of X are
read where they stand, through a table of offsets, in whatever order an epoch visits them.

X may also be a CSR matrix, which lists the values of each row with their columns. Then the first layer's products visit
these alone: rows of W_l are added up in registers (`csr_activations`), and the gradient is added up where it is stored
(`csr_gradients`), from which the solver takes it. What X is, the types of its pointers say, when a kernel is compiled:

    X           the values, or all of a dense X
    indices     integers: the column of each value, in any order; a column may come again, and counts again
    starts      integers: where each row's values begin, and where the last one's end
                of a dense X both are of the float type, and unused

Every sum has the order of the dense one, so that the same matrix gives the same bits either way.

Threads share a block in two phases: rows of the batch (forward, loss, delta), then rows of the weights (gradient, update),
as much of both as each manages in the time of the others. No sum is ever divided among threads, so their number does not
change a bit.
"""

import numpy as np
from llvmlite import ir

from fastbp.kernels import shares, steps
from fastbp.kernels.control import carry, either, in_groups, repeat, side_by_side, switch, when
from fastbp.kernels.dropout import Dropout
from fastbp.kernels.losses import Row, head_of, hit, predict
from fastbp.kernels.numbers import ceil_div, choose, either_place, element, put, smaller, whole, widened
from fastbp.kernels.phases import clock, mark
from fastbp.kernels.products import COLS, HEIGHT, Delta, Forward, Gradient, Part
from fastbp.kernels.solvers import Solver, descend, step_length, update
from fastbp.kernels.steps import layer_of, row_at
from fastbp.kernels.threads import wait_for_all
from fastbp.kernels.tiles import load_tile, outer, store_tile, unsigned_zeros
from fastbp.kernels.tracing import Names, Traced, outlined
from fastbp.kernels.vectors import broadcast, fma, lanes, load, splat, store, sum_lanes, vector_count
from fastbp.layout import GROUP, LAYER, SQUARE

BIAS_VECTORS = 4  # sums of bias gradients that run side by side


# --- a CSR matrix X ---------------------------------------------------------------------------------------------------


def is_csr(job):
    """Whether X is a CSR matrix, which is known when a kernel is compiled."""
    return isinstance(job.starts.of, ir.IntType) if isinstance(job.starts, Traced) else job.starts is not None


def csr_row(job, place):
    """Where the values of the row at a place of the table begin, and how many there are."""
    row = element(job.table, place)
    first = element(job.starts, row)
    return first, element(job.starts, row + 1) - first


def csr_activations(job, part, layer, product):
    """(1) for some rows of X: the bias plus, for each value of a row, the value times its row of W_l."""
    L, stride = lanes(job.memory), layer.stride
    bias, bias_at, _ = product.start
    _, here, _ = product.c

    def row(r):
        first, count = csr_row(job, part.lines(job, layer.number) + r)

        def group(number, v):
            start = load_tile(bias, [bias_at + v * L], number)

            def add_up():
                def right(k):
                    at = layer.offset + element(job.indices, first + k) * stride + v * L
                    return [load(job.params, at + c * L) for c in range(number)]

                return outer(start, count, lambda k: [broadcast(job.X, first + k)], right)

            sums = unsigned_zeros(switch(count > 0, [lambda: start, add_up]))
            store_tile(sums, job.memory, [here + r * stride + v * L])

        side_by_side(product.vectors, group)
        product.after(1, (r, 1, 0, product.vectors))

    repeat(part.count, row)


def csr_gradients(job, part, layer, learning, rows):
    """(6), (7) for some rows of W_l: for each value of X in their columns, the value times its row of D_l."""
    L, stride, memory, (begin, stop) = lanes(job.memory), layer.stride, job.memory, rows
    at, elements = layer.offset + begin * stride, (stop - begin) * stride
    here = job.plan.grad + at

    def sample(k):
        origin, stored = csr_row(job, part.lines(job, layer.number) + k)

        def group(number, v):
            deltas = [load(memory, layer.d + k * stride + (v + c) * L) for c in range(number)]

            def value(i):
                j = element(job.indices, origin + i)

                def add():
                    x, place = broadcast(job.X, origin + i), here + (j - begin) * stride + v * L
                    for c, delta in enumerate(deltas):
                        store(memory, place + c * L, fma(x, delta, load(memory, place + c * L)))

                when((j >= begin) * (j < stop), add)

            repeat(stored, value)

        side_by_side(vector_count(memory, layer.n_out), group)

    repeat(learning.fresh * elements // L, lambda v: store(memory, here + v * L, splat(memory, 0.0)))
    repeat(part.count, sample)
    when(learning.finished, lambda: descend(job, learning.solver, at, elements, decays=True))


# --- a block ----------------------------------------------------------------------------------------------------------


def list_rows(job, part, first, count, behind, row_of):
    """Where the thread's rows of X begin, into the table, and of a dense X the next block's, which this one asks for.

    Rows are at `count` places of the order, from `first` on, and `behind` more, if any; row_of(place) is which.
    """
    distance = 1 if is_csr(job) else element(job.layers, LAYER.n_in)

    def at_places(level, first, count):
        def one(r):
            row = row_of(first + smaller(part.begin + r, count - 1))
            put(job.table, part.lines(job, level) + r, row * distance)

        repeat(part.count, one)

    at_places(0, first, count)
    if not is_csr(job):
        at_places(job.n_layers + 1, first + choose(behind > 0, count, 0), choose(behind > 0, behind, count))


def copy_targets(job, part, last, first):
    """Targets and weights of the thread's rows; rows as in `list_rows`."""
    memory, plan, n_out = job.memory, job.plan, last.n_out

    def row(r):
        r = part.begin + r
        one = row_at(job, first + r)
        either(
            job.weighted,
            lambda: put(memory, plan.row_weights + r, element(job.weights, one)),
            lambda: put(memory, plan.row_weights + r, 1.0),
        )
        at = plan.targets + r * last.stride
        repeat(n_out, lambda j: put(memory, at + j, element(job.Y, one * n_out + j)))

    repeat(part.count, row)


def taken(job, part, level):
    """The layer below, and where a layer finds what it takes in: X, or what the layer below gives."""
    hidden = level > 0
    below = layer_of(job, level - hidden)
    return below, either_place(hidden, (job.memory, part.dropout.taken(below)), (job.X, 0))


@outlined
def activations(job, part, level):
    """(1), (2) for a layer."""
    layer, (_, a) = layer_of(job, level), taken(job, part, level)
    product = Forward(job, part, layer, a, level > 0)
    if is_csr(job):
        either(level > 0, product.run, lambda: csr_activations(job, part, layer, product))
    else:
        product.run()
    mark(job, "forward", level)


@outlined
def deltas(job, part, level):
    """(5) for a layer but the first."""
    Delta(job, part, layer_of(job, level), layer_of(job, level - 1)).run()
    mark(job, "delta", level)


@outlined
def loss_and_delta(job, part, scale):
    """(2) to (4) for the last layer and the thread's rows; loss and squared errors by GROUP, and the hits, for `total`."""
    memory, plan, last, L = job.memory, job.plan, layer_of(job, job.n_layers - 1), lanes(job.memory)
    outputs, head, zero = Row(memory, last.n_out, last.valid), whole(job.rule.head), splat(memory, 0.0)

    def group(number, hits):
        first = number * GROUP

        def row(r, hits, *sums):
            r = part.begin + first + r
            z, y, d = (place + r * last.stride for place in (last.a, plan.targets, last.d))
            weight = broadcast(memory, plan.row_weights + r)
            sums = head_of(outputs, z, y, d, head, scale * weight, weight, sums)
            return hits + hit(outputs, z, y, last.n_out == 1), *sums

        hits, *sums = carry(smaller(part.count - first, GROUP), (hits, zero, zero), row)
        for place, one in enumerate(sums):
            store(memory, plan.sums + ((part.begin + first) // GROUP * 2 + place) * L, one)
        return (hits,)

    hits = switch(part.count > 0, [lambda: 0, lambda: carry(ceil_div(part.count, GROUP), (0,), group)[0]])
    put(job.sync, shares.place_of(job.rank, "hits"), hits)


def total(job, step):
    """Add what the threads have found in `loss_and_delta` to the record."""
    memory, L = job.memory, lanes(job.memory)

    def add(number, *sums):
        at = job.plan.sums + number * 2 * L
        return tuple(one + load(memory, at + place * L) for place, one in enumerate(sums))

    groups = ceil_div(step.stop - step.row, GROUP)
    loss, squares = carry(groups, (splat(memory, 0.0),) * 2, add)
    steps.note(job, step, "loss", widened(sum_lanes(loss)) * steps.loss_factor(job, step))
    steps.note(job, step, "squares", widened(sum_lanes(squares)))
    steps.note(job, step, "rows", widened(step.stop - step.row))
    repeat(job.size, lambda rank: steps.note(job, step, "hits", widened(element(job.sync, shares.place_of(rank, "hits")))))


def bias_gradients(job, part, layer, learning):
    """(6), (7) for b_l: the sum of the rows of D_l."""
    memory, L, stride = job.memory, lanes(job.memory), layer.stride
    at, one = layer.offset + layer.n_in * stride, splat(memory, 1.0)
    start = choose(learning.fresh, job.plan.zeros, job.plan.grad + at)

    def some(cols, v):
        (sums,) = outer(
            load_tile(memory, [start + v * L], cols), part.count, lambda _: [one],
            lambda k: [load(memory, layer.d + k * stride + (v + c) * L) for c in range(cols)],
        )  # fmt: skip

        def over(step):
            for c, gradient in enumerate(sums):
                step(gradient, at + (v + c) * L)

        update(job, learning.solver, over, decays=False)

    in_groups(vector_count(memory, layer.n_out), (BIAS_VECTORS, 1), some)


@outlined
def gradient_and_update(job, part, learning, level):
    """(6), (7) for the rows of a layer's weights that belong to a thread; solver 0 leaves the gradient.

    learning
        fresh         whether a gradient begins, else it is added to the one so far
        finished      whether it is complete after these rows of the batch
        solver
        panels, panel_rows    where left factors are gathered, and the table of where each row of the weights begins there
        aside         room for a tile that the solver takes from there
    """
    layer, (_, (a, a_at)) = layer_of(job, level), taken(job, part, level)
    rows = shares.part(job, layer.n_in, SQUARE)

    def dense():
        Gradient(job, part, layer, learning, (a, a_at + rows[0]), rows).run()

    if is_csr(job):
        either(level > 0, dense, lambda: csr_gradients(job, part, layer, learning, rows))
    else:
        dense()
    when(layer.biased * (job.rank == job.size - 1), lambda: bias_gradients(job, part, layer, learning))
    mark(job, "gradient", level)


@outlined
def descend_all(job, solver, shrink):
    """(7) for the rows of the weights that belong to a thread, from the stored gradient times factors."""

    def one(level):
        layer = layer_of(job, level)
        begin, stop = shares.part(job, layer.n_in, SQUARE)
        descend(job, solver, layer.offset + begin * layer.stride, (stop - begin) * layer.stride, shrink)
        bias = layer.offset + layer.n_in * layer.stride
        when(layer.biased * (job.rank == job.size - 1), lambda: descend(job, solver, bias, layer.stride, shrink))

    repeat(job.n_layers, one)


def panels_of(job):
    """Where a thread gathers left factors, whatever layer others are in: behind those of the threads before it.

    Of a layer with fewer rows than `panel_rows`, a thread may have a square more, as shares are rounded.
    """
    begin, _ = shares.part(job, job.plan.panel_rows, SQUARE)
    return job.plan.panels + (begin + job.rank * (SQUARE + HEIGHT)) * job.plan.block_rows


def propagate_and_back(job, step):
    """(1) to (5) for the thread's rows of a block."""
    began, count = clock(job.sync), step.stop - step.row
    begin, stop = shares.part(job, count, GROUP)
    part, first = Part(job, begin, stop - begin, Dropout(job, step)), step.first + step.row
    list_rows(job, part, first, count, job.n - step.stop, lambda place: row_at(job, place))
    copy_targets(job, part, layer_of(job, job.n_layers - 1), first)
    mark(job, "gather")
    repeat(job.n_layers, lambda level: activations(job, part, level))
    loss_and_delta(job, part, splat(job.memory, steps.loss_scale(job, step)))
    mark(job, "loss")
    repeat(job.n_layers - 1, lambda back: deltas(job, part, job.n_layers - 1 - back))
    # fewer rows tell nothing of a thread that has none
    when((job.size > 1) * (count >= GROUP * job.size), lambda: shares.note(job, part.count, clock(job.sync) - began))


@steps.with_own_floats(flushes=True)
def train(job):
    """As `fastbp.reference.train`; a block has `block_rows` rows at most, which the threads share, as they do weights."""
    steps.name_numbers(job)
    memory, plan, rule, solver, n_layers = job.memory, job.plan, job.rule, Solver(job), job.n_layers
    learning = Names(panel_rows=(n_layers + 2) * plan.block_rows,
                     aside=plan.pack + (job.rank + 1) * plan.pack_size - HEIGHT * COLS * lanes(memory))  # fmt: skip

    def penalty(step):
        def add():
            steps.note_penalty(job, step)
            mark(job, "update")

        when((job.rank == 0) * step.ended, add)
        wait_for_all(job)  # the weights change now

    def take_step(solver):
        wait_for_all(job)

        def shrunk():
            result = steps.shrink_of(job)
            mark(job, "update")
            wait_for_all(job)  # all have read the gradient, which solver 0 now changes
            return result

        shrink = switch(rule.max_norm < np.inf, [lambda: (1.0, 1.0), shrunk])
        descend_all(job, solver, [splat(memory, factor) for factor in shrink])
        mark(job, "update")

    def gradients_and_update(step):
        when(job.rank == 0, lambda: total(job, step))
        shares.adapt(job, step.steps, ceil_div(smaller(plan.block_rows, job.batch_size), GROUP))
        when(rule.alpha != 0.0, lambda: penalty(step))
        at_once = (step.stop - step.row == step.count) * (rule.max_norm == np.inf)
        now = solver.at(
            rate=splat(memory, step_length(rule, step.steps + 1)),
            decay=splat(memory, choose(step.ended, steps.decay_of(job, step), 0.0)),
        )
        part = Part(job, 0, step.stop - step.row, Dropout(job, step))
        this = Names(**vars(learning), panels=panels_of(job), fresh=step.row == step.batch, finished=step.ended,
                     solver=now.at(code=choose(at_once, now.code, 0)))  # fmt: skip
        mark(job, "overhead")
        repeat(n_layers, lambda level: gradient_and_update(job, part, this, level))
        when((at_once == 0) * step.ended, lambda: take_step(now))

    def block(step):
        job.share = shares.of(job, job.rank)
        propagate_and_back(job, step)
        wait_for_all(job)
        when(step.weight > 0.0, lambda: gradients_and_update(step))
        wait_for_all(job)  # before the next block, all have finished this one

    shares.begin(job)
    steps.run(job, block)


@steps.with_own_floats(flushes=False)
def forward(job):
    """As `fastbp.reference.forward`; a row's result does not depend on the other rows. Each thread takes its own rows."""
    steps.name_numbers(job)
    memory, block_rows, head = job.memory, job.plan.block_rows, whole(job.rule.head)
    job.share = shares.equal(job, job.rank)
    begin, stop = shares.part(job, block_rows, GROUP)
    last, dropout = layer_of(job, job.n_layers - 1), Dropout(job)
    outputs = Row(memory, last.n_out, last.valid)

    def rows(start, count):
        part = Part(job, begin, count, dropout)
        behind = job.n - start - block_rows
        list_rows(job, part, start, smaller(block_rows, job.n - start), behind, lambda place: place)
        repeat(job.n_layers, lambda level: activations(job, part, level))

        def row(r):
            at, to = (begin + r) * last.stride, (start + begin + r) * last.n_out
            predict(outputs, last.a + at, last.d + at, head)
            repeat(last.n_out, lambda j: put(job.out, to + j, element(memory, last.a + at + j)))

        repeat(count, row)

    def block(number):
        start = number * block_rows
        count = smaller(stop, job.n - start) - begin
        when(count > 0, lambda: rows(start, count))

    repeat(ceil_div(job.n, block_rows), block)
