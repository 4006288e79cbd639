"""The table of networks and batches that tests run, and how two results are compared.

An implementation is a module that offers `forward` and `train` as `fastbp.reference` defines them.
"""

import functools
import itertools
import math
from dataclasses import dataclass, replace
from typing import NamedTuple
from unittest import mock

import numpy as np
from scipy.sparse import csr_array

from fastbp import kernels, reference
from fastbp.layout import CURSOR, RECORD, Layout
from fastbp.rule import ACTIVATIONS, HEADS, SOLVERS, Rule
from fastbp.workspace import NarrowWorkspace, OnlineWorkspace, WideWorkspace

DTYPES = ("float32", "float64")


class ShortBlocks(NarrowWorkspace):
    """With blocks so short that a batch of some hundred rows has several, as one of ten thousand has in use."""

    def decide(self, *args):
        with mock.patch("fastbp.workspace.BLOCK_BYTES", 32 * 1024):
            return super().decide(*args)


WORKSPACES = {"narrow": ShortBlocks, "wide": WideWorkspace}  # of kernels for batches of any length, and for prediction
TRAINING = WORKSPACES | {"online": OnlineWorkspace}
KERNELS = TRAINING | {"narrow in use": NarrowWorkspace}
KINDS = (("narrow", False), ("wide", False), ("wide", True), ("online", False))  # a kernel, and whether X is sparse
EPOCHS = 3
# Roundings of one unit beside those of its dot product: the activation (3), its derivative (2), the error (1), the sample's
# weight and the loss's factor (2), two products with the delta (2), dropout on both ways (2), L2 (2), the norm and the
# factor that shortens a gradient (2); the solver, at most those of Adam: two moments, a root, a sum, a quotient, a step (8).
POINTWISE_ROUNDINGS = 24
SPREADS = 4
# Adam divides by sqrt(v) + epsilon: where a gradient is tiny, its error is magnified by 1 / epsilon and shortened again by
# the step, of which sqrt(1 - beta_2**t) / (1 - beta_1**t) is below 1. With both numbers alike, no error grows.
ADAM_STEP = ADAM_EPSILON = 0.01
# Of momentum: a step adds up to 1 / (1 - mu) of what it is at first.
MOMENTUM = 0.9


@dataclass(frozen=True)
class Case:
    units: tuple
    n_rows: int
    batch_size: int
    bias: bool = True
    reduction: str = "sum"
    shuffled: bool = False
    dtype: str = "float64"
    kernel: str = "narrow"
    activations: str | tuple = "logistic"  # one for all hidden layers, or one for each
    out_activation: str = "logistic"
    loss: str = "squared_error"
    solver: str = "sgd"
    alpha: float = 0.0
    max_norm: float = math.inf
    dropout: float = 0.0
    weighted: bool = False
    threads: int = 1
    sparse: bool = False
    zeros: float = 0.0  # the share of zeros in a dense X
    epochs: int = EPOCHS

    def __str__(self):
        bias, order = "bias" if self.bias else "no bias", "shuffled" if self.shuffled else "in order"
        units = "-".join(map(str, self.units))
        words = [units, bias, self.reduction, f"{self.batch_size} of {self.n_rows}", order, self.dtype, self.kernel]
        hidden = self.activations if isinstance(self.activations, str) else "+".join(self.activations)
        for word, default in ((hidden, "logistic"), (self.out_activation, "logistic"), (self.loss, "squared_error")):
            words += [word] * (word != default)
        words += [self.solver] * (self.solver != "sgd") + ["weighted"] * self.weighted + ["sparse"] * self.sparse
        defaults = {"alpha": 0, "max_norm": math.inf, "dropout": 0, "threads": 1, "zeros": 0, "epochs": EPOCHS}
        for name, default in defaults.items():
            words += [f"{name} {getattr(self, name):g}"] * (getattr(self, name) != default)
        return " ".join(words)

    @property
    def hidden(self):
        """The activation of every hidden layer."""
        return (self.activations,) * (len(self.units) - 2) if isinstance(self.activations, str) else self.activations

    @property
    def learning_rate(self):
        """Such that a step is as long with any reduction: long enough for a mistake in it to show, short enough for
        rounding errors not to grow from step to step, which they do sooner where few rows are averaged.

        A network of logistic functions is contracting: its derivatives are at most 1/4. With others, a step moves an output
        by about the rate times the squares of the units below it, which stays below 1 here; for "exp", times its own square.
        """
        if self.solver == "adam":
            return ADAM_STEP
        step = min(4.0, self.batch_size)
        if {*self.hidden, self.out_activation} != {"logistic"} or self.loss != "squared_error":
            step = (0.01 if self.out_activation == "exp" else 0.5) / max(self.units)
        if self.solver in ("momentum", "nesterov"):
            step *= 1 - MOMENTUM
        return step * {"sum": 1 / self.batch_size, "mean": self.units[-1], "row": 1}[self.reduction]

    @property
    def rule(self):
        rule = Rule(
            self.out_activation, self.loss, self.solver, self.learning_rate, momentum=MOMENTUM, epsilon=ADAM_EPSILON,
            alpha=self.alpha, max_norm=self.max_norm, dropout=self.dropout, seed=2**32 - 5, reduction=self.reduction,
        )  # fmt: skip
        return rule.numbers(self.units[-1])

    @property
    def tolerance(self):
        """How far a correct result may be from the exact one, where numbers are of order 1.

        Every step adds one rounding per addition on the longest way from an input to an update: up and down through the
        dot products of all layers, then along the rows of a batch. They are as often up as down, so that n of them sum
        up to sqrt(n) unit roundoffs, times some SPREADS. Weights, inputs and steps are of order 1.
        """
        way = self.batch_size + sum(n_in + n_out + POINTWISE_ROUNDINGS for n_in, n_out in itertools.pairwise(self.units))
        steps = self.epochs * -(-self.n_rows // self.batch_size)
        return SPREADS * (steps * way) ** 0.5 * np.finfo(self.dtype).eps / 2

    @property
    def layout(self):
        return Layout(self.units, self.dtype, self.bias, [ACTIVATIONS.index(name) for name in self.hidden])

    def workspace(self):
        moments = Rule(solver=self.solver).moments
        return KERNELS[self.kernel](
            self.layout, self.n_rows, self.batch_size, self.shuffled, moments, self.dropout > 0, self.threads, self.sparse
        )

    def blocks_per_epoch(self, implementation):
        if implementation is kernels:
            return self.workspace().blocks_per_epoch
        return -(-self.n_rows // self.batch_size)

    def parameters(self, out=None):
        """Initial ones, into `out` if it is given."""
        rng = np.random.default_rng(1)
        layout = self.layout
        weights, biases = layout.views(np.empty(layout.size))
        weights = [rng.normal(0, len(W) ** -0.5, W.shape) for W in weights]
        return layout.gather(weights, [rng.normal(0, 0.5, b.shape) for b in biases], out)

    def rows(self):
        """X and Y: normal inputs; targets such as the output layer is for: counts for "poisson", 0 among them, rows of sum 1
        for softmax, otherwise between 0 and 1.
        """
        rng = np.random.default_rng(2)
        X = rng.normal(0, 1, (self.n_rows, self.units[0]))
        Y = rng.uniform(0, 1, (self.n_rows, self.units[-1]))
        if self.loss == "poisson":
            Y = np.floor(3 * Y)
        if self.out_activation == "softmax":
            Y /= Y.sum(axis=1, keepdims=True)
        if self.zeros:
            X[rng.random(X.shape) < self.zeros] = 0
        X = self.sparse_rows(rng) if self.sparse else X
        return X.astype(self.dtype), Y.astype(self.dtype)

    def sparse_rows(self, rng):
        """Up to a quarter of a row's values, or one; their columns in any order, some of them several times; empty rows."""
        counts = rng.integers(0, 2 + self.units[0] // 4, self.n_rows)
        counts[::7] = 0
        starts = np.concatenate([[0], np.cumsum(counts)])
        columns = rng.integers(0, self.units[0], starts[-1])
        X = csr_array((rng.normal(0, 1, len(columns)), columns, starts), (self.n_rows, self.units[0]))
        # scipy itself takes the longer integers only where it must
        return with_indices(X, "int32" if self.dtype == "float64" else "int64")

    def weights(self):
        """Of the rows; every fifth is 0."""
        weights = np.random.default_rng(4).uniform(0.5, 1.5, self.n_rows)
        weights[::5] = 0
        return weights.astype(self.dtype)[: self.n_rows * self.weighted]

    def order(self):
        rng = np.random.default_rng(3)
        orders = [rng.permutation(self.n_rows) for _ in range(self.epochs * self.shuffled)]
        return np.array(orders, np.int64).reshape(-1, self.n_rows)


def of_kind(case, kernel, sparse=False):
    """The case for another kernel, or as much of it as there is one for: the online kernel's batches have one row."""
    if kernel == "online":
        case = replace(case, batch_size=1, dropout=0.0)
    return replace(case, kernel=kernel, sparse=sparse)


# Units, rows, and an odd batch that leaves a smaller one at the end of an epoch. The last one's batches are more than
# the kernels take at a time.
SHAPES = [
    ((2, 4, 1), 4, 3),
    ((1, 1), 10, 7),
    ((4, 2, 3), 19, 9),
    ((3, 5, 5, 2), 23, 17),
    ((21, 26, 19), 70, 33),
]
CASES = [
    Case(units, n_rows, batch_size, bias, reduction, shuffled, dtype)
    for units, n_rows, odd in SHAPES
    for batch_size in (1, odd, n_rows)
    for bias, reduction, shuffled, dtype in itertools.product(
        (True, False), ("sum", "mean"), (False, True), ("float64", "float32")
    )
]
# More rows than the kernels keep packed from epoch to epoch.
CASES += [Case((100, 3, 2), 1300, batch_size, dtype=dtype) for batch_size in (433, 1300) for dtype in ("float64", "float32")]

# What a step may consist of: three hidden units more than a multiple of any vector's lanes, or fewer than one vector has.
SMALL = Case((3, 5, 4), 23, 9, reduction="row", activations="tanh")
ONE_OF_EACH = [
    *[replace(SMALL, activations=name, out_activation="identity") for name in ACTIVATIONS],
    replace(SMALL, units=(3, 5, 5, 4), activations=("relu", "softplus"), out_activation="softmax", loss="log_loss"),
    *[replace(SMALL, out_activation=activation, loss=loss) for activation, loss in HEADS],
    *[replace(SMALL, units=(3, 5, 1), out_activation=activation, loss=loss) for activation, loss in HEADS],
    *[replace(SMALL, solver=solver, alpha=0.1, weighted=True, shuffled=True) for solver in SOLVERS[1:]],
    *[replace(SMALL, solver=solver, max_norm=0.05, dropout=0.3) for solver in SOLVERS[1:]],
    replace(SMALL, batch_size=1, weighted=True, solver="adam"),  # batches of no weight
    replace(SMALL, alpha=0.3, reduction="sum"),
    replace(SMALL, alpha=0.3, reduction="mean", weighted=True),
    replace(SMALL, units=(3, 5, 1), alpha=0.3, reduction="mean", weighted=True),
    replace(SMALL, alpha=0.3, max_norm=0.1, bias=False),
    replace(SMALL, weighted=True, reduction="sum"),
    replace(SMALL, dropout=0.5, bias=False, shuffled=True),
    replace(SMALL, units=(3, 5, 5, 4), dropout=0.2, weighted=True, activations=("elu", "leaky_relu")),
    # one batch of many blocks, then a smaller one of a single block
    Case((200, 2, 1), 310, 300, reduction="row", activations="tanh", alpha=0.01, weighted=True),
    Case((200, 2, 1), 310, 300, reduction="row", activations="tanh", max_norm=0.1, dropout=0.2, shuffled=True),
]
# Outputs and hidden units around multiples of vectors and tiles; sums longer than are taken at a time; strides of 512 bytes,
# which are made longer.
WIDER = [
    *[
        replace(SMALL, units=(n, n + 3, n), out_activation=activation, loss=loss)
        for n, (activation, loss) in zip((15, 16, 17, 33, 49, 31, 48, 65, 97, 64), HEADS, strict=True)
    ],
    # rows of X that the narrow kernel reads where they stand
    *[Case((64 + 7 * n, n, 3), 70, 40, reduction="row", shuffled=True) for n in range(1, 9)],
    *[Case((64 + 8 * n, n), 70, 39, reduction="row", shuffled=True, weighted=True) for n in range(1, 9)],
    Case((90, 4, 3), 70, 35, bias=False, reduction="row", shuffled=True, solver="adam", dropout=0.2),
    replace(SMALL, units=(5, 128, 64, 3), solver="momentum", alpha=0.1, max_norm=0.1),
    replace(SMALL, units=(3, 64, 128), activations="relu", out_activation="softmax", loss="log_loss", dropout=0.2),
    replace(SMALL, units=(300, 140, 5), activations="relu", out_activation="identity", n_rows=60, batch_size=50),
    replace(SMALL, units=(40, 35, 20), n_rows=700, batch_size=600, solver="adam", alpha=0.1, dropout=0.1, weighted=True),
    replace(SMALL, units=(40, 90, 20), n_rows=700, batch_size=600, solver="nesterov", max_norm=0.1, shuffled=True),
    replace(SMALL, units=(40, 35, 20), n_rows=700, batch_size=300, solver="nesterov", out_activation="exp", loss="poisson"),
]
CASES += [replace(case, dtype=dtype) for case in ONE_OF_EACH + WIDER for dtype in DTYPES]

# Of the networks of SHAPES a few; inputs of which each row has one in a hundred.
SPARSE = [case for number, case in enumerate(CASES) if number % 7 == 0 or case.activations != "logistic" or case.n_rows > 99]
SPARSE += [
    replace(SMALL, units=(2000, 20, 4), n_rows=60, batch_size=50, solver="adam", alpha=0.1, shuffled=True, dtype=dtype)
    for dtype in DTYPES
]
# Single rows of all that a step may consist of.
ONLINE = [case for case in CASES if case.batch_size == 1 or case.activations != "logistic"]
ONLINE += [
    replace(SMALL, units=units, solver="momentum", dtype=dtype) for units in ((1, 240, 3), (6, 57, 5)) for dtype in DTYPES
]
CASES += [replace(case, kernel="wide") for case in CASES]
CASES += [replace(case, kernel="wide", sparse=True) for case in SPARSE]
CASES += dict.fromkeys(of_kind(case, "online") for case in ONLINE)


class Trained(NamedTuple):
    params: np.ndarray
    state: np.ndarray
    mse: np.ndarray  # by epoch, as all that follow
    loss: np.ndarray
    penalty: np.ndarray
    hits: np.ndarray  # and rows
    epochs: int
    steps: int


def with_indices(X, dtype):
    """A sparse X with indices of an integer type."""
    X = X.copy()
    X.indices, X.indptr = X.indices.astype(dtype), X.indptr.astype(dtype)
    return X


def moved(X, place):
    """A dense or sparse X in the memory that `place` gives."""
    if isinstance(X, np.ndarray):
        return place(X)
    X = X.copy()
    X.data, X.indices, X.indptr = map(place, (X.data, X.indices, X.indptr))
    return X


# numpy's products may set flags for lanes whose results they drop; what is wrong shows in the results that are compared
@np.errstate(all="ignore")
def train(implementation, case, calls=None, rows=None, weights=None, place=lambda array: array):
    """Train a case for its epochs.

    Parameters
    ----------
    implementation : module
    case : Case
    calls : iterable of int, optional
        Blocks of each call, over and over, until all is done; by default one call does it all.
    rows : pair, optional
        X, an array or sparse, and Y, by default those of the case.
    weights : ndarray, optional
        Those of the rows, by default those of the case.
    place : callable, optional
        Moves an array to the memory it is to have.
    """
    workspace = case.workspace()
    case.parameters(workspace.params)
    params, state, work = place(workspace.params), place(workspace.state), tuple(map(place, workspace.arrays))
    order, cursor, record = case.order(), place(np.zeros(len(CURSOR), np.int64)), place(np.zeros((case.epochs, len(RECORD))))
    X, Y = rows or case.rows()
    X, Y, weights = moved(X, place), place(Y), place(case.weights() if weights is None else weights)
    layers, rule = place(case.layout.layers), place(case.rule)
    left = case.epochs * case.blocks_per_epoch(implementation)
    for blocks in itertools.cycle(calls or [left]):
        implementation.train(
            layers, params, state, X, Y, weights, place(order[cursor[CURSOR.epoch] :]), case.batch_size, rule,
            min(blocks, left), cursor, record, work,
        )  # fmt: skip
        left -= blocks
        if left <= 0:
            break
    assert cursor[CURSOR.row] == 0
    outputs = (weights.sum(dtype=np.float64) if len(weights) else X.shape[0]) * Y.shape[1] or 1
    steps = max(1, int(cursor[CURSOR.step])) / case.epochs * params.size
    mse, loss, penalty = (
        record[:, RECORD.squares] / outputs,
        record[:, RECORD.loss] / outputs,
        record[:, RECORD.penalty] / steps,
    )
    # as arrays of their own, a result that is kept does not keep the workspace, which may be a thousand times as large
    params, state = params.copy(), state.copy()
    hits = record[:, [RECORD.hits, RECORD.rows]]
    return Trained(params, state, mse, loss, penalty, hits, int(cursor[CURSOR.epoch]), int(cursor[CURSOR.step]))


@np.errstate(all="ignore")
def forward(implementation, case, X=None, place=lambda array: array):
    """Outputs for X, by default the rows of the case."""
    X = case.rows()[0] if X is None else X
    out = place(np.full((X.shape[0], case.units[-1]), np.nan, case.dtype))
    kind = WideWorkspace if case.kernel == "online" else KERNELS[case.kernel]
    work = kind(case.layout, X.shape[0], X.shape[0], shuffled=True, threads=case.threads, sparse=case.sparse).arrays
    layers, params, rule = place(case.layout.layers), place(case.parameters()), place(case.rule)
    implementation.forward(layers, params, moved(X, place), out, rule, tuple(map(place, work)))
    return out


def unaligned(array, folder=None):
    """The same numbers, a byte beside where they should begin."""
    raw = np.zeros(array.nbytes + 1, np.uint8)
    view = raw[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def assert_close(name, ours, theirs, tolerance):
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert np.isfinite(tolerance), f"{name} cannot be compared"
    difference = np.abs(ours.astype(np.float64) - theirs)
    # written so that NaN is a difference
    assert np.all(difference <= tolerance), f"{name} differ by {np.max(difference):.3g}, allowed {tolerance:.3g}"


def largest(array):
    """What an error of numbers of order 1 is multiplied with, where some are larger."""
    return max(1.0, float(np.abs(array).max(initial=0)))


def assert_same_training(ours, theirs, case):
    """Weights, moments, losses and hits agree up to rounding."""
    assert ours.epochs == theirs.epochs
    assert ours.steps == theirs.steps
    assert_close("parameters", ours.params, theirs.params, 2 * case.tolerance * largest(theirs.params))
    assert_close("moments", ours.state, theirs.state, 2 * case.tolerance * largest(theirs.state))
    # both a target's distance and its square root count: d (a-y)**2 = 2 (a-y) da, where mean |a-y| <= sqrt(mse); the other
    # losses change by (a-y) dz, and the mean of W**2 by 2 W dW
    for name in ("mse", "loss", "penalty"):
        values = getattr(theirs, name)
        assert_close(name, getattr(ours, name), values, 4 * case.tolerance * largest(values))
    assert_close("hits", ours.hits, theirs.hits, 0)


def assert_same_outputs(ours, theirs, case):
    assert_close("outputs", ours, theirs, 2 * case.tolerance * largest(theirs))


def assert_same_bits(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes(), f"differ in {np.sum(one != other)} of {one.size} elements"


@functools.lru_cache(maxsize=1024)
def _reference_of(case):
    return train(reference, case)


def reference_of(case):
    """The reference's training of a case, computed once for all kernels and threads."""
    return _reference_of(replace(case, kernel="narrow", threads=1))
