"""The compiled kernels: what a step is, how it is fused, and how kernels are called.

One optimiser step of a network with one hidden layer. Every box is an array in the workspace, every arrow a product of two
matrices that runs as register tiles, and what stands at its end happens to a tile while it is still in registers or in the
L1 cache::

    rows of X, read where            W_1, b_1                      W_2, b_2
    they stand, in any order             |                             |
       +-----+                           v         +-----+             v         +-----+
       | A_0 |--------------- A_0 W_1 + b_1, s --->| A_1 |------ A_1 W_2 + b_2 ->| Z_2 |
       +-----+                                     +-----+                       +-----+
          |                                           |                             | head: A_2, loss and
          |                                           |                             v D_2 in one pass
          |           +-----+                         |                          +-----+
          |           | D_1 |<---- D_2 W_2^T, * s' ---+--------------------------| D_2 |
          |           +-----+                         |                          +-----+
          |              |                            |                             |
          +-- A_0^T D_1 -+                            +--------- A_1^T D_2 ---------+
                  |                                                  |
                  v                                                  v
        W_1 += solver's step                               W_2 += solver's step

so that in the wide and the online kernel a gradient never goes to memory where one block of rows is the whole batch, and
nothing is computed that is not needed: the first layer has no D_0. A batch of more rows than fit the caches is cut into
blocks, whose gradients are added up before the solver sees them. A call runs as many steps, and epochs, as it is told; it
never allocates, checks or raises. What it relies on is checked before, in `gate`.

`narrow` fills the vectors with samples, for layers too narrow to fill them with units; `wide` fills them with units. Both
compute the equations of `fastbp.reference`, whose functions have the same arguments. All code is written in the words of
`numbers`, `vectors`, `tiles` and `control`, which mean LLVM when compiled and numpy arrays when run as plain Python.
"""

import ctypes
import os

import numpy as np

from fastbp.kernels import gate, pool
from fastbp.kernels.jit import PLAIN_PYTHON, Kernel
from fastbp.layout import CURSOR, KERNELS, LAYER, PLACE, PLAN, RECORD, ROWS_AT_ONCE, SETTINGS, aligned_zeros
from fastbp.rule import RULE

# What a job has: first X, whose types are the call's, and the network, then what a call is about, in the end the arrays of a
# workspace. A dense X has no `indices` and `starts`.
_NETWORK = "X:T* indices:I* starts:I* layers:int* n_layers params:T* "
_WORK = " memory:T* plan:int* places:int* table:int* totals:double* sync:int*"
_TRAIN = (
    _NETWORK + "state:T* Y:T* weights:T* weighted n order:int* shuffled batch_size rule:double* blocks cursor:int* "
    "record:double*" + _WORK
)
_FORWARD = _NETWORK + "n out:T* rule:double*" + _WORK
TRAIN = tuple(Kernel(module, "train", _TRAIN) for module in KERNELS._fields)
MARKED = tuple(kernel.with_marks() for kernel in TRAIN)  # that count the time of their phases
FORWARD = tuple(Kernel(module, "forward", _FORWARD) for module in ("narrow", "wide"))
# Of many networks side by side, in batches of one row and larger ones. Those of a call have `own` rows, or share them.
_MANY = (
    "layers:int* places:int* n_layers n_params groups params:T* moments state:T* X:T* Y:T* own n order:int* shuffled "
    "weights:T* weighted batch_size rule:double* settings:T* seeds:int* decays clips rates:double* begun epochs done "
    "room_epochs record:double* taken:int* sums:double* memory:T* room grad x y classes weighing"
)
MANY = tuple(Kernel("many", name, _MANY) for name in ("train_by_row", "train_by_rows"))
# The order of n rows, some orders to come, the first mask, and addresses of a bit generator's function and state.
SHUFFLE = Kernel("orders", "shuffle", "order:int* orders:int* count n mask next state")
# Memory of counters, where they begin there, and a number of marks.
count_marks = Kernel("phases", "count_marks", "sync:int* counters number", marked=True)
# Loops that only measure: chains of multiplications and additions, reading an array, a pointwise function.
SPIN = Kernel("ceilings", "multiply_add", "memory:T* terms")
READ = Kernel("ceilings", "read", "x:T* groups out:T* times")
APPLY = Kernel("pointwise", "apply", "code x:T* n out:T* times")

MOST_SHUFFLED = 2**32  # rows that a word of 32 bits tells apart; numpy takes longer ones for more
FEW_SHUFFLED = 1000  # rows, of all orders of a call, which numpy shuffles in the time that a call of the kernel takes
# Operations of a call for loss and gradient: 50 ms where a core manages 10 GFLOP/s.
LOSS_GRAD_FLOPS = 5e8


def train(layers, params, state, X, Y, weights, order, batch_size, rule, blocks, cursor, record, work, marked=False):
    """As `fastbp.reference.train`; `work` says which kernel, and how many threads.

    Where `marked`, its last array has room for the counters of `fastbp.layout`. An exception that a signal's handler raises
    meanwhile is raised after the call.
    """
    work, arrays = gate.training(
        layers, params, state, X, Y, weights, order, batch_size, rule, blocks, cursor, record, work, marked
    )
    call_in_threads(MARKED if marked else TRAIN, work, arrays, layers, params, work.packed(state), Y,
             weights, weights.size > 0, X.shape[0], order, order.size > 0, batch_size, work.packed(rule), blocks,
             work.packed(cursor), record)  # fmt: skip


def forward(layers, params, X, out, rule, work):
    """As `fastbp.reference.forward`; `work` says which kernel, and how many threads."""
    work, arrays = gate.prediction(layers, params, X, out, rule, work)
    call_in_threads(FORWARD, work, arrays, layers, params, X.shape[0], out, rule)


def loss_grad(layers, params, X, Y, weights, rule, grad, work):
    """As `fastbp.reference.loss_grad` for a workspace whose batch is all rows."""
    if weights.size and not weights.any():  # no step is taken, and the gradient of an earlier one is still there
        grad[...] = 0
        return 0.0, 0.0, 0, 0.0
    rule = rule.copy()
    rule[RULE.solver] = rule[RULE.dropout] = rule[RULE.by_rows] = 0
    plan = PLAN._make(work[1].tolist())
    cursor, record = np.zeros(len(CURSOR), np.int64), np.zeros((1, len(RECORD)))
    blocks = -(-X.shape[0] // plan.block_rows)
    a_time = max(1, int(LOSS_GRAD_FLOPS / (6 * params.size * plan.block_rows)))
    for first in range(0, blocks, a_time):  # so that a keyboard interrupt does not wait for all of them
        train(layers, params, np.empty((0, params.size), params.dtype), X, Y, weights, np.empty((0, X.shape[0]), np.int64),
              X.shape[0], rule, min(a_time, blocks - first), cursor, record, work)  # fmt: skip
    grad[...] = work[0][plan.grad : plan.grad + plan.size]
    record = RECORD._make(record[0].tolist())
    return record.squares, record.loss, int(record.hits), record.penalty


def train_many(layers, params, state, X, Y, order, weights, batch_size, rule, settings, seeds, rates, begun, epochs, record,
               done=0, threads=1):  # fmt: skip
    """Train many networks of the same units for whole epochs: what `train` does for each, with a network in each lane.

    layers : (n_layers, len(LAYER)) int64; as of `train`, but that offsets count the numbers of one network, of which each
        layer has n_rows * n_out; strides only tell dropout's masks apart.
    params : INOUT (groups, n_params, lanes); state : INOUT (groups, moments, n_params, lanes).
    X, Y : (1, n, n_in, 1) and (1, n, n_out, 1) for all, or (groups, n, n_in, lanes) and (groups, n, n_out, lanes).
    order : (groups, epochs, n, lanes) int64; the rows as each network visits them, or with no group as they stand.
    weights : (n,) for all, or with no element where all are 1.
    rule : as of `train`, but for what differs between networks.
    settings : (groups, len(SETTINGS), lanes); seeds : (groups, lanes) int64, of dropout.
    rates : (steps,) float64; what "adam" multiplies the learning rate with in each step of the call.
    begun : steps that every network has taken before.
    record : INOUT (groups, len(RECORD), epochs or more, lanes) float64; of the epochs from `done` on.
    """
    gate.many(
        layers, params, state, X, Y, order, weights, batch_size, rule, settings, seeds, rates, begun, epochs, record, done
    )
    groups, n_params, lanes = params.shape
    threads, n_rows, own, block = min(threads, groups), X.shape[1], X.shape[-1] > 1, ROWS_AT_ONCE * lanes
    places, size = [], 0
    for layer in layers.tolist():
        n_out = LAYER._make(layer).n_out
        places.append(PLACE._make((size, size + n_out * block, size + 2 * n_out * block, 0)))
        size += 3 * n_out * block
    rooms = {"grad": n_params * lanes, "x": X.shape[2] * block, "y": Y.shape[2] * block, "classes": block, "weighing": block}
    starts = (size + np.cumsum([0, *rooms.values()])).tolist()
    memory = aligned_zeros(threads * starts[-1], params.dtype)
    alpha, max_norm = settings[:, SETTINGS.alpha], settings[:, SETTINGS.max_norm]
    args = (
        layers, np.array(places), len(layers), n_params, groups, params, state.shape[1], state, X, Y, own, n_rows, order,
        len(order) > 0, weights, len(weights) > 0, batch_size, rule, settings, seeds, bool(alpha.any()),
        bool((max_norm < np.inf).any()), rates, begun, epochs, done, record.shape[2], record,
        np.zeros(1, np.int64), np.zeros((threads, len(RECORD), lanes)), memory, starts[-1], *starts[:-1],
    )  # fmt: skip
    call(MANY[batch_size > 1], args, threads, lanes * params.itemsize)


def shuffle(order, count, random_state):
    """Shuffle the rows' order, in place, `count` times; returns every order that comes of it, (count, n).

    The orders, and what the RandomState is then, are those of as many calls of its `shuffle`.
    """
    gate.array("order", order, gate.INT, gate.ANY, written=True)
    n = len(order)
    orders, mask = np.empty((count, n), np.int64), (1 << (n - 1).bit_length()) - 1
    own = type(random_state).shuffle is not np.random.RandomState.shuffle
    if own or n * count < FEW_SHUFFLED or n > MOST_SHUFFLED:
        for one in orders:
            random_state.shuffle(order)
            one[:] = order
        return orders
    source = random_state._bit_generator
    function = ctypes.cast(source.ctypes.next_uint32, ctypes.c_void_p).value
    shuffling.append(source.lock)
    try:
        with source.lock:
            SHUFFLE(order, orders, count, n, mask, function, source.ctypes.state_address)
    finally:
        shuffling.remove(source.lock)
    return orders


shuffling: list = []  # locks of the bit generators that threads draw from at present


def free_generators():
    """In a new process, let go of what other threads have held: they are not there any more."""
    for lock in shuffling:
        lock._at_fork_reinit()
    shuffling.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=free_generators)


def call_in_threads(kernels, work, arrays, layers, params, *args):
    """Call a kernel once in each thread of the workspace."""
    plan, network = work.plan, (work.packed(layers), len(layers), work.packed(params))
    call(kernels[plan.kernel], (*arrays, *network, *args, *work.all_packed), plan.threads, plan.width)


def call(kernel, args, size, width):
    """Call a kernel once in each of some threads, or of as many as can be had, which wait for each other."""
    if size > 1 and not PLAIN_PYTHON:
        pool.run(kernel.prepare(args, width), kernel.packed(*args), size)
    else:
        kernel(*args, width=width)
