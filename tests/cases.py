"""The table of networks and batches that tests and benches run, and how two results are compared.

An implementation is a module that offers `forward` and `train` as `fastbp.reference` defines them.
"""

import functools
import itertools
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from fastbp import kernels, reference
from fastbp.layout import CURSOR_SIZE, Layout, NarrowWorkspace, WideWorkspace

WORKSPACES = {"narrow": NarrowWorkspace, "wide": WideWorkspace}
EPOCHS = 3
# Roundings of one unit beside those of its dot product: the logistic (3), its derivative (2), the error (1), two
# products with the delta (2), the update (2).
POINTWISE_ROUNDINGS = 10
SPREADS = 4


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

    def __str__(self):
        bias, order = "bias" if self.bias else "no bias", "shuffled" if self.shuffled else "in order"
        units = "-".join(map(str, self.units))
        return f"{units} {bias} {self.reduction} {self.batch_size} of {self.n_rows} {order} {self.dtype} {self.kernel}"

    @property
    def mean(self):
        return self.reduction == "mean"

    @property
    def learning_rate(self):
        """Such that a step is as long with either reduction: long enough for a mistake in it to show, short enough for
        rounding errors not to grow from step to step, which they do sooner where few rows are averaged.
        """
        step = min(4.0, self.batch_size)
        return step * self.units[-1] if self.mean else step / self.batch_size

    @property
    def tolerance(self):
        """How far a correct result may be from the exact one.

        Every step adds one rounding per addition on the longest way from an input to an update: up and down through the
        dot products of all layers, then along the rows of a batch. They are as often up as down, so that n of them sum
        up to sqrt(n) unit roundoffs, times some SPREADS. Weights, inputs and steps are of order 1.
        """
        units = zip(self.units[:-1], self.units[1:], strict=True)
        way = self.batch_size + sum(n_in + n_out + POINTWISE_ROUNDINGS for n_in, n_out in units)
        steps = EPOCHS * -(-self.n_rows // self.batch_size)
        return SPREADS * (steps * way) ** 0.5 * np.finfo(self.dtype).eps / 2

    @property
    def layout(self):
        return Layout(self.units, self.dtype, self.bias)

    def workspace(self):
        return WORKSPACES[self.kernel](self.layout, self.n_rows, self.batch_size, shuffled=self.shuffled)

    def blocks_per_epoch(self, implementation):
        if implementation is kernels:
            return self.workspace().blocks_per_epoch
        return -(-self.n_rows // self.batch_size)

    def parameters(self):
        rng = np.random.default_rng(1)
        layout = self.layout
        weights, biases = layout.views(np.empty(layout.size))
        weights = [rng.normal(0, len(W) ** -0.5, W.shape) for W in weights]
        return layout.gather(weights, [rng.normal(0, 0.5, b.shape) for b in biases])

    def rows(self):
        """X and Y: normal inputs, targets between 0 and 1."""
        rng = np.random.default_rng(2)
        X = rng.normal(0, 1, (self.n_rows, self.units[0]))
        Y = rng.uniform(0, 1, (self.n_rows, self.units[-1]))
        return X.astype(self.dtype), Y.astype(self.dtype)

    def order(self):
        rng = np.random.default_rng(3)
        orders = [rng.permutation(self.n_rows) for _ in range(EPOCHS * self.shuffled)]
        return np.array(orders, np.int64).reshape(-1, self.n_rows)


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

CASES += [replace(case, kernel="wide") for case in CASES]


class Trained(NamedTuple):
    params: np.ndarray
    mse: np.ndarray
    correct: np.ndarray
    epochs: int


def train(implementation, case, calls=None, rows=None, place=lambda array: array):
    """Train a case for EPOCHS.

    Parameters
    ----------
    implementation : module
    case : Case
    calls : iterable of int, optional
        Blocks of each call, over and over, until all is done; by default one call does it all.
    rows : pair of ndarray, optional
        X and Y, by default those of the case.
    place : callable, optional
        Moves an array to the memory it is to have.
    """
    params, order, cursor = place(case.parameters()), place(case.order()), place(np.zeros(CURSOR_SIZE, np.int64))
    sse, correct = place(np.zeros(EPOCHS)), place(np.zeros(EPOCHS))
    X, Y = map(place, rows or case.rows())
    work = tuple(map(place, case.workspace().arrays))
    layers = place(case.layout.layers)
    left = EPOCHS * case.blocks_per_epoch(implementation)
    for blocks in itertools.cycle(calls or [left]):
        orders = order[cursor[0] :]
        implementation.train(
            layers, params, X, Y, orders, case.batch_size, case.learning_rate, case.mean, min(blocks, left),
            cursor, sse, correct, work,
        )  # fmt: skip
        left -= blocks
        if left <= 0:
            assert cursor[1] == 0
            return Trained(params, sse / Y.size, correct, int(cursor[0]))


def forward(implementation, case, X=None, place=lambda array: array):
    """Outputs for X, by default the rows of the case."""
    X = case.rows()[0] if X is None else X
    out = place(np.full((len(X), case.units[-1]), np.nan, case.dtype))
    work = WORKSPACES[case.kernel](case.layout, len(X), len(X), shuffled=True).arrays
    implementation.forward(place(case.layout.layers), place(case.parameters()), place(X), out, tuple(map(place, work)))
    return out


def assert_close(name, ours, theirs, tolerance):
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    difference = np.abs(ours.astype(np.float64) - theirs)
    # written so that NaN is a difference
    assert np.all(difference <= tolerance), f"{name} differ by {np.max(difference):.3g}, allowed {tolerance:.3g}"


def assert_same_training(ours, theirs, case):
    """Weights, loss and hits agree up to rounding."""
    assert ours.epochs == theirs.epochs
    assert_close("parameters", ours.params, theirs.params, 2 * case.tolerance)
    # both a target's distance and its square root count: d (a-y)**2 = 2 (a-y) da, and |a-y| <= 1
    assert_close("mse", ours.mse, theirs.mse, 4 * case.tolerance)
    assert_close("hits", ours.correct, theirs.correct, 0)


def assert_same_outputs(ours, theirs, case):
    assert_close("outputs", ours, theirs, 2 * case.tolerance)


def assert_same_bits(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes(), f"differ in {np.sum(one != other)} of {one.size} elements"


@functools.cache
def reference_of(case):
    """The reference's training of a case, computed once."""
    return train(reference, case)
