"""Scratch memory of the kernels, and which kernel a network and its batches call for."""

import abc
import types

import numpy as np

from fastbp.kernels import gate, jit
from fastbp.kernels.levels import halves_vectors
from fastbp.layout import (
    ALIGNMENT_BYTES,
    CURSOR,
    DEPTH,
    DIRECT_UNITS,
    GROUP,
    KERNELS,
    LONG_DEPTH,
    MOST_THREADS,
    PLACE,
    PLAN,
    SYNC_SIZE,
    side_by_side,
)
from fastbp.rule import RULE

# Batches that fit half a vector run in code for half vectors: every division takes half the time, and XOR's four rows an
# epoch of 75 dependent fma latencies instead of 105. Larger batches lose by it (4-2-3 with 130 rows: a third).
SMALL_WIDTH = 32
# Activations, deltas and panel of one narrow block: a part of the L2 cache. Keeping them in the L1 cache, in 32 KiB, makes
# the gradients of a batch be summed, and added up, that much more often: it took 15 to 40% longer from 4-100-3 to 4-32-16-4.
BLOCK_BYTES = 384 * 1024
RESIDENT_BYTES = 512 * 1024  # panels kept from epoch to epoch: a part of the L2 cache
# Operations of a step that are worth a thread. Threads wait for each other for about 1 us, and fetch what the others wrote
# for some 10. On two processors that share a core, 64-100-10 with 200 rows (8e6) broke even, 20-64-64-1 with 64 (2e6) lost.
THREAD_FLOPS = 4e6
MOST_PARTIALS = 8  # gradients of one batch that are summed by themselves, and may be summed at the same time
# What the bits of some factors cost beside the multiplications of those that are not zero, in halves of one of a vector.
PER_INTEGER = 240
# Of so many inputs, rows that are read where they stand save the narrow kernel time. With rows in panels a step of 900-1
# with 301 rows took 1.8 (1.6) times as long in float32 (float64), of 784-4 with 128 1.5 (1.3), of 300-8 with 230 1.3
# (1.3), of 64-1 with 200 1.15 (1.3), of 32-4 with 200 0.85 (1.0). Rows that stay in their panels are faster. Panels have
# room for the rows all the same, which predictions use; as many make a block, which stays in the L2 cache to be read again.
DIRECT_INPUTS = 64
WIDE_ROWS = 256  # rows of a wide block: activations and deltas of a few hundred units stay in the L2 cache


def round_up(count, multiple):
    """The smallest multiple of `multiple` that is not below `count`."""
    return -(-count // multiple) * multiple


class Workspace(abc.ABC):
    """Scratch memory of one kernel, sized once for a network, its batches and its threads.

    Parameters
    ----------
    layout : fastbp.layout.Layout
    n_rows, batch_size : int
        Rows of X, and of a mini-batch.
    shuffled : bool
        Whether the rows of a batch change from epoch to epoch.
    moments : int, default 0
        Values that the solver remembers per weight.
    dropout : bool, default False
        Whether hidden units may be left out.
    threads : int, default 1
    sparse : bool, default False
        Whether X lists its values, so that nothing has to hold whole rows of it.

    Attributes
    ----------
    params : 1-D float array
        Room for the parameters.
    state : float array, shape (moments, len(params))
        Room for what the solver remembers.
    network, memory : pair of lists of ndarray, and a list of pairs
        Weights and biases as views of the parameters, and of what the solver remembers.
    cursor, rule : ndarray
        Room for how far a training is, and for the numbers of what a step computes.
    grad : 1-D float array
        Where solver "gradient_only" leaves the gradient, laid out as the parameters.
    plan : named tuple of int
        What the kernel is told, see `fastbp.layout.PLAN`.
    blocks_per_epoch : int
    arrays : fastbp.kernels.gate.Arrays
        What the kernels take as `work`.
    nbytes : int
        Size of all of it.
    """

    def __init__(self, layout, n_rows, batch_size, shuffled, moments=0, dropout=False, threads=1, sparse=False):
        self.layout = layout
        layers, lanes, size = layout.rows, ALIGNMENT_BYTES // layout.dtype.itemsize, 0
        plan = types.SimpleNamespace(**dict.fromkeys(PLAN._fields, 0))
        plan.threads, plan.size = min(threads, MOST_THREADS), layout.size
        table, n_totals = self.decide(plan, layout, n_rows, batch_size, shuffled, sparse)

        def take(room):
            """Offset of so many elements, a multiple of 64 bytes."""
            nonlocal size
            start, size = size, size + round_up(room, lanes)
            return start

        places = []
        for layer in layers:
            rooms = gate.rooms_of_layer(plan, layer)
            a = take(rooms.a)
            # the narrow kernel puts a hidden layer's deltas where its units were
            d = a if plan.kernel == KERNELS.narrow and layer is not layers[-1] else take(rooms.d)
            places.append(PLACE._make((a, d, take(rooms.seen) if dropout else a, take(rooms.valid))))
        if plan.kernel == KERNELS.narrow:  # whose threads have places of their own, and room for `transposed`
            plan.private = size + round_up(max(layer.stride for layer in layers) * plan.block_rows, lanes)
        for name, room in gate.rooms(plan, layers, lanes).items():
            setattr(plan, name, take(room))
        self.plan = plan = PLAN._make(vars(plan).values())
        self.blocks_per_epoch = gate.blocks_per_epoch(n_rows, batch_size, plan.block_rows)
        # Parameters and memory side by side: in two allocations, a small network's could lie a multiple of 4 KiB apart,
        # where the processor takes a load for one that depends on an earlier store.
        counts = (1 + moments) * layout.size + size, n_totals, len(table), len(CURSOR), SYNC_SIZE
        kinds = layout.dtype, np.float64, np.int64, np.int64, np.int64
        self.whole, (both, totals, rows, self.cursor, sync) = side_by_side(*zip(counts, kinds, strict=True))
        self.nbytes = self.whole.nbytes
        self.params, state, scratch = np.split(both, [layout.size, (1 + moments) * layout.size])
        self.state, self.grad = state.reshape(moments, layout.size), scratch[plan.grad : plan.grad + layout.size]
        wide = plan.kernel != KERNELS.narrow
        valid = [scratch[place.valid :][: layer.n_out] for place, layer in zip(places, layers, strict=True) if wide]
        # what is not 0 when it is new
        self.constants = [(rows, table), *((ones, 1) for ones in valid)]
        self.write_constants()
        numbers = np.array(plan, np.int64), np.array(places, np.int64)
        self.rule = np.zeros(len(RULE))
        self.arrays = gate.Arrays((scratch, *numbers, rows, totals, sync))
        self.arrays.belong(layout.layers, self.params, self.state, self.cursor, self.rule)
        self.network, *self.memory = (layout.views(flat) for flat in (self.params, *self.state))

    def write_constants(self):
        """Write into new memory what is not 0."""
        for array, value in self.constants:
            array[:] = value

    def renew(self):
        """Let all memory be what it was when it was new, which takes a fraction of the time of making it."""
        self.whole.fill(0)
        self.write_constants()

    @abc.abstractmethod
    def decide(self, plan, layout, n_rows, batch_size, shuffled, sparse):
        """Write into the plan what is no place; returns the table, and a number of totals, for a kernel that has them."""


class NarrowWorkspace(Workspace):
    """Memory of `fastbp.kernels.narrow`: panels, every A_l^T and the last D_l^T of each thread, the partial gradients."""

    def decide(self, plan, layout, n_rows, batch_size, shuffled, sparse):
        """As `Workspace.decide`."""
        layers, itemsize = layout.rows, layout.dtype.itemsize
        plan.kernel, plan.width = KERNELS.narrow, narrow_width(batch_size, itemsize)
        vector, panel_rows = plan.width // itemsize, gate.panel_rows(layers)
        rows = panel_rows + sum(layer.stride for layer in [*layers, layers[-1]])
        most = max(2 * vector, BLOCK_BYTES // (rows * itemsize * vector) * vector)
        flops = 6 * batch_size * layout.n_weights
        per_batch = max(1, -(-batch_size // most), min(MOST_PARTIALS, int(flops / THREAD_FLOPS)))
        plan.block_rows = round_up(-(-batch_size // per_batch), vector)
        per_batch = -(-batch_size // plan.block_rows)
        plan.n_partials = min(MOST_PARTIALS, per_batch)
        plan.threads = min(plan.threads, plan.n_partials)  # a thread takes all blocks of one
        plan.panel_size = panel_rows * plan.block_rows
        panels = gate.blocks_per_epoch(n_rows, batch_size, plan.block_rows)
        if not shuffled and panels * plan.panel_size * itemsize <= RESIDENT_BYTES:
            plan.resident = panels
        elif is_direct(layout, batch_size):
            plan.direct = gate.direct_elements(layers[0].n_in, ALIGNMENT_BYTES // itemsize)
        return (), 3 * per_batch


class WideWorkspace(Workspace):
    """Memory of `fastbp.kernels.wide`: targets, every A_l and D_l of a block, copies of the factors of products."""

    def decide(self, plan, layout, n_rows, batch_size, shuffled, sparse):
        """As `Workspace.decide`."""
        rows, (height, _), width = round_up(min(batch_size, WIDE_ROWS), GROUP), jit.tile_shape(), jit.native_width()
        plan.kernel, plan.width, plan.block_rows = KERNELS.wide, width, rows
        # With multiplications that take twice as long, 256 bytes from the L2 cache for 24 of them never wait: forward passes
        # of 784-128 took 7% less time with all terms at once than with parts of 128.
        plan.depth, plan.per_integer = (LONG_DEPTH, PER_INTEGER // 2) if halves_vectors() else (DEPTH, PER_INTEGER)
        plan.pack_size = gate.pack_size(width, layout.dtype.itemsize, rows)
        plan.panel_rows = max((layer.n_in for layer in layout.rows[sparse:]), default=0)
        # Of every row of a block, where it stands in X (which the kernel writes) and in each A_l; then, of every row of
        # weights, where its factors stand in panels: rows by `height`, those of a panel side by side.
        panel, row = np.divmod(np.arange(plan.panel_rows), height)
        strides = [0, *(layer.stride for layer in layout.rows), 0]
        return np.concatenate([*np.outer(strides, np.arange(rows)), panel * height * rows + row]), 0


class OnlineWorkspace(Workspace):
    """Memory of `fastbp.kernels.online`: targets, A_l and D_l of a row; for batches of one row, without dropout."""

    def decide(self, plan, layout, n_rows, batch_size, shuffled, sparse):
        """As `Workspace.decide`."""
        plan.kernel, plan.width, plan.block_rows, plan.threads = KERNELS.online, jit.native_width(), 1, 1
        return (), 0


def narrow_width(batch_size, itemsize):
    """Bytes of the narrow kernel's vectors of samples."""
    native = jit.native_width()
    return min(native, SMALL_WIDTH) if batch_size * itemsize <= SMALL_WIDTH else native


# --- the choice of a kernel -------------------------------------------------------------------------------------------

# Costs are counted in the narrow kernel's multiply-adds of vectors. The coefficients were fitted so that the chosen kernel
# loses little against the better one, and to the ratio of both kernels' times, in 24,800 steps (networks of 1 to 3 layers
# and up to 150,000 weights, 2 to 500 rows, both float types, vectors of 64 and of 32 bytes on a core of Zen 4). In 5,800
# other steps of up to 21,000 weights the chosen one took 0.3% longer on average, and over 15% longer in 0.5% of them. When a
# kernel changes, bench/test_choice.py tells whether they still hold.
# Beyond so many weights the wide kernel's blocking for the caches, which no term tells of, decides: up to 40,000 the costs
# would have chosen as well as this does, in 2,500 steps.
NARROW_WEIGHTS = 21_000
# A prediction's kernel must not depend on its rows: each is the one that would train with so many of them.
PREDICTED_ROWS = 256
# For a dense batch of one row the online kernel is the fastest one whatever the number of weights. A step in us, float32,
# with it and with the wide one: 2-4-1 0.17, 0.58; 20-16-1 0.26, 0.77; 64-100-10 0.95, 2.4; 784-30-10 4.6, 5.2;
# 784-128-10 17, 19; 512-512-10 48, 54. The narrow one took 0.31 for the first of these and 0.95 for the second.


def is_direct(layout, rows):
    """Whether the narrow kernel trains on rows of X where they stand, unless they stay in their panels."""
    (first, *_), native = layout.rows, jit.native_width()
    return (
        first.n_out <= DIRECT_UNITS and first.n_in >= DIRECT_INPUTS and narrow_width(rows, layout.dtype.itemsize) == native
    )


def narrow_cost(layout, rows):
    """Of a step whose vectors hold samples: products, the update, activations and inputs, and what each layer takes."""
    (first, *_), itemsize, weights = layout.rows, layout.dtype.itemsize, layout.n_weights
    width = narrow_width(rows, itemsize)
    vectors, units = -(-rows * itemsize // width), sum(layer.n_out for layer in layout.rows)
    products = vectors * (3 * weights - first.n_in * first.n_out)  # the first layer passes no delta on
    update = 0.9 * (jit.native_width() // width) * weights
    inputs = (3.7 if is_direct(layout, rows) else 7.5) * first.n_in
    return products + update + vectors * (54 * units + inputs) + 1800 * len(layout.rows)


def wide_cost(layout, rows):
    """Of a step whose vectors hold units: products, the update, activations, rows, and what each layer takes."""
    layers = layout.rows
    vectors = [-(-layer.n_out * layout.dtype.itemsize // jit.native_width()) for layer in layers]
    weights = sum(layer.n_in * count for layer, count in zip(layers, vectors, strict=True))
    passed_on = sum(layer.n_out * count for layer, count in zip(layers[1:], vectors[:-1], strict=True))
    products = 0.8 * rows * (2 * weights + passed_on)
    return products + 4.8 * weights + rows * (105 * sum(vectors) + 250) + 3350 * len(layers)


def choice_for_training(layout, batch_size, sparse=False, dropout=False):
    """The workspace, and with it the kernel, that is the fastest for training with such batches, and why, in words."""
    weights = layout.n_weights
    if sparse:
        return WideWorkspace, "X is sparse, which only the wide kernel reads"
    if batch_size == 1 and not dropout:
        return OnlineWorkspace, "a step takes one row, for which each weight is read once"
    if weights > NARROW_WEIGHTS:
        return WideWorkspace, f"{weights:,} weights are more than {NARROW_WEIGHTS:,}"
    ratio = wide_cost(layout, batch_size) / narrow_cost(layout, batch_size)
    kind, times, other = (WideWorkspace, 1 / ratio, "narrow") if ratio < 1 else (NarrowWorkspace, ratio, "wide")
    step = f"a step of {batch_size:,} rows and {weights:,} weights"
    return kind, f"{step} should take {times:.1f} times as long in the {other} kernel"


def workspace_for_training(layout, n_rows, batch_size, sparse=False, **options):
    """The workspace, and with it the kernel, for training a network; arguments as `Workspace`."""
    kind, _ = choice_for_training(layout, batch_size, sparse, options.get("dropout", False))
    return kind(layout, n_rows, batch_size, sparse=sparse, **options)


def workspace_for_prediction(layout, n_rows, threads=1, sparse=False):
    """The same for `forward`: by the network alone, so that a row's result does not depend on how many others there are."""
    kind, _ = choice_for_training(layout, PREDICTED_ROWS, sparse)
    return kind(layout, n_rows, n_rows, True, threads=threads, sparse=sparse)
