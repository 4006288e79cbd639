"""What `fastbp.train_many` buys: many networks of one kind in one call, beside one after the other."""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fastbp.checks import above, at_least
from fastbp.many import NetworkFit, train_many
from fastbp.neural_network import NeuralNetwork
from fastbp.profiling.report import SECONDS, Report, between
from fastbp.profiling.workload import LEARNING_RATE, Rate, Timed, rate_of, take_turns
from fastbp.tables import Table, figure
from fastbp.training import usable_threads

MOSTLY = 0.95  # of twice the time for twice the epochs
ALONE = 16  # networks that train one after the other, of as many as there are


@dataclass(frozen=True)
class Members(Report):
    """Nanoseconds per network and epoch of many networks in one call, and of one after the other on one thread."""

    network: str
    members: int
    rows: int
    batch_size: int
    threads: int
    in_lanes: bool  # of vectors; else each network has a thread
    together_ns: Rate
    alone_ns: Rate
    gain: float  # how many times as fast

    def to_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return asdict(self)

    def tables(self) -> list[Table]:
        """One table."""
        how = "a network in each lane of the vectors" if self.in_lanes else "a network in each thread"
        rows = [
            ["networks", f"{self.members:,} times {self.network}"],
            ["data", f"{self.rows:,} rows in batches of {self.batch_size:,}"],
            ["in one call", f"{between(self.together_ns)} ns per network and epoch, {how}, n_jobs={self.threads}"],
            ["one by one", f"{between(self.alone_ns)} ns per network and epoch, n_jobs=1"],
            ["gain", f"{figure(self.gain)} times as fast"],
        ]
        return [Table(rows)]


def enough(train: Callable[[int], int], seconds: float) -> int:
    """Epochs of a call in which starting it no longer counts, or that takes so long."""
    epochs, spent, doubled = 1, 0.0, 0
    train(epochs)
    while doubled < 2 and spent < seconds:
        start, before = time.perf_counter(), spent
        train(epochs)
        spent = time.perf_counter() - start
        doubled = doubled + 1 if 0 < MOSTLY * 2 * before < spent else 0
        epochs *= 2
    return epochs // 2


def in_calls_of(epochs: int, train: Callable[[int], int]) -> Callable[[int], int]:
    """A training that is told how many times so many epochs."""
    return lambda amount: train(amount * epochs)


def members(
    net: NeuralNetwork,
    X: np.ndarray,
    y: np.ndarray,
    count: int,
    *,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    seconds: float = SECONDS,
    progress: Callable[[str], Any] | None = None,
) -> Members:
    """Measure how fast many networks such as this one train, in one call and one after the other.

    Parameters
    ----------
    net : NeuralNetwork
        Stays as it is.
    X, y, batch_size
        As of `NeuralNetwork.train`.
    count : int
        Networks, >= 1.
    n_jobs : int or None, default None
        Threads of the one call, as of `train_many`.
    seconds : float, default 2
        How long to measure, about.
    progress : callable or None, default None
        Called with what is being done.
    """
    count, seconds = at_least(1, "count", count), above("seconds", seconds)
    nets = [copy.deepcopy(net) for _ in range(count)]
    alone = [copy.deepcopy(net) for _ in range(min(count, ALONE))]
    how: dict[str, Any] = {"learning_rate": LEARNING_RATE, "batch_size": batch_size, "reduction": "mean"}

    def together(epochs: int) -> int:
        train_many(nets, X, y, epochs, n_jobs=n_jobs, **how)
        return epochs * len(nets)

    def one_by_one(epochs: int) -> int:
        for one in alone:
            one.train(X, y, epochs, **how)
        return epochs * len(alone)

    if progress is not None:
        progress(f"training {count:,} networks")
    epochs = max(enough(train, seconds / 4) for train in (together, one_by_one))  # of both, as starting counts for both
    trainers = [Timed(in_calls_of(epochs, train)) for train in (together, one_by_one)]
    take_turns(trainers, [1, 1], seconds)
    ours, theirs = ([1e9 / rate for rate in trainer.rates] for trainer in trainers)
    fit = NetworkFit(net, {}, X, y, None, callback=None, shuffle=False, **how)
    return Members(
        repr(net), count, len(fit.X), fit.batch_size, usable_threads(n_jobs), fit.member().kind() is not None,
        rate_of(ours), rate_of(theirs), rate_of([b / a for a, b in zip(ours, theirs, strict=True)]).median,
    )  # fmt: skip
