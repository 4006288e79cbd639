"""Trainings that are to be measured: a network with its data, at its start, and turns in which trainings are timed.

Everything that is compared is measured a moment at a time, one after the other, several times over: what else happens on a
machine then happens to all of them. A figure is the median of the turns, and is stated with the lowest and the highest.
"""

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils.multiclass import type_of_target

from fastbp.checks import at_least, float_dtype
from fastbp.estimators.fitting import clipped_batch_size
from fastbp.estimators.mlp import MLPClassifier, MLPRegressor
from fastbp.estimators.perceptron import Perceptron
from fastbp.estimators.tabular import Tabular
from fastbp.layout import CURSOR, RECORD
from fastbp.neural_network import NeuralNetwork
from fastbp.rule import ACTIVATIONS, Rule
from fastbp.training import CALL_SECONDS, Run, is_sparse, permutations
from fastbp.workspace import NarrowWorkspace, OnlineWorkspace, WideWorkspace, workspace_for_training

BATCH_SIZE = 200  # scikit-learn's
LEARNING_RATE = 1e-3
DEFAULTS: dict[str, Any] = {"solver": "adam", "activation": "relu", "dtype": "float32", "n_jobs": None}
KERNELS = {"narrow": NarrowWorkspace, "wide": WideWorkspace, "online": OnlineWorkspace}
# Synthetic data: enough batches that caches see new rows, as in a training, and little enough to be made in no time.
BATCHES, MOST_BYTES = 20, 64 * 1024**2
LEAST_BATCHES = 4  # so that a batch four times as large can be tried

TURNS = 9  # of everything that is compared
LEAST_TURN = 2e-3  # seconds, far above what starting a call takes
ENOUGH = 0.8  # of a turn: another short call would show how long starting one takes
WARM_TURNS = 1  # that do not count: caches and clocks settle


@dataclass(frozen=True)
class Workload:
    """A network with its data, of one float type, at its start, which a training leaves as it is."""

    units: tuple[int, ...]
    activations: tuple[str, ...]  # of the hidden layers
    rule: Rule
    weights: list
    biases: list
    X: Any  # an array or a CSR matrix
    Y: np.ndarray
    batch_size: int
    n_jobs: int | None = None
    shuffle: bool = False
    row_weights: np.ndarray | None = None
    synthetic: bool = False  # random numbers
    kernel: str | None = None  # one of KERNELS; by default the one that is chosen for training

    @property
    def rows(self) -> int:
        """Rows of an epoch."""
        return self.X.shape[0]

    @property
    def steps(self) -> int:
        """Optimiser steps of an epoch."""
        return -(-self.rows // self.batch_size)

    @property
    def dtype(self) -> str:
        """The float type's name."""
        return self.X.dtype.name

    @property
    def sparse(self) -> bool:
        """Whether X lists its values."""
        return is_sparse(self.X)

    @property
    def values_per_row(self) -> float:
        """Inputs of a row that count: the stored ones of a sparse X."""
        return self.X.nnz / self.rows if self.sparse else self.units[0]

    @property
    def products(self) -> list[float]:
        """Of each layer, the multiply-adds of one row's sums: n_in * n_out, or what is stored of them."""
        pairs = list(itertools.pairwise(self.units))
        return [self.values_per_row * pairs[0][1], *[n_in * n_out for n_in, n_out in pairs[1:]]]

    @property
    def flops_per_sample(self) -> float:
        """Two operations for each multiply-add of a layer's three products; the first layer has no delta."""
        return 6 * sum(self.products) - 2 * self.products[0]

    def start(self) -> Run:
        """A training at its beginning."""
        rng, rows = np.random.default_rng(0), self.rows
        return Run(
            list(self.weights), list(self.biases), self.X, self.Y, rule=self.rule,
            activations=[ACTIVATIONS.index(word) for word in self.activations], batch_size=self.batch_size,
            row_weights=self.row_weights, n_jobs=self.n_jobs,
            draw=permutations(rng, rows) if self.shuffle else None,
            workspace=workspace_for_training if self.kernel is None else KERNELS[self.kernel],
        )  # fmt: skip

    def changed(self, **changes: Any) -> "Workload":
        """The same training with another `batch_size`, `n_jobs`, `kernel` or `dtype`."""
        if dtype := changes.pop("dtype", None):
            changes |= {name: [one.astype(dtype) for one in getattr(self, name)] for name in ("weights", "biases")}
            rows = {name: getattr(self, name) for name in ("X", "Y", "row_weights")}
            changes |= {name: one.astype(dtype) for name, one in rows.items() if one is not None}
        return replace(self, **changes)

    def describe(self) -> dict[str, Any]:
        """What it is, for JSON."""
        rule = {name: getattr(self.rule, name) for name in ("out_activation", "loss", "solver")}
        names = ("dtype", "batch_size", "rows", "synthetic", "sparse", "shuffle", "n_jobs", "flops_per_sample")
        own = {name: getattr(self, name) for name in names}
        listed = {"units": list(self.units), "activations": list(self.activations)}
        return listed | rule | own | {"bias": bool(self.biases), "steps_per_epoch": self.steps}


def network_of(
    units: Sequence[int], *, batch_size: int | None = None, rows: int | None = None, **settings: Any
) -> tuple[NeuralNetwork, np.ndarray, np.ndarray, int]:
    """A classifier, or a regressor where there is a single output, with random rows; settings beyond `DEFAULTS` as given."""
    units = checked_units(units)
    batch_size = BATCH_SIZE if batch_size is None else at_least(1, "batch_size", batch_size)
    classes = units[-1] > 1
    net = NeuralNetwork(
        units[0], units[1:-1], units[-1], random_state=0, init_scale=units[0] ** -0.5,
        out_activation="softmax" if classes else "identity", loss="log_loss" if classes else "squared_error",
        **DEFAULTS | settings,
    )  # fmt: skip
    row_bytes = (units[0] + units[-1]) * net.dtype.itemsize
    if rows is None:
        rows = batch_size * max(LEAST_BATCHES, min(BATCHES, MOST_BYTES // (batch_size * row_bytes)))
    elif at_least(1, "rows", rows) < batch_size:
        raise ValueError(f"rows must be at least batch_size, {batch_size}, got {rows}")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, units[0]), np.float32).astype(net.dtype, copy=False)
    y = np.eye(units[-1], dtype=net.dtype)[rng.integers(units[-1], size=rows)] if classes else X[:, :1].copy()
    return net, X, y, batch_size


def of_units(units: Sequence[int], **options: Any) -> Workload:
    """The training of what `network_of` makes."""
    net, X, y, batch_size = network_of(units, **options)
    return replace(of_network(net, X, y, batch_size=batch_size), synthetic=True)


def checked_units(units: Sequence[int]) -> tuple[int, ...]:
    """Layer sizes as a tuple of at least two positive numbers."""
    try:
        units = tuple(at_least(1, "units", size) for size in units)
    except TypeError:
        raise TypeError(f"units must be a sequence of whole numbers, got {units!r}") from None
    if len(units) < 2:
        raise ValueError(f"units must be two numbers or more, inputs and outputs included, got {list(units)}")
    return units


def of_network(
    net: NeuralNetwork, X: Any, y: Any, learning_rate=LEARNING_RATE, *, batch_size=None, reduction="mean", shuffle=False
) -> Workload:
    """What `net.train(X, y, ...)` would do, in batches of 200 or all rows by default; the network stays as it is."""
    net = copy.deepcopy(net)
    rows = np.shape(X)[0] if np.ndim(X) else 0
    batch_size = max(1, min(BATCH_SIZE, rows)) if batch_size is None else batch_size
    net.train(X, y, 0, learning_rate, batch_size=batch_size, reduction=reduction)  # checks all of them
    X, y, _ = net._checked_rows(X, y, None)
    words, rule = [ACTIVATIONS[code] for code in net._activation_codes()], net._rule(learning_rate, reduction)
    return Workload(tuple(net.units), tuple(words), rule, net.weights, net.biases, X, y, batch_size, net.n_jobs, shuffle)


def of_estimator(est: Perceptron, X: Any, y: Any) -> Workload:
    """What `est.fit(X, y)` would do but for validation rows and L-BFGS's own steps; the estimator stays as it is."""
    est = clone(est)
    est._validate_params()
    _, _, rows, _ = est._begin(X, y, None, np.random.RandomState(0))
    words, lbfgs = [ACTIVATIONS[code] for code in est._activation_codes()], est.solver == "lbfgs"
    batch_size = rows.X.shape[0] if lbfgs else clipped_batch_size(est, rows.X.shape[0])
    return Workload(
        tuple(est._units()), tuple(words), est._rule(), est.coefs_, est.intercepts_, rows.X, rows.Y, batch_size,
        est._threads(), est.shuffle and not lbfgs, rows.weights,
    )  # fmt: skip


def of_anything(what: Any = None, X: Any = None, y: Any = None, **options: Any) -> Workload:
    """The training that is meant by what `fastbp.profile` takes; see there."""
    options = {name: value for name, value in options.items() if value is not None}
    if (X is None) != (y is None):
        raise ValueError(f"X and y must be given together, got only {'y' if X is None else 'X'}")
    if what is None and X is not None:
        if "rows" in options:
            raise ValueError(f"rows are those of X, got {options['rows']!r}")
        if "dtype" in options:
            X = np.asarray(X, float_dtype("dtype", options.pop("dtype")))
        values = type_of_target(y).startswith("continuous")
        what, options = (MLPRegressor if values else MLPClassifier)(**options), {}
    if isinstance(what, (NeuralNetwork, Perceptron, Tabular)):
        kind, network = type(what).__name__, isinstance(what, NeuralNetwork)
        if X is None:
            raise ValueError(f"X and y must be given with a {kind}, got the {kind} alone")
        for name in options:
            if not (network and name == "batch_size"):
                raise ValueError(f"{name} is the {kind}'s own, got {options[name]!r} beside it")
        if isinstance(what, NeuralNetwork):
            return of_network(what, X, y, **options)
        return of_estimator(*(what.untrained(X, y) if isinstance(what, Tabular) else (what, X, y)))
    if isinstance(what, str) or not hasattr(what, "__iter__"):
        raise TypeError(f"what must be layer sizes, a NeuralNetwork or an estimator, got {what!r}")
    if X is not None:
        raise ValueError("X and y come with a NeuralNetwork, an estimator, or by themselves, got them with layer sizes")
    return of_units(what, **options)


# ---- turns -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rate:
    """Median, lowest and highest of some repeats."""

    median: float
    low: float
    high: float
    repeats: int

    @property
    def spread(self) -> float:
        """The larger distance of the lowest and the highest from the median, as a share of it."""
        return max(self.high - self.median, self.median - self.low) / self.median


def rate_of(values: Sequence[float]) -> Rate:
    """Median and extremes."""
    return Rate(statistics.median(values), min(values), max(values), len(values))


class Timed:
    """A training that goes on a moment at a time, and notes samples per second of each turn in `rates`.

    `train` is called with a number of blocks or epochs, and returns how many rows that were.
    """

    def __init__(self, train: Callable[[int], int]):
        self.train = train
        self.rates: list[float] = []
        train(1)  # compiles or loads what it takes
        start = time.perf_counter()
        train(1)
        self.pace = 1 / (time.perf_counter() - start)  # amounts per second

    def turn(self, seconds: float) -> int:
        """Train for about so long, in calls as long as a training's; returns how many rows that were."""
        rows, spent = 0, 0.0
        while spent < ENOUGH * seconds:
            amount = max(1, int(self.pace * min(CALL_SECONDS, seconds - spent)))
            start = time.perf_counter()
            rows += self.train(amount)
            call = time.perf_counter() - start
            spent, self.pace = spent + call, amount / call
        self.rates.append(rows / spent)
        return rows


class Trainer(Timed):
    """A training by fastbp, in blocks of rows."""

    def __init__(self, workload: Workload):
        self.run = workload.start()
        super().__init__(self.blocks)

    def blocks(self, amount: int) -> int:
        """Run some blocks; returns how many rows that were."""
        run, cursor = self.run, self.run.cursor
        cursor[CURSOR.epoch], before = 0, int(cursor[CURSOR.row])
        run.record = np.zeros((int(cursor[CURSOR.block] + amount) // run.work.blocks_per_epoch + 1, len(RECORD)))
        run.advance(amount)
        return int(cursor[CURSOR.epoch]) * run.n_rows + int(cursor[CURSOR.row]) - before


def take_turns(trainers: Sequence[Timed], weights: Sequence[float], seconds: float, turns: int = TURNS) -> None:
    """Let each train in turn, `weights` of the time each; the first round only warms up, and earlier rates are forgotten."""
    share = seconds / (turns + WARM_TURNS) / sum(weights)
    stop = time.perf_counter() + seconds
    for number in range(turns + WARM_TURNS):
        for trainer, weight in zip(trainers, weights, strict=True):
            trainer.turn(max(LEAST_TURN, share * weight))
            if number < WARM_TURNS:
                trainer.rates.clear()
        if number >= WARM_TURNS + 2 and time.perf_counter() > stop:
            return
