"""The gate: where arrays become pointers, they are what the kernels rely on, or an error names the one that is not.

A kernel reads and writes wherever the numbers it is given lead. All of them are checked here in every call, against the very
arrays that it gets, but for a workspace: that is checked once for a network and its batches.
"""

import bisect

import numpy as np

from fastbp.kernels import jit
from fastbp.layout import (
    ALIGNMENT_BYTES,
    BLOCK_ROWS,
    CURSOR_SIZE,
    FIELDS,
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
    PANEL,
    PANEL_ROWS,
    PANEL_SIZE,
    PANELS,
    PARTIALS,
    PLACES,
    PLAN_SIZE,
    PRIVATE,
    RECORD_SIZE,
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
    WIDE,
    WIDTH,
    ZEROS,
    A,
    D,
    counters_size,
)
from fastbp.rule import ACTIVATIONS, BY_ROWS, DROPOUT, HEAD, HEADS, MOMENTS, SOLVER

INT, DOUBLE = np.dtype(np.int64), np.dtype(np.float64)
FLOATS = np.dtype(np.float32), DOUBLE
INDICES = np.dtype(np.int32), INT
VECTOR_BYTES = 16, 32, 64
RULE_SIZE = BY_ROWS + 1
CODES_OF_HEADS, CODES_OF_SOLVERS = set(range(len(HEADS))), set(range(len(MOMENTS)))
ANY = -1  # a length that nothing is known of


def array(name, value, dtype, *shape, written=False):
    """Raise a ValueError unless `value` is an array of this type and shape that kernels can read, or write.

    The first length may be ANY.
    """
    if isinstance(value, np.ndarray) and value.dtype == dtype:
        flags, found = value.flags, value.shape
        fits = found == shape or (shape[0] == ANY and len(found) == len(shape) and found[1:] == shape[1:])
        if fits and (flags.carray or (not written and flags.c_contiguous and flags.aligned)):
            return
    lengths = ", ".join("any" if length == ANY else str(length) for length in shape)
    kind = "writable, C-contiguous, aligned" if written else "C-contiguous, aligned"
    raise ValueError(f"{name} must be a {kind} array of {dtype} of shape ({lengths}), got {described(value)}")


def described(value):
    """An argument in the words of an error."""
    if not isinstance(value, np.ndarray):
        return f"{type(value).__name__}"
    flags = [name for name in ("c_contiguous", "aligned", "writeable") if not getattr(value.flags, name)]
    return f"{value.dtype} of shape {value.shape}" + "".join(f", not {name}" for name in flags)


def require(condition, name, wanted, got):
    """Raise a ValueError that names the argument unless the condition holds."""
    if not condition:
        refuse(name, wanted, got)


def refuse(name, wanted, got):
    """Raise a ValueError that names the argument."""
    raise ValueError(f"{name} must be {wanted}, got {got}")


def training(layers, params, state, X, Y, weights, order, batch_size, rule, blocks, cursor, record, work, marked):
    """The arrays of X, for a call of `fastbp.kernels.train` with sound arguments; else a ValueError names one of them."""
    network(layers, params, work)
    dtype, plan = params.dtype, work[1].tolist()
    arrays, n_rows = inputs(X, dtype, int(layers[0, N_IN]), plan[KERNEL])
    array("Y", Y, dtype, n_rows, int(layers[-1, N_OUT]))
    array("weights", weights, dtype, n_rows if weights is not None and len(weights) else 0)
    array("order", order, INT, ANY, n_rows)
    array("cursor", cursor, INT, CURSOR_SIZE, written=True)
    array("record", record, DOUBLE, ANY, RECORD_SIZE, written=True)
    solver, drops = numbers(rule)
    array("state", state, dtype, MOMENTS[solver], params.size, written=True)
    if not 1 <= batch_size <= n_rows:
        refuse("batch_size", f"from 1 to {n_rows}", batch_size)
    batch = n_rows, batch_size, len(arrays) == 3 and X is not arrays[0], drops, marked
    if getattr(work, "batches", None) != batch:
        batches(layers, work, *batch)
        remember(work, "batches", batch)
    epoch, row, _, first, block, _ = cursor.tolist()
    block_rows = plan[BLOCK_ROWS]
    per_epoch = n_rows // batch_size * -(-batch_size // block_rows) + -(-(n_rows % batch_size) // block_rows)
    if not (epoch >= 0 and 0 <= first <= row < n_rows and 0 <= block < per_epoch):
        refuse("cursor", f"within {n_rows} rows and {per_epoch} blocks", cursor)
    if blocks < 0:
        refuse("blocks", ">= 0", blocks)
    epochs = -(-(block + blocks) // per_epoch)
    if epoch + epochs > len(record):
        refuse("record", f"of {epoch + epochs} epochs", len(record))
    if order.size:
        if epochs > len(order):
            refuse("order", f"of {epochs} epochs", len(order))
        if order.min() < 0 or order.max() >= n_rows:
            refuse("order", f"of rows from 0 to {n_rows - 1}", f"{order.min()} to {order.max()}")
    return arrays


def prediction(layers, params, X, out, rule, work):
    """The arrays of X, for a call of `fastbp.kernels.forward`, as `training`."""
    network(layers, params, work)
    kernel = int(work[1][KERNEL])
    if kernel == ONLINE:
        refuse("work", "of a kernel that predicts", "the online one's")
    arrays, n_rows = inputs(X, params.dtype, int(layers[0, N_IN]), kernel)
    array("out", out, params.dtype, n_rows, int(layers[-1, N_OUT]), written=True)
    numbers(rule)
    return arrays


def inputs(X, dtype, n_in, kernel):
    """The arrays of X as a kernel takes them, and its number of rows."""
    if isinstance(X, np.ndarray):
        array("X", X, dtype, ANY, n_in)
        return (X, None, None), len(X)
    if getattr(X, "format", None) != "csr":
        refuse("X", "an array or a CSR matrix", type(X).__name__)
    if kernel != WIDE:
        refuse("X", "dense for this kernel", "a CSR matrix")
    (n_rows, n_columns), data, indices, starts = X.shape, X.data, X.indices, X.indptr
    if n_columns != n_in:
        refuse("X", f"of {n_in} columns", n_columns)
    array("X.data", data, dtype, ANY)
    array("X.indices", indices, indices.dtype if indices.dtype in INDICES else INT, len(data))
    array("X.indptr", starts, indices.dtype, n_rows + 1)
    if starts[0] != 0 or starts[-1] > len(data) or (starts[1:] < starts[:-1]).any():
        refuse("X.indptr", f"rising from 0 to at most {len(data)}", starts)
    used = indices[: starts[-1]]
    if used.size and (used.min() < 0 or used.max() >= n_in):
        refuse("X.indices", f"from 0 to {n_in - 1}", f"{used.min()} to {used.max()}")
    return (data, indices, starts), n_rows


def numbers(rule):
    """The solver's code, and whether units drop out."""
    array("rule", rule, DOUBLE, RULE_SIZE)
    found = rule.tolist()
    head, solver, drops = found[HEAD], found[SOLVER], found[DROPOUT]
    if head not in CODES_OF_HEADS:
        refuse("rule", f"of a head below {len(HEADS)}", head)
    if solver not in CODES_OF_SOLVERS:
        refuse("rule", f"of a solver below {len(MOMENTS)}", solver)
    if not 0 <= drops < 1:
        refuse("rule", "of a dropout in [0, 1)", drops)
    return int(solver), drops > 0


def network(layers, params, work):
    """Check the parameters and the arrays of the workspace by themselves, once for those that belong together."""
    if getattr(work, "network", work) is layers:
        array("params", params, work[0].dtype, int(work[1][SIZE]), written=True)
        return
    array("layers", layers, INT, ANY, FIELDS)
    require(len(layers) > 0, "layers", "at least one", 0)
    dtype = getattr(params, "dtype", None)
    array("params", params, dtype if dtype in FLOATS else DOUBLE, ANY, written=True)
    require(len(work) == 6, "work", "six arrays", len(work))
    array("work's plan", work[1], INT, PLAN_SIZE)
    plan = work[1].tolist()
    require(plan[SIZE] == params.size, "params", f"of {plan[SIZE]} elements, as the workspace", params.size)
    sound = plan[KERNEL] in (NARROW, WIDE, ONLINE) and plan[WIDTH] in VECTOR_BYTES and plan[BLOCK_ROWS] > 0
    require(sound and 1 <= plan[THREADS] <= MOST_THREADS, "work's plan", "one of a workspace", plan)
    lanes, n_before = ALIGNMENT_BYTES // params.itemsize, layers[0, N_IN]
    for n_in, n_rows, n_out, offset, stride, activation in layers.tolist():
        sound = (
            n_in == n_before > 0 and n_rows - n_in in (0, 1) and 0 < n_out <= stride and stride % lanes == 0
            and 0 <= offset <= params.size - n_rows * stride and 0 <= activation < len(ACTIVATIONS)
        )  # fmt: skip
        require(sound, "layers", f"layers of a network of {params.size} parameters", layers.tolist())
        n_before = n_out
    memory, _, places, table, totals, sync = work
    array("work's memory", memory, params.dtype, ANY, written=True)
    array("work's places", places, INT, len(layers), PLACES)
    array("work's table", table, INT, ANY, written=True)
    array("work's totals", totals, DOUBLE, ANY, written=True)
    array("work's sync", sync, INT, ANY, written=True)
    rooms(layers.tolist(), plan, places.tolist(), memory.size, lanes)
    least = (len(layers) + 1) * plan[BLOCK_ROWS] * (plan[KERNEL] == WIDE)
    require(table.size >= least, "work's table", f"of {least} numbers at least", table.size)
    belongs(work, layers)


def belongs(work, layers):
    """Remember of a workspace that it is right for a network's layers: it was made for them."""
    remember(work, "network", layers)


def remember(work, name, value):
    """What is known of a workspace; nothing of a plain tuple."""
    if hasattr(work, "__dict__"):
        setattr(work, name, value)


def rooms(layers, plan, places, size, lanes):
    """Check that what a kernel writes for each layer and each thread has room in the memory of the workspace."""
    kernel, rows, threads = plan[KERNEL], plan[BLOCK_ROWS], plan[THREADS]
    starts = sorted([*[at for place in places for at in place[:SEEN]], plan[GRAD], plan[ZEROS], size])
    for place, (_, _, n_out, _, stride, _) in zip(places, layers, strict=True):
        needed = (n_out + 1) * rows if kernel == NARROW else stride * rows
        for at, room in ((place[A], needed), (place[D], stride * rows), (place[SEEN], needed * (kernel != ONLINE))):
            end = starts[bisect.bisect_right(starts, at)] if 0 <= at < size else -1
            require(at + room <= end, "layers", "those that the workspace was made for", layers)
    widest, last = max(layer[STRIDE] for layer in layers), layers[-1][STRIDE]
    for at, room in {
        NARROW: (
            (PANEL, threads * plan[PANEL_SIZE]), (TRANSPOSED, widest * rows + (threads - 1) * plan[PRIVATE]),
            (PARTIALS, plan[N_PARTIALS] * plan[SIZE]), (ZEROS, ALIGNMENT_BYTES),
        ),
        WIDE: (
            (TARGETS, rows * last), (ROW_WEIGHTS, rows), (PACK, threads * plan[PACK_SIZE]),
            (PANELS, rows * (plan[PANEL_ROWS] + (SQUARE + jit.tile_shape()[0]) * threads)),
            (SUMS, 2 * rows // GROUP * lanes), (ZEROS, widest),
        ),
        ONLINE: ((TARGETS, last), (ZEROS, widest)),
    }[kernel] + ((GRAD, plan[SIZE]),):  # fmt: skip
        require(0 <= plan[at] <= size - room and room >= 0, "work's plan", f"of places within {size}", plan)


def batches(layers, work, n_rows, batch_size, sparse, drops, marked):
    """Check that a workspace has room for batches of this size."""
    memory, plan, places, table, totals, sync = work
    blocks, kernel = -(-batch_size // int(plan[BLOCK_ROWS])), plan[KERNEL]
    if kernel == NARROW:
        require(3 * blocks <= totals.size, "batch_size", f"at most {totals.size // 3} blocks of this workspace", batch_size)
        rest = -(-(n_rows % batch_size) // int(plan[BLOCK_ROWS]))
        panels = (n_rows // batch_size * blocks + rest) * plan[RESIDENT]
        room = plan[PANEL] + panels * plan[PANEL_SIZE] <= memory.size
        require(room, "X", "of no more rows than this workspace was made for", n_rows)
    elif kernel == WIDE:
        most, rows = max(layers[sparse:, N_IN], default=0), int(plan[BLOCK_ROWS])
        room = most <= plan[PANEL_ROWS] and (len(layers) + 1) * rows + most <= table.size
        require(room, "X", "sparse for this workspace", "a dense one")
    if drops:
        room = kernel != ONLINE and (places[:, SEEN] != places[:, A]).all()
        require(room, "rule", "without dropout for this workspace", "dropout")
    size = counters_size(int(plan[THREADS]), len(layers)) if marked else SYNC_SIZE
    require(size <= sync.size, "work's sync", f"of {size} numbers", sync.size)
