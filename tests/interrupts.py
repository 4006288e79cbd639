"""Trainings that a signal interrupts at random moments, and what they must leave behind.

Run as a program, so that a crash is seen: ``python interrupts.py ROUNDS SEED``. It prints how many rounds were interrupted,
and out of how many of these trainings an exception came.
"""

import signal
import sys
import time
import warnings

import numpy as np

from fastbp import MLPRegressor, NeuralNetwork
from fastbp.kernels.pool import Pool


class TimeLimit(Exception):
    """As job queues and runners of tests raise it in the handler of a signal."""


ERRORS = KeyboardInterrupt, TimeLimit, SystemExit
LATER = 1000
SECONDS = 60  # until which no thread may be left
# Units, rows, rows of a batch: of the narrow kernel, the wide one and the online one; the first two for two threads.
SHAPES = [((20, 64, 64, 1), 800, 400), ((64, 128, 128, 10), 400, 200), ((2, 4, 1), 4, 4), ((4, 6, 3), 30, 1)]


class Net:
    """A network with solver memory, trained in order."""

    def __init__(self, units, batch_size, n_jobs, solver):
        self.model = NeuralNetwork(units[0], units[1:-1], units[-1], solver=solver, n_jobs=n_jobs, random_state=0)
        self.batch_size = batch_size

    def train(self, X, Y, epochs, callback=None):
        self.model.train(X, Y, epochs, 1e-3, batch_size=min(self.batch_size, len(X)), reduction="mean", callback=callback)

    def kept(self):
        """Steps, then every array that belongs to them; None where there is nothing yet."""
        moments, steps = self.model._moments or ([], 0)
        return steps, [*self.model.weights, *self.model.biases, *[one for w, b in moments if steps for one in w + b]]


class Streamed(Net):
    """The same on a stream, of chunks that batches fill."""

    def train(self, X, Y, epochs, callback=None):
        batch_size = min(self.batch_size, len(X))
        self.model.train(
            X, Y, epochs, 1e-3, batch_size=batch_size, reduction="mean", callback=callback, chunk_rows=batch_size
        )  # fmt: skip


class Regressor:
    """The same of an estimator."""

    def __init__(self, units, batch_size, n_jobs, solver):
        solver = {"adam": "adam", "momentum": "sgd"}[solver]
        self.model = MLPRegressor(
            hidden_layer_sizes=units[1:-1], solver=solver, batch_size=batch_size, n_jobs=n_jobs, shuffle=False, tol=0,
            random_state=0, max_iter=10**6, n_iter_no_change=10**6, nesterovs_momentum=False, activation="tanh",
        )  # fmt: skip

    def train(self, X, Y, epochs, callback=None):
        """By `fit`, which looks at every epoch where it would call back; by `partial_fit` once it has been fitted."""
        self.model.set_params(batch_size=min(self.model.batch_size, len(X)), max_iter=max(1, epochs))
        if hasattr(self.model, "_moments"):
            for _ in range(epochs):
                self.model.partial_fit(X, Y)
        elif epochs:
            validation = {} if callback is None else {"X_val": X[:5], "y_val": Y[:5]}
            self.model.fit(X, Y, **validation)

    def kept(self):
        if not hasattr(self.model, "_moments"):
            return None
        moments = [one for w, b in self.model._moments if self.model._steps for one in w + b]
        return self.model._steps, [*self.model.coefs_, *self.model.intercepts_, *moments]


def inside(frame, codes):
    """Whether a frame belongs to a call of one of the functions."""
    while frame is not None:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


TRAININGS = {Net.train.__code__, Streamed.train.__code__, Regressor.train.__code__}


def interrupt(train, error, delay, again):
    """Train, and raise errors in the handler of a signal after a delay; how many came, and what came out."""
    signals = raised = 0

    def handler(number, frame):
        nonlocal signals, raised
        signals += 1
        # what is raised where Python frees objects comes to nothing, so that another one is needed
        if (signals <= again or signals % LATER == 0) and inside(frame, TRAININGS):
            raised += 1
            raise error(f"interrupt {raised}")

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, delay, 2e-4)
    try:
        train()
        out = None
    except ERRORS as one:
        out = one
    signal.setitimer(signal.ITIMER_REAL, 0)
    return raised, out


def check(trained, fresh, X, Y, batch_size):
    """Weights, solver memory and steps belong together, and training goes on from them as if it had not been interrupted."""
    deadline = time.monotonic() + SECONDS
    while sum(not inside(frame, {Pool.follow.__code__}) for frame in sys._current_frames().values()) > 1:
        assert time.monotonic() < deadline, "a thread is left"
        time.sleep(1e-4)
    kept = trained.kept()
    if kept is None:
        return
    per_epoch = -(-len(X) // batch_size)
    epochs, rest = divmod(kept[0], per_epoch)
    fresh.train(X, Y, epochs)
    if rest:
        fresh.train(X[: rest * batch_size], Y[: rest * batch_size], 1)
    if kept[0] or fresh.kept():
        same(kept, fresh.kept())
    for one in (trained, fresh):
        one.train(X, Y, 2)
    same(trained.kept(), fresh.kept())


def same(ours, theirs):
    assert ours[0] == theirs[0], f"{ours[0]} steps, not {theirs[0]}"
    for number, (one, other) in enumerate(zip(ours[1], theirs[1], strict=True)):
        assert np.isfinite(one).all()
        assert one.tobytes() == other.tobytes(), f"array {number} of {len(ours[1])} differs after {ours[0]} steps"


def main(rounds, seed):
    rng = np.random.default_rng(int(seed))
    warnings.simplefilter("ignore")  # that a training was interrupted, or not finished
    interrupted = came_out = 0
    kinds = [(shape, kind, n_jobs) for shape in SHAPES for kind in (Net, Regressor, Streamed) for n_jobs in (1, 2)]
    for number in range(len(kinds) + int(rounds)):
        in_time = number >= len(kinds)  # before, kernels are compiled or loaded
        (units, n_rows, batch_size), kind, n_jobs = kinds[number % len(kinds)]
        solver, error, again = ["adam", "momentum"][rng.integers(2)], ERRORS[rng.integers(3)], int(rng.integers(1, 4))
        callback = [None, lambda epoch, history: None][rng.integers(2)]
        delay, epochs = (10 ** rng.uniform(-4, -2), 10**6) if in_time else (SECONDS, 2)
        X, Y = rng.normal(size=(n_rows, units[0])), rng.uniform(size=(n_rows, units[-1]))
        arguments = units, batch_size, n_jobs, solver
        print(number, kind.__name__, *arguments, error.__name__, again, callback, delay, flush=True)
        trained = kind(*arguments)
        count, out = interrupt(lambda: trained.train(X, Y, epochs, callback), error, delay, again)  # noqa: B023
        assert count > 0 or not in_time
        interrupted, came_out = interrupted + (count > 0), came_out + (out is not None)
        check(trained, kind(*arguments), X, Y, batch_size)
    print(interrupted, came_out)


if __name__ == "__main__":
    main(*sys.argv[1:])
