"""The gate: where arrays become pointers, they are what the kernels rely on, or an error names the one that is not.

A kernel reads and writes wherever the numbers it is given lead. All of them are checked here in every call, against the very
arrays that it gets, but for a workspace: that is checked once for a network and its batches.
"""

import bisect

import numpy as np

from fastbp import layout
from fastbp.kernels import jit
from fastbp.layout import CURSOR, KERNELS, LAYER, PLACE, PLAN, RECORD, SETTINGS
from fastbp.rule import ACTIVATIONS, HEADS, MOMENTS, RULE

INT, DOUBLE = np.dtype(np.int64), np.dtype(np.float64)
FLOATS = np.dtype(np.float32), DOUBLE
INDICES = np.dtype(np.int32), INT
VECTOR_BYTES = 16, 32, 64
CODES_OF_HEADS, CODES_OF_SOLVERS = set(range(len(HEADS))), set(range(len(MOMENTS)))
ANY = -1  # a length that nothing is known of
INPUT_EXTRA = 2  # rows of a panel beside inputs and targets: class, sample weight


class Arrays(tuple):
    """The kernels' `work` arrays, with facts about them that take longer to find out than a small prediction.

    The memory, the plan and the places (see `fastbp.layout`), the wide kernel's table of row offsets, the narrow kernel's
    losses by block, and what threads tell each other.
    """

    layers = batches = None  # that it is right for

    def belong(self, layers, *own):
        """Remember that it is right for a network's layers.

        Its own arrays, params, state, cursor and rule, were made with it and are sound, whatever stands in them. Where there
        are none, objects that nobody has are in their places.
        """
        self.plan, self.ends = PLAN._make(self[1].tolist()), (int(layers[0, LAYER.n_in]), int(layers[-1, LAYER.n_out]))
        self.params, self.state, self.cursor, self.rule = own or [object()] * 4
        # of arrays that stay as long as this does, so that no other can have their identities
        self.addresses = {} if jit.PLAIN_PYTHON else {id(one): jit.address_of(one) for one in (layers, *own, *self)}
        self.all_packed = tuple(map(self.packed, self))
        self.layers, self.batches = layers, None

    def packed(self, array):
        """The address of an array that is known here, which takes long to find out; else the array itself."""
        return self.addresses.get(id(array), array)


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
    """The workspace and the arrays of X, for a call of `fastbp.kernels.train`; a ValueError names what is not sound."""
    work = network(layers, params, work)
    dtype, (n_in, n_out) = params.dtype, work.ends
    arrays, n_rows = inputs(X, dtype, n_in, work.plan.kernel)
    array("Y", Y, dtype, n_rows, n_out)
    array("weights", weights, dtype, n_rows if weights is not None and len(weights) else 0)
    array("order", order, INT, ANY, n_rows)
    if cursor is not work.cursor:
        array("cursor", cursor, INT, len(CURSOR), written=True)
    array("record", record, DOUBLE, ANY, len(RECORD), written=True)
    solver, drops = numbers(rule, work.rule)
    if state is not work.state or len(state) != MOMENTS[solver]:
        array("state", state, dtype, MOMENTS[solver], params.size, written=True)
    if not 1 <= batch_size <= n_rows:
        refuse("batch_size", f"from 1 to {n_rows}", batch_size)
    kind = n_rows, batch_size, X is not arrays[0], drops, marked
    if work.batches != kind:
        batches(layers, work, *kind)
        work.batches = kind
    epoch, row, _, first, block, _ = cursor.tolist()
    per_epoch = blocks_per_epoch(n_rows, batch_size, work.plan.block_rows)
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
    return work, arrays


def many(layers, params, state, X, Y, order, weights, batch_size, rule, settings, seeds, rates, begun, epochs, record, done):
    """Check the arguments of `fastbp.kernels.train_many`; a ValueError names what is not sound."""
    array("layers", layers, INT, ANY, len(LAYER))
    require(len(layers) > 0, "layers", "at least one", 0)
    dtype = getattr(params, "dtype", None)
    require(dtype in FLOATS and params.ndim == 3, "params", "three-dimensional, of floats", described(params))
    groups, n_params, lanes = params.shape
    array("params", params, dtype, groups, n_params, lanes, written=True)
    require(lanes * params.itemsize in VECTOR_BYTES, "params", "of as many lanes as a vector", lanes)
    rows, at = list(map(LAYER._make, layers.tolist())), 0
    for n_before, row in zip([rows[0].n_in, *(row.n_out for row in rows)], rows, strict=False):
        sound = row.n_in == n_before > 0 and row.n_rows - row.n_in in (0, 1) and row.n_out > 0
        sound = sound and row.offset == at and 0 <= row.activation < len(ACTIVATIONS)
        require(sound, "layers", "layers of a network, one behind the other", layers.tolist())
        at += row.n_rows * row.n_out
    require(at == n_params, "params", f"of {at} numbers for each network", n_params)
    solver, _ = numbers(rule)
    array("state", state, dtype, groups, MOMENTS[solver], n_params, lanes, written=True)
    n_rows, own = X.shape[1], X.shape[-1] > 1
    for name, value, columns in (("X", X, rows[0].n_in), ("Y", Y, rows[-1].n_out)):
        array(name, value, dtype, groups if own else 1, n_rows, columns, lanes if own else 1)
    array("order", order, INT, groups if len(order) else 0, epochs, n_rows, lanes)
    if order.size and (order.min() < 0 or order.max() >= n_rows):
        refuse("order", f"of rows from 0 to {n_rows - 1}", f"{order.min()} to {order.max()}")
    array("weights", weights, dtype, n_rows if len(weights) else 0)
    require(not (len(weights) and len(order)), "weights", "none where each network has an order", len(weights))
    require(1 <= batch_size <= n_rows, "batch_size", f"from 1 to {n_rows}", batch_size)
    array("settings", settings, dtype, groups, len(SETTINGS), lanes)
    array("seeds", seeds, INT, groups, lanes)
    array("rates", rates, DOUBLE, epochs * -(-n_rows // batch_size))
    require(begun >= 0 and epochs >= 0, "epochs", ">= 0", (begun, epochs))
    require(done >= 0 and record.shape[2] >= done + epochs, "record", f"of {done + epochs} epochs or more", record.shape)
    array("record", record, DOUBLE, groups, len(RECORD), record.shape[2], lanes, written=True)


def prediction(layers, params, X, out, rule, work):
    """The same for a call of `fastbp.kernels.forward`."""
    work = network(layers, params, work)
    if work.plan.kernel == KERNELS.online:
        refuse("work", "of a kernel that predicts", "the online one's")
    arrays, n_rows = inputs(X, params.dtype, work.ends[0], work.plan.kernel)
    array("out", out, params.dtype, n_rows, work.ends[1], written=True)
    numbers(rule)
    return work, arrays


def inputs(X, dtype, n_in, kernel):
    """The arrays of X as a kernel takes them, and its number of rows."""
    if isinstance(X, np.ndarray):
        array("X", X, dtype, ANY, n_in)
        return (X, None, None), len(X)
    if getattr(X, "format", None) != "csr":
        refuse("X", "an array or a CSR matrix", type(X).__name__)
    if kernel != KERNELS.wide:
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


def numbers(rule, own=None):
    """The solver's code, and whether units drop out, by a rule that is checked unless it is a workspace's own."""
    if rule is None or rule is not own:
        array("rule", rule, DOUBLE, len(RULE))
    found = rule.tolist()
    head, solver, drops = found[RULE.head], found[RULE.solver], found[RULE.dropout]
    if head not in CODES_OF_HEADS:
        refuse("rule", f"of a head below {len(HEADS)}", head)
    if solver not in CODES_OF_SOLVERS:
        refuse("rule", f"of a solver below {len(MOMENTS)}", solver)
    if not 0 <= drops < 1:
        refuse("rule", "of a dropout in [0, 1)", drops)
    return int(solver), drops > 0


def network(layers, params, work):
    """The workspace as `Arrays`, which is checked with the parameters, once for layers that it belongs to."""
    work = work if isinstance(work, Arrays) else Arrays(work)
    if work.layers is layers:
        if params is not work.params:
            array("params", params, work[0].dtype, work.plan.size, written=True)
        return work
    array("layers", layers, INT, ANY, len(LAYER))
    require(len(layers) > 0, "layers", "at least one", 0)
    dtype = getattr(params, "dtype", None)
    array("params", params, dtype if dtype in FLOATS else DOUBLE, ANY, written=True)
    require(len(work) == 6, "work", "six arrays", len(work))
    memory, plan, places, table, totals, sync = work
    array("work's plan", plan, INT, len(PLAN))
    numbers = plan.tolist()
    plan = PLAN._make(numbers)
    require(plan.size == params.size, "params", f"of {plan.size} elements, as the workspace", params.size)
    sound = plan.kernel in KERNELS and plan.width in VECTOR_BYTES and plan.block_rows > 0 <= min(plan)
    if sound and plan.kernel == KERNELS.wide:
        sound = plan.depth > 0 and plan.pack_size >= pack_size(plan.width, params.itemsize, plan.block_rows)
    require(sound and 1 <= plan.threads <= layout.MOST_THREADS, "work's plan", "one of a workspace", numbers)
    lanes, n_before, rows = layout.ALIGNMENT_BYTES // params.itemsize, layers[0, LAYER.n_in], layers.tolist()
    for n_in, n_rows, n_out, offset, stride, activation in rows:
        sound = (
            n_in == n_before > 0 and n_rows - n_in in (0, 1) and 0 < n_out <= stride and stride % lanes == 0
            and 0 <= offset <= params.size - n_rows * stride and 0 <= activation < len(ACTIVATIONS)
        )  # fmt: skip
        require(sound, "layers", f"layers of a network of {params.size} parameters", rows)
        n_before = n_out
    array("work's places", places, INT, len(layers), len(PLACE))
    written = {"memory": (memory, params.dtype), "table": (table, INT), "totals": (totals, DOUBLE), "sync": (sync, INT)}
    for name, (value, kind) in written.items():
        array(f"work's {name}", value, kind, ANY, written=True)
    named = [LAYER._make(row) for row in rows]
    parts = [
        (at, room, "layers", "those that the workspace was made for", rows)
        for place, layer in zip(places.tolist(), named, strict=True)
        for at, room in zip(place, rooms_of_layer(plan, layer), strict=True) if room
    ] + [
        (getattr(plan, name), room, "work's plan", f"of places within {memory.size}", numbers)
        for name, room in rooms(plan, named, lanes).items()
    ]  # fmt: skip
    starts = sorted([*[at for at, *_ in parts], memory.size])
    for at, room, *words in parts:
        require(0 <= at < memory.size and at + room <= starts[bisect.bisect_right(starts, at)], *words)
    if plan.kernel == KERNELS.narrow:
        whole = plan.block_rows % (plan.width // params.itemsize) == 0
        sound = whole and plan.n_partials > 0 and plan.panel_size >= panel_rows(named) * plan.block_rows
        if plan.direct:
            few = named[0].n_out <= layout.DIRECT_UNITS and named[0].n_in >= lanes and plan.width == jit.native_width()
            sound = sound and few and plan.direct == direct_elements(named[0].n_in, lanes)
        require(sound, *parts[0][2:])
    least = (len(layers) + 2) * plan.block_rows * (plan.kernel == KERNELS.wide)
    require(table.size >= least, "work's table", f"of {least} numbers at least", table.size)
    work.belong(layers)
    return work


def direct_elements(n_in, lanes):
    """Elements of `columns` for each unit, whose last vector the inputs do not fill; `lanes` are those of 64 bytes."""
    return (n_in // lanes + 1) * lanes


def panel_rows(layers):
    """Rows of a panel."""
    return layers[0].n_in + INPUT_EXTRA + layers[-1].n_out


def rooms_of_layer(plan, layer):
    """Elements at a layer's places, 0 at those that the kernel has not."""
    units = layer.stride * plan.block_rows
    seen, valid = units * (plan.kernel != KERNELS.online), layer.stride * (plan.kernel != KERNELS.narrow)
    return PLACE._make((units, units, seen, valid))


def rooms(plan, layers, lanes):
    """Elements at the places of a plan, by name; `lanes` are those of 64 bytes."""
    rows, threads = plan.block_rows, plan.threads
    widest, last = max(layer.stride for layer in layers), layers[-1].stride
    return {
        KERNELS.narrow: {
            "transposed": widest * rows + (threads - 1) * plan.private,
            "panel": (plan.resident or threads) * plan.panel_size,
            "zeros": layout.ALIGNMENT_BYTES,
            "columns": 2 * threads * plan.direct * layers[0].n_out,
        },
        KERNELS.wide: {
            "targets": rows * last,
            "zeros": widest,
            "row_weights": rows,
            "pack": threads * plan.pack_size,
            # a thread may have a square more than its part, and begin a panel that it does not fill
            "panels": rows * (plan.panel_rows + (layout.SQUARE + jit.tile_shape()[0]) * threads),
            "sums": 2 * rows // layout.GROUP * lanes,
        },
        KERNELS.online: {"targets": last, "zeros": widest},
    }[plan.kernel] | {"grad": plan.size * max(1, plan.n_partials)}


def pack_size(width, itemsize, block_rows):
    """Elements of the room in which a thread of the wide kernel copies factors together, or adds up without zeros."""
    height, cols = jit.tile_shape()
    factors, sums = (layout.PACKED_DEPTH + height) * cols * width, layout.SQUARE * layout.WIDEST * width
    bits = layout.GROUPS * layout.SQUARE * -(-block_rows // layout.SAMPLES) * itemsize
    return -(-max(factors, sums + bits) // layout.ALIGNMENT_BYTES) * layout.ALIGNMENT_BYTES // itemsize


def blocks_per_epoch(n_rows, batch_size, block_rows):
    """Blocks of all batches, of which each begins one."""
    return n_rows // batch_size * -(-batch_size // block_rows) + -(-(n_rows % batch_size) // block_rows)


def batches(layers, work, n_rows, batch_size, sparse, drops, marked):
    """Check that a workspace has room for batches of this size."""
    (_, _, places, table, totals, sync), plan = work, work.plan
    if plan.kernel == KERNELS.narrow:
        room = 3 * -(-batch_size // plan.block_rows) <= totals.size
        require(room, "batch_size", f"at most {totals.size // 3} blocks of this workspace", batch_size)
        room = not plan.resident or blocks_per_epoch(n_rows, batch_size, plan.block_rows) <= plan.resident
        require(room, "X", "of no more rows than this workspace was made for", n_rows)
    elif plan.kernel == KERNELS.wide:
        most = max(layers[sparse:, LAYER.n_in], default=0)
        room = most <= plan.panel_rows and (len(layers) + 2) * plan.block_rows + most <= table.size
        require(room, "X", "sparse for this workspace", "a dense one")
    if drops:
        room = plan.kernel != KERNELS.online and (places[:, PLACE.seen] != places[:, PLACE.a]).all()
        require(room, "rule", "without dropout for this workspace", "dropout")
    size = layout.counters_of(plan.threads, len(layers)) if marked else layout.SYNC_SIZE
    require(size <= sync.size, "work's sync", f"of {size} numbers", sync.size)
