"""Trainings that a signal interrupts at random moments, and what they must leave behind.

Run as a program, so that a crash is seen: ``python interrupts.py ROUNDS SEED``. It prints how many rounds were interrupted,
and out of how many of these trainings an exception came. Predictions, searches and the like, which have threads as well, are
interrupted in the same way.
"""

import _thread
import faulthandler
import importlib.util
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.base import clone

from fastbp import MLPEnsembleRegressor, MLPRegressor, NeuralNetwork, rows, search, train_many
from fastbp.kernels.pool import Pool
from fastbp.profiling import machine


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


class Member(Regressor):
    """A member of an ensemble."""

    def __init__(self, model):
        self.model = model


class One(Net):
    """One of many networks."""

    def __init__(self, model, batch_size, n_jobs, callback):
        self.model, self.batch_size, self.n_jobs, self.callback = model, batch_size, n_jobs, callback

    def train(self, X, Y, epochs, callback=None):
        batch_size = min(self.batch_size, len(X))
        train_many([self.model], X, Y, epochs, 1e-3, batch_size=batch_size, reduction="mean", callback=self.callback)


class Many:
    """Networks that are trained in one call: some share lanes where they are small, and some have a callback each."""

    def __init__(self, units, batch_size, n_jobs, solver):
        net = units[0], units[1:-1], units[-1]
        nets = [NeuralNetwork(*net, solver=solver, random_state=seed) for seed in range(6)]
        self.parts = [One(net, batch_size, n_jobs, [None, goes_on][at % 2]) for at, net in enumerate(nets)]

    def train(self, X, Y, epochs, callback=None):
        how = {"batch_size": self.parts[0].batch_size, "reduction": "mean", "n_jobs": self.parts[0].n_jobs}
        callbacks = [one.callback for one in self.parts]
        train_many([one.model for one in self.parts], X, Y, epochs, 1e-3, callback=callbacks, **how)

    def check(self, fresh, X, Y, batch_size):
        for one, other in zip(self.parts, fresh.parts, strict=True):
            check(one, other, X, Y, batch_size)


class Ensemble:
    """An ensemble whose members are trained for ever."""

    def __init__(self, units, batch_size, n_jobs, solver):
        member = Regressor(units, batch_size, n_jobs, solver).model
        self.model = MLPEnsembleRegressor(**member.get_params(), n_estimators=4)

    def train(self, X, Y, epochs, callback=None):
        self.model.set_params(max_iter=max(1, epochs)).fit(X, Y)

    def check(self, fresh, X, Y, batch_size):
        for model in getattr(self.model, "estimators_", []):
            check(Member(model), Member(clone(model)), X, Y, batch_size)


class Shorter(Ensemble):
    """One that is fitted over and over: a warm start makes of what is left what it would have been."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.model.set_params(max_iter=2, n_estimators=10)

    def train(self, X, Y, epochs, callback=None):
        for _ in range(epochs):
            self.model.fit(X, Y)

    def check(self, fresh, X, Y, batch_size):
        whole = all(one.n_iter_ == 2 for one in getattr(self.model, "estimators_", []))
        if whole and len(getattr(self.model, "estimators_", [])) < self.model.n_estimators:
            self.model.set_params(warm_start=True).fit(X, Y)
        fresh.train(X, Y, 1)
        for one, other in zip(self.model.estimators_, fresh.model.estimators_ if whole else (), strict=whole):
            same(Member(one).kept(), Member(other).kept())


class Again:
    """Something that is done over and over, and comes to the same after an interrupt."""

    def __init__(self, units, batch_size, n_jobs, solver):
        self.arguments, self.n_jobs = (units, batch_size, n_jobs, solver), n_jobs

    def train(self, X, Y, epochs, callback=None):
        for _ in range(epochs):
            self.work(X, Y)

    def check(self, fresh, X, Y, batch_size):
        assert np.asarray(self.work(X, Y)).tobytes() == np.asarray(fresh.work(X, Y)).tobytes()


class Predicted(Again):
    """Predictions of an ensemble."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        units, rng = self.arguments[0], np.random.default_rng(0)
        ensemble = Shorter(*self.arguments)
        ensemble.train(rng.normal(size=(8, units[0])), rng.uniform(size=(8, units[-1])), 1)
        self.predict = ensemble.model.predict

    def work(self, X, Y):
        return self.predict(X)


class Searched(Again):
    """A search of fits that have a thread each; its scores. Other errors than these are taken for those of a fit."""

    errors = KeyboardInterrupt, SystemExit

    def work(self, X, Y):
        est = Regressor(*self.arguments).model.set_params(early_stopping=True, max_iter=2, batch_size=4, n_jobs=None)
        return search(est, {"alpha": [1e-4, 1.0]}, X, Y, 2, self.n_jobs)["mean_test_score"]


class Read(Again):
    """Rows of a table, whose columns are read in threads."""

    comes_out = (*ERRORS, OSError)  # Python closes a folder that it removes twice, where that is interrupted

    def work(self, X, Y):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "table.csv"
            np.savetxt(path, np.hstack((X, Y))[:, -4:], delimiter=",", header="a,b,c,d", comments="")
            return rows(path, "d", cache=Path(folder) / "cache")[:]


class Measured(Again):
    """Cores that are measured at the same time."""

    def work(self, X, Y):
        machine.once([lambda amount: None] * 2, 1)
        return ()


def goes_on(epoch, history):
    """A callback that lets a training go on."""


def inside(frame, codes):
    """Whether a frame belongs to a call of one of the functions."""
    while frame is not None:
        if frame.f_code in codes:
            return True
        frame = frame.f_back
    return False


KINDS = [Net, Regressor, Streamed, Many, Ensemble, Shorter]
OTHERS = [Predicted, Searched, Measured] + [Read] * bool(importlib.util.find_spec("pyarrow"))
TRAININGS = {kind.train.__code__ for kind in KINDS + OTHERS}


def interrupt(train, error, delay, again, errors=ERRORS):
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
    except errors as one:
        out = one
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)  # another thread may have the last one, and tell of it later
    return raised, out


def only_parked_threads(before=None):
    """Whether all threads but this one or those before, and workers, end soon."""
    before = {_thread.get_ident()} if before is None else before
    for times in range(SECONDS * 1000):  # no deadline: the process may be stopped for a while
        frames = sys._current_frames()
        if all(inside(frames[thread], {Pool.follow.__code__}) for thread in frames.keys() - before):
            return True
        time.sleep(1e-3 if times else 0)
    return False


def check(trained, fresh, X, Y, batch_size):
    """Weights, solver memory and steps belong together, and training goes on from them as if it had not been interrupted."""
    assert only_parked_threads(), "a thread is left"
    if hasattr(trained, "check"):
        trained.check(fresh, X, Y, batch_size)
        return
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
    kinds = [(shape, kind, n_jobs) for shape in SHAPES for kind in KINDS for n_jobs in (1, 2)]
    kinds += [(SHAPES[-1], kind, 2) for kind in OTHERS for _ in range(3)]
    for number in range(len(kinds) + int(rounds)):
        in_time = number >= len(kinds)  # before, kernels are compiled or loaded
        (units, n_rows, batch_size), kind, n_jobs = kinds[number % len(kinds)]
        errors, comes_out = getattr(kind, "errors", ERRORS), getattr(kind, "comes_out", ERRORS)
        solver, error, again = ["adam", "momentum"][rng.integers(2)], rng.choice(errors), int(rng.integers(1, 4))
        callback = [None, goes_on][rng.integers(2)]
        delay, epochs = (10 ** rng.uniform(-4, -2), 10**6) if in_time else (SECONDS, 2)
        X, Y = rng.normal(size=(n_rows, units[0])), rng.uniform(size=(n_rows, units[-1]))
        arguments = units, batch_size, n_jobs, solver
        print(number, kind.__name__, *arguments, error.__name__, again, callback, delay, flush=True)
        faulthandler.dump_traceback_later(4 * SECONDS, exit=True)  # where it hangs
        trained = kind(*arguments)
        count, out = interrupt(lambda: trained.train(X, Y, epochs, callback), error, delay, again, comes_out)  # noqa: B023
        assert count > 0 or not in_time
        interrupted, came_out = interrupted + (count > 0), came_out + (out is not None)
        check(trained, kind(*arguments), X, Y, batch_size)
    print(interrupted, came_out)


if __name__ == "__main__":
    main(*sys.argv[1:])
