"""Many networks trained in one call: small ones that are alike share vectors, the others run one in each thread."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastbp import background, checks
from fastbp.history import History
from fastbp.lanes import LaneRun, Lanes, Member, by_kind
from fastbp.layout import RECORD
from fastbp.neural_network import NeuralNetwork, checked_steps
from fastbp.stream import Rows
from fastbp.training import (
    INTERRUPTED,
    InterruptedWarning,
    NotFiniteError,
    ProgressBar,
    first_nonfinite_epoch,
    remembers,
    usable_threads,
)


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
        callback shares no lanes.
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
    networks, epochs = distinct(networks), checks.at_least(0, "epochs", epochs)
    threads = usable_threads(checks.jobs("n_jobs", n_jobs))
    arrays = {"X": X, "y": y, "sample_weight": sample_weight}
    settings = {
        "learning_rate": learning_rate, "batch_size": batch_size, "reduction": reduction, "shuffle": shuffle,
        "callback": callback,
    }  # fmt: skip
    fits = fits_of(networks, arrays, settings)
    results: dict[NetworkFit, History | ValueError] = {}
    together, apart = parted(fits)
    with ProgressBar(len(networks), progress, "network") as bar:
        try:
            for group in together:
                train_together(group, epochs, threads, results)
                bar.update(len(results))
            train_apart(apart, epochs, threads, results, lambda: bar.update(len(results)))
        except KeyboardInterrupt:
            warnings.warn(INTERRUPTED, InterruptedWarning, stacklevel=2)
    found = [results.get(fit) or fit.left() for fit in fits]
    if nonfinite := [number for number, one in enumerate(found) if isinstance(one, ValueError)]:
        warnings.warn(
            f"weights of {len(nonfinite)} of {len(networks)} networks stopped being finite: {nonfinite}", RuntimeWarning, 2
        )
    return found


def distinct(networks):
    """The networks as a list; an error for what is none, or one of them twice."""
    networks = list(networks)
    for number, net in enumerate(networks):
        if not isinstance(net, NeuralNetwork):
            raise TypeError(f"networks must be NeuralNetworks, got {net!r} at {number}")
    if len({*map(id, networks)}) < len(networks):
        raise ValueError("networks must be different ones, got one of them twice")
    return networks


def fits_of(networks, arrays, settings):
    """Networks with what each is to be trained on, of arrays and settings for all or for each of them."""
    each = {name: one_each(name, value, len(networks), np.ndarray) for name, value in arrays.items()}
    each |= {name: one_each(name, value, len(networks)) for name, value in settings.items()}
    seen: dict[Any, Any] = {}
    fits = [
        NetworkFit(net, seen, **{name: values[number] for name, values in each.items()})
        for number, net in enumerate(networks)
    ]
    drawing = [id(fit.net._rng.bit_generator) for fit in fits if fit.draws()]
    if len({*drawing}) < len(drawing):
        raise ValueError(
            "networks must have random numbers of their own to draw from, got a random_state of several of them"
        )
    return fits


def train_apart(fits, epochs, threads, results, look):
    """Add what becomes of each fit to the results, and look at them; an interrupt lets those end that run."""
    halt: list[int] = []

    def train(fit):
        results[fit] = fit.train(epochs, halt)

    if threads > 1:
        background.each(train, fits, threads, halt, look)
        look()
        return
    for fit in fits:
        train(fit)
        look()
        if fit.run.interrupted:
            raise KeyboardInterrupt


def one_each(name: str, value: Any, count: int, kind: type = object) -> list:
    """A value for each of so many networks: itself, or an item of a list of things of a kind."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, (kind, type(None))) for item in value):
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name} must be one value or one for each of {count} networks, got {len(value)}")
    return list(value)


class NetworkFit:
    """A network with what it is to be trained on, checked."""

    def __init__(self, net, seen, X, y, sample_weight, learning_rate, batch_size, reduction, shuffle, callback):
        key = id(X), id(y), id(sample_weight), net.units[0], net.units[-1], net.dtype, net.out_activation, net.loss
        if key not in seen:
            seen[key] = net._checked_rows(X, y, sample_weight)
        self.net, (self.X, self.Y, self.weights) = net, seen[key]
        self.learning_rate, self.batch_size = checked_steps(len(self.X), learning_rate, batch_size, reduction, callback)
        self.reduction, self.shuffle, self.callback = reduction, bool(shuffle), callback
        self.codes = net._activation_codes()  # raises an error where these are too many or too few
        self.rule, self.parameters = net._rule(self.learning_rate, reduction), net._parameters()
        self.run: Any = None
        self.before = vars(net)["_memory"]

    def member(self):
        """What lanes are given."""
        net, memory = self.net, self.net._moments
        weights, biases = self.parameters
        # what another solver remembers is of no use
        moments, steps = memory if remembers(memory, self.rule.moments, biases) else ([], 0)
        order = (lambda number: net._rng.permutation(len(self.X))) if self.shuffle else None
        return Member(
            self.rule, weights, biases, self.codes, self.X, self.Y, self.batch_size, self.weights, order, moments, steps
        )

    def draws(self):
        """Whether the training draws random numbers."""
        return self.shuffle or (self.net.dropout > 0 and not self.net._seed)

    def history(self, record):
        """The record as a history."""
        weight = len(self.X) if self.weights is None else float(self.weights.sum(dtype=np.float64))
        return History(record, weight, self.Y.shape[1], self.rule)

    def left(self):
        """The history of what an interrupt has left."""
        kept = self.run is not None and vars(self.net)["_memory"] is not self.before
        return self.run.history() if kept else self.history(np.zeros((0, len(RECORD))))

    def train(self, epochs, halt):
        """Train it by itself, until `halt` has an item; its history, or the error of weights that are not finite."""
        rows = Rows(self.X, self.Y, self.weights)
        run = self.run = self.net._begin(rows, self.learning_rate, self.reduction, self.batch_size, self.shuffle)
        run.stopped = halt
        try:
            return self.net._watch(run, epochs, self.callback)
        except NotFiniteError as error:
            return error

    def keep(self, lanes, number):
        """Let the network have what it has learnt in lanes; its history."""
        run = LaneRun()
        run.take(lanes, number, lanes.done)
        self.net._keep(run)
        return self.history(run.record)


def parted(fits: list[NetworkFit]) -> tuple[list[list[NetworkFit]], list[NetworkFit]]:
    """Groups of fits that share lanes, and those that do not: one with a callback is alone."""
    free = [fit for fit in fits if fit.callback is None]
    together, _ = by_kind([fit.member() for fit in free])
    left = {id(free[number]) for numbers in together for number in numbers}
    return [[free[number] for number in numbers] for numbers in together], [fit for fit in fits if id(fit) not in left]


def train_together(fits, epochs, threads, results):
    """Add what became of fits that share lanes to the results, also where an interrupt is raised."""
    undo = [fit.net._undo(fit.shuffle) for fit in fits]
    for fit in fits:
        fit.net._draw_seed()
        fit.rule.seed = fit.net._seed
    lanes, nonfinite = Lanes([fit.member() for fit in fits], threads), dict[int, NotFiniteError]()
    interrupt, left = None, list(enumerate(fits))
    try:
        while lanes.done < epochs and len(nonfinite) < len(fits):
            lanes.advance(epochs - lanes.done)
            for number in set(lanes.nonfinite()) - nonfinite.keys():
                nonfinite[number] = NotFiniteError(first_nonfinite_epoch(lanes.recorded(number)), fits[number].learning_rate)
    except KeyboardInterrupt as error:
        interrupt = error
    while left:
        try:
            for number, fit in left.copy():
                if number in nonfinite:
                    undo[number]()
                results[fit] = nonfinite.get(number) or fit.keep(lanes, number)
                left.remove((number, fit))
        except KeyboardInterrupt as error:  # what was kept in part is kept again
            interrupt = error
    if interrupt is not None:
        raise interrupt
