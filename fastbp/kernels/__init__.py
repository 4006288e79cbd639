"""The compiled kernels and how they are called."""

import threading

import numpy as np

from fastbp.kernels.jit import PLAIN_PYTHON, Kernel
from fastbp.layout import (
    BLOCK_ROWS,
    CURSOR_SIZE,
    GRAD,
    HITS,
    KERNEL,
    LOSS,
    NARROW,
    PENALTY,
    RECORD_SIZE,
    SIZE,
    SQUARES,
    THREADS,
    WIDTH,
)
from fastbp.rule import BY_ROWS, DROPOUT, SOLVER

_WORK = " T* int* int* int* double* int* int int"
_TRAIN = "int* int T* T* {} T* T* int int int* int int double* int int* double*" + _WORK
_FORWARD = "int* int T* {} int T* double*" + _WORK
# by layout.NARROW and WIDE, with what they take for X
TRAIN = Kernel("narrow", "train", _TRAIN.format("T*")), Kernel("wide", "train", _TRAIN.format("T* I* I*"))
MARKED = tuple(kernel.with_marks() for kernel in TRAIN)  # that count the time of their phases
FORWARD = Kernel("narrow", "forward", _FORWARD.format("T*")), Kernel("wide", "forward", _FORWARD.format("T* I* I*"))
# Memory of counters, where they begin there, and a number of marks.
count_marks = Kernel("phases", "count_marks", "T* int int", marked=True)

# Operations of a call for loss and gradient: 50 ms where a core manages 10 GFLOP/s.
LOSS_GRAD_FLOPS = 5e8


def train(layers, params, state, X, Y, weights, order, batch_size, rule, blocks, cursor, record, work, marked=False):
    """As `fastbp.reference.train`; `work` says which kernel, and how many threads.

    Where `marked`, its last array has room for the counters of `fastbp.layout`.
    """
    together(MARKED if marked else TRAIN, work, layers, len(layers), params, state, *pointers(X, work), Y,
             weights, weights.size > 0, X.shape[0], order, order.size > 0, batch_size, rule, blocks, cursor,
             record)  # fmt: skip


def forward(layers, params, X, out, rule, work):
    """As `fastbp.reference.forward`; `work` says which kernel, and how many threads."""
    together(FORWARD, work, layers, len(layers), params, *pointers(X, work), X.shape[0], out, rule)


def loss_grad(layers, params, X, Y, weights, rule, grad, work):
    """As `fastbp.reference.loss_grad` for a workspace whose batch is all rows."""
    rule = rule.copy()
    rule[SOLVER] = rule[DROPOUT] = rule[BY_ROWS] = 0
    memory, plan = work[:2]
    cursor, record = np.zeros(CURSOR_SIZE, np.int64), np.zeros((1, RECORD_SIZE))
    blocks = -(-X.shape[0] // int(plan[BLOCK_ROWS]))
    a_time = max(1, int(LOSS_GRAD_FLOPS / (6 * params.size * plan[BLOCK_ROWS])))
    for first in range(0, blocks, a_time):  # so that a keyboard interrupt does not wait for all of them
        train(layers, params, np.empty((0, params.size), params.dtype), X, Y, weights, np.empty((0, X.shape[0]), np.int64),
              X.shape[0], rule, min(a_time, blocks - first), cursor, record, work)  # fmt: skip
    grad[...] = memory[plan[GRAD] : plan[GRAD] + plan[SIZE]]
    squares, loss, right, penalty = record[0, [SQUARES, LOSS, HITS, PENALTY]]
    return float(squares), float(loss), int(right), float(penalty)


def pointers(X, work):
    """X as the kernel of the workspace takes it; the wide one also takes where listed values stand."""
    if isinstance(X, np.ndarray):
        return (X,) if work[1][KERNEL] == NARROW else (X, X, X)
    return X.data, X.indices, X.indptr


def together(kernels, work, *args):
    """Call a kernel once in each thread of the workspace; they wait for each other, so all of them start or none does."""
    plan = work[1]
    kernel, size, width = kernels[plan[KERNEL]], int(plan[THREADS]), int(plan[WIDTH])
    if not PLAIN_PYTHON:
        work = getattr(work, "addresses", work)
    if size == 1 or PLAIN_PYTHON:
        kernel(*args, *work, 0, 1, width=width)
        return
    kernel.prepare(args, width)  # so that nothing can fail in a thread that others wait for
    ranks, go = 0, threading.Event()

    def run(rank):
        go.wait()
        if rank < ranks:
            kernel(*args, *work, rank, ranks, width=width)

    threads = []
    try:
        for rank in range(size):
            thread = threading.Thread(target=run, args=(rank,), daemon=True)
            thread.start()
            threads.append(thread)
        ranks = size
    except RuntimeError:  # no more threads: those there are do all the work
        ranks = len(threads)
    finally:
        go.set()
        interrupt = wait_for(threads)
    if ranks == 0:
        kernel(*args, *work, 0, 1, width=width)
    if interrupt:
        raise interrupt


def wait_for(threads):
    """Join all threads; a keyboard interrupt meanwhile is returned instead of raised."""
    interrupt = None
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt as error:
                interrupt = error
    return interrupt
