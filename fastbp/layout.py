"""Where every weight and bias stands in one flat buffer.

The kernels work on one flat, 64-byte-aligned array of parameters. Layer l is a block of rows: the n_in rows of W_l, then,
with biases, b_l as one more row (the weights of an input that is always 1). Each row is padded with zeros to a multiple of
the vector length, so that a vector never crosses into another row; padding is zero and stays zero.

    W_l[0, :]       0 0
    ...
    W_l[n_in-1, :]  0 0
    b_l[:]          0 0
"""

import itertools

import numpy as np

ALIGNMENT_BYTES = 64

# Columns of `Layout.layers`, the integer table that describes a network to a kernel.
N_IN, N_ROWS, N_OUT, OFFSET, STRIDE = range(5)
FIELDS = 5


def aligned_zeros(size, dtype):
    """One-dimensional array of zeros that starts at a multiple of 64 bytes."""
    itemsize = np.dtype(dtype).itemsize
    buffer = np.zeros(size * itemsize + ALIGNMENT_BYTES, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT_BYTES
    return buffer[start : start + size * itemsize].view(dtype)


class Layout:
    """Offsets of the parameters of a network with the given layer sizes.

    Parameters
    ----------
    units : sequence of int
        Layer sizes, input and output included.
    dtype : numpy dtype
        float32 or float64.
    bias : bool
        Whether every layer has biases.

    Attributes
    ----------
    layers : ndarray of int64, shape (n_layers, 5)
        Per layer: N_IN, N_ROWS (N_IN, plus 1 with biases), N_OUT, OFFSET of the first row, STRIDE from row to row; the
        last two in elements.
    rows : list of tuple of int
        The same, for Python.
    size : int
        Elements of the whole buffer.
    """

    def __init__(self, units, dtype, bias):
        self.dtype = np.dtype(dtype)
        self.bias = bias
        lanes = ALIGNMENT_BYTES // self.dtype.itemsize
        self.rows, self.size = [], 0
        for n_in, n_out in itertools.pairwise(units):
            stride = -(-n_out // lanes) * lanes
            self.rows.append((n_in, n_in + bias, n_out, self.size, stride))
            self.size += (n_in + bias) * stride
        self.layers = np.array(self.rows, np.int64)

    def views(self, params):
        """Weights and biases as views into the flat buffer: two lists, the second one empty without biases."""
        weights, biases = [], []
        for n_in, n_rows, n_out, offset, stride in self.rows:
            block = params[offset : offset + n_rows * stride].reshape(n_rows, stride)[:, :n_out]
            weights.append(block[:n_in])
            biases.extend(block[n_in:])
        return weights, biases

    def gather(self, weights, biases, params=None):
        """Copy weights and biases into a flat buffer, a new one unless `params` is given; returns it."""
        params = aligned_zeros(self.size, self.dtype) if params is None else params
        for views, arrays in zip(self.views(params), (weights, biases), strict=True):
            for view, array in zip(views, arrays, strict=True):
                view[...] = array
        return params


# cursor entries: completed epochs, rows of the current epoch done; then the kernel's own: the first row of the current
# batch, the next panel, whether all panels are packed
EPOCH, ROW, BATCH, PANEL, PACKED = range(5)
CURSOR_SIZE = 5

# Batches that fit half a vector run in code for half vectors: every division takes half the time, and XOR's four rows an
# epoch of 75 dependent fma latencies instead of 105. Larger batches lose by it (4-2-3 with 130 rows: a third).
SMALL_WIDTH = 32
BLOCK_BYTES = 32 * 1024  # activations, deltas and panel of one block: most of a 48 KiB L1 cache
RESIDENT_BYTES = 512 * 1024  # panels kept from epoch to epoch: a part of the L2 cache


# entries of a workspace's plan
COLUMNS, RESIDENT, PANEL_SIZE, GRAD, SIZE, WIDTH, ZERO = range(7)
# columns of a workspace's places: where A_l^T and D_l^T stand for the layer that makes A_l
A, D = range(2)

INPUT_EXTRA = 3  # rows of a panel beside inputs and targets: ones, class, sample


def round_up(count, multiple):
    """The smallest multiple of `multiple` that is not below `count`."""
    return -(-count // multiple) * multiple


class NarrowWorkspace:
    """Scratch memory of `fastbp.kernels.narrow`, sized once for a network and its batches.

    Parameters
    ----------
    layout : fastbp.layout.Layout
    n_rows, batch_size : int
        Rows of X, and of a mini-batch.
    shuffled : bool
        Whether the rows of a batch change from epoch to epoch.

    Attributes
    ----------
    params : 1-D float array
        Room for the parameters, beside the memory.
    arrays : tuple
        What the kernels take as `work`: the memory (one panel, or all of them, then every A_l^T and D_l^T, then the
        gradient of a batch in the making), the plan and the places, see the constants of this module; in elements.
    """

    def __init__(self, layout, n_rows, batch_size, shuffled):
        layers, itemsize = layout.rows, layout.dtype.itemsize
        width = SMALL_WIDTH if batch_size * itemsize <= SMALL_WIDTH else ALIGNMENT_BYTES
        vector = width // itemsize
        panel_rows = layers[0][N_IN] + INPUT_EXTRA + layers[-1][N_OUT]
        rows = panel_rows + sum(layer[N_OUT] + 1 + layer[STRIDE] for layer in layers)
        most = max(2 * vector, BLOCK_BYTES // (rows * itemsize * vector) * vector)
        self.columns = self.block_rows = min(most, round_up(batch_size, vector))
        blocks_per_batch = -(-batch_size // self.columns)
        self.blocks_per_epoch = n_rows // batch_size * blocks_per_batch + -(-(n_rows % batch_size) // self.columns)
        panel_size = panel_rows * self.columns
        resident = not shuffled and self.blocks_per_epoch * panel_size * itemsize <= RESIDENT_BYTES
        size = panel_size * (self.blocks_per_epoch if resident else 1)
        places = []
        for _, _, n_units, _, stride in layers:
            places.append((size, size + (n_units + 1) * self.columns))
            size += (n_units + 1 + stride) * self.columns
        # Parameters and memory side by side: in two allocations, a small network's could lie a multiple of 4 KiB apart,
        # where the processor takes a load for one that depends on an earlier store.
        both = aligned_zeros(layout.size + size + layout.size + vector, layout.dtype)
        self.params, memory = both[: layout.size], both[layout.size :]
        for (here, _), (_, _, n_units, _, _) in zip(places, layers, strict=True):
            ones = here + n_units * self.columns
            memory[ones : ones + self.columns] = 1
        plan = np.array([self.columns, resident, panel_size, size, layout.size, width, size + layout.size], np.int64)
        self.arrays = memory, plan, np.array(places, np.int64)


# entries of a wide workspace's plan, and columns of its places
BLOCK_ROWS, WIDE_GRAD, WIDE_SIZE, TARGETS, TRANSPOSED, ZEROS, PACK = range(7)
VALID, PLACES = 2, 3

WIDE_ROWS = 256  # rows of a block: activations and deltas of a few hundred units stay in the L2 cache


class WideWorkspace:
    """Scratch memory of `fastbp.kernels.wide`; parameters and attributes as in `NarrowWorkspace`.

    The memory holds the targets of a block, A_l, D_l and a row that is 1 for units and 0 for padding of each layer, the
    largest W_l^T, a row of zeros in place of missing biases, and the gradient of a batch of several blocks. A fourth array
    lists where the rows of each A_{l-1} begin.
    """

    def __init__(self, layout, n_rows, batch_size, shuffled):
        layers = layout.layers
        strides = layers[:, STRIDE]
        rows = self.block_rows = min(batch_size, WIDE_ROWS)
        per_batch, rest = -(-batch_size // rows), n_rows % batch_size
        self.blocks_per_epoch = n_rows // batch_size * per_batch + -(-rest // rows)
        places = np.empty((len(layers), PLACES), np.int64)
        targets, size = 0, rows * strides[-1]
        for level, stride in enumerate(strides):
            places[level] = size, size + rows * stride, size + 2 * rows * stride
            size += (2 * rows + 1) * stride
        transposed, zeros = size, size + int(max([0, *strides[1:] * strides[:-1]]))
        pack = zeros + int(max(strides))
        lanes = ALIGNMENT_BYTES // layout.dtype.itemsize
        grad = pack + 2 * lanes * int(max(rows, *layers[:, N_IN], *strides))
        both = aligned_zeros(layout.size + grad + (layout.size if batch_size > rows else 0), layout.dtype)
        self.params, memory = both[: layout.size], both[layout.size :]
        for (_, _, valid), n_out in zip(places, layers[:, N_OUT], strict=True):
            memory[valid : valid + n_out] = 1
        table = np.arange(rows) * np.array([0, *strides[:-1]])[:, None]
        plan = np.array([rows, grad, layout.size, targets, transposed, zeros, pack], np.int64)
        self.arrays = memory, plan, places, table


# The narrow kernel fills its vectors with samples, the wide one with units. Measured over shapes from 2-4-1 to 64-100-10 and
# batches from 1 to 256 (a core with AVX-512, both float types), the narrow one is the faster one where the weights are few
# and the batch is longer than about half their square root; the choice is within 15% of the better one throughout.
NARROW_WEIGHTS = 2500


def workspace(layout, n_rows, batch_size, shuffled):
    """The workspace, and with it the kernel, for a network and its batches."""
    n_weights = sum(layer[N_IN] * layer[N_OUT] for layer in layout.rows)
    narrow = n_weights <= NARROW_WEIGHTS and batch_size >= n_weights**0.5 / 2 - 1
    return (NarrowWorkspace if narrow else WideWorkspace)(layout, n_rows, batch_size, shuffled)
