"""search: a grid of candidates on every split of the rows, of small networks side by side in the lanes of vectors."""

import time
import traceback
import warnings
from typing import Any

import numpy as np
from sklearn.base import clone, is_classifier
from sklearn.exceptions import FitFailedWarning
from sklearn.model_selection import GridSearchCV, ParameterGrid, check_cv
from sklearn.model_selection._validation import _insert_error_scores, _score
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state, indexable
from sklearn.utils.metaestimators import _safe_split

from fastbp import background, checks
from fastbp.estimators import fitting
from fastbp.estimators.mlp import MLPClassifier, MLPRegressor
from fastbp.lanes import LaneRun, Lanes, Member, by_kind
from fastbp.training import usable_threads

# What a fit by itself costs beside its steps lets lanes pay for batches that are so many times as large: of factors from 1
# to 8, this one lost the least against the faster way in 356 searches of 30 fits, 4% on average.
ROWS_FACTOR = 2


def search(estimator, grid, X, y, cv=None, n_jobs=None, *, scoring=None) -> dict[str, Any]:
    """Try every candidate of a grid on every split of the rows: `cv_results_` of scikit-learn's GridSearchCV.

    Small networks of the same layers, solver and batches are trained side by side, with a network in each lane of the
    processor's vectors, where GridSearchCV spends most of its time between their steps. Sums are rounded otherwise than by
    `fit`, but no score depends on the other candidates, their order or `n_jobs`.

    Parameters
    ----------
    estimator : MLPClassifier, MLPRegressor, or Pipeline that ends in one
        Stays as it is. Networks with early stopping, warm starts, "lbfgs", callbacks, sparse rows, class weights, large
        batches or large layers are trained one in each thread.
    grid : dict or list of dict
        Values to try of each parameter, as of ParameterGrid.
    X : {array-like, sparse matrix} of shape (n, n_features)
    y : array-like of shape (n,) or (n, n_outputs)
    cv : int, splitter, iterable or None, default=None
        Splits of the rows, as of GridSearchCV: None is five.
    n_jobs : int or None, default=None
        Threads, as joblib counts: None is 1, -1 all processors.
    scoring : str, callable, list, dict or None, default=None
        What is compared, or several things, as of GridSearchCV; None is the estimator's own score.

    Returns
    -------
    dict
        `cv_results_`: "params", "mean_test_score", "rank_test_score", and so on. The time of networks that were trained side
        by side is shared evenly.

    Raises
    ------
    ValueError, TypeError
        If an argument is not of its kind, or no fit succeeds.

    Warns
    -----
    FitFailedWarning
        If a fit fails; its score is nan.
    UserWarning
        If a score cannot be computed; it is nan.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastbp import MLPClassifier, search
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(8, learning_rate_init=0.01, batch_size=10, max_iter=30, random_state=0)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     found = search(clf, {"alpha": [1e-4, 1.0, 100.0]}, X, y)
    >>> found["params"][found["rank_test_score"].argmin()]
    {'alpha': 0.0001}
    """
    if not isinstance(network_of(estimator), (MLPClassifier, MLPRegressor)):
        raise TypeError(
            f"estimator must be an MLPClassifier, an MLPRegressor or a Pipeline that ends in one, got {estimator!r}"
        )
    candidates, threads = list(ParameterGrid(grid)), usable_threads(checks.jobs("n_jobs", n_jobs))
    X, y = indexable(X, y)
    their = GridSearchCV(estimator, grid, scoring=scoring, refit=False)
    scorer, _ = their._get_scorers()
    splits = list(check_cv(cv, y, classifier=is_classifier(estimator)).split(X, y))
    if not (candidates and splits):
        raise ValueError(f"grid and cv must give a fit, got {len(candidates)} candidates and {len(splits)} splits")
    parts = [(_safe_split(estimator, X, y, train), _safe_split(estimator, X, y, test, train)) for train, test in splits]
    fits = [Fit(estimator, candidate, *part) for candidate in candidates for part in parts]
    orders: dict[Any, Any] = {}
    ready = [fit for fit in fits if fit.attempt(lambda fit=fit: fit.begin(orders))]
    groups, apart = by_kind([fit.member for fit in ready], ROWS_FACTOR)
    for numbers in groups:
        train_together([ready[number] for number in numbers], threads)
    # not in this thread: a fit would take an interrupt for its own
    background.each(lambda fit: fit.attempt(fit.alone), [ready[number] for number in apart], threads)
    found = [fit.scored(scorer) for fit in fits]
    if failed := [fit.error for fit in fits if fit.error]:
        message = f"{len(failed)} of {len(fits)} fits failed, and have no score:\n{failed[0]}"
        if len(failed) == len(fits):
            raise ValueError(message)
        warnings.warn(message, FitFailedWarning, stacklevel=2)
    _insert_error_scores(found, np.nan)
    return their._format_results(candidates, len(splits), found)


def network_of(estimator):
    """The network of an estimator, which may be a pipeline."""
    return estimator[-1] if isinstance(estimator, Pipeline) and estimator.steps else estimator


class Fit:
    """A candidate on a split of the rows."""

    def __init__(self, estimator, candidate, training, test):
        self.estimator = clone(estimator).set_params(**clone(candidate, safe=False))
        (self.X, self.y), self.test, self.error, self.seconds = training, test, "", 0.0
        self.member: Any = None
        self.epochs: Any = None
        self.drawn: Any = None

    def attempt(self, work):
        """Do it, and take the time; returns whether it went well."""
        start = time.perf_counter()
        try:
            work()
        except Exception:
            self.error = traceback.format_exc()
        self.seconds += time.perf_counter() - start
        return not self.error

    def begin(self, orders):
        """Let the network begin, where lanes may take it; fits of one seed share the orders of rows that they draw."""
        est, X = network_of(self.estimator), self.X
        if est is not self.estimator and len(self.estimator) > 1:
            X = self.estimator[:-1].fit_transform(X, self.y)
        self.X = X
        plain = type(est) in (MLPClassifier, MLPRegressor) and est.solver != "lbfgs"
        if not plain or est.early_stopping or est.verbose or est.warm_start or getattr(est, "_skl_callbacks", ()):
            self.member = Alone()
            return
        est._validate_params()
        random_state = check_random_state(est.random_state)
        if random_state is est.random_state:  # of its own: a fit that turns out to be alone draws anew
            self.drawn = random_state.get_state(legacy=False)
        X, y, rows, _ = est._begin(X, self.y, None, random_state)
        if not isinstance(rows.X, np.ndarray):
            self.member = Alone()
            return
        est._draw_dropout_seed(random_state)
        task = fitting.Task(est, X, y, None, est.max_iter, single=True)
        self.epochs = fitting.begun(est, rows, None, random_state, None, task, LaneRun())
        order = None
        if est.shuffle:
            key = est.random_state, tuple(est._units()), len(rows.X), est.dropout > 0
            shared = type(est.random_state) is int
            own: tuple[list, Any] = [], self.epochs.draw
            drawn, draw = orders.setdefault(key, own) if shared else own

            def order(epoch):
                if not shared:  # nobody asks for one again, and each takes as much memory as a column
                    return draw(1)[0]
                while len(drawn) <= epoch:
                    drawn.extend(draw(1))
                return drawn[epoch]

        self.member = Member(
            est._rule(), est.coefs_, est.intercepts_, est._activation_codes(), rows.X, rows.Y,
            fitting.clipped_batch_size(est, len(rows.X)), rows.weights, order,
        )  # fmt: skip

    def alone(self):
        """Fit the network by itself."""
        est = network_of(self.estimator)
        if self.drawn is not None:
            est.random_state.set_state(self.drawn)
        est.fit(self.X, self.y)

    def end(self, stopped):
        """What a fit does in the end."""
        est = network_of(self.estimator)
        self.epochs.keep()
        if not stopped:
            fitting.warn_of_the_end(est)
        est._check_finite()

    def scored(self, scorer):
        """What GridSearchCV notes of a fit."""
        start, score = time.perf_counter(), np.nan
        if not self.error:
            score = _score(self.estimator, *self.test, scorer, None, np.nan)
        seconds = time.perf_counter() - start
        return {"test_scores": score, "fit_time": self.seconds, "score_time": seconds, "fit_error": self.error or None}


class Alone:
    """In the place of a member that a fit cannot be."""

    def kind(self, rows_factor):
        """None: it shares no lanes."""


def train_together(fits, threads):
    """Train the networks of fits of one kind; whoever is done leaves, and the others close ranks when that frees vectors."""
    start, members = time.perf_counter(), [fit.member for fit in fits]
    lanes, left = Lanes(members, threads), dict(enumerate(fits))
    while left:
        some = min(min(fit.epochs.safe(), fit.epochs.est.max_iter - fit.epochs.est.n_iter_) for fit in left.values())
        for number, fit in left.items():
            if fit.epochs.est.solver == "sgd":
                lanes.set_learning_rate(number, fit.epochs.est._learning_rate)
        before = lanes.done
        lanes.advance(int(some))
        for number, fit in list(left.items()):
            fit.epochs.run.take(lanes, number, lanes.done - before)
            stopped = fit.epochs.end(fit.epochs.note(fit.epochs.losses(0)))
            if stopped or fit.epochs.est.n_iter_ >= fit.epochs.est.max_iter:
                del left[number]
                fit.attempt(lambda fit=fit, stopped=stopped: fit.end(stopped))
        if left and -(-len(left) // lanes.lanes) < lanes.groups:
            lanes, left = lanes.of(left), dict(enumerate(left.values()))
    for fit in fits:
        fit.seconds += (time.perf_counter() - start) / len(fits)
