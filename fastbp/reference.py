"""The specification: what the kernels must compute, in plain numpy.

Rows of a batch are b, units of layer l-1 are i, units of layer l are j; A_0 = X.

    (1)  Z_l = A_{l-1} W_l + b_l                       pre-activations, (B, n_out)
    (2)  A_l = s(Z_l),  s(z) = 1 / (1 + exp(-z))       activations
    (3)  loss = c/2 sum (A_L - Y)**2                   c = 1 ("sum") or 1 / (B n_out) ("mean")
    (4)  D_L = c (A_L - Y) * A_L * (1 - A_L)           d loss / d Z_L
    (5)  D_{l-1} = (D_l W_l^T) * A_{l-1} * (1 - A_{l-1})
    (6)  dW_l = A_{l-1}^T D_l,  db_l = sum_b D_l
    (7)  W_l -= learning_rate dW_l,  b_l -= learning_rate db_l, every D taken before any update

(4) to (7) are the delta rule of Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors",
Nature 323, 1986. `forward` and `train` take the same arguments here and in `fastbp.kernels`.

Arguments, named alike everywhere: `layers` describes `params` (see `fastbp.layout`); `X` (n, n_in) and `Y` (n, n_out) are
C-contiguous and of the dtype of `params`; `work` is scratch space, unused here.
"""

import numpy as np


def logistic(z):
    """Equation (2), without overflow for any z."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)


def parameters(layers, params):
    """Views of every W_l and b_l (None without biases) in the flat buffer."""
    for n_in, n_rows, n_out, offset, stride in layers:
        block = params[offset : offset + n_rows * stride].reshape(n_rows, stride)[:, :n_out]
        yield block[:n_in], (block[n_in] if n_rows > n_in else None)


def activations(layers, params, X):
    """Equations (1) and (2): the list A_0 ... A_L."""
    A = [X]
    for W, b in parameters(layers, params):
        Z = A[-1] @ W
        A.append(logistic(Z if b is None else Z + b))
    return A


def forward(layers, params, X, out, work):
    """Write A_L into `out` (n, n_out)."""
    out[...] = activations(layers, params, X)[-1]


def hits(A, Y):
    """Rows on which prediction and target name the same class: the largest output, or one output against 0.5."""
    if Y.shape[1] == 1:
        return int(np.sum((A >= 0.5) == (Y >= 0.5)))
    return int(np.sum(A.argmax(axis=1) == Y.argmax(axis=1)))


def loss_grad(layers, params, X, Y, mean, grad, work):
    """Equations (3) to (6) for one batch: d loss / d params into `grad`; returns sum (A_L - Y)**2 and the hits."""
    A = activations(layers, params, X)
    error = A[-1] - Y
    scale = X.dtype.type(1 / Y.size if mean else 1)
    D = scale * error * A[-1] * (1 - A[-1])
    W = [w for w, _ in parameters(layers, params)]
    grads = list(parameters(layers, grad))
    for level in reversed(range(len(layers))):
        dW, db = grads[level]
        dW[...] = A[level].T @ D
        if db is not None:
            db[...] = D.sum(axis=0)
        if level:
            D = (D @ W[level].T) * A[level] * (1 - A[level])
    return float(np.sum(np.square(error, dtype=np.float64))), hits(A[-1], Y)


def train(layers, params, X, Y, order, batch_size, learning_rate, mean, blocks, cursor, sse, correct, work):
    """Train on `blocks` blocks of rows; here a block is a whole mini-batch.

    order : (epochs, n) int64; row e lists the rows of X in the order that the e-th epoch from here visits them. With no
        row, every epoch visits them as they stand.
    cursor : INOUT (CURSOR_SIZE,) int64; epochs completed, rows of the current epoch done; the rest is the kernel's own.
    sse, correct : INOUT (all epochs,) float64; sum (A_L - Y)**2 and hits of each epoch, each row taken before the update
        that uses it.
    """
    first_epoch, n = cursor[0], len(X)
    grad = np.zeros_like(params)
    for _ in range(blocks):
        epoch, row = cursor[:2]
        rows = slice(row, min(row + batch_size, n))
        if len(order):
            rows = order[epoch - first_epoch, rows]
        squares, right = loss_grad(layers, params, X[rows], Y[rows], mean, grad, work)
        sse[epoch] += squares
        correct[epoch] += right
        params -= params.dtype.type(learning_rate) * grad
        cursor[1] = min(row + batch_size, n)
        if cursor[1] == n:
            cursor[:2] = epoch + 1, 0
