"""Trainings that are timed in turns.

Everything that is compared is measured a moment at a time, one after the other, several times over: what else happens on a
machine then happens to all of them. A figure is the median of the turns, and is stated with the lowest and the highest.
"""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from fastbp.layout import CURSOR, RECORD
from fastbp.profiling.workload import Workload
from fastbp.training import CALL_SECONDS
from fastbp.workspace import workspace_for_training

TURNS = 9  # of everything that is compared
LEAST_TURN = 2e-3  # seconds, far above what starting a call takes
ENOUGH = 0.8  # of a turn: another short call would show how long starting one takes
WARM_TURNS = 1  # that do not count: caches and clocks settle


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

    def scaled(self, factor: float) -> "Rate":
        """The same in another unit."""
        return Rate(self.median * factor, self.low * factor, self.high * factor, self.repeats)


def rate_of(values: Sequence[float]) -> Rate:
    """Median and extremes."""
    return Rate(statistics.median(values), min(values), max(values), len(values))


class Timed:
    """Something that trains a moment at a time, and notes samples per second of each turn in `rates`."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.train(1)  # compiles or loads what it takes
        start = time.perf_counter()
        self.train(1)
        self.pace = 1 / (time.perf_counter() - start)  # amounts per second

    def train(self, amount: int) -> int:
        """Train for some blocks or epochs; returns how many rows that were."""
        raise NotImplementedError

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

    def anew(self) -> Self:
        """The same training with no turns taken yet."""
        result = copy.copy(self)
        result.rates = []
        return result


class Trainer(Timed):
    """A training by fastbp, whose amounts are blocks of rows; `workspace` picks the kernel."""

    def __init__(self, workload: Workload, workspace: Callable[..., Any] = workspace_for_training):
        self.workload, self.run = workload, workload.start(workspace)
        super().__init__()

    def train(self, amount: int) -> int:
        """Run some blocks; returns how many rows that were."""
        run, cursor = self.run, self.run.cursor
        cursor[CURSOR.epoch], before = 0, int(cursor[CURSOR.row])
        run.record = np.zeros((int(cursor[CURSOR.block] + amount) // run.work.blocks_per_epoch + 1, len(RECORD)))
        run.advance(amount)
        return int(cursor[CURSOR.epoch]) * run.n_rows + int(cursor[CURSOR.row]) - before


def take_turns(trainers: Sequence[Timed], weights: Sequence[float], seconds: float, turns: int = TURNS) -> None:
    """Let each train in turn, `weights` of the time each; the first round only warms up."""
    share = seconds / (turns + WARM_TURNS) / sum(weights)
    stop = time.perf_counter() + seconds
    for number in range(turns + WARM_TURNS):
        for trainer, weight in zip(trainers, weights, strict=True):
            trainer.turn(max(LEAST_TURN, share * weight))
            if number < WARM_TURNS:
                trainer.rates.clear()
        if number >= WARM_TURNS + 2 and time.perf_counter() > stop:
            return
