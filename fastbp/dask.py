"""One fit on many machines: estimators whose rows are the partitions of dask's arrays and dataframes.

In a round every shard of the rows trains from the common weights, on the worker that holds it; the mean of what comes of
them makes the next ones. Everything that a task computes is a function of its shard, its round and the weights it is given,
and means are summed on a tree that is fixed by the shards' numbers. So no bits depend on who computes what, or how often.

Nothing here manages a cluster: tasks, data and workers that die are the distributed client's own concern.
"""

import concurrent.futures
import contextlib
import functools
import itertools
import time
import warnings
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import _fit_context, clone, is_classifier
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.validation import check_is_fitted

from fastbp import checks
from fastbp.estimators import fitting
from fastbp.estimators.mlp import MLPClassifier, MLPRegressor
from fastbp.estimators.perceptron import PARAMETERS, Perceptron, fill_in, store
from fastbp.layout import RECORD, Layout
from fastbp.shards import (
    LOSS,
    PENALTY,
    STEPPED,
    VISITED,
    WEIGHT,
    FitSpec,
    about_levels,
    added,
    facts_of,
    given,
    judged,
    merged,
    paired,
    predicted,
    shard_of,
    sloped,
    together,
    trained,
    weight_of,
)
from fastbp.stream import Rows
from fastbp.training import INTERRUPTED, InterruptedWarning

try:
    import dask
    import distributed
except ImportError as error:
    raise ImportError(f"fastbp.dask needs dask and distributed, which pip install 'fastbp[dask]' brings: {error}") from error

# While a task runs, the driver looks so often whether the cluster is alive; it puts up with one without workers for so long.
LOOK_SECONDS = 2.0
PATIENCE_SECONDS = 60.0
# Most seconds that a result may take from a worker to the driver, before it is asked for again.
TRANSFER_SECONDS = 600.0
# Shares that a task sums: a task costs more than sending it the weights of a small network.
FAN_IN = 8
# Rows of a step of all shards together, and the fewest of a shard, where batch_size is "auto".
BATCH_ROWS, LEAST_BATCH_ROWS = 200, 50

OWN_PARAMETERS = """
batch_size : int or 'auto' | Rows of a shard per step; 'auto' shares 200 among the shards, but leaves each 50, or all it has.
max_iter : int | Most rounds of 'sgd' and 'adam', most iterations of 'lbfgs'.
random_state : int, RandomState instance or None | Draws the initial weights as the local estimator does, then a seed from
    which come the orders of the rows and the dropout masks of every shard and round.
tol : float | Training stops when the loss does not improve by this for more than n_iter_no_change rounds on end; for 'lbfgs'
    when no element of the gradient exceeds it.
verbose : bool | Print a line per round.
n_iter_no_change : int or inf | Rounds without improvement that are put up with.
client : distributed.Client or None | Whose workers train; None is the default client. A copy that is pickled has none.
n_shards : int or None | Cut the rows, in their order, into so many shards whose numbers of rows differ by at most 1; None
    leaves them as the partitions have them. Results depend on it, and not on the number of workers.
sync_steps : int or None | Steps of every shard in a round, which go on in the order of its present epoch; None is an epoch.
outer : {'nesterov', 'average'} | The outer step: from the common weights along the mean change of the shards', with
    Nesterov's momentum, or to the mean itself.
outer_learning_rate : float | Length of the outer step of 'nesterov', in parts of the mean change.
outer_momentum : float | Its momentum, in [0, 1)."""

NOTES = """\
    Data: X, y and sample_weight are dask arrays or dataframes, cut at the same rows. A shard is checked and coded once, on
    the worker that holds its partition, and stays there until the fit ends, unless the scheduler finds that sending it to an
    idle worker saves time; with `n_shards` rows move once, to meet those of their shard. Partitions without rows are left
    out. Sizes of chunks need not be known.

    A round sends the weights, in the float type of X, once to each worker that has a shard to train. Each shard's weights
    are summed in float64, two and two, on workers; the driver gets one sum, takes the outer step and waits again, and
    computes nothing that grows with the rows. Moments of the inner solver begin at 0 in every round, so that only weights
    travel, and a lost shard can be trained again from what the scheduler knows. 'lbfgs' evaluates the loss of all rows and
    its gradient in the same way, one round an evaluation, with SciPy's iterations on the driver: the local fit, to rounding.

    Defaults are those that came closest to a local fit on Fashion-MNIST (784-128-10, 8 shards, as many rounds as epochs):
    with Nesterov's momentum test accuracy is within half a point of it, while plain averages stay 1 to 2 points behind.
    Moments that stay with the shards, or are averaged, did no better than new ones.

    Memory, with P bytes for the weights in float64: a worker holds its shards, and per thread at most 5 P: the weights, the
    solver's moments and sums. The scheduler holds P, in the task that gives the weights out; the driver 4 P, and 20 P more
    for 'lbfgs'.

    Time of a round of s shards on w workers: ``max(ceil(s / w) t, s c) + s c / 7 + (2 + log8(s)) l + (1 + log2(w) +
    7 log8(s)) P / b``, with t the time of a shard's steps, c the scheduler's per task, l that from a task's end to the start
    of the next, and b bytes per second from one machine to another. `bench/cluster.py` measures t, c and l, and compares
    this to a simulation of 100 workers: they agree within a fifth. With c a millisecond, shards on 100 workers should have
    steps for a second: `sync_steps` says how many.

    Workers have to run kernels of one level: FASTBP_LEVEL in their environments sees to that. Each task takes one thread.
    Kernels are read from the user's cache or NUMBA_CACHE_DIR, where what one worker has compiled is there for all.

    Early stopping, warm starts, checkpoints, callbacks and columns of classes are left to the local estimators."""

REFERENCES = """\
    McMahan et al., "Communication-efficient learning of deep networks from decentralized data", AISTATS 2017: averages.
    Douillard et al., "DiLoCo: distributed low-communication training of language models", arXiv:2311.08105, 2023: Nesterov's
    momentum as the outer step."""


class Cluster:
    """A client that is connected, and waits that have an end."""

    def __init__(self, client):
        if client is None:
            try:
                client = distributed.default_client()
            except ValueError:
                raise ValueError("client must be given where there is no default one, got None") from None
        if not isinstance(client, distributed.Client):
            raise TypeError(f"client must be a distributed.Client or None, got {client!r}")
        if client.asynchronous:
            raise ValueError("client must not be asynchronous, as fit waits for its results")
        if client.status != "running":
            raise ValueError(f"client must be connected to a scheduler, got one that is {client.status}")
        self.client = client

    def map(self, function, *columns, **same):
        """Tasks: one for each item of the columns, all of them with the same further arguments."""
        if self.client.status != "running":
            raise ConnectionError(f"client lost its scheduler: it is {self.client.status}")
        # dask's warning of weights as large as a data set is not for those who use them
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
            return self.client.map(function, *columns, pure=False, **same)

    def submit(self, function, *arguments):
        """A task."""
        return self.map(function, *([one] for one in arguments))[0]

    def tree(self, function, futures):
        """What is left of tasks when neighbours are put together, two and two; a task does three levels of the tree."""
        while len(futures) > 1:
            groups = [futures[place : place + FAN_IN] for place in range(0, len(futures), FAN_IN)]
            futures = [self.submit(paired, function, *group) if len(group) > 1 else group[0] for group in groups]
        return futures[0]

    def values(self, futures):
        """What several tasks give, each of it small."""
        return self.value(self.submit(together, *futures))

    def value(self, future):
        """What a task gives, or its error."""
        try:
            self.wait(future)
            while True:
                try:
                    return future.result(timeout=TRANSFER_SECONDS)
                except TimeoutError:
                    if future.status == "error":  # the task's own
                        raise
                    self.wait(future)  # its worker may be lost
        except concurrent.futures.CancelledError as error:
            raise ConnectionError(f"client lost its scheduler, or data that were put there by hand: {error}") from error

    def wait(self, future):
        """Wait for a task's end, or for that of the cluster."""
        alone = None
        while True:
            with contextlib.suppress(TimeoutError):
                distributed.wait([future], timeout=LOOK_SECONDS)
                return
            alone = None if self.at_work() else alone or time.monotonic()
            if alone and time.monotonic() > alone + PATIENCE_SECONDS:
                raise ConnectionError(f"client must have workers that run, got none for {PATIENCE_SECONDS:g} s")

    def at_work(self):
        """Whether there are workers that are neither lost nor paused."""
        try:
            return bool(self.client.sync(self.client.scheduler.ncores_running, callback_timeout=LOOK_SECONDS))
        except (TimeoutError, OSError):
            return False

    def partitions(self, **collections):
        """Futures of the partitions of X, y and sample_weight, three for each partition; None for what is not given."""
        X = collections["X"]
        delayed = {name: parts_of(name, one, X) for name, one in collections.items() if one is not None or name == "y"}
        for name, parts in delayed.items():
            if len(parts) != len(delayed["X"]):
                raise ValueError(f"{name} must have as many partitions as X, {len(delayed['X'])}, got {len(parts)}")
        futures = iter(self.client.compute([part for parts in delayed.values() for part in parts]))
        columns = [[next(futures) for _ in parts] for parts in delayed.values()]
        while len(columns) < 3:
            columns.append([None] * len(columns[0]))
        return list(zip(*columns, strict=True))


def check_collection(name, collection):
    """Raise a TypeError for what has no partitions."""
    if not (dask.is_dask_collection(collection) and hasattr(collection, "to_delayed")):
        kind = type(collection).__name__
        raise TypeError(
            f"{name} must be a dask array or dataframe, got {kind}, which is for local estimators, as of to_local()"
        )


def parts_of(name, collection, X):
    """Partitions of a collection, cut at the rows of X where both tell their sizes."""
    check_collection(name, collection)
    if not hasattr(collection, "numblocks"):
        return list(collection.to_delayed())
    if collection.ndim not in ((2,) if collection is X else (1, 2)):
        raise ValueError(f"{name} must have {2 if collection is X else '1 or 2'} dimensions, got {collection.ndim}")
    if collection.ndim == 2 and collection.numblocks[1] > 1:
        collection = collection.rechunk({1: -1})
    sizes = [one.chunks[0] for one in (collection, X) if hasattr(one, "chunks")]
    if len(sizes) == 2 and sizes[0] != sizes[1] and not np.isnan([*sizes[0], *sizes[1]]).any():
        if sum(sizes[0]) != sum(sizes[1]):
            raise ValueError(f"{name} must have as many rows as X, {sum(sizes[1])}, got {sum(sizes[0])}")
        collection = collection.rechunk({0: sizes[1]})
    return collection.to_delayed().ravel().tolist()


def agreed(facts, field, name):
    """What a field of all partitions is; an error where it is not one thing."""
    values = [getattr(one, field) for one in facts]
    for number, value in enumerate(values):
        if value != values[0]:
            raise ValueError(f"{name} in all partitions, got {values[0]} in one and {value} in partition {number}")
    return values[0]


def cuts_of(sizes, n_shards):
    """For each shard the partitions with rows in it, and which rows of them: (partition, start, stop)."""
    ends = np.cumsum(sizes).tolist()
    total = ends[-1]
    if n_shards is not None and n_shards > total:
        raise ValueError(f"n_shards must be at most the number of rows, {total}, got {n_shards}")
    edges = [0, *ends] if n_shards is None else [total * number // n_shards for number in range(n_shards + 1)]
    shards = []
    for low, high in itertools.pairwise(edges):
        spans = enumerate(zip([0, *ends], ends, strict=False))
        shards.append([(one, max(low, a) - a, min(high, b) - a) for one, (a, b) in spans if max(low, a) < min(high, b)])
    return shards


class Rounds:
    """The shards of a fit on a cluster, and the common weights: a run, as `fitting.Epochs` knows it, of the mean row."""

    epochs_done = 1

    def __init__(self, est, cluster, shards, layout, level):
        self.est, self.cluster, self.shards, self.layout, self.level = est, cluster, shards, layout, level
        self.params = layout.gather(est.coefs_, est.intercepts_).astype(np.float64)
        self.velocity, self.record, self.number = np.zeros_like(self.params), np.zeros((1, len(RECORD))), 0

    def sum_of(self, function, params, **arguments):
        """The sum of the shares of all shards, of a function of each and the weights."""
        weights = self.cluster.submit(given, params.astype(self.layout.dtype))
        shares = self.cluster.map(function, self.shards, params=weights, **arguments)
        vector, factor, counts = self.cluster.value(self.cluster.tree(added, shares))
        return vector * np.float64(factor), counts

    def advance(self):
        """One round and the outer step; returns the rows visited."""
        est = self.est
        total, counts = self.sum_of(trained, self.params, number=self.number, learning_rate=est._learning_rate)
        mean = total / counts[WEIGHT]
        change = self.params - mean
        self.velocity = est.outer_momentum * self.velocity + change
        if est.outer == "average":
            self.params = mean
        else:
            self.params = self.params - est.outer_learning_rate * (change + est.outer_momentum * self.velocity)
        self.number += 1
        self.record[0, [RECORD.loss, RECORD.penalty, RECORD.rows]] = counts[[LOSS, PENALTY, STEPPED]]
        return int(counts[VISITED])

    def recorded(self, first):
        """The record of the round."""
        return self.record[first:]

    def parameters(self):
        """Weights and biases."""
        return tuple([np.array(view, self.layout.dtype) for view in views] for views in self.layout.views(self.params))

    def memory(self):
        """Nothing: moments begin anew in every round."""
        return [], 0


class Objective(fitting.Objective):
    """Loss and gradient of the network on the rows of all shards."""

    run: Any

    def __init__(self, est, rounds, weight):
        self.est, self.run, self.weight = est, rounds, weight
        self.outputs_of_loss = fitting.losses_averaged(est)

    def __call__(self, vector):
        """Loss, and its gradient as a float64 vector."""
        layout, alpha = self.run.layout, float(self.est.alpha)
        params = layout.gather(*self.unpacked(vector))
        grad, counts = self.run.sum_of(sloped, params)
        penalty = fitting.add_decay(layout, params, alpha, grad)
        weights, biases = layout.views(grad)
        value = (counts[LOSS] / self.outputs_of_loss + alpha / 2 * penalty) / self.weight
        return value, np.concatenate([view.ravel() for view in weights + biases]) / self.weight


class Distributed(Perceptron):
    """What both estimators share. A subclass names the local estimator that it makes."""

    _local: ClassVar[Any]
    # what of the local estimators has one value here
    warm_start = early_stopping = False
    validation_fraction, scoring, n_jobs = 0.1, None, None
    _own_constraints: ClassVar[dict] = {
        "client": "no_validation",
        "n_shards": [Interval(Integral, 1, None, closed="left"), None],
        "sync_steps": [Interval(Integral, 1, None, closed="left"), None],
        "outer": [StrOptions({"average", "nesterov"})],
        "outer_learning_rate": [Interval(Real, 0, None, closed="neither")],
        "outer_momentum": [Interval(Real, 0, 1, closed="left")],
    }

    def __init_subclass__(cls, **arguments):
        cls._parameter_constraints = {**cls._local._parameter_constraints, **cls._own_constraints}
        fill_in(cls, PARAMETERS + OWN_PARAMETERS, NOTES=NOTES, DISTRIBUTED=REFERENCES)
        super().__init_subclass__(**arguments)

    def __sklearn_clone__(self):
        others = {name: clone(value, safe=False) for name, value in self.get_params(deep=False).items() if name != "client"}
        return type(self)(**others, client=self.client)

    def __getstate__(self):
        return super().__getstate__() | {"client": None}

    @property
    def partial_fit(self):
        """Not offered."""
        raise AttributeError("partial_fit is offered by the local estimators alone, of which to_local() gives one")

    def to_local(self):
        """A local estimator of the same parameters and weights.

        Returns
        -------
        fastbp.MLPClassifier or fastbp.MLPRegressor
            It predicts the same bits, may be saved, and trained on.
        """
        names = self._local._get_param_names()
        local = self._local(**{name: getattr(self, name) for name in names})
        own = self.get_params(deep=False)
        vars(local).update((name, value) for name, value in vars(self).items() if name not in own)
        return local

    def save(self, path):
        """Write the local estimator into a file; see `fastbp.save`."""
        self.to_local().save(path)

    # --- fitting ---

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Train on rows and their classes or values, where they are.

        Parameters
        ----------
        X : dask array or dataframe of shape (n, n_features)
            Its blocks may be sparse matrices of scipy.
        y : dask array, series or dataframe of shape (n,) or (n, n_outputs)
            Values of a regressor; class labels of a classifier, or 0s and 1s in columns. Cut into partitions as X is; an
            array of known chunks is cut again to be so.
        sample_weight : dask array or series of shape (n,), or None, default=None
            Factors of the rows' losses, with a sum above 0; a shard's weights count in the mean by their sum.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If a parameter, X, y or sample_weight is not of the kind described, partitions do not go together, a weight stops
            being finite, the client is closed, or workers run kernels of several levels.
        ConnectionError
            If the scheduler is lost, or no worker runs for a minute; unless by 'lbfgs', the last round's weights are kept.

        Warns
        -----
        ConvergenceWarning
            If max_iter is reached.
        UserWarning
            If interrupted from the keyboard; the weights of the last round are kept.
        """
        if getattr(self, "_skl_callbacks", ()):
            raise ValueError("callbacks are left to the local estimators")
        cluster, random_state = Cluster(self.client), check_random_state(self.random_state)
        with fitting.as_before(self, random_state):
            self.n_iter_ = 0
            parts = cluster.partitions(X=X, y=y, sample_weight=sample_weight)
            facts = cluster.values(cluster.map(facts_of, *zip(*parts, strict=True), classifies=is_classifier(self)))
            # partitions without rows, which filters leave
            parts = [part for part, one in zip(parts, facts, strict=True) if one.rows]
            facts = [one for one in facts if one.rows]
            spec = self._learn(facts, random_state)
            shards = []
            for number, cuts in enumerate(cuts_of([one.rows for one in facts], self.n_shards)):
                cut_parts = (future for cut in cuts for future in parts[cut[0]])
                shards.append(cluster.submit(shard_of, spec, number, [cut[1:] for cut in cuts], *cut_parts))
            weights = cluster.values(cluster.map(weight_of, shards))
            with np.errstate(over="ignore"):  # of the float type in which shards have them
                given = {"sample_weight": sample_weight, "class_weight": getattr(self, "class_weight", None)}
                names = " times ".join(name for name, value in given.items() if value is not None)
                checks.check_sum(names or "rows", np.array(weights).astype(spec.dtype))
            del parts  # the shards have them
            self.level_ = spec.level
            layout = Layout(spec.units, spec.dtype, True, spec.codes)
            rounds = Rounds(self, cluster, shards, layout, spec.level)
            # the shapes of the rows; the record is that of the mean one
            rows = Rows(np.empty((1, spec.units[0]), spec.dtype), np.empty((1, spec.units[-1])))
            self._train(rounds, rows, sum(weights), random_state)
            self._check_finite()
        return self

    def _learn(self, facts, random_state):
        """Learn columns and classes, draw the weights, and say what shards have to know."""
        if not facts:
            raise ValueError("X must have at least one row, got none in any partition")
        if len(levels := sorted({str(one.level) for one in facts})) > 1:
            raise ValueError(about_levels(levels))
        self.n_features_in_ = agreed(facts, "width", "X must have the same number of columns")
        names = agreed(facts, "names", "X must have the same columns, in the same order,")
        self.__dict__.pop("feature_names_in_", None)
        if names is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        shape = agreed(facts, "shape", "y must have the same columns")
        dtype = np.result_type(*(one.dtype for one in facts))
        n_outputs = self._learn_targets(facts, shape)
        units = [self.n_features_in_, *self._hidden_sizes(), n_outputs]
        self._initialize(units, dtype, random_state)
        self._draw_dropout_seed(random_state)
        codes, seed = self._activation_codes(), int(random_state.randint(2**32, dtype=np.uint32))
        est, batch = self.to_local(), self.batch_size
        del est.coefs_, est.intercepts_
        est.class_weight = self._factors(facts)
        if isinstance(batch, str):
            shards = self.n_shards or len(facts)
            batch = max(LEAST_BATCH_ROWS, BATCH_ROWS // shards)
        return FitSpec(est, units, codes, dtype, seed, self.sync_steps, int(batch), facts[0].level)

    def _train(self, rounds, rows, weight, random_state):
        """Train by rounds, or by evaluations of the loss of all rows."""
        view = fitting.Task(self, None, None, None, None, single=True)  # which no callback has
        if self.solver == "lbfgs":
            fitting.fit_lbfgs(self, rows, view, Objective(self, rounds, weight))
            return
        epochs, stop, before = fitting.begun(self, rows, None, random_state, None, view, rounds), False, 0
        try:
            while not stop and self.n_iter_ < self.max_iter:
                visited = before + rounds.advance()
                losses = epochs.note(epochs.losses(0))
                self.t_ = before = visited
                stop = epochs.end(losses)
                if not np.isfinite(rounds.params).all():
                    break
            else:
                if not stop:
                    fitting.warn_of_the_end(self, 4)
        except KeyboardInterrupt:
            warnings.warn(INTERRUPTED, InterruptedWarning, stacklevel=4)
        finally:
            epochs.keep()

    # --- predicting ---

    def _by_partition(self, method, X, meta):
        """Predictions of all partitions of X, of which `meta` has the shape and type, when somebody wants them."""
        check_is_fitted(self)
        check_collection("X", X)
        model = dask.delayed(self.to_local(), pure=False, traverse=False)
        if hasattr(X, "numblocks"):
            if X.ndim != 2 or X.shape[1] != self.n_features_in_:
                raise ValueError(f"X must have {self.n_features_in_} columns, got shape {X.shape}")
            X, work = X.rechunk({1: -1}), functools.partial(predicted, method=method, meta=meta)
            how = {"drop_axis": 1} if meta.ndim == 1 else {"chunks": (X.chunks[0], (meta.shape[1],))}
            return X.map_blocks(work, model, dtype=meta.dtype, meta=meta, **how)
        import pandas

        names = getattr(self, "classes_", None) if method.startswith("predict") else None
        meta = pandas.Series(meta) if meta.ndim == 1 else pandas.DataFrame(meta, columns=names)
        return X.map_partitions(predicted, model, method, meta, meta=meta)

    def predict(self, X):
        """Classes or values for the rows of X, when they are computed.

        Parameters
        ----------
        X : dask array or dataframe of shape (n, n_features)

        Returns
        -------
        dask array of shape (n,) or (n, n_outputs), or of a dataframe a series or dataframe with its index
            Computed partition by partition, wherever these are; a row's result does not depend on the other rows.
        """
        check_is_fitted(self)
        return self._by_partition("predict", X, self._decoded(np.zeros((1, self.n_outputs_)))[:0])

    def transform(self, X):
        """Activations of the last hidden layer, when they are computed; X and results are of the kinds of `predict`."""
        check_is_fitted(self)
        return self._by_partition("transform", X, np.zeros((0, self._n_features_out), self.coefs_[0].dtype))

    def score(self, X, y, sample_weight=None):
        """The score of the local estimator: of a classifier the share of right rows, else R2, the mean over outputs.

        Parameters
        ----------
        X, y, sample_weight
            As of `fit`.

        Returns
        -------
        float
            Computed by partition; R2 is summed otherwise than by the local estimator.
        """
        check_is_fitted(self)
        cluster = Cluster(self.client)
        model = cluster.submit(given, self.to_local())
        parts = cluster.partitions(X=X, y=y, sample_weight=sample_weight)
        found = cluster.value(cluster.tree(merged, cluster.map(judged, *zip(*parts, strict=True), est=model)))
        if not found.weight:
            raise ValueError("X must have rows, and weights above 0, to be scored by, got none")
        if is_classifier(self):
            return float((found.weight - found.errors) / found.weight)
        spread, errors = np.atleast_1d(found.spread), np.atleast_1d(found.errors)
        constant = spread == 0
        return float(np.mean(np.where(constant, 1.0 * (errors == 0), 1 - errors / np.where(constant, 1.0, spread))))


class DaskMLPClassifier(Distributed, MLPClassifier):
    """Multi-layer perceptron that classifies, trained where the partitions of its rows are; see `fastbp.MLPClassifier`.

    Whatever the number of workers, whichever of them die and are replaced, the result has the same bits.

    Parameters
    ----------
    <PARAMETERS>

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels of all partitions, in the order of the outputs.
    <ATTRIBUTES>

    Notes
    -----
    <NOTES>

    References
    ----------
    <DISTRIBUTED>
    <REFERENCES>
    """

    _local = MLPClassifier

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        client=None,
        n_shards=None,
        sync_steps=None,
        outer="nesterov",
        outer_learning_rate=1.0,
        outer_momentum=0.8,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        momentum=0.9,
        nesterovs_momentum=True,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        dropout=0.0,
        max_norm=np.inf,
        class_weight=None,
    ):
        store(self, locals())

    def _learn_targets(self, facts, shape):
        """Learn the classes that any partition has; returns the number of outputs."""
        kinds = {one.labels.dtype.kind in "OSU" for one in facts}
        if len(kinds) > 1:
            raise ValueError("y must have numbers or strings in all partitions, got both")
        labels = np.unique(np.concatenate([one.labels for one in facts]))
        if shape:
            if not np.isin(labels, (0, 1)).all():
                raise ValueError(f"y must have 0s and 1s where it has columns, got {labels[:5]}")
            self._learn_labels(np.array([[0], [1]]).repeat(shape[0], axis=1))
            return shape[0]
        self._learn_labels(labels.repeat(3))  # as labels of rows: each of them once would be taken for numbers
        return len(self.classes_) if self._y_type == "multiclass" else 1

    def _factors(self, facts):
        """The weights of all classes, as those of all rows are."""
        if self.class_weight is None:
            return None
        if self._y_type.startswith("multilabel") or isinstance(self.class_weight, list):
            raise ValueError(f"class_weight must be None where y has columns, got {self.class_weight!r}")
        known = self.classes_
        if isinstance(self.class_weight, dict):
            return dict(zip(known.tolist(), compute_class_weight(self.class_weight, classes=known, y=known), strict=True))
        counts = np.zeros(len(known))
        for one in facts:
            counts[np.searchsorted(known, one.labels)] += one.counts
        return dict(zip(known.tolist(), counts.sum() / (len(known) * counts), strict=True))

    def predict_proba(self, X):
        """Probabilities of the classes, when they are computed.

        Parameters
        ----------
        X : dask array or dataframe of shape (n, n_features)

        Returns
        -------
        dask array of shape (n, n_classes), or of a dataframe a dataframe with its index
            Columns in the order of `classes_`.
        """
        check_is_fitted(self)
        return self._by_partition("predict_proba", X, np.zeros((0, len(self.classes_)), self.coefs_[0].dtype))


class DaskMLPRegressor(Distributed, MLPRegressor):
    """Multi-layer perceptron that predicts numbers, trained where the partitions of its rows are; see `fastbp.MLPRegressor`.

    Whatever the number of workers, whichever of them die and are replaced, the result has the same bits.

    Parameters
    ----------
    <PARAMETERS>

    Attributes
    ----------
    <ATTRIBUTES>

    Notes
    -----
    <NOTES>

    References
    ----------
    <DISTRIBUTED>
    <REFERENCES>
    """

    _local = MLPRegressor

    def __init__(
        self,
        loss="squared_error",
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
        client=None,
        n_shards=None,
        sync_steps=None,
        outer="nesterov",
        outer_learning_rate=1.0,
        outer_momentum=0.8,
        solver="adam",
        alpha=0.0001,
        batch_size="auto",
        learning_rate="constant",
        learning_rate_init=0.001,
        power_t=0.5,
        max_iter=200,
        shuffle=True,
        random_state=None,
        tol=1e-4,
        verbose=False,
        momentum=0.9,
        nesterovs_momentum=True,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        dropout=0.0,
        max_norm=np.inf,
    ):
        store(self, locals())

    def _learn_targets(self, facts, shape):
        """The number of outputs."""
        return shape[0] if shape else 1

    def _factors(self, facts):
        """None: no row has a class."""
