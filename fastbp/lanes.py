"""Networks that are alike, trained side by side with a network in each lane of the vectors; and when that pays."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fastbp import kernels
from fastbp.kernels import jit
from fastbp.layout import LAYER, RECORD, SETTINGS, Layout, aligned_zeros
from fastbp.rule import Rule
from fastbp.training import CALL_SECONDS, FIRST_CALL_FLOPS

# Lanes pay where a network alone cannot fill vectors with the rows of a batch: up to so many rows per lane, of a network
# without parameters, and the fewer the more parameters there are, as a group of networks then fills the L1 cache.
# 32 networks in lanes against one `NeuralNetwork.train` after the other, one core of Zen 4, medians over random networks of
# up to 50, 150 to 400 and 1,000 to 2,500 parameters, batches of 4 to 7 and of 32 to 63 rows, float32 (float64): with vectors
# of 64 bytes 3.2, 2.2, 1.6 and 1.3, 1.2, 0.9 (2.1, 1.5, 1.2 and 1.1, 0.9, 0.8) times as fast, with 32 bytes 2.9, 1.9, 1.5
# and 1.3, 1.2, 0.9 (1.7, 1.5, 1.0 and 1.1, 1.1, 0.8); of up to 5,000, with batches of 2 or 3, 1.4 (1.2) and 1.7 (1.1). Lanes
# are taken where they should save 15% at least, as few networks do not fill them.
ROWS_PER_LANE, HALVED_BY, MOST_PARAMETERS = 5, 400, 6000
# Records have room for so many bytes at most at first, and then for twice as many epochs each time.
RECORD_BYTES = 2**30
# Rows of networks that have their own, and orders of rows, that are in memory at a time, beside copies while they are made.
PORTION_BYTES = 2**27
# Operations of a call in which starting threads, half a millisecond, no longer counts.
THREADS_FLOPS = 2e7


@dataclass
class Member:
    """A network at its start, and its rows.

    `order` gives the order of the rows in an epoch, of which there were `begun` before; without it they are visited as they
    stand.
    """

    rule: Rule
    weights: list
    biases: list
    activations: Sequence[int]
    X: np.ndarray
    Y: np.ndarray
    batch_size: int
    row_weights: np.ndarray | None = None
    order: Callable[[int], np.ndarray] | None = None
    moments: list = field(default_factory=list)  # pairs like weights and biases
    steps: int = 0
    begun: int = 0

    @property
    def units(self) -> tuple[int, ...]:
        """All layer sizes."""
        return self.X.shape[1], *(array.shape[1] for array in self.weights)

    def kind(self, rows_factor: float = 1) -> tuple | None:
        """What networks in lanes have in common; None where lanes do not pay, or cannot be.

        Steps are counted once for all networks: every batch has to be a step, of one weight for all. A factor of the rows
        that pay stands for what else lanes save.
        """
        size = sum(array.size for array in (*self.weights, *self.biases))
        most_rows = rows_factor * ROWS_PER_LANE * (jit.native_width() // self.X.itemsize) / (1 + size / HALVED_BY)
        # weights below the normal numbers are 0 while a network trains
        least = 0 if self.row_weights is None else np.finfo(self.row_weights.dtype).tiny
        even = self.row_weights is None or (self.order is None and self.row_weights.min() >= least)
        if self.batch_size > most_rows or size > MOST_PARAMETERS or not even:
            return None
        rule, adam = self.rule, self.rule.solver == "adam"
        counted = (rule.momentum, rule.beta_2, self.steps) if adam else (rule.dropout > 0) * self.steps
        return (
            *self.units, *self.activations, rule.out_activation, rule.loss, rule.solver, self.X.dtype, bool(self.biases),
            counted, rule.dropout, len(self.X), self.batch_size, rule.reduction, self.order is None, id(self.row_weights),
        )  # fmt: skip


def by_kind(members: Sequence[Member], rows_factor: float = 1) -> tuple[list[list[int]], list[int]]:
    """Numbers of the members that share lanes, kind by kind, and of those that do not."""
    alike: dict[Any, list[int]] = {}
    for number, member in enumerate(members):
        alike.setdefault(member.kind(rows_factor), []).append(number)
    apart = alike.pop(None, [])
    return [part for numbers in alike.values() for part in portions(members[numbers[0]], numbers)], apart


def portions(member: Member, numbers: list[int]) -> list[list[int]]:
    """Numbers of members of one kind, as few as have rows and orders of an epoch of PORTION_BYTES, but full vectors."""
    itemsize, lanes = member.X.itemsize, jit.native_width() // member.X.itemsize
    row_bytes = itemsize * (member.X.shape[1] + member.Y.shape[1]) + np.dtype(np.int64).itemsize
    most = max(1, PORTION_BYTES // (len(member.X) * row_bytes * lanes)) * lanes
    return [numbers[first : first + most] for first in range(0, len(numbers), most)]


def settings_of(rule):
    """What `SETTINGS` names, of a rule."""
    gains = 1 - rule.momentum, 1 - rule.beta_2
    return rule.learning_rate, rule.momentum, gains[0], rule.beta_2, gains[1], rule.epsilon, rule.alpha, rule.max_norm


class Lanes:
    """Members of one kind, one in each lane; the last lanes repeat the last one.

    Attributes
    ----------
    done : int
        Epochs that are over.
    """

    def __init__(self, members: Sequence[Member], threads: int):
        self.members, self.threads, first = members, threads, members[0]
        dtype = first.X.dtype
        layout = Layout(first.units, dtype, bool(first.biases), first.activations)
        offsets = np.cumsum([0, *(row.n_rows * row.n_out for row in layout.rows)])
        self.layers = np.array([row._replace(offset=at) for row, at in zip(layout.rows, offsets, strict=False)], np.int64)
        self.lanes = jit.native_width() // dtype.itemsize
        self.groups = -(-len(members) // self.lanes)
        self.rule, self.numbers = first.rule, first.rule.numbers(first.units[-1])
        self.params = self.in_lanes([self.flat(member.weights, member.biases) for member in members], dtype)
        state = np.zeros((len(members), self.rule.moments, int(offsets[-1])), dtype)
        for moments, member in zip(state, members, strict=True):
            for moment, pair in zip(moments, member.moments, strict=False):
                moment[:] = self.flat(*pair)
        self.state = self.in_lanes(state, dtype)
        self.shared = len({(id(member.X), id(member.Y)) for member in members}) == 1
        self.X, self.Y = (self.rows([getattr(member, name) for member in members], dtype) for name in ("X", "Y"))
        self.row_weights = np.empty(0, dtype) if first.row_weights is None else first.row_weights
        with np.errstate(over="ignore"):  # a max_norm beyond float32 is none
            self.settings = self.in_lanes([settings_of(member.rule) for member in members], dtype)
        self.seeds = self.in_lanes([[member.rule.seed] for member in members], np.int64)[:, 0]
        self.per_epoch, self.done = -(-len(first.X) // first.batch_size), 0
        self.records: list[np.ndarray] = []
        ordered = any(member.order is not None for member in members)
        orders = self.groups * self.lanes * len(first.X) * np.dtype(np.int64).itemsize * ordered
        self.most = PORTION_BYTES // max(1, orders)  # epochs of a call
        self.flops = 6 * self.params.size * len(first.X)  # of an epoch
        self.some = int(FIRST_CALL_FLOPS * threads / self.flops)  # epochs of the next call

    def of(self, numbers):
        """Lanes of some of the networks, as they are; their records begin anew."""
        members = []
        for number in numbers:
            member, (weights, biases), (moments, steps) = self.members[number], self.parameters(number), self.memory(number)
            now = {"weights": weights, "biases": biases, "moments": moments, "steps": steps}
            members.append(replace(member, begun=member.begun + self.done, **now))
        return Lanes(members, self.threads)

    def flat(self, weights, biases):
        """Weights and biases of a network, one layer behind the other."""
        layers = zip(weights, biases, strict=True) if biases else ((one,) for one in weights)
        return np.concatenate([array.ravel() for layer in layers for array in layer])

    def in_lanes(self, values, dtype):
        """Arrays of all networks as (groups, ..., lanes)."""
        values = np.asarray(values, dtype)
        last = np.repeat(values[-1:], self.groups * self.lanes - len(values), axis=0)
        values = np.concatenate([values, last]).reshape(self.groups, self.lanes, *values.shape[1:])
        result = aligned_zeros(values.size, dtype).reshape(self.groups, *values.shape[2:], self.lanes)
        result[...] = np.moveaxis(values, 1, -1)
        return result

    def of_network(self, values, number):
        """A network's part of an array (groups, ..., lanes)."""
        return values[number // self.lanes, ..., number % self.lanes]

    def rows(self, arrays, dtype):
        """Rows for all networks, or those of each."""
        return np.ascontiguousarray(arrays[0])[None, :, :, None] if self.shared else self.in_lanes(arrays, dtype)

    def new_record(self, epochs):
        """Room for the record of some epochs, which takes memory as it is filled."""
        return np.zeros((self.groups, len(RECORD), epochs, self.lanes))

    def recorded(self, number):
        """The record of a network so far."""
        if len(self.records) != 1:
            self.records = [np.concatenate([*self.records, self.new_record(0)], axis=2)]
        return self.of_network(self.records[0], number)[:, : self.done].T

    def orders(self, epochs):
        """Row orders of the next epochs."""
        draws = [(member.order, member.begun + self.done) for member in self.members if member.order is not None]
        if not draws:
            return np.empty((0, epochs, self.X.shape[1], self.lanes), np.int64)
        return self.in_lanes([[order(first + number) for number in range(epochs)] for order, first in draws], np.int64)

    def rates(self, epochs):
        """The factor of the learning rate in each of the next steps."""
        steps, rule = self.steps(0) + np.arange(1, epochs * self.per_epoch + 1), self.rule
        if rule.solver != "adam":
            return np.ones(len(steps))
        return np.sqrt(1 - rule.beta_2**steps) / (1 - rule.momentum**steps)

    def steps(self, number):
        """Steps that a network has taken so far."""
        return self.members[number].steps + self.done * self.per_epoch

    def set_learning_rate(self, number, learning_rate):
        """Let the next epochs of a network take steps of another length."""
        self.of_network(self.settings, number)[SETTINGS.rate] = learning_rate

    def advance(self, epochs):
        """Run some epochs, at most so many, in one call of about CALL_SECONDS, which an interrupt lets come to its end."""
        room = sum(record.shape[2] for record in self.records)
        if room == self.done:
            most = max(1, RECORD_BYTES // self.new_record(1).nbytes, room)
            self.records.append(self.new_record(min(epochs, most)))
            room += self.records[-1].shape[2]
        some, start = max(1, min(self.some, room - self.done, epochs, self.most)), time.perf_counter()
        order, rates, record = self.orders(some), self.rates(some), self.records[-1]
        first = record.shape[2] - (room - self.done)
        threads, last = self.threads if some * self.flops > THREADS_FLOPS else 1, record[-1, RECORD.hits, first + some - 1]
        last[:] = -1
        try:
            kernels.train_many(
                self.layers, self.params, self.state, self.X, self.Y, order, self.row_weights, self.members[0].batch_size,
                self.numbers, self.settings, self.seeds, rates, self.steps(0), some, record, first, threads,
            )  # fmt: skip
        finally:
            if last[-1] >= 0:  # it has run
                self.done += some
        seconds = time.perf_counter() - start
        if some == self.some or seconds > CALL_SECONDS:
            self.some = int(some * min(4, CALL_SECONDS / seconds))

    def nonfinite(self):
        """Numbers of the networks with weights that are not finite."""
        return np.flatnonzero(~np.isfinite(self.params).all(axis=1).ravel()[: len(self.members)]).tolist()

    def parameters(self, number):
        """Weights and biases of a network, as two lists of arrays."""
        return self.pair(self.of_network(self.params, number))

    def memory(self, number):
        """What a network's solver remembers, as pairs of lists like weights and biases, and its steps."""
        return [self.pair(moment) for moment in self.of_network(self.state, number)], self.steps(number)

    def pair(self, flat):
        """Weights and biases out of what `flat` made, as two lists of arrays."""
        weights: list[np.ndarray] = []
        biases: list[np.ndarray] = []
        for row in map(LAYER._make, self.layers.tolist()):
            block = flat[row.offset : row.offset + row.n_rows * row.n_out].reshape(row.n_rows, row.n_out)
            weights.append(np.array(block[: row.n_in]))
            biases.extend(np.array(block[row.n_in :]))
        return weights, biases


class LaneRun:
    """A network in lanes, as a `Run` from which one takes what was learnt, and the record of the latest epochs."""

    def __init__(self):
        self.level = jit.level_name()
        self.lanes: Any = None
        self.number, self.epochs_done, self.record = 0, 0, np.zeros((0, 0))

    def take(self, lanes, number, epochs):
        """So many epochs are over."""
        self.lanes, self.number, self.epochs_done = lanes, number, epochs
        self.record = lanes.recorded(number)[lanes.done - epochs :]

    def recorded(self, first):
        """The record, from the `first` of these epochs on."""
        return self.record[first:]

    def parameters(self):
        """Weights and biases."""
        return self.lanes.parameters(self.number)

    def memory(self):
        """What the solver remembers, and its steps."""
        return self.lanes.memory(self.number)
