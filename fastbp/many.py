"""Many networks trained in one call: small ones that are alike share vectors, the others run one in each thread."""

import time
import types
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy as np

from fastbp import checks, kernels
from fastbp.history import History
from fastbp.kernels import jit
from fastbp.kernels.levels import level
from fastbp.layout import LAYER, RECORD, Layout, aligned_zeros
from fastbp.neural_network import NeuralNetwork, checked_steps
from fastbp.training import CALL_SECONDS, FIRST_CALL_FLOPS, NotFiniteError, ProgressBar, usable_threads, watch

# Lanes pay where a network alone cannot fill vectors with the rows of a batch: up to so many rows per lane, of a network
# without parameters, and the fewer the more parameters there are, as a group of networks then fills the L1 cache.
# 64 networks in lanes against one `NeuralNetwork.train` after the other, one core, sgd, float32 (float64), batches of
# 1, 8 and 32 rows: 2-4-1 11.8, 3.7, 1.7 (5.1, 2.4, 1.1) times as fast, 8-16-16-1 3.2, 1.8, 1.1 (1.7, 1.1, 1.1), 20-32-8
# with 936 parameters 1.6, 2.1, 1.0 (1.0, 1.0, 0.9).
ROWS_PER_LANE, HALVED_BY, MOST_PARAMETERS = 4, 200, 2000
# Of records there is room at first, and then for twice as many epochs each time.
ROOM_BYTES = 2**30


def train_many(
    networks: Sequence[NeuralNetwork],
    X,
    y,
    epochs: int,
    learning_rate=0.1,
    *,
    batch_size=None,
    reduction="sum",
    sample_weight=None,
    shuffle=False,
    n_jobs: int | None = None,
    progress: bool = False,
    callback: Callable | Sequence[Callable | None] | None = None,
) -> list[History | ValueError]:
    """Train many networks, of any mix of units and settings, as `NeuralNetwork.train` does each of them.

    Small networks of the same units, activations, loss, solver and batches are trained side by side, with a network in each
    lane of the processor's vectors; the others one in each thread. A network's result depends on its own settings and rows
    alone: not on how many others there are, which, in what order, or on `n_jobs`. Where lanes are used, sums are rounded
    otherwise than by `NeuralNetwork.train`.

    Parameters
    ----------
    networks : sequence of NeuralNetwork
        Each once; trained in place.
    X, y : array-like, or list of ndarray
        Rows and targets for all networks, as of `NeuralNetwork.train`; or a list with an array for each network.
    epochs : int
        Passes over the rows, >= 0.
    learning_rate, batch_size, reduction, shuffle, callback
        As of `NeuralNetwork.train`, with the same defaults: one value, or a list with one for each network. A network with a
        callback has a thread of its own.
    sample_weight : array-like, list of ndarray, or None, default None
        Weights of the rows, for all networks or one array for each.
    n_jobs : int or None, default None
        Threads, as joblib counts: None is 1, -1 all processors.
    progress : bool, default False
        Show a progress bar on standard error.

    Returns
    -------
    list of fastbp.History or ValueError
        For each network one value per completed epoch. Of a network whose weights stopped being finite it is the error that
        says so; its weights are as they were before, and the other networks are trained.

    Warns
    -----
    RuntimeWarning
        If the weights of some networks stopped being finite.
    UserWarning
        If interrupted from the keyboard; weights and histories so far are kept.

    Raises
    ------
    ValueError, TypeError
        If an argument is out of its range or of the wrong type, as of `NeuralNetwork.train`; nothing is trained then.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp import NeuralNetwork, train_many
    >>> X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    >>> networks = [NeuralNetwork(2, 4, 1, random_state=seed) for seed in range(64)]
    >>> histories = train_many(networks, X, y, epochs=5000, learning_rate=0.5)
    >>> sum(bool((net.predict(X) == y).all()) for net in networks) > 50
    True
    """
    networks = list(networks)
    for number, net in enumerate(networks):
        if not isinstance(net, NeuralNetwork):
            raise TypeError(f"networks must be NeuralNetworks, got {net!r} at {number}")
    if len({*map(id, networks)}) < len(networks):
        raise ValueError("networks must be different ones, got one of them twice")
    epochs = checks.at_least(0, "epochs", epochs)
    threads = usable_threads(checks.jobs("n_jobs", n_jobs))
    arrays = {"X": X, "y": y, "sample_weight": sample_weight}
    each = {name: one_each(name, value, len(networks), np.ndarray) for name, value in arrays.items()}
    settings = {"learning_rate": learning_rate, "batch_size": batch_size, "reduction": reduction, "shuffle": shuffle}
    each |= {name: one_each(name, value, len(networks)) for name, value in (settings | {"callback": callback}).items()}
    seen: dict[Any, Any] = {}
    tasks = [
        Task(net, seen, **{name: values[number] for name, values in each.items()}) for number, net in enumerate(networks)
    ]
    results: dict[Task, History | ValueError] = {}
    together, apart = parted(tasks)
    with ProgressBar(len(networks), progress, "network") as bar:
        try:
            for group in together:
                results |= Lanes(group, threads).train(epochs, results)
                bar.update(len(results))
            for task, result in trained_apart(apart, epochs, threads, results):
                results[task] = result
                bar.update(len(results))
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=2)
    found = [results.get(task) or task.history(np.zeros((0, len(RECORD)))) for task in tasks]
    if wild := [number for number, one in enumerate(found) if isinstance(one, ValueError)]:
        warnings.warn(f"weights of {len(wild)} of {len(networks)} networks stopped being finite: {wild}", RuntimeWarning, 2)
    return found


def trained_apart(tasks, epochs, threads, results):
    """Each task with what became of it, as they end; an interrupt lets those end that run, and adds them to the results."""
    if threads == 1:
        for task in tasks:
            result = task.train(epochs)
            yield task, result
            if isinstance(result, History) and len(result) < epochs and not task.ended:  # an interrupt has come
                raise KeyboardInterrupt
        return
    with ThreadPoolExecutor(threads) as pool:
        running = {pool.submit(task.train, epochs): task for task in tasks}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        except BaseException:
            for task in reversed(tasks):  # those first that have not begun
                task.stop()
            results |= {task: future.result() for future, task in running.items() if future.exception() is None}
            raise


def one_each(name: str, value: Any, count: int, kind: type = object) -> list:
    """A value for each of so many networks: itself, or an item of a list of things of a kind."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, (kind, type(None))) for item in value):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name} must be one value or one for each of {count} networks, got {len(value)}")
    return list(value)


class Task:
    """A network with what it is to be trained on, checked."""

    def __init__(self, net, seen, X, y, sample_weight, learning_rate, batch_size, reduction, shuffle, callback):
        key = id(X), id(y), id(sample_weight), net.units[0], net.units[-1], net.dtype, net.out_activation, net.loss
        if key not in seen:
            seen[key] = net._checked_rows(X, y, sample_weight)
        self.net, (self.X, self.Y, self.weights) = net, seen[key]
        self.learning_rate, self.batch_size = checked_steps(len(self.X), learning_rate, batch_size, reduction, callback)
        self.reduction, self.shuffle, self.callback = reduction, bool(shuffle), callback
        net._activation_codes()  # raises an error where these are too many or too few
        self.rule, self.parameters = net._rule(self.learning_rate, reduction), net._parameters()
        self.run, self.stopped, self.ended, memory = None, False, False, net._moments
        # what another solver remembers is of no use
        self.moments, self.steps = memory if memory and len(memory[0]) == self.rule.moments else ([], 0)

    def history(self, record):
        """The record as a history."""
        weight = len(self.X) if self.weights is None else float(self.weights.sum(dtype=np.float64))
        return History(record, len(self.X), weight, self.Y.shape[1], self.rule)

    def train(self, epochs):
        """Train it by itself, as `NeuralNetwork.train`; its history, or the error of weights that are not finite."""
        net = self.net

        def follow(*arguments):
            self.ended = bool(self.callback(*arguments)) or self.stopped
            return self.ended

        try:
            if self.callback is not None:
                return net.train(
                    self.X, self.Y, epochs, self.learning_rate, batch_size=self.batch_size, reduction=self.reduction,
                    sample_weight=self.weights, shuffle=self.shuffle, callback=follow,
                )  # fmt: skip
            rows = self.X, self.Y, self.weights
            self.run = net._begin(*rows, self.learning_rate, self.reduction, self.batch_size, self.shuffle)
            self.run.stopped = self.stopped
            return watch(self.run, epochs, keep=net._keep)
        except NotFiniteError as error:
            return error

    def stop(self):
        """Let a training in another thread end after its present call, or when it begins."""
        self.stopped = True
        if self.run is not None:
            self.run.stopped = True

    def even_steps(self):
        """Whether every batch is a step, of one weight for all networks: in lanes, steps are counted once for all."""
        return self.weights is None or (not self.shuffle and bool(self.weights.all()))

    def kind(self):
        """What networks in lanes have in common; None where this one cannot be in one."""
        net, (weights, biases) = self.net, self.parameters
        size = sum(array.size for array in (*weights, *biases))
        most_rows = ROWS_PER_LANE * (jit.native_width() // net.dtype.itemsize) / (1 + size / HALVED_BY)
        if self.batch_size > most_rows or size > MOST_PARAMETERS or self.callback is not None or not self.even_steps():
            return None
        counted = (net.beta_1, net.beta_2, self.steps) if net.solver == "adam" else (net.dropout > 0) * self.steps
        return (
            *net.units, *net._activation_codes(), net.out_activation, net.loss, net.solver, net.dtype, bool(biases), counted,
            net.dropout, len(self.X), self.batch_size, self.reduction, self.shuffle, id(self.weights),
        )  # fmt: skip


def parted(tasks: list[Task]) -> tuple[list[list[Task]], list[Task]]:
    """Groups of tasks that share lanes, and those that do not."""
    alike: dict[Any, list[Task]] = {}
    apart = []
    for task in tasks:
        kind = task.kind()
        if kind is None:
            apart.append(task)
        else:
            alike.setdefault(kind, []).append(task)
    return list(alike.values()), apart


def settings_of(rule):
    """What `SETTINGS` names, of a rule."""
    gains = 1 - rule.momentum, 1 - rule.beta_2
    return rule.learning_rate, rule.momentum, gains[0], rule.beta_2, gains[1], rule.epsilon, rule.alpha, rule.max_norm


class Lanes:
    """Networks that are alike in training, a network in each lane; the last lanes repeat the last network."""

    def __init__(self, tasks: list[Task], threads: int):
        self.tasks, self.threads, first = tasks, threads, tasks[0]
        net, n_rows, dtype = first.net, len(first.X), np.dtype(first.net.dtype)
        for task in tasks:
            task.net._draw_seed()
            task.rule.seed = task.net._seed
        self.undo = [task.net._undo(task.shuffle) for task in tasks]
        layout = Layout(net.units, dtype, net.bias, net._activation_codes())
        offsets = np.cumsum([0, *(row.n_rows * row.n_out for row in layout.rows)])
        self.layers = np.array([row._replace(offset=at) for row, at in zip(layout.rows, offsets, strict=False)], np.int64)
        self.lanes = jit.native_width() // dtype.itemsize
        self.groups = -(-len(tasks) // self.lanes)
        self.rule, self.numbers = first.rule, first.rule.numbers(net.units[-1])
        self.params = self.in_lanes([self.flat(task.parameters) for task in tasks], dtype)
        state = np.zeros((len(tasks), self.rule.moments, int(offsets[-1])), dtype)
        for moments, task in zip(state, tasks, strict=True):
            for moment, pair in zip(moments, task.moments, strict=False):
                moment[:] = self.flat(pair)
        self.state = self.in_lanes(state, dtype)
        self.shared = len({(id(task.X), id(task.Y)) for task in tasks}) == 1
        self.X, self.Y = (self.rows([getattr(task, name) for task in tasks], dtype) for name in ("X", "Y"))
        self.weights = np.empty(0, dtype) if first.weights is None else first.weights
        self.settings = self.in_lanes([settings_of(task.rule) for task in tasks], dtype)
        self.seeds = self.in_lanes([[task.rule.seed] for task in tasks], np.int64)[:, 0]
        self.per_epoch, self.done = -(-n_rows // first.batch_size), 0
        self.records: list[np.ndarray] = []

    def flat(self, pair):
        """Weights and biases of a network, one layer behind the other."""
        weights, biases = pair
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
        """Row orders of some epochs, of each network as it draws them."""
        n_rows = self.X.shape[1]
        if not self.tasks[0].shuffle:
            return np.empty((0, epochs, n_rows, self.lanes), np.int64)
        drawn = [[task.net._rng.permutation(n_rows) for _ in range(epochs)] for task in self.tasks]
        return self.in_lanes(drawn, np.int64)

    def rates(self, epochs):
        """The factor of the learning rate in each of the next steps."""
        steps, rule = self.steps_of(self.tasks[0]) + np.arange(1, epochs * self.per_epoch + 1), self.rule
        if rule.solver != "adam":
            return np.ones(len(steps))
        return np.sqrt(1 - rule.beta_2**steps) / (1 - rule.momentum**steps)

    def steps_of(self, task):
        """Steps that a network has taken so far."""
        return task.steps + self.done * self.per_epoch

    def train(self, epochs, results):
        """Train them; the history of each, or its error. An interrupt is raised when `results` has what is done."""
        wild: dict[int, ValueError] = {}
        interrupt, left = None, list(enumerate(self.tasks))
        some = int(FIRST_CALL_FLOPS * self.threads / (6 * self.params.size * self.X.shape[1]))
        try:
            while self.done < epochs and len(wild) < len(self.tasks):
                room = sum(record.shape[2] for record in self.records)
                if room == self.done:
                    least = max(1, ROOM_BYTES // self.new_record(1).nbytes)
                    self.records.append(self.new_record(min(epochs - room, max(least, room))))
                    continue
                some, start = max(1, min(some, room - self.done)), time.perf_counter()
                self.advance(some, room)
                self.note_wild(wild)
                some = int(some * min(4, CALL_SECONDS / (time.perf_counter() - start)))
        except KeyboardInterrupt as error:
            interrupt = error
        while left:
            try:
                for number, task in left.copy():
                    if number in wild:
                        self.undo[number]()
                    results[task] = wild.get(number) or self.kept(number, task)
                    left.remove((number, task))
            except KeyboardInterrupt as error:  # what was kept in part is kept again
                interrupt = error
        if interrupt is not None:
            raise interrupt
        return results

    def advance(self, epochs, room):
        """Run some epochs in one call, which an interrupt lets come to its end."""
        order, rates, begun = self.orders(epochs), self.rates(epochs), self.steps_of(self.tasks[0])
        record = self.records[-1]
        done = record.shape[2] - (room - self.done)
        try:
            kernels.train_many(
                self.layers, self.params, self.state, self.X, self.Y, order, self.weights, self.tasks[0].batch_size,
                self.numbers, self.settings, self.seeds, rates, begun, epochs, record, done, self.threads,
            )  # fmt: skip
        finally:
            if record[-1, :, done + epochs - 1].any():  # it has run: where all errors are 0, all rows are right
                self.done += epochs

    def note_wild(self, wild):
        """Note of the networks whose weights are not finite any more in which epoch that was seen."""
        for number in np.flatnonzero(~np.isfinite(self.params).all(axis=1).ravel()[: len(self.tasks)]).tolist():
            if number not in wild:
                seen = np.flatnonzero(~np.isfinite(self.recorded(number)).all(axis=1))
                epoch = int(seen[0]) + 1 if len(seen) else self.done
                wild[number] = NotFiniteError(epoch, self.tasks[number].learning_rate)

    def kept(self, number, task):
        """Let a network have what it has learnt; its history."""
        weights, *memory = map(self.pair, (self.of_network(self.params, number), *self.of_network(self.state, number)))
        trained = types.SimpleNamespace(level=None if jit.PLAIN_PYTHON else level().name)
        trained.parameters, trained.memory = lambda: weights, lambda: (memory, self.steps_of(task))
        task.net._keep(trained)
        return task.history(self.recorded(number))

    def pair(self, flat):
        """Weights and biases out of what `flat` made, as two lists of arrays."""
        weights: list[np.ndarray] = []
        biases: list[np.ndarray] = []
        for row in map(LAYER._make, self.layers.tolist()):
            block = flat[row.offset : row.offset + row.n_rows * row.n_out].reshape(row.n_rows, row.n_out)
            weights.append(np.array(block[: row.n_in]))
            biases.extend(np.array(block[row.n_in :]))
        return weights, biases
