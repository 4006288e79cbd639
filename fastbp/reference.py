"""The specification: what the kernels must compute, in plain numpy.

Rows of a batch are b, units of layer l-1 are i, units of layer l are j; A_0 = X; w_b are the weights of the rows, 1 by
default, and W_B is their sum over the batch.

    (1)  Z_l = A_{l-1} W_l + b_l                       pre-activations, (B, n_out)
    (2)  A_l = s_l(Z_l)                                activations; dropout: times m_l, 0 or 1 / (1 - p)
    (3)  loss = c sum_b w_b E(A_L, Y)_b + d/2 sum W**2  c = 1, d = alpha ("sum"); c = 1 / (W_B n_out), d = alpha / W_B
                                                       ("mean"); c = 1 / W_B, d = alpha / W_B ("row")
    (4)  D_L = d loss / d Z_L                          c w (A_L - Y) for a loss with its canonical activation
    (5)  D_{l-1} = (D_l W_l^T) * s'_{l-1}, times m_{l-1}
    (6)  dW_l = A_{l-1}^T D_l + d W_l,  db_l = sum_b D_l, all scaled down where their norm exceeds max_norm
    (7)  every parameter takes its solver's step, every D taken before any update:
         sgd       w += -r g
         momentum  v = mu v - r g;  w += v                                                     Polyak 1964
         nesterov  v = mu v - r g;  w += mu v - r g                                            Nesterov 1983
         adam      m = beta_1 m + (1 - beta_1) g;  v = beta_2 v + (1 - beta_2) g**2            Kingma and Ba 2015,
                   w -= r sqrt(1 - beta_2**t) / (1 - beta_1**t) m / (sqrt(v) + epsilon)        section 2, last paragraph
                   epsilon is the root of the smallest normal number at least: a v below that is 0

(4) to (7) are the delta rule of Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors",
Nature 323, 1986. `forward`, `loss_grad` and `train` take the same arguments here and in `fastbp.kernels`.

Arguments, named alike everywhere: `layers` describes `params` (see `fastbp.layout`); `X` (n, n_in) and `Y` (n, n_out) are
C-contiguous and of the dtype of `params`, as are the `weights` (n,) of the rows, with no element where all are 1; `X` may
also be a CSR matrix of scipy, whose `indices` and `indptr` are both int32 or both int64, with its columns in any order and
as often as they come; `rule` see `fastbp.rule.Rule.numbers`; `work` is scratch space, unused here.
"""

from collections.abc import Callable

import numpy as np

from fastbp.layout import CURSOR, LAYER
from fastbp.rule import HEADS, RULE, SOLVERS

LEAKY_SLOPE = 0.01
# Slope of SELU where z is positive, and minus its limit far below 0.
SELU_SLOPE, SELU_LIMIT = 1.0507009873554805, 1.7580993408473768


def logistic(z):
    """1 / (1 + e**-z), without overflow for any z."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)


def softplus(z):
    """log(1 + e**z), without overflow for any z."""
    return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))


def softmax(z):
    """e**z of each row, divided by its sum."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


# In the order of `fastbp.rule.ACTIVATIONS`: s(z), and s'(z) as a function of a = s(z). ELU: Clevert, Unterthiner and
# Hochreiter 2016; SELU, whose factors keep means near 0 and variances near 1: Klambauer et al. 2017.
ACTIVATIONS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda z: z,
    logistic,
    np.tanh,
    lambda z: np.maximum(z, 0),
    lambda z: np.where(z > 0, z, z.dtype.type(LEAKY_SLOPE) * z),
    lambda z: np.where(z > 0, z, np.expm1(np.minimum(z, 0))),
    softplus,
    lambda z: np.where(z > 0, z.dtype.type(SELU_SLOPE) * z, z.dtype.type(SELU_LIMIT) * np.expm1(np.minimum(z, 0))),
)
DERIVATIVES: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    np.ones_like,
    lambda a: a * (1 - a),
    lambda a: (1 - a) * (1 + a),
    lambda a: (a > 0).astype(a.dtype),
    lambda a: np.where(a > 0, 1, LEAKY_SLOPE).astype(a.dtype),
    lambda a: np.where(a > 0, 1, a + 1),
    lambda a: -np.expm1(-a),
    lambda a: np.where(a > 0, SELU_SLOPE, a + SELU_LIMIT).astype(a.dtype),
)
OUT_ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "identity": lambda z: z,
    "logistic": logistic,
    "exp": np.exp,
    "softmax": softmax,
}


def parameters(layers, params):
    """Views of every W_l and b_l (None without biases) in the flat buffer."""
    for n_in, n_rows, n_out, offset, stride, _ in layers:
        block = params[offset : offset + n_rows * stride].reshape(n_rows, stride)[:, :n_out]
        yield block[:n_in], (block[n_in] if n_rows > n_in else None)


def activations(layers, params, X, masks=None):
    """Equations (1) and (2): what each layer takes in, every hidden A_l without its mask, and Z_L."""
    taken, hidden = [X], []
    for level, (layer, (W, b)) in enumerate(zip(layers, parameters(layers, params), strict=True)):
        Z = taken[-1] @ W if b is None else taken[-1] @ W + b
        if level < len(layers) - 1:
            hidden.append(ACTIVATIONS[layer[LAYER.activation]](Z))
            taken.append(hidden[-1] * masks[level] if masks else hidden[-1])
    return taken, hidden, Z


def forward(layers, params, X, out, rule, work):
    """Write A_L into `out` (n, n_out)."""
    out[...] = OUT_ACTIVATIONS[HEADS[int(RULE._make(rule).head)][0]](activations(layers, params, X)[2])


def hits(A, Y):
    """Rows on which prediction and target name the same class: the largest output, or one output against 0.5."""
    if Y.shape[1] == 1:
        return int(np.sum((A >= 0.5) == (Y >= 0.5)))
    return int(np.sum(A.argmax(axis=1) == Y.argmax(axis=1)))


def loss_and_delta(Z, Y, head):
    """A_L, the loss of every row, and the derivative of its sum by Z: equations (3) and (4) without weights and c."""
    activation, loss = head
    A, classes = OUT_ACTIVATIONS[activation](Z), activation == "softmax"
    error = delta = A - Y
    if loss == "squared_error":
        losses = error * error / 2
        if activation == "logistic":
            delta = error * (A * (1 - A))
        elif activation == "exp":
            delta = error * A
        elif classes:
            delta = A * (error - (error * A).sum(axis=1, keepdims=True))
    elif loss == "poisson":
        # y log(y / a) - y + a, whose first part is 0 for y = 0
        losses = A - Y + Y * (np.log(np.where(Y > 0, Y, 1)) - Z)
    elif loss == "absolute_error":
        losses, delta = np.abs(error), np.sign(error)
    elif loss == "clipped_log_loss":
        # of the probabilities as they were rounded, and finite
        eps = np.finfo(A.dtype).eps
        P = np.clip(A, eps, 1 - eps)
        losses = -Y * np.log(P) if classes else -Y * np.log(P) - (1 - Y) * np.log(1 - P)
    elif classes:
        shifted = Z - Z.max(axis=1, keepdims=True)
        losses = Y * (np.log(np.exp(shifted).sum(axis=1, keepdims=True)) - shifted)
    else:
        # softplus(z) - y z, of which nothing is lost where y is 1 and z large
        losses = np.log1p(np.exp(-np.abs(Z))) + ((Z > 0) - Y) * Z
    return A, losses.sum(axis=1), delta


def scrambled(x):
    """32 random bits for every 32-bit integer (Wellons, "Prospecting for hash functions", 2018)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    return x ^ (x >> np.uint32(16))


def dropout_masks(layers, rows, rule, step):
    """m_l of every hidden layer for a batch of `rows` rows: a function of seed, step, layer, row and unit alone."""
    masks, rule = [], RULE._make(rule)
    for level, layer in enumerate(layers[:-1]):
        stride, n_out = int(layer[LAYER.stride]), int(layer[LAYER.n_out])
        key = scrambled(np.array([(int(step) * len(layers) + level) % 2**32], np.uint32))
        key = scrambled(key + np.uint32(rule.seed))
        place = np.arange(rows * stride, dtype=np.uint32).reshape(rows, stride)[:, :n_out]
        dropped = scrambled(place + key) < int(rule.dropout * 2**32)
        masks.append(np.where(dropped, 0, 1 / (1 - rule.dropout)))
    return masks


def loss_grad(layers, params, X, Y, weights, rule, grad, work, step=0):
    """Equations (1) to (6) for one batch: d loss / d params into `grad`.

    Returns sum (A_L - Y)**2, the loss of the rows without c, the hits, and sum W**2 where alpha is not 0; the first three
    weighted.
    """
    masks, rule = None, RULE._make(rule)
    if rule.dropout > 0:
        masks = [mask.astype(X.dtype) for mask in dropout_masks(layers, X.shape[0], rule, step)]
    taken, hidden, Z = activations(layers, params, X, masks)
    A, losses, D = loss_and_delta(Z, Y, HEADS[int(rule.head)])
    w = weights if len(weights) else np.ones(X.shape[0], X.dtype)
    total = w.sum(dtype=np.float64)
    scale = 1 / (total * rule.per_row) if rule.per_row else 1
    decay = X.dtype.type(rule.alpha / total if rule.per_row else rule.alpha)
    D = D * (X.dtype.type(scale) * w)[:, None]
    grad[...] = 0
    W = [one for one, _ in parameters(layers, params)]
    grads = list(parameters(layers, grad))
    for level in reversed(range(len(layers))):
        dW, db = grads[level]
        dW[...] = taken[level].T @ D + decay * W[level]
        if db is not None:
            db[...] = D.sum(axis=0)
        if level:
            derivative = DERIVATIVES[layers[level - 1][LAYER.activation]](hidden[level - 1])
            D = (D @ W[level].T) * derivative
            if masks:
                D = D * masks[level - 1]
    largest = float(np.abs(grad).max())  # its square may be no number
    norm = np.sqrt(np.sum(np.square(grad / (largest or 1.0), dtype=np.float64)))
    if largest * norm > rule.max_norm:
        grad[...] = grad / largest * (rule.max_norm / norm)
    squares = np.sum(np.square(A - Y, dtype=np.float64) * w[:, None])
    penalty = sum(np.sum(np.square(one, dtype=np.float64)) for one in W) if rule.alpha else 0.0
    return float(squares), float(np.sum(losses * w, dtype=np.float64)), hits(A, Y), float(penalty)


def update(params, grad, state, rule, step):
    """Equation (7) for the `step`-th step, from 1; `state` (moments, size) holds v, or m and v."""
    rule = RULE._make(rule)
    solver, dtype = SOLVERS[int(rule.solver)], params.dtype.type
    rate, first = dtype(rule.learning_rate), dtype(rule.momentum)
    if solver == "sgd":
        params -= rate * grad
    elif solver in ("momentum", "nesterov"):
        state[0] = first * state[0] - rate * grad
        params += state[0] if solver == "momentum" else first * state[0] - rate * grad
    elif solver == "adam":
        beta_1, beta_2 = rule.momentum, rule.beta_2
        state[0] = first * state[0] + dtype(1 - beta_1) * grad
        state[1] = dtype(beta_2) * state[1] + dtype(1 - beta_2) * grad * grad
        rate = dtype(rule.learning_rate * np.sqrt(1 - beta_2**step) / (1 - beta_1**step))
        epsilon = max(dtype(rule.epsilon), np.sqrt(np.finfo(dtype).tiny))
        params -= rate * state[0] / (np.sqrt(state[1]) + epsilon)


def train(layers, params, state, X, Y, weights, order, batch_size, rule, blocks, cursor, record, work):
    """Train on `blocks` blocks of rows; here a block is a whole mini-batch.

    state : INOUT (moments, len(params)); what the solver remembers.
    order : (epochs, n) int64; row e lists the rows of X in the order that the e-th epoch from here visits them. With no
        row, every epoch visits them as they stand.
    cursor : INOUT (len(CURSOR),) int64; epochs completed, rows of the current epoch done, steps done; the rest is the
        kernel's own.
    record : INOUT (all epochs, len(RECORD)) float64; sums over each epoch of what `loss_grad` returns, every row taken
        before the update that uses it, and of the rows. With reduction "row", the loss and sum W**2 are divided by the
        batch's weight and multiplied by its number of rows.

    A batch whose weights sum to 0 changes nothing.
    """
    first_epoch, n, rule = cursor[CURSOR.epoch], X.shape[0], RULE._make(rule)
    grad = np.zeros_like(params)
    for _ in range(blocks):
        epoch, row = cursor[CURSOR.epoch], cursor[CURSOR.row]
        rows = slice(row, min(row + batch_size, n))
        if len(order):
            rows = order[epoch - first_epoch, rows]
        w = weights[rows] if len(weights) else weights
        if not len(w) or w.sum() > 0:
            step = cursor[CURSOR.step]
            squares, loss, right, penalty = loss_grad(layers, params, X[rows], Y[rows], w, rule, grad, work, step)
            factor = len(w) / w.sum(dtype=np.float64) if rule.by_rows and len(w) else 1
            record[epoch] += squares, loss * factor, right, penalty * factor, min(batch_size, n - row)
            cursor[CURSOR.step] = step + 1
            update(params, grad, state, rule, step + 1)
        cursor[CURSOR.row] = min(row + batch_size, n)
        if cursor[CURSOR.row] == n:
            cursor[CURSOR.epoch], cursor[CURSOR.row] = epoch + 1, 0
