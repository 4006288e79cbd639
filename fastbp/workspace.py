"""Scratch memory of the kernels."""

import abc

import numpy as np

from fastbp.kernels import jit
from fastbp.layout import (
    ALIGNMENT_BYTES,
    BLOCK_ROWS,
    GRAD,
    GROUP,
    KERNEL,
    MOST_THREADS,
    N_IN,
    N_OUT,
    N_PARTIALS,
    NARROW,
    ONLINE,
    PACK,
    PACK_SIZE,
    PACKED_DEPTH,
    PANEL,
    PANEL_ROWS,
    PANEL_SIZE,
    PANELS,
    PARTIALS,
    PLACES,
    PLAN_SIZE,
    PRIVATE,
    RESIDENT,
    ROW_WEIGHTS,
    SEEN,
    SIZE,
    SQUARE,
    STRIDE,
    SUMS,
    SYNC_SIZE,
    TARGETS,
    THREADS,
    TRANSPOSED,
    VALID,
    WIDE,
    WIDTH,
    ZEROS,
    A,
    D,
    aligned_zeros,
)

# Batches that fit half a vector run in code for half vectors: every division takes half the time, and XOR's four rows an
# epoch of 75 dependent fma latencies instead of 105. Larger batches lose by it (4-2-3 with 130 rows: a third).
SMALL_WIDTH = 32
# Activations, deltas and panel of one narrow block: a part of the L2 cache. Keeping them in the L1 cache, in 32 KiB, makes
# the gradients of a batch be summed, and added up, that much more often: it took 15 to 40% longer from 4-100-3 to 4-32-16-4.
BLOCK_BYTES = 384 * 1024
RESIDENT_BYTES = 512 * 1024  # panels kept from epoch to epoch: a part of the L2 cache
INPUT_EXTRA = 3  # rows of a panel beside inputs and targets: ones, class, sample weight
# Operations of a step that are worth a thread. Threads wait for each other for about 1 us, and fetch what the others wrote
# for some 10. On two processors that share a core, 64-100-10 with 200 rows (8e6) broke even, 20-64-64-1 with 64 (2e6) lost.
THREAD_FLOPS = 4e6
MOST_PARTIALS = 8  # gradients of one batch that are summed by themselves, and may be summed at the same time
WIDE_ROWS = 256  # rows of a wide block: activations and deltas of a few hundred units stay in the L2 cache


def round_up(count, multiple):
    """The smallest multiple of `multiple` that is not below `count`."""
    return -(-count // multiple) * multiple


class Memory:
    """Offsets handed out one after the other, each a multiple of 64 bytes."""

    def __init__(self, itemsize):
        self.lanes, self.size = ALIGNMENT_BYTES // itemsize, 0

    def take(self, size):
        """Offset of room for `size` elements."""
        start, self.size = self.size, self.size + round_up(int(size), self.lanes)
        return start


class Arrays(tuple):
    """What the kernels take as `work`; it keeps the addresses, which take longer to ask for than a small prediction."""

    def __init__(self, arrays):
        self.addresses = [array.__array_interface__["data"][0] for array in arrays]


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
    grad : 1-D float array
        Where solver "gradient_only" leaves the gradient, laid out as the parameters.
    arrays : Arrays
        What the kernels take as `work`: the memory, the plan and the places (see `fastbp.layout`), the wide kernel's
        table of row offsets, the narrow kernel's losses by block, and what threads tell each other.
    """

    def __init__(self, layout, n_rows, batch_size, shuffled, moments=0, dropout=False, threads=1, sparse=False):
        self.threads, self.sparse = min(threads, MOST_THREADS), sparse
        memory = Memory(layout.dtype.itemsize)
        plan = np.zeros(PLAN_SIZE, np.int64)
        places = np.zeros((len(layout.rows), PLACES), np.int64)
        self.table, self.totals = np.zeros(0, np.int64), np.zeros(0)
        plan[GRAD], plan[SIZE] = memory.take(layout.size), layout.size
        self.plan(memory, plan, places, layout, n_rows, batch_size, shuffled, dropout)
        # Parameters and memory side by side: in two allocations, a small network's could lie a multiple of 4 KiB apart,
        # where the processor takes a load for one that depends on an earlier store.
        both = aligned_zeros((1 + moments) * layout.size + memory.size, layout.dtype)
        self.params = both[: layout.size]
        self.state = both[layout.size : (1 + moments) * layout.size].reshape(moments, layout.size)
        scratch = both[(1 + moments) * layout.size :]
        self.grad = scratch[plan[GRAD] : plan[GRAD] + layout.size]
        self.block_rows, plan[THREADS] = int(plan[BLOCK_ROWS]), self.threads
        self.fill(scratch, places, layout)
        self.arrays = Arrays((scratch, plan, places, self.table, self.totals, np.zeros(SYNC_SIZE, np.int64)))

    @abc.abstractmethod
    def plan(self, memory, plan, places, layout, n_rows, batch_size, shuffled, dropout):
        """Take the memory, write down where everything stands, and set `blocks_per_epoch`."""

    @abc.abstractmethod
    def fill(self, scratch, places, layout):
        """Write what the kernel only ever reads."""


class NarrowWorkspace(Workspace):
    """Memory of `fastbp.kernels.narrow`: panels, every A_l^T and D_l^T of each thread, the partial gradients of a batch."""

    def plan(self, memory, plan, places, layout, n_rows, batch_size, shuffled, dropout):
        """As `Workspace.plan`."""
        layers, itemsize = layout.rows, layout.dtype.itemsize
        width = narrow_width(batch_size, itemsize)
        vector = width // itemsize
        panel_rows = layers[0][N_IN] + INPUT_EXTRA + layers[-1][N_OUT]
        rows = panel_rows + sum(layer[N_OUT] + 1 + layer[STRIDE] for layer in layers)
        most = max(2 * vector, BLOCK_BYTES // (rows * itemsize * vector) * vector)
        flops = 6 * batch_size * weights_of(layout)
        per_batch = max(1, -(-batch_size // most), min(MOST_PARTIALS, int(flops / THREAD_FLOPS)))
        columns = round_up(-(-batch_size // per_batch), vector)
        per_batch = -(-batch_size // columns)
        self.blocks_per_epoch = n_rows // batch_size * per_batch + -(-(n_rows % batch_size) // columns)
        partials = min(MOST_PARTIALS, per_batch)
        self.threads = min(self.threads, partials)  # a thread takes all blocks of one
        panel_size = panel_rows * columns
        resident = not shuffled and self.blocks_per_epoch * panel_size * itemsize <= RESIDENT_BYTES
        plan[PANEL] = memory.take(panel_size * (self.blocks_per_epoch if resident else self.threads))
        begin = memory.size
        for place, (_, _, n_units, _, stride, _) in zip(places, layers, strict=True):
            place[A] = place[SEEN] = memory.take((n_units + 1) * columns)
            place[D] = memory.take(stride * columns)
            if dropout:
                place[SEEN] = memory.take((n_units + 1) * columns)
        plan[TRANSPOSED] = memory.take(max(layer[STRIDE] for layer in layers) * columns)
        self.private = private = memory.size - begin
        memory.take((self.threads - 1) * private)
        plan[PARTIALS] = memory.take(partials * layout.size) if partials > 1 else plan[GRAD]
        plan[[RESIDENT, PANEL_SIZE, N_PARTIALS, PRIVATE]] = resident, panel_size, partials, private
        plan[ZEROS] = memory.take(ALIGNMENT_BYTES)

        plan[[KERNEL, WIDTH, BLOCK_ROWS]] = NARROW, width, columns
        self.totals = np.zeros(3 * per_batch)

    def fill(self, scratch, places, layout):
        """As `Workspace.fill`."""
        columns, private = self.block_rows, self.private
        for thread in range(self.threads):
            for place, layer in zip(places, layout.rows, strict=True):
                for at in {int(place[A]), int(place[SEEN])}:
                    ones = at + thread * private + layer[N_OUT] * columns
                    scratch[ones : ones + columns] = 1


class WideWorkspace(Workspace):
    """Memory of `fastbp.kernels.wide`: targets, every A_l and D_l of a block, copies of the factors of products."""

    def plan(self, memory, plan, places, layout, n_rows, batch_size, shuffled, dropout):
        """As `Workspace.plan`."""
        rows = min(batch_size, WIDE_ROWS)
        per_batch, rest = -(-batch_size // rows), n_rows % batch_size
        self.blocks_per_epoch = n_rows // batch_size * per_batch + -(-rest // rows)
        rows = round_up(rows, GROUP)
        strides = layout.layers[:, STRIDE]
        for place, stride in zip(places, strides, strict=True):
            place[A] = place[SEEN] = memory.take(rows * stride)
            place[D], place[VALID] = memory.take(rows * stride), memory.take(stride)
            if dropout:
                place[SEEN] = memory.take(rows * stride)
        height, cols = jit.tile_shape()
        width = jit.native_width()
        plan[[KERNEL, WIDTH, BLOCK_ROWS]] = WIDE, width, rows
        plan[TARGETS], plan[ZEROS] = memory.take(rows * strides[-1]), memory.take(max(strides))
        plan[ROW_WEIGHTS] = memory.take(rows)
        plan[PACK_SIZE] = round_up((PACKED_DEPTH + height) * cols * width, ALIGNMENT_BYTES) // layout.dtype.itemsize
        plan[PACK] = memory.take(plan[PACK_SIZE] * self.threads)
        plan[PANEL_ROWS] = most = int(max(layout.layers[self.sparse :, N_IN], default=0))
        # a thread may have a square more than its part, and begin a panel that it does not fill
        plan[PANELS] = memory.take(rows * (most + (SQUARE + height) * self.threads))
        plan[SUMS] = memory.take(2 * rows // GROUP * memory.lanes)
        # Of every row of a block, where it stands in X (which the kernel writes) and in each A_l; then, of every row of
        # weights, where its factors stand in panels: rows by `height`, those of a panel side by side.
        panel, row = np.divmod(np.arange(most), height)
        self.table = np.concatenate([*np.outer([0, *strides], np.arange(rows)), panel * height * rows + row])

    def fill(self, scratch, places, layout):
        """As `Workspace.fill`."""
        for (_, _, _, valid), layer in zip(places, layout.rows, strict=True):
            scratch[valid : valid + layer[N_OUT]] = 1


class OnlineWorkspace(Workspace):
    """Memory of `fastbp.kernels.online`: targets, A_l and D_l of a row; for batches of one row, without dropout."""

    def plan(self, memory, plan, places, layout, n_rows, batch_size, shuffled, dropout):
        """As `Workspace.plan`."""
        self.threads, self.blocks_per_epoch = 1, n_rows
        strides = layout.layers[:, STRIDE]
        for place, stride in zip(places, strides, strict=True):
            place[A], place[D], place[VALID] = (memory.take(stride) for _ in range(3))
        plan[[KERNEL, WIDTH, BLOCK_ROWS]] = ONLINE, jit.native_width(), 1
        plan[TARGETS], plan[ZEROS] = memory.take(strides[-1]), memory.take(max(strides))

    def fill(self, scratch, places, layout):
        """As `Workspace.fill`."""
        for place, layer in zip(places, layout.rows, strict=True):
            scratch[place[VALID] : place[VALID] + layer[N_OUT]] = 1


def narrow_width(batch_size, itemsize):
    """Bytes of the narrow kernel's vectors of samples."""
    native = jit.native_width()
    return min(native, SMALL_WIDTH) if batch_size * itemsize <= SMALL_WIDTH else native


def weights_of(layout):
    """Number of weights."""
    return sum(layer[N_IN] * layer[N_OUT] for layer in layout.rows)
