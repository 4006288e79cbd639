"""The compiled kernels and how they are called."""

from fastbp.kernels.jit import Kernel
from fastbp.layout import WIDTH

_TRAIN = "int* int T* T* T* int int* int int double int int int* double* double* T* int* int*"
_FORWARD = "int* int T* T* int T* T* int* int*"
_train, _forward = Kernel("narrow", "train", _TRAIN), Kernel("narrow", "forward", _FORWARD)
_train_wide, _forward_wide = Kernel("wide", "train", _TRAIN + " int*"), Kernel("wide", "forward", _FORWARD + " int*")


def train(layers, params, X, Y, order, batch_size, learning_rate, mean, blocks, cursor, sse, correct, work):
    """As `fastbp.reference.train`; `work` says which kernel."""
    kernel, width = (_train, int(work[1][WIDTH])) if len(work) == 3 else (_train_wide, 64)
    kernel(layers, len(layers), params, X, Y, len(X), order, order.size > 0, batch_size, learning_rate, mean, blocks,
           cursor, sse, correct, *work, width=width)  # fmt: skip


def forward(layers, params, X, out, work):
    """As `fastbp.reference.forward`; `work` says which kernel."""
    kernel, width = (_forward, int(work[1][WIDTH])) if len(work) == 3 else (_forward_wide, 64)
    kernel(layers, len(layers), params, X, len(X), out, *work, width=width)
