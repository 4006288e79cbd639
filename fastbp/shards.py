"""Shards of one fit on many machines: what their workers compute, each of it a function of what a task is given.

`fastbp.dask` says who computes what. Nothing here needs dask.
"""

import itertools
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from sklearn.base import is_classifier
from sklearn.utils import check_array
from sklearn.utils.validation import _get_feature_names

from fastbp.estimators.streams import contiguous, required
from fastbp.kernels import jit
from fastbp.layout import CURSOR, RECORD, Layout
from fastbp.stream import Rows, joined, row_order, whole
from fastbp.training import Run


class Facts(NamedTuple):
    """What has to be known of all partitions before one can be read."""

    rows: int
    width: int
    names: tuple | None
    dtype: np.dtype
    shape: tuple  # of a row's target
    labels: Any
    counts: Any
    level: str | None


def targets(y):
    """A partition's targets as an array, whose only column is no column."""
    y = np.asarray(y)
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


def facts_of(X, y, sample_weight, classifies):
    """The facts of a partition."""
    y, weights = targets(y), sample_weight if sample_weight is None else np.asarray(sample_weight)
    if X.ndim != 2:
        raise ValueError(f"X must have rows and columns, got a partition of shape {X.shape}")
    if weights is not None and weights.ndim != 1:
        raise ValueError(f"sample_weight must be a number for each row, got a partition of shape {weights.shape}")
    for name, other in (("y", y), ("sample_weight", weights)):
        if other is not None and len(other) != X.shape[0]:
            raise ValueError(f"{name} must have as many rows as X in each partition, {X.shape[0]}, got {len(other)}")
    names = _get_feature_names(X)
    types = set(X.dtypes) if hasattr(X, "dtypes") else {X.dtype}
    dtype = np.dtype(np.float32 if types == {np.dtype(np.float32)} else np.float64)
    labels, counts = np.unique(y, return_counts=True) if classifies else (None, None)
    names = names if names is None else tuple(names)
    return Facts(X.shape[0], X.shape[1], names, dtype, y.shape[1:], labels, counts, jit.level_name())


@dataclass
class FitSpec:
    """What every shard of a fit needs to know: the estimator, but for its weights, and how rounds are cut."""

    est: Any
    units: list
    codes: list
    dtype: np.dtype
    seed: int
    sync_steps: int | None
    batch_rows: int
    level: str | None


@dataclass
class Shard:
    """Rows that stay together, as a fit reads them, and their number."""

    spec: FitSpec
    number: int
    rows: Rows

    def __setstate__(self, state):
        vars(self).update(state)
        # arrays that have travelled may begin anywhere
        X, Y, weights = self.rows.X, self.rows.Y, self.rows.weights
        self.rows = Rows(contiguous(X), required(Y, Y.dtype), None if weights is None else required(weights, X.dtype))

    def __sizeof__(self):
        """Bytes, by which dask decides that it is cheaper to bring work to a shard than a shard to work."""
        X, Y, weights = vars(self.rows).values()
        arrays = [X.data, X.indices, X.indptr] if sparse.issparse(X) else [X]
        return sum(array.nbytes for array in (*arrays, Y, weights) if array is not None)

    def run(self, params, rule, batch_rows, draw=None):
        """A training of these rows that begins with weights laid out flat."""
        spec, rows = self.spec, self.rows
        if jit.level_name() != spec.level:
            raise ValueError(about_levels([spec.level, jit.level_name()]))
        weights, biases = Layout(spec.units, spec.dtype, True, spec.codes).views(params)
        return Run(
            weights, biases, rows.X, rows.Y, rule=rule, activations=spec.codes, batch_size=batch_rows,
            row_weights=rows.weights, draw=draw,
        )  # fmt: skip

    def order(self, epoch):
        """The rows as an epoch visits them: a function of the fit's seed, the epoch and the shard."""
        n = self.rows.X.shape[0]
        return row_order([self.spec.seed, epoch], self.number, n) if self.spec.est.shuffle else np.arange(n)


class Share(NamedTuple):
    """Part of a sum over shards: `factor` times a vector; and sums of WEIGHT, LOSS, PENALTY, VISITED and STEPPED rows."""

    vector: np.ndarray
    factor: float
    counts: np.ndarray


WEIGHT, LOSS, PENALTY, VISITED, STEPPED = range(5)


def added(one, other):
    """The sum of two shares, in float64."""
    vector = one.vector * np.float64(one.factor) + other.vector * np.float64(other.factor)
    return Share(vector, 1.0, one.counts + other.counts)


def paired(function, *values):
    """What is left of values when neighbours are put together, two and two."""
    while len(values) > 1:
        pairs = (values[place : place + 2] for place in range(0, len(values), 2))
        values = tuple(function(*pair) if len(pair) == 2 else pair[0] for pair in pairs)
    return values[0]


def given(value):
    """The value: a task that the scheduler can run again where who has its result is lost."""
    return value


def together(*values):
    """The values, as one result."""
    return values


def about_levels(names):
    """What is wrong with workers of several levels."""
    return (
        f"workers must run kernels of one level, or their sums are rounded otherwise, got {' and '.join(map(str, names))}: "
        "set FASTBP_LEVEL to the lowest of them in the environment of all workers"
    )


def cut(array, start, stop):
    """Rows of an array, a dataframe or a sparse matrix."""
    if array is None or (start, stop) == (0, array.shape[0]):
        return array
    return array.iloc[start:stop] if hasattr(array, "iloc") else array[start:stop]


def piece_of(spec, X, y, sample_weight):
    """Rows of a partition, checked and coded."""
    est = spec.est
    X, y = est._validated(whole(X), targets(y), reset=False)
    X = X.astype(spec.dtype, copy=False)
    if sample_weight is not None:
        # not as scikit-learn checks weights, which must not all be 0; those of one partition may
        sample_weight = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    weights = est._weights(y, sample_weight, True)
    Y = required(est._encoded(y, False), spec.dtype)
    return contiguous(X), Y, None if weights is None else required(weights, spec.dtype)


def shard_of(spec, number, cuts, *parts):
    """A shard: of each partition with rows in it a cut, start and stop, and its X, y and weights."""
    pieces = []
    for place, (start, stop) in enumerate(cuts):
        pieces.append(piece_of(spec, *(cut(one, start, stop) for one in parts[3 * place : 3 * place + 3])))
    X, Y, weights = zip(*pieces, strict=True)
    return Shard(spec, number, Rows(contiguous(joined(X)), joined(Y), None if weights[0] is None else joined(weights)))


def weight_of(shard):
    """The sum of a shard's weights."""
    rows = shard.rows
    return float(rows.X.shape[0]) if rows.weights is None else float(rows.weights.sum(dtype=np.float64))


def trained(shard, params, number, learning_rate):
    """A shard's share of a round of steps: its weights, by the sum of its rows' weights."""
    spec, n = shard.spec, shard.rows.X.shape[0]
    batch, est = min(spec.batch_rows, n), spec.est
    per_epoch = -(-n // batch)
    steps = spec.sync_steps or per_epoch
    first, last = number * steps, (number + 1) * steps
    epochs = itertools.count(first // per_epoch)
    rule = replace(est._rule(), learning_rate=learning_rate)
    if est.dropout:
        # the masks of a run come from its seed and the number of the step, which is 0 again in every round
        rule.seed = int(np.random.SeedSequence([est._dropout_seed, number, shard.number]).generate_state(1)[0])
    run = shard.run(params, rule, batch, lambda count: np.array([shard.order(next(epochs)) for _ in range(count)]))
    per_batch = -(-batch // int(run.work.plan.block_rows))
    if first % per_epoch:
        run.order = run.draw(1)
        row = first % per_epoch * batch
        run.cursor[[CURSOR.row, CURSOR.batch, CURSOR.block]] = row, row, first % per_epoch * per_batch
    run.record = np.zeros((last // per_epoch - first // per_epoch + 1, len(RECORD)))
    visited, weight = 0, run.weight
    while first < last:
        whole = (first // per_epoch + 1) * per_epoch  # the step with which the epoch ends
        stop = min(last, whole)
        before, position = int(run.cursor[CURSOR.row]), int(run.cursor[CURSOR.block])
        ended = run.work.blocks_per_epoch if stop == whole else stop % per_epoch * per_batch
        run.advance(ended - position)
        visited, first = visited + (n if stop == whole else int(run.cursor[CURSOR.row])) - before, stop
    record = RECORD._make(run.record.sum(axis=0))
    return Share(run.params.copy(), weight, np.array([weight, record.loss, record.penalty, visited, record.rows]))


def sloped(shard, params):
    """A shard's share of the loss of all rows, and of its gradient, without L2 terms."""
    rule = replace(shard.spec.est._rule("lbfgs"), alpha=0.0, reduction="sum")
    run = shard.run(params, rule, shard.rows.X.shape[0])
    if not run.weight:
        return Share(np.zeros_like(run.params), 1.0, np.zeros(5))
    loss, _, grad = run.loss_grad()
    return Share(grad, 1.0, np.array([run.weight, loss, 0.0, run.n_rows, run.n_rows]))


def predicted(X, est, method, meta):
    """A partition's predictions: an array for one of an array, and else a Series or DataFrame with its index."""
    if not X.shape[0]:
        return meta
    found = getattr(est, method)(X)
    if not hasattr(X, "iloc"):
        return found
    columns = {"columns": meta.columns} if meta.ndim == 2 else {"name": meta.name}
    return type(meta)(found, index=X.index, **columns)


class Moments(NamedTuple):
    """Of rows: weight, mean targets, squares about them, and squared errors or wrong rows; all but the mean are sums."""

    weight: float
    mean: Any
    spread: Any
    errors: Any


def judged(X, y, sample_weight, est):
    """What a partition's rows add to a score."""
    rows, y = X.shape[0], targets(y)
    weights = np.ones(rows) if sample_weight is None else np.asarray(sample_weight, np.float64)
    if not rows or not weights.sum():
        return Moments(0.0, np.float64(0), np.float64(0), np.float64(0))
    found = est.predict(X)
    if y.shape != found.shape:
        raise ValueError(f"y must have the shape of the predictions, {found.shape} in a partition, got {y.shape}")
    if is_classifier(est):
        wrong = (y != found).reshape(rows, -1).any(axis=1)
        return Moments(weights.sum(), np.float64(0), np.float64(0), weights @ wrong)
    y = y.astype(np.float64)
    mean = np.average(y, axis=0, weights=weights)
    return Moments(weights.sum(), mean, weights @ (y - mean) ** 2, weights @ (y - found) ** 2)


def merged(one, other):
    """Moments of the rows of both (Chan et al., "Updating formulae", 1979)."""
    weight = one.weight + other.weight
    share, apart = (other.weight / weight if weight else 0.0), other.mean - one.mean
    spread = one.spread + other.spread + apart**2 * one.weight * share
    return Moments(weight, one.mean + apart * share, spread, one.errors + other.errors)
