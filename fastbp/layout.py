"""Where every weight and bias stands in one flat buffer, and the tables that a kernel is given.

The kernels work on one flat, 64-byte-aligned array of parameters. Layer l is a block of rows: the n_in rows of W_l, then,
with biases, b_l as one more row (the weights of an input that is always 1). Each row is padded with zeros to a multiple of
the vector length, so that a vector never crosses into another row, and by one vector more where rows would crowd in the
cache; padding is zero and stays zero.

    W_l[0, :]       0 0
    ...
    W_l[n_in-1, :]  0 0
    b_l[:]          0 0
"""

import collections
import itertools

import numpy as np

ALIGNMENT_BYTES = 64
# Rows at such a distance meet in few sets of a cache, so that a column of them does not stay there.
CROWDED_BYTES = 512


def positions(names):
    """Where numbers of these names stand in an array, by name; `_make` of it gives the numbers themselves their names."""
    names = names.split()
    return collections.namedtuple("Numbers", names)(*range(len(names)))


# Columns of `Layout.layers`, the integer table that describes a network to a kernel.
LAYER = positions("n_in n_rows n_out offset stride activation")
# Entries of a cursor: completed epochs, rows of the current epoch done, steps done; then the kernel's own: the first row of
# the current batch, blocks of the current epoch done, whether all panels are packed.
CURSOR = positions("epoch row step batch block packed")
# Columns of a record, one row per epoch: sum (A_L - Y)**2, the loss, right rows, the sum of W**2 over all steps, and the
# rows of all steps, which are not all where batches of no weight are passed over.
RECORD = positions("squares loss hits penalty rows")
# Entries of a workspace's plan: those of every kernel, then the narrow, the wide, and the wide and the online one's. Offsets
# and sizes are in elements of its memory; `resident` is how many panels stay from epoch to epoch, `direct` the size of each
# row of `columns`, or 0 where rows of X go through panels.
PLAN = positions(
    "kernel threads width block_rows grad size zeros "
    "resident panel panel_size n_partials private transposed direct columns "
    "depth per_integer row_weights pack pack_size panels panel_rows sums targets"
)
KERNELS = positions("narrow wide online")
DIRECT_UNITS = 8  # of a first layer, at most, for which the narrow kernel reads rows of X where they stand, see `direct`
# What differs between networks that train side by side, see `fastbp.kernels.many`.
# `_gain` is 1 less the number before it, which a float32 of that number would tell too roughly.
SETTINGS = positions("rate momentum momentum_gain beta_2 beta_2_gain epsilon alpha max_norm")
ROWS_AT_ONCE = 4  # rows of a batch that they compute side by side
# Columns of a workspace's places, one row per layer: A_l, D_l, what the next layer takes in (A_l, but for dropout); a row
# that is 1 for units and 0 for padding, which the narrow kernel has not.
PLACE = positions("a d seen valid")

# Terms of a sum that the wide kernel takes at a time: their factors stay in the L1 cache, or in the L2 cache where that is
# fast enough for the processor. Sums go on from where they stood, so that no bit depends on it.
DEPTH, LONG_DEPTH = 128, 1024
PACKED_DEPTH = 512  # the same where right factors are copied together
SQUARE = 16  # rows of the weights that one thread of it takes at least: a multiple of every number of lanes
# Where it leaves out zeros: vectors of a row that are summed side by side; rows of a batch that have a bit each in one
# integer; and groups of SQUARE columns whose integers are there at the same time.
WIDEST, SAMPLES, GROUPS = 8, 32, 32
GROUP = 8  # rows that one thread of it takes at least, whose losses are summed together

# Entries of what threads tell each other, in cache lines of their own: how many have arrived at a barrier, barriers passed,
# among how many threads there are shares, and a line of each thread, in which these numbers stand: right rows, where its
# share of WHOLE begins and ends, and its pace: the ticks that it takes for 1024 rows.
ARRIVED, PASSED, SHARED, LINES = 0, 8, 16, 24
OF_THREAD = positions("hits begin end pace")
WHOLE = 2**16
LINE = 8
MOST_THREADS = 64
SYNC_SIZE = LINES + LINE * MOST_THREADS
# Entries of a worker's mailbox, a cache line: whose it is at present (FREE, or the address of the job that it is to do),
# whether work is posted, whether the worker is parked, the lock that it is parked at; then what belongs to the job: the
# address of the kernel, the worker's rank, and how many threads there are.
MAILBOX = positions("owner posted parked lock function rank size")
FREE = 0

# What training spends its time on, as kernels that are compiled to count it do (see `fastbp.kernels.phases`): rows, targets
# and row weights are found and copied; a layer's activations; the last one's, the loss, and its gradient with respect to z;
# that gradient from a layer down to the one below it; the gradient of a layer's parameters, and their update where nothing
# has to be known first; the update where it is a pass of its own, L2's sum, the norm, and sums over the blocks of a batch; a
# layer's weights are transposed for its delta, a strip at a time; threads wait for each other; and everything between.
PHASES = positions("gather forward loss delta gradient update transpose wait overhead")

# Counters stand behind what threads tell each other: for each thread a group per layer, in which every phase has a pair,
# time and number of marks. Phases of no layer count as the first layer's; behind those is the clock at the last mark.
COUNTERS = SYNC_SIZE
COUNTER_GROUP = 3 * LINE
CLOCK = 2 * len(PHASES)


def counters_of(thread, n_layers):
    """Where a thread's counters begin; those of one more than there are threads would begin behind all of them."""
    return COUNTERS + thread * n_layers * COUNTER_GROUP


def aligned_zeros(size, dtype):
    """One-dimensional array of zeros that starts at a multiple of 64 bytes."""
    itemsize = np.dtype(dtype).itemsize
    buffer = np.zeros(size * itemsize + ALIGNMENT_BYTES, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT_BYTES
    return buffer[start : start + size * itemsize].view(dtype)


def side_by_side(*rooms):
    """A buffer, and in it arrays of zeros, of a size and a dtype each, that start at multiples of 64 bytes."""
    sizes = [size * np.dtype(dtype).itemsize for size, dtype in rooms]
    *starts, end = itertools.accumulate([-(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES for size in sizes], initial=0)
    whole = aligned_zeros(end, np.uint8)
    return whole, [whole[at : at + n].view(dtype) for at, n, (_, dtype) in zip(starts, sizes, rooms, strict=True)]


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
    activations : sequence of int
        Code of each hidden layer's activation, see `fastbp.rule.ACTIVATIONS`.

    Attributes
    ----------
    layers : ndarray of int64, shape (n_layers, 6)
        Per layer: n_in, n_rows (n_in, plus 1 with biases), n_out, offset of the first row, stride from row to row (both in
        elements), activation (0 for the last layer, whose activation belongs to the rule).
    rows : list of named tuple of int
        The same, for Python.
    size, n_weights : int
        Elements of the whole buffer, and weights among them.
    """

    def __init__(self, units, dtype, bias, activations):
        self.dtype = np.dtype(dtype)
        self.bias = bias
        lanes = ALIGNMENT_BYTES // self.dtype.itemsize
        self.rows, self.size = [], 0
        for (n_in, n_out), activation in zip(itertools.pairwise(units), [*activations, 0], strict=True):
            stride = -(-n_out // lanes) * lanes
            if stride * self.dtype.itemsize % CROWDED_BYTES == 0:
                stride += lanes
            self.rows.append(LAYER._make((n_in, n_in + bias, n_out, self.size, stride, activation)))
            self.size += (n_in + bias) * stride
        self.layers, self.n_weights = np.array(self.rows, np.int64), sum(row.n_in * row.n_out for row in self.rows)

    def views(self, params):
        """Weights and biases as views into the flat buffer: two lists, the second one empty without biases."""
        weights, biases = [], []
        for n_in, n_rows, n_out, offset, stride, _ in self.rows:
            block = params[offset : offset + n_rows * stride].reshape(n_rows, stride)[:, :n_out]
            weights.append(block[:n_in])
            biases.extend(block[n_in:])
        return weights, biases

    def gather(self, weights, biases, params=None):
        """Copy weights and biases into a flat buffer, a new one unless `params` is given; returns it."""
        params = aligned_zeros(self.size, self.dtype) if params is None else params
        fill(self.views(params), (weights, biases))
        return params


def fill(network, others):
    """Copy other weights and biases, two lists of arrays, into those of a network."""
    for views, arrays in zip(network, others, strict=True):
        for view, array in zip(views, arrays, strict=True):
            view[...] = array
