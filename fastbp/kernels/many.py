"""Training of many networks of the same units at once, with lanes over networks.

A vector holds the same number of LANES networks, and everything a network has is such vectors: weights, activations, deltas,
gradients. The loops are those of the equations, nothing is ever summed over lanes, and nothing is transposed, so that a
network's bits do not depend on its neighbours. It is for networks too small to fill vectors by themselves.

A group is LANES networks. Threads take one after the other, and never wait. Networks of one call have their units,
activations, loss, solver and batches in common; step lengths, momentum, L2, clipping and seeds are a vector each.

Rows are shared, or each network has its own, which then stand side by side: X[group, row, column, lane]. Likewise an order
in which they are visited.
"""

import contextlib
import functools

import numpy as np
from llvmlite import ir

from fastbp.kernels import jit
from fastbp.kernels import vectors as v
from fastbp.kernels.control import by_code, carry, in_groups, repeat, switch, when
from fastbp.kernels.dropout import Dropout, counters, scrambled
from fastbp.kernels.jit import registers
from fastbp.kernels.losses import Samples, head_and_hits
from fastbp.kernels.numbers import ceil_div, choose, element, from_on, named, smaller, whole, widened
from fastbp.kernels.pointwise import ACTIVATIONS, DERIVATIVES
from fastbp.kernels.solvers import ADAM, Solver, descend, no_less, update
from fastbp.kernels.steps import LEAST_SQUARES, layer_of, loss_factor, loss_scale, scales, weight_of, with_own_floats
from fastbp.kernels.threads import add_atomically
from fastbp.kernels.tracing import (
    BYTES,
    DOUBLE,
    INT,
    INT32,
    Names,
    Traced,
    external,
    operand,
    pointer,
    shuffle,
    spread,
    word,
)  # fmt: skip
from fastbp.layout import RECORD, ROWS_AT_ONCE, SETTINGS
from fastbp.rule import RULE

# --- words ------------------------------------------------------------------------------------------------------------


def python_integers(memory, at, like):
    return memory[at : at + v.lanes(like)].copy()


@word(python_integers)
def integers(memory, at, like):
    """As many integers of 64 bits as vectors of the memory `like` have lanes."""
    vector = ir.VectorType(INT, v.lanes(like))
    return memory.new(memory.builder.load(pointer(memory, at, vector), align=8))


@word(lambda numbers: (numbers % 2**32).astype("uint32"))
def low_bits(numbers):
    """The lower 32 bits of integers."""
    return numbers.new(numbers.builder.trunc(numbers.value, ir.VectorType(INT32, numbers.type.count)))


def python_gather(memory, rows, stride, offset, step):
    return memory[rows * stride + offset + [lane * step for lane in range(len(rows))]]


@word(python_gather)
def gather(memory, rows, stride, offset, step):
    """memory[rows * stride + offset + lane * step] in every lane."""
    builder, vector = memory.builder, v.vector_of(memory)
    lane = ir.Constant(ir.VectorType(INT, vector.count), list(range(vector.count)))
    stride, offset, step = (spread(builder, operand(number), vector.count) for number in (stride, offset, step))
    place = builder.add(builder.add(builder.mul(rows.value, stride), offset), builder.mul(lane, step))
    start = spread(builder, builder.ptrtoint(memory.value, INT), vector.count)
    bytes_ = ir.Constant(place.type, [BYTES[memory.of]] * vector.count)
    pointers = builder.inttoptr(
        builder.add(start, builder.mul(place, bytes_)), ir.VectorType(memory.value.type, vector.count)
    )
    mask = ir.Constant(ir.VectorType(ir.IntType(1), vector.count), [1] * vector.count)
    name, align = f"llvm.masked.gather.{v.type_name(vector)}.v{vector.count}p0", ir.Constant(INT32, BYTES[memory.of])
    return memory.new(external(builder, name, vector, pointers, align, mask, ir.Constant(vector, [0.0] * vector.count)))


def python_move(source, start, target, at, count):
    target[at : at + count] = source[start : start + count]
    source[start : start + count] = 0


@word(python_move)
def move(source, start, target, at, count):
    """Store so many doubles elsewhere, and leave zeros in their place."""
    builder, wide = source.builder, ir.VectorType(DOUBLE, count)
    place = pointer(source, start, wide)
    builder.store(builder.load(place, align=8), pointer(target, at, wide), align=8)
    builder.store(ir.Constant(wide, [0.0] * count), place, align=8)


def python_add_widened(record, at, vector):
    record[at : at + len(vector)] += vector


@word(python_add_widened)
def add_widened(record, at, vector):
    """Add a vector to as many doubles."""
    builder, wide = record.builder, ir.VectorType(DOUBLE, vector.type.count)
    place = pointer(record, at, wide)
    value = vector.value if vector.of == DOUBLE else builder.fpext(vector.value, wide)
    builder.store(builder.fadd(builder.load(place, align=8), value), place, align=8)


def python_row_places(like, first, stride, rows):
    return ((first + np.arange(v.lanes(like)) // (v.lanes(like) // rows)) * stride % 2**32).astype(np.uint32)


@word(python_row_places)
def row_places(like, first, stride, rows):
    """(first + r) * stride as 32-bit integers in the lanes of row r."""
    builder, count = like.builder, v.lanes(like)
    first, stride = (spread(builder, builder.trunc(operand(number), INT32), count) for number in (first, stride))
    numbers = ir.Constant(first.type, [lane // (count // rows) for lane in range(count)])
    return like.new(builder.mul(builder.add(first, numbers), stride))


@word(lambda vector, times: np.tile(vector, times))
def tiled(vector, times):
    """A vector so many times, one behind the other."""
    return vector.new(shuffle(vector.builder, vector.value, vector.value, list(range(vector.type.count)) * times))


def parts(vector, times):
    """A vector of so many vectors, apart."""
    count = (vector.type.count if isinstance(vector, Traced) else len(vector)) // times
    return [v.permuted(vector, range(part * count, (part + 1) * count)) for part in range(times)]


def folded(vector, times):
    """The sum of so many vectors that stand one behind the other in a vector."""
    found = parts(vector, times)
    while len(found) > 1:
        half = len(found) // 2
        found = [x + y for x, y in zip(found[:half], found[half:], strict=True)]
    return found[0]


@contextlib.contextmanager
def rows_at_once(count):
    """What is traced meanwhile speaks of vectors of so many rows, each of which is a vector of networks."""
    jit.vector_bytes *= count
    try:
        yield
    finally:
        jit.vector_bytes //= count


# --- a group ----------------------------------------------------------------------------------------------------------


class Masks(Dropout):
    """`Dropout` with a seed in every lane, of some rows at once."""

    def __init__(self, group, step, first, rows):
        super().__init__(group, Names(steps=step.begun + step.steps, row=first, batch=0))
        self.seeds, self.rows = group.seeds, rows

    def layer_key(self, memory, layer):
        """What tells the masks of a layer's first units apart: each unit's are one further on."""

        def scramble():
            key = scrambled(scrambled(counters(memory, self.key + layer.number, 0)) + tiled(self.seeds, self.rows))
            return key + row_places(memory, self.first, layer.stride, self.rows)

        return switch(self.drops > 0, [lambda: counters(memory, 0, 0), scramble])


class Group(Names):
    """The job of one group: its own parameters, solver memory, rows and settings."""

    def __init__(self, job, number):
        L, width = v.lanes(job.memory), job.n_params * v.lanes(job.memory)
        super().__init__(**vars(job))
        self.number, self.L, self.plan = number, L, Names(grad=job.grad, size=width)
        self.params, self.state = from_on(job.params, number * width), from_on(job.state, number * job.moments * width)
        settings = [v.load(job.settings, (number * len(SETTINGS) + at) * L) for at in range(len(SETTINGS))]
        self.settings = Names(**dict(zip(SETTINGS._fields, settings, strict=True)))
        self.seeds = low_bits(integers(job.seeds, number * L, job.memory))
        ends = layer_of(job, 0).n_in, layer_of(job, job.n_layers - 1).n_out
        self.rows = [
            Names(
                data=data, columns=columns, here=here, stride=choose(job.own, columns * L, columns), step=job.own,
                first=job.own * (number * (job.n * columns * L)), unit=choose(job.own, L, 1),
            )
            for data, columns, here in zip((job.X, job.Y), ends, (job.x, job.y), strict=True)
        ]  # fmt: skip

    def parameter(self, place, rows):
        """One of every network, for some rows at once."""
        return tiled(v.load_some(self.params, place * self.L, self.L), rows)

    def sizes(self, rows):
        """How many sums of so many rows stand side by side in registers."""
        return tuple(size for size in (8, 4, 2, 1) if size * rows <= registers() // 2)


def take_rows(group, place, epoch, count, left):
    """Some rows of X and of Y, of every network, and their weights; the last one that is left again, without weight."""
    L, memory = v.lanes(group.memory), group.memory
    taken = [place + (r and smaller(r, left - 1)) for r in range(count)]

    def copy(rows):
        def shared(j, place):
            return v.broadcast(rows.data, place * rows.columns + j)

        def own(j, place):
            return v.load(rows.data, rows.first + (place * rows.columns + j) * L)

        def in_order(j, place):
            at = ((group.number * group.epochs + epoch) * group.n + place) * L
            visited = integers(group.order, at, memory)
            return gather(rows.data, visited, rows.stride, rows.first + j * rows.unit, rows.step)

        def over(one):
            def unit(j):
                for r, place in enumerate(taken):
                    v.store(memory, rows.here + (j * count + r) * L, one(j, place))

            return lambda: repeat(rows.columns, unit)

        switch(choose(group.shuffled, 2, group.own), list(map(over, (shared, own, in_order))))

    for rows in group.rows:
        copy(rows)

    for r, place in enumerate(taken):
        given = functools.partial(v.broadcast, group.weights, place)
        weight = switch(group.weighted, [functools.partial(v.splat, memory, 1.0), given])
        v.store(memory, group.weighing + r * L, weight * v.splat(memory, choose(left > r, 1.0, 0.0)))


def note_classes(group, rows, left):
    """The classes that the targets name; none of rows that are no longer left."""
    L, memory = v.lanes(group.memory), group.memory
    first = v.load(memory, group.y)

    def better(j, best, winner):
        y = v.load(memory, group.y + j * L)
        return v.select(y > best, y, best), v.select(y > best, v.splat(memory, j), winner)

    def winner():
        return carry(group.rows[1].columns, (first, v.splat(memory, 0.0)), better)[1]

    def side():
        return v.select(first >= 0.5, v.full_like(first, 1), 0)

    v.store(memory, group.classes, switch(group.rows[1].columns == 1, [winner, side]))

    def none(r):
        v.store(memory, group.classes + r * group.L, parts(v.splat(memory, -1.0), rows)[r])

    def without():
        for r in range(1, rows):
            when(left <= r, functools.partial(none, r))

    when(left < rows, without)


def pre_activations(group, layer, a, rows):
    """(1): z = b + sum over i of a[i] W[i, :]."""
    L, memory = v.lanes(group.memory), group.memory

    def some(count, first):
        def add(i, *sums):
            factor, at = v.load(memory, a + i * L), layer.offset + i * layer.n_out + first
            return tuple(v.fma(factor, group.parameter(at + c, rows), total) for c, total in enumerate(sums))

        at = layer.offset + layer.n_in * layer.n_out + first
        zeros = tuple(v.splat(memory, 0.0) for _ in range(count))
        start = switch(layer.biased, [lambda: zeros, lambda: tuple(group.parameter(at + c, rows) for c in range(count))])
        for c, total in enumerate(carry(layer.n_in, start, add)):
            v.store(memory, layer.a + (first + c) * L, total)

    in_groups(layer.n_out, group.sizes(rows), some)


def propagate(group, dropout, rows):
    """(1), (2): every A_l, and Z_L."""
    L, memory = v.lanes(group.memory), group.memory

    def one(level):
        layer, hidden = layer_of(group, level), level > 0
        pre_activations(group, layer, choose(hidden, dropout.taken(layer_of(group, level - hidden)), group.x), rows)

        def activate(function):
            def unit(j):
                v.store(memory, layer.a + j * L, function(v.load(memory, layer.a + j * L)))

            repeat(layer.n_out, unit)

        by_code(layer.activation, (None, *ACTIVATIONS[1:]), activate)

        def drop():
            masked_units(group, layer, dropout, layer.a, layer.seen)

        when((dropout.drops > 0) * (level < group.n_layers - 1), drop)

    repeat(group.n_layers, one)


def masked_units(group, layer, dropout, source, target):
    """The vectors of a layer times its mask m_l."""
    L, memory = v.lanes(group.memory), group.memory
    key = dropout.layer_key(memory, layer)

    def unit(j):
        v.store(memory, target + j * L, dropout.masked(v.load(memory, source + j * L), memory, j, 0, key))

    repeat(layer.n_out, unit)


def delta_below(group, layer, below, dropout, rows):
    """(5): D_{l-1} = (W D) * s'."""
    L, memory = v.lanes(group.memory), group.memory

    def some(count, first):
        starts = [layer.offset + (first + r) * layer.n_out for r in range(count)]

        def add(j, *sums):
            delta = v.load(memory, layer.d + j * L)
            return tuple(v.fma(group.parameter(at + j, rows), delta, total) for at, total in zip(starts, sums, strict=True))

        zeros = tuple(v.splat(memory, 0.0) for _ in range(count))
        for r, total in enumerate(carry(layer.n_out, zeros, add)):
            v.store(memory, below.d + (first + r) * L, total)

    in_groups(layer.n_in, group.sizes(rows), some)

    def derive(function):
        def unit(i):
            at = below.d + i * L
            v.store(memory, at, v.load(memory, at) * function(v.load(memory, below.a + i * L)))

        repeat(layer.n_in, unit)

    by_code(below.activation, DERIVATIVES, derive)
    when(dropout.drops > 0, lambda: masked_units(group, below, dropout, below.d, below.d))


def backpropagate(group, dropout, rows, learn):
    """(5), (6): from the last layer down; learn(over, decays) takes the gradients of each, as `solvers.update` does."""
    L, memory = v.lanes(group.memory), group.memory

    def one(back):
        level = group.n_layers - 1 - back
        layer, hidden = layer_of(group, level), level > 0
        below = layer_of(group, level - hidden)
        when(hidden, lambda: delta_below(group, layer, below, dropout, rows))
        a = choose(hidden, dropout.taken(below), group.x)

        def over_weights(step):
            def row(i):
                factor = v.load(memory, a + i * L)

                def some(count, first):
                    for j in range(count):
                        delta = v.load(memory, layer.d + (first + j) * L)
                        step(factor, delta, layer.offset + i * layer.n_out + first + j)

                in_groups(layer.n_out, (4, 1), some)

            repeat(layer.n_in, row)

        def over_biases(step):
            at = layer.offset + layer.n_in * layer.n_out
            repeat(layer.n_out, lambda j: step(1, v.load(memory, layer.d + j * L), at + j))

        learn(over_weights, True)
        when(layer.biased, lambda: learn(over_biases, False))

    repeat(group.n_layers, one)


def add_squares(data, at, count, total, factor=1.0):
    """`total`, lane by lane, plus the squares of so many vectors times a factor."""

    def add(k, total):
        x = v.load(data, at + k * v.lanes(data)) * factor
        return (v.fma(x, x, total),)

    return carry(count, (total,), add)


def penalty_of(group):
    """The sum of the squares of all weights, of every network that has an L2 term."""
    zero = v.splat(group.memory, 0.0)

    def one(level, total):
        layer = layer_of(group, level)
        return add_squares(group.params, layer.offset * group.L, layer.n_in * layer.n_out, total)

    return v.select(group.settings.alpha > 0, carry(group.n_layers, (zero,), one)[0], zero)


def learn_batch(group, step, solver, rows):
    """(1) to (7) for a batch: of one row, whose gradient need not be kept, or so many at once."""
    L, memory, rule, settings, grad = group.L, group.memory, group.rule, group.settings, group.plan.grad
    decay = settings.alpha * v.splat(memory, choose(rule.per_row == 0.0, 1.0, 1.0 / step.weight))
    length = switch(rule.solver == ADAM, [lambda: -1.0, lambda: -1.0 * element(group.rates, step.steps)])
    now = solver.at(rate=settings.rate * v.splat(memory, length), decay=decay)
    note(group, "rows", v.splat(memory, widened(step.count)))
    when(group.decays, lambda: note(group, "penalty", penalty_of(group) * v.splat(memory, loss_factor(group, step))))

    def at_once(over, decays):
        def update_over(step):
            over(lambda factor, delta, place: step(delta * factor, place * L))

        update(group, now.at(code=choose(group.clips, 0, now.code)), update_over, decays)

    def block(number):
        begun = v.splat(memory, choose(number > 0, 1.0, 0.0)) > 0  # the gradient is what the first rows of the batch make it

        def add(factor, delta, place):
            at = grad + place * L
            total = v.select(begun, v.load_some(memory, at, L), 0)
            factors = [1] * rows if isinstance(factor, int) else parts(factor, rows)
            for one, other in zip(factors, parts(delta, rows), strict=True):
                total = total + other if isinstance(one, int) else v.fma(one, other, total)
            v.store(memory, at, total)

        learn_block(group, step, number * rows, rows, lambda over, decays: over(add))

    if rows == 1:
        learn_block(group, step, 0, rows, at_once)
    else:
        repeat(ceil_div(step.count, rows), block)

    def add_decay(level):
        layer = layer_of(group, level)

        def add(k):
            place = (layer.offset + k) * L
            v.store(memory, grad + place, v.fma(decay, v.load(group.params, place), v.load(memory, grad + place)))

        repeat(layer.n_in * layer.n_out, add)

    def squares(factor):
        return add_squares(memory, grad, group.n_params, v.splat(memory, 0.0), factor)[0]

    def clip():
        total, one = squares(1.0), v.splat(memory, 1.0)
        lost, whole = total < LEAST_SQUARES, total < np.inf

        def by(factor, total):
            norm = v.square_root(total)
            longer = norm > settings.max_norm * factor
            return v.select(longer, factor, one), v.select(longer, settings.max_norm / norm, one)

        def by_lane():
            ways = zip(by(1.0, total), *(by(factor, squares(factor)) for factor in scales(memory)), strict=True)
            return tuple(v.select(lost, low, v.select(whole, plain, high)) for plain, low, high in ways)

        usual = v.mask_bits(whole) - v.mask_bits(lost) == 2**L - 1
        return switch(usual, [by_lane, lambda: by(1.0, total)])

    def finish():
        shrink = switch(group.clips, [lambda: (v.splat(memory, 1.0),) * 2, clip])
        descend(group, now, 0, group.plan.size, shrink)

    if rows == 1:
        when(group.clips, finish)
    else:
        when(group.decays, lambda: repeat(group.n_layers, add_decay))
        finish()


def note(group, column, vector):
    """Add to a column of the record of the epoch, of every network."""
    add_widened(group.sums, RECORD._fields.index(column) * group.L, vector)


def learn_block(group, step, first, rows, learn):
    """(1) to (6) for some rows of a batch, and their record."""
    memory, rule, last = group.memory, group.rule, layer_of(group, group.n_layers - 1)
    left = step.count - first
    take_rows(group, step.first + first, step.epoch, rows, left)
    factor = v.splat(memory, loss_factor(group, step))
    with rows_at_once(rows):
        note_classes(group, rows, left)
        outputs, scale = Samples(memory, last.n_out, v.lanes(memory)), v.splat(memory, loss_scale(group, step))
        dropout = Masks(group, step, first, rows)
        propagate(group, dropout, rows)
        weight, zero = v.load(memory, group.weighing), v.splat(memory, 0.0)
        sums = head_and_hits(
            outputs, last.a, group.y, last.d, group.classes, whole(rule.head), scale, weight, (zero, zero, zero)
        )
        backpropagate(group, dropout, rows, learn)
    loss, squares, hits = (folded(total, rows) for total in sums)
    for column, total in {"squares": squares, "loss": loss * factor, "hits": hits}.items():
        note(group, column, total)


@with_own_floats(flushes=True)
def train_by_row(job):
    """`train` for batches of one row."""
    train(job, 1)


@with_own_floats(flushes=True)
def train_by_rows(job):
    """`train` for larger batches."""
    train(job, ROWS_AT_ONCE)


def train(job, rows):
    """As `fastbp.reference.train`, for every network of `job.groups` groups, `job.epochs` whole epochs."""
    job.rule, job.memory = named(job.rule, RULE._fields), from_on(job.memory, job.rank * job.room)
    job.sums = from_on(job.sums, job.rank * (len(RECORD) * v.lanes(job.memory)))
    batches = ceil_div(job.n, job.batch_size)

    def one(number):
        group = Group(job, number)
        settings = group.settings
        solver = Solver(group).at(
            first=settings.momentum, first_gain=settings.momentum_gain,
            second=settings.beta_2, second_gain=settings.beta_2_gain, epsilon=no_less(settings.epsilon),
        )  # fmt: skip

        def epoch(number, steps):
            def batch(k, steps):
                first = k * job.batch_size
                count = smaller(job.batch_size, job.n - first)
                weight = weight_of(group, first, count)
                step = Names(epoch=number, first=first, count=count, weight=weight, steps=steps, begun=job.begun)
                when(weight > 0.0, lambda: learn_batch(group, step, solver, rows))
                return (steps + (weight > 0.0),)

            steps = carry(batches, (steps,), batch)
            for column, name in enumerate(RECORD._fields):
                at = ((group.number * len(RECORD) + column) * job.room_epochs + job.done + number) * group.L
                when(group.decays if name == "penalty" else 1, functools.partial(keep, column, at))
            return steps

        def keep(column, at):
            move(group.sums, column * group.L, job.record, at, group.L)

        carry(job.epochs, (0,), epoch)

    def take(_):  # a thread that is held up leaves more to the others
        number = add_atomically(job.taken, 0, 1)
        when(number < job.groups, lambda: one(number))

    when(job.epochs > 0, lambda: repeat(job.groups, take))
