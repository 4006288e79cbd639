"""MLPEnsembleClassifier and MLPEnsembleRegressor: many networks that differ by their seeds, and their mean and spread."""

import itertools
import warnings
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.ensemble import BaggingClassifier, BaggingRegressor, BaseEnsemble
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import type_of_target, unique_labels
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastbp import background
from fastbp.estimators import fitting
from fastbp.estimators.mlp import MULTI_OUTPUT, MLPClassifier, MLPRegressor
from fastbp.estimators.perceptron import FLOATS, PARAMETERS, fill_in, store
from fastbp.training import INTERRUPTED, InterruptedWarning, usable_threads

# What differs from the members' own.
OWN_PARAMETERS = """
random_state : int, RandomState instance or None | Draws the seed of each member, and of its bootstrap, as BaggingClassifier
    does.
verbose : int | Print a line per member.
warm_start : bool | Let fit keep the members of the fit before, and train those that n_estimators asks for beyond them.
n_jobs : int or None | Threads, each with a member at a time, as joblib counts: None is 1, -1 all processors. No result
    depends on it.
n_estimators : int | Members.
bootstrap : bool | Train each member on as many rows as there are, drawn with replacement: as weights, so that each knows all
    classes. Otherwise members differ by their initial weights, the order of their rows and what early stopping holds back.
oob_score : bool | Score the rows by the members that have not drawn them; with bootstrap, and without warm_start."""

ATTRIBUTES = """\
    estimators_ : list of {member}
        The members. They were given X as an array, without names of features.
    estimators_samples_ : list of ndarray of int
        The rows that each member has drawn.
    oob_score_ : float
        {score} of the rows that some member has not drawn, with oob_score; no row is weighted.
    {oob} : ndarray
        {mean} over the members that have not drawn a row, nan where there are none.
    n_iter_ : int
        The most epochs or iterations of a member.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X had names for its features."""


class Ensemble(BaseEnsemble):
    """What both ensembles share. A subclass says which members it has, and what is averaged."""

    _parameter_constraints: ClassVar[dict]
    _member: ClassVar[Any]
    _told: ClassVar[dict]
    # what of scikit-learn's bagging has one value here
    max_samples, max_features, bootstrap_features, estimator_params = None, 1.0, False, ()
    estimators_: list
    _seeds: Any

    def __init_subclass__(cls, **arguments):
        super().__init_subclass__(**arguments)
        own = ("n_estimators", "bootstrap", "oob_score", "verbose")
        bagging = {name: BaggingClassifier._parameter_constraints[name] for name in own}
        cls._parameter_constraints = {**cls._member._parameter_constraints, **bagging}
        fill_in(cls, PARAMETERS + OWN_PARAMETERS, ATTRIBUTES=ATTRIBUTES.format(member=cls._member.__name__, **cls._told))

    @property
    def estimator(self):
        """An unfitted member."""
        own = {"warm_start": False, "n_jobs": None, "verbose": False, "random_state": None}
        return self._member(**{name: own.get(name, getattr(self, name)) for name in self._member().get_params()})

    @property
    def n_iter_(self):
        """The most epochs or iterations of a member."""
        return max(member.n_iter_ for member in self.estimators_)

    def get_metadata_routing(self):
        """What its methods request for themselves; nothing is routed to members."""
        return BaseEstimator.get_metadata_routing(self)

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None):
        """Train the members.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n, n_features)
        y : array-like of shape (n,) or (n, n_outputs)
            Values of a regressor; class labels of a classifier, or 0s and 1s in columns.
        sample_weight : array-like of shape (n,) or None, default=None
            Factors of the rows' losses in every member, whatever it draws; one that draws no row of any weight learns from
            all rows.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter, X, y or sample_weight is not of the kind described, or a member's weight stops being finite.

        Warns
        -----
        ConvergenceWarning
            If members reach max_iter.
        UserWarning
            If interrupted from the keyboard: the members that are trained are kept, and warm_start trains the others; where
            there are none, the present ones are kept with the weights that they have. If warm_start has nothing to add.
        """
        members = list(getattr(self, "estimators_", [])) if self.warm_start else []
        random_state = check_random_state(self.random_state)
        before = vars(self).get("estimators_")
        with fitting.as_before(self, random_state, learnt=lambda: vars(self).get("estimators_") is not before):
            X, y = validate_data(
                self, X, y, accept_sparse="csr", dtype=FLOATS, multi_output=True, reset=not members,
                y_numeric=self._member is MLPRegressor,
            )  # fmt: skip
            y = column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y
            weights = None if sample_weight is None else _check_sample_weight(sample_weight, X)
            self._learn(y, members)
            if self.oob_score and (self.warm_start or not self.bootstrap):
                raise ValueError("oob_score needs bootstrap=True and warm_start=False")
            if self.n_estimators < len(members):
                so_far = f"{len(members)}, the members so far"
                raise ValueError(f"n_estimators must be at least {so_far}, got {self.n_estimators}")
            if self.n_estimators == len(members):
                warnings.warn("warm_start trains no member, as n_estimators is not larger than before", stacklevel=3)
                return self
            for name in ("oob_score_", self._told["oob"]):
                self.__dict__.pop(name, None)
            self._draw(X, members, random_state)
            interrupt, said = None, list[tuple]()  # what members warn of comes once, when all are done
            try:
                self._train(X, y, weights, members, said)
            except KeyboardInterrupt as error:
                if vars(self).get("estimators_") is before:
                    raise
                interrupt = error
        for text, category in dict.fromkeys(said):
            if category is not InterruptedWarning:  # which the ensemble says for all
                warnings.warn(text, category, stacklevel=3)
        if interrupt is not None:
            text = f"{INTERRUPTED[:-1]}: {len(self.estimators_)} of {self.n_estimators} members are kept."
            warnings.warn(text, InterruptedWarning, stacklevel=3)
        if self.oob_score:
            self._score_out_of_bag(X, y)
        return self

    def _draw(self, X, members, random_state):
        """Draw the seeds of further members, where scikit-learn's bagging looks for them."""
        most = np.iinfo(np.int32).max
        if members:
            random_state.randint(most, size=len(members))
        seeds = random_state.randint(most, size=self.n_estimators - len(members))
        self._seeds = np.concatenate([self._seeds[: len(members)], seeds]) if members else seeds
        self._n_samples, self._max_features = X.shape
        self._max_samples, self._sample_weight, self.estimator_ = self._n_samples, None, self.estimator

    def _train(self, X, y, weights, trained, said):
        """Train a member for each further seed; an exception ends all threads, and keeps those that had ended in order."""
        first, halt, whole = len(trained), list[int](), dict[int, bool]()
        members = [self._make_estimator(append=False, random_state=seed) for seed in self._seeds[first:]]
        samples = self.estimators_samples_[first:] if self.bootstrap else [None] * len(members)

        def train(number):
            member, sample, drawn = members[number], samples[number], weights
            if sample is not None:
                counts = np.bincount(sample, minlength=X.shape[0])
                drawn = counts if weights is None else counts * weights
                drawn = drawn if drawn.any() else weights
            member._stop = lambda: halt and number > min(halt)
            try:
                with fitting.hearing(said):
                    member.fit(X, y, sample_weight=drawn)
                whole[number] = not member._stop()
            finally:
                del member._stop
            if self.verbose:
                reached = f"{member.n_iter_} iterations, loss {member.loss_:.8f}"
                print(f"Member {first + number + 1} of {self.n_estimators}: {reached}")

        kept = []
        try:
            # not in this thread: a member would take an interrupt for its own
            background.each(train, range(len(members)), usable_threads(self.n_jobs), halt)
            kept = members
        except BaseException as error:
            # no member without those before: a warm start takes seeds by their number
            kept = members[: len([*itertools.takewhile(whole.get, itertools.count())])]
            if not (trained or kept) and not isinstance(error, Exception):
                kept = members[: len([*itertools.takewhile(whole.__contains__, itertools.count())])]
            raise
        finally:
            if kept := trained + kept:
                features = [np.arange(X.shape[1]) for _ in kept]
                # in one call, which a signal's handler cannot break
                self.__dict__.update(estimators_=kept, _seeds=self._seeds[: len(kept)], estimators_features_=features)

    def _outputs(self, X):
        """What each member predicts, in order."""
        check_is_fitted(self, "estimators_")
        X = validate_data(self, X, accept_sparse="csr", dtype=FLOATS, reset=False)
        threads = usable_threads(self.n_jobs)
        if threads == 1:
            return [self._output(member, X) for member in self.estimators_]
        return background.each(lambda member: self._output(member, X), self.estimators_, threads)

    def _mean(self, X, return_std):
        """Mean over the members, added up in order, and their standard deviation."""
        outputs = self._outputs(X)
        mean = sum(outputs) / len(outputs)
        return (mean, np.std(outputs, axis=0)) if return_std else mean

    def _score_out_of_bag(self, X, y):
        left = [np.bincount(drawn, minlength=X.shape[0]) == 0 for drawn in self.estimators_samples_]
        counts = np.sum(left, axis=0)
        seen = counts > 0
        if not seen.any():
            raise ValueError("oob_score needs rows that some member has not drawn, got none")
        if not seen.all():
            warnings.warn(f"every member has drawn {np.sum(~seen)} of {len(seen)} rows: take more members", stacklevel=4)
        pairs = [(rows, member) for rows, member in zip(left, self.estimators_, strict=True) if rows.any()]
        parts = [self._output(member, X[rows]) for rows, member in pairs]
        means = np.zeros((len(seen), *parts[0].shape[1:]))
        for (rows, _), part in zip(pairs, parts, strict=True):
            means[rows] += part
        means[~seen] = np.nan
        means[seen] = (means[seen].T / counts[seen]).T
        setattr(self, self._told["oob"], means)
        self.oob_score_ = float(self._metric(y[seen], self._decided(means[seen])))


class MLPEnsembleClassifier(Ensemble, BaggingClassifier):
    """Networks that differ by their seeds, and the mean and spread of their probabilities.

    It is scikit-learn's BaggingClassifier of `MLPClassifier`, with the same bits from the same seeds, but for this: members
    are trained in threads and know the labels themselves, bootstrap is off by default, weights of rows are factors of their
    losses, and logarithms, and what is out of bag, are rounded otherwise.

    Parameters
    ----------
    <PARAMETERS>

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, in the order of the probabilities.
    n_classes_ : int
    <ATTRIBUTES>

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastbp import MLPEnsembleClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPEnsembleClassifier(n_estimators=3, learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> probabilities, spread = clf.predict_proba(X, return_std=True)
    >>> spread.shape
    (150, 3)
    """

    classes_: Any
    _kind: str
    _member = MLPClassifier
    _told: ClassVar[dict] = {"score": "Accuracy", "oob": "oob_decision_function_", "mean": "Probabilities, the mean"}
    _metric = staticmethod(accuracy_score)

    def __init__(
        self,
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
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
        verbose=0,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        dropout=0.0,
        max_norm=np.inf,
        class_weight=None,
        n_jobs=None,
        scoring=None,
        n_estimators=10,
        bootstrap=False,
        oob_score=False,
    ):
        store(self, locals())

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _learn(self, y, members):
        """Learn the labels; a warm start needs the same."""
        kind = type_of_target(y, input_name="y")
        if kind == MULTI_OUTPUT:
            raise ValueError(f"y must be class labels (n,), or 0s and 1s in columns, got {y.shape[1]} columns of classes")
        classes = unique_labels(y)
        if members and not (np.array_equal(classes, self.classes_) and kind == self._kind):
            raise ValueError(f"y must have the classes of the fit before, {self.classes_}, for a warm_start, got {classes}")
        self.classes_, self.n_classes_, self._kind = classes, len(classes), kind

    @staticmethod
    def _output(member, X):
        return member.predict_proba(X).astype(np.float64)

    def _decided(self, probabilities):
        if self._kind.startswith("multilabel"):
            return self.estimators_[0]._decoded(probabilities)
        return self.classes_.take(probabilities[:, : self.n_classes_].argmax(axis=1))

    def predict(self, X):
        """Classes for the rows of X, by the mean of the members' probabilities.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n, n_features)

        Returns
        -------
        ndarray of shape (n,) or (n, n_classes)
        """
        return self._decided(self._mean(X, False))

    def predict_proba(self, X, return_std=False):
        """Probabilities of the classes: the mean of the members'.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n, n_features)
        return_std : bool, default=False
            Return the standard deviation over the members, too.

        Returns
        -------
        ndarray of shape (n, n_classes), or two of them
            Columns in the order of `classes_`.
        """
        return self._mean(X, return_std)

    def predict_log_proba(self, X):
        """Logarithms of `predict_proba`.

        Parameters and results are of the same kinds.
        """
        return np.log(self._mean(X, False))


class MLPEnsembleRegressor(Ensemble, BaggingRegressor):
    """Networks that differ by their seeds, and the mean and spread of their predictions.

    It is scikit-learn's BaggingRegressor of `MLPRegressor`, with the same bits from the same seeds, but for this: members
    are trained in threads, bootstrap is off by default, targets may have columns, weights of rows are factors of their
    losses, and what is out of bag is rounded otherwise.

    Parameters
    ----------
    <PARAMETERS>

    Attributes
    ----------
    <ATTRIBUTES>

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from fastbp import MLPEnsembleRegressor
    >>> X, y = make_regression(100, 4, random_state=0)
    >>> reg = MLPEnsembleRegressor(n_estimators=3, solver="lbfgs", max_iter=5000, random_state=0).fit(X, y)
    >>> mean, spread = reg.predict(X, return_std=True)
    >>> spread.shape
    (100,)
    """

    _member = MLPRegressor
    _told: ClassVar[dict] = {"score": "R2", "oob": "oob_prediction_", "mean": "Predictions, the mean"}
    _metric = staticmethod(r2_score)

    def __init__(
        self,
        loss="squared_error",
        hidden_layer_sizes=(100,),
        activation="relu",
        *,
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
        verbose=0,
        warm_start=False,
        momentum=0.9,
        nesterovs_momentum=True,
        early_stopping=False,
        validation_fraction=0.1,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        n_iter_no_change=10,
        max_fun=15000,
        dropout=0.0,
        max_norm=np.inf,
        n_jobs=None,
        scoring=None,
        n_estimators=10,
        bootstrap=False,
        oob_score=False,
    ):
        store(self, locals())

    def _learn(self, y, members):
        """Compare the outputs with those of the fit before."""
        outputs = y[:1].size
        if members and outputs != members[0].n_outputs_:
            raise ValueError(f"y must have {members[0].n_outputs_} output(s), as in the fit before, got {outputs}")

    @staticmethod
    def _output(member, X):
        return member.predict(X)

    @staticmethod
    def _decided(means):
        return means

    def predict(self, X, return_std=False):
        """Values for the rows of X: the mean of the members'.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n, n_features)
        return_std : bool, default=False
            Return the standard deviation over the members, too.

        Returns
        -------
        ndarray of shape (n,) or (n, n_outputs), or two of them
        """
        return self._mean(X, return_std)
