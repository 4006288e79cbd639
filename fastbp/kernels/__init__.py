"""The compiled kernels and how they are called."""

from fastbp.kernels.jit import Kernel
from fastbp.layout import WIDTH

_train = Kernel("narrow", "train", "int* int T* T* T* int int* int int double int int int* double* double* T* int* int*")
_forward = Kernel("narrow", "forward", "int* int T* T* int T* T* int* int*")


def train(layers, params, X, Y, order, batch_size, learning_rate, mean, blocks, cursor, sse, correct, work):
    """As `fastbp.reference.train`."""
    _train(layers, len(layers), params, X, Y, len(X), order, order.size > 0, batch_size, learning_rate, mean, blocks,
           cursor, sse, correct, *work, width=int(work[1][WIDTH]))  # fmt: skip


def forward(layers, params, X, out, work):
    """As `fastbp.reference.forward`."""
    _forward(layers, len(layers), params, X, len(X), out, *work, width=int(work[1][WIDTH]))
