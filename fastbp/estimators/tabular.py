"""TabularClassifier and TabularRegressor: networks for tables whose columns hold numbers, categories and gaps.

`fastbp.estimators.columns` decides what each column is and makes inputs of it; `fastbp.estimators.recipe` says how
`MLPClassifier` and `MLPRegressor` learn from these.
"""

import time
import warnings
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, _fit_context, clone, is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state, column_or_1d, validation
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets

from fastbp import datasets
from fastbp.datasets import pandas
from fastbp.estimators import fitting, recipe
from fastbp.estimators.checkpoint import checkpoint_for
from fastbp.estimators.columns import Columns
from fastbp.estimators.mlp import MLPClassifier, MLPRegressor
from fastbp.estimators.perceptron import PARAMETERS, fill_in, store
from fastbp.estimators.streams import has_times
from fastbp.neural_network import Saved

EARLY_STOPPING_ROWS = 100
# What files keep of the columns and of the estimator.
COLUMNS_STATE = ("kinds_", "left_out_", "words_", "categories_")
NAMES_STATE = ("n_features_in_", "feature_names_in_")

# What differs from the networks' own.
OWN_PARAMETERS = """
solver : {'lbfgs', 'sgd', 'adam'} | By epochs with waves of step lengths, see `fastbp.estimators.recipe`; 'lbfgs' takes all
    rows at once.
batch_size : int or 'auto' | Rows per step; the training rows, if there are fewer.
learning_rate_init : float | The longest step.
max_iter : int or 'auto' | Most epochs; 'auto' is 128, and fewer where there are more than 31,000 rows, down to 32.
max_seconds : float or None | When the training ends, by the clock; the waves of step lengths end with it. One epoch is had
    in any case. Results then depend on the machine. 'lbfgs' refuses it.
early_stopping : bool | Hold rows back, and keep the weights of the epoch with the least loss on them; not with fewer than
    100 rows, nor with solver 'lbfgs'.
validation_fraction : float | How many rows early stopping holds back, of every class.
n_iter_no_change : int or inf | Epochs without a lesser loss on these rows that are put up with.
max_categories : int | How many categories a column can have; rarer ones are treated as unknown.
dtype : {'float32', 'float64'} | Float type of the network.
n_estimators : int | Networks that differ by their seeds and the rows held back, trained one after the other; their
    probabilities or values are averaged, which improves both scores and probabilities.
verbose : bool | Print a line per epoch; the first says how long it will take."""

ATTRIBUTES = """\
    preprocessing_ : Columns
        What makes inputs of the columns; its `kinds_` and `left_out_` say how.
    columns_ : dict
        How each column is used: "number", "boolean", "category", or "left out: " with the reason.
    networks_ : list of MLPClassifier or MLPRegressor
        What was trained, each with its `loss_curve_` and `validation_scores_`; `network_` is the first.
    table_ : dict
        How the command line read the file that it trained on; else empty.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where X had names for its columns."""

COLUMNS = """\
    Each column is used by its kind: numbers and booleans are scaled and clipped smoothly, categories one-hot; a number that
    is missing is the median, a category that is missing or was never seen is all zeros. Columns that number the rows, ids
    and prose are left out with a warning."""

REFERENCES = """\
    Holzmüller, Grinsztajn and Steinwart, "Better by default: strong pre-tuned MLPs and boosted trees on tabular data",
    NeurIPS 2024. What was taken from it, and what was not, stands in `fastbp.estimators.recipe`."""


class Tabular(Saved, BaseEstimator):
    """What both estimators share. A subclass says which network learns, and what it is given for targets."""

    _parameter_constraints: ClassVar[dict] = {
        **MLPClassifier._parameter_constraints,
        "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_seconds": [Interval(Real, 0, None, closed="neither"), None],
        "max_categories": [Interval(Integral, 1, None, closed="left")],
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "dtype": [StrOptions({"float32", "float64"})],
    }
    _network_type: ClassVar[Any]
    preprocessing_: Columns
    networks_: list
    table_: dict

    def __init_subclass__(cls, **arguments):
        super().__init_subclass__(**arguments)
        fill_in(cls, PARAMETERS + OWN_PARAMETERS, COLUMNS=COLUMNS, ATTRIBUTES=ATTRIBUTES, REFERENCES=REFERENCES)

    def __init__(
        self,
        hidden_layer_sizes=(128, 128),
        activation="selu",
        *,
        solver="adam",
        alpha=0.0,
        batch_size=64,
        learning_rate_init=0.0035,
        max_iter="auto",
        max_seconds=None,
        dropout=0.0,
        early_stopping=True,
        validation_fraction=0.1,
        n_iter_no_change=40,
        max_categories=100,
        dtype="float32",
        random_state=None,
        verbose=False,
        n_jobs=None,
        n_estimators=1,
    ):
        store(self, locals())

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = tags.input_tags.categorical = True
        return tags

    def _frame(self, X, reset):
        """X as a DataFrame, whose columns are numbered where the fit saw no names."""
        pd = pandas()
        X = X.to_pandas() if hasattr(X, "to_pandas") else X
        if not isinstance(X, pd.DataFrame):
            # numpy would make text of all cells of a list where one is text
            listed = isinstance(X, (list, tuple))
            X = np.array(X, object) if listed else X
            X = validation.validate_data(self, X, dtype=None, ensure_all_finite=False, reset=reset)
            frame = pd.DataFrame(X, columns=getattr(self, "feature_names_in_", range(X.shape[1])))
            return frame.infer_objects() if listed else frame
        if not X.columns.is_unique:
            twice = X.columns[X.columns.duplicated()][0]
            raise ValueError(f"X must have one column of each name, got two called {twice!r}")
        X = self._named(X, reset)
        if reset or not hasattr(self, "feature_names_in_"):
            validation.validate_data(self, X, skip_check_array=True, reset=reset)
        if not len(X):
            raise ValueError(f"Found array with 0 sample(s) (shape={X.shape}) while a minimum of 1 is required.")
        return X if hasattr(self, "feature_names_in_") else X.set_axis(range(X.shape[1]), axis=1)

    def _named(self, X, reset):
        """X with numbers, or other objects, as the names of its columns; 0, 1, ... in order are places, and no names."""
        found, places = [*X.columns], [*range(X.shape[1])]
        if any(isinstance(name, str) for name in found) or (reset and found == places):
            return X
        if reset or hasattr(self, "feature_names_in_"):
            return X.set_axis([*map(str, found)], axis=1)
        if found != places and {*found} == {*places}:
            raise ValueError(f"X must have its columns in the order of the fit, 0, 1, ..., got {found}")
        return X

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, *, progress=False, callback=None, checkpoint=None, every=60):
        """Decide what the columns are, and train.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, n_features)
            Numbers, booleans, text or categories; cells may be missing.
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,) or None, default=None
        progress : bool, default=False
            Show a progress bar. Not of 'lbfgs'.
        callback : callable or None, default=None
            callback(epoch, network) after each epoch, with the network as it is; the training ends where it returns True.
            Not of 'lbfgs'.
        checkpoint, every
            As of `MLPClassifier.fit`, but that max_iter has to stay. Not with several networks or max_seconds.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a parameter, X or y is not of the kind described, a column holds dates, or a weight stops being finite.
        ImportError
            If pandas is not installed.

        Warns
        -----
        UserWarning
            For columns that are left out, and cells that are taken for missing ones; if interrupted from the keyboard, when
            the best weights so far are kept.
        """
        start = time.perf_counter()
        if self.solver == "lbfgs" and self.max_seconds is not None:
            raise ValueError(f"max_seconds needs solver 'sgd' or 'adam', got {self.max_seconds} with solver='lbfgs'")
        kept = checkpoint_for(self, checkpoint, every)
        random_state = check_random_state(self.random_state)
        with fitting.as_before(self, random_state):
            self._learn(X, y, sample_weight, random_state, start, progress=progress, callback=callback, checkpoint=kept)
        return self

    def _learn(self, X, y, sample_weight, random_state, start, checkpoint, **options):
        networks = []
        if checkpoint is not None:
            random_state = checkpoint.begin(self, random_state)
        Z, y = self._learn_columns(X, y)
        weights = None if sample_weight is None else validation._check_sample_weight(sample_weight, Z)
        seeds = random_state.randint(2**31 - 1, size=self.n_estimators) if self.n_estimators > 1 else [random_state]
        seconds = None if self.max_seconds is None else self.max_seconds / self.n_estimators
        for seed in seeds:
            options |= {"start": start, "max_seconds": seconds, "checkpoint": checkpoint}
            network, whole = self._trained(Z, y, weights, check_random_state(seed), options)
            networks.append(network)
            start = time.perf_counter()
            if not whole:
                break
        self.networks_ = networks

    def _trained(self, Z, y, weights, random_state, options):
        """A network that has learnt the rows, and whether no interrupt came."""
        by_epochs, held = self.solver != "lbfgs", np.zeros(len(Z), bool)
        if self.early_stopping and by_epochs and len(Z) >= EARLY_STOPPING_ROWS:
            classes = y if is_classifier(self) else None
            held = datasets.held_out(self.validation_fraction, len(Z), classes, random_state)
        targets = self._targets(y, ~held | (self.n_estimators > 1))  # several networks have one scale
        rows, others = ((Z[of], targets[of], None if weights is None else weights[of]) for of in (~held, held))
        network = self._new_network(len(rows[0]), early_stopping=bool(held.any()), random_state=random_state)
        if by_epochs:
            training = recipe.Recipe(network, *rows, others if held.any() else None, random_state, **options)
            training.train()
            whole = not training.interrupted
        else:
            said: list[tuple] = []
            with fitting.hearing(said):
                network.fit(*rows)
            for text, category in said:
                if category is not ConvergenceWarning:  # the number of iterations is a choice here, not a failure
                    warnings.warn(text, category, stacklevel=4)
            whole = network.n_iter_ > 0
        network.random_state = self.random_state  # a RandomState could not be saved
        return network, whole

    @property
    def network_(self):
        """The first of the networks."""
        if "networks_" not in vars(self):
            raise AttributeError("network_ exists after a fit")
        return self.networks_[0]

    @property
    def columns_(self):
        """How each column is used, or why not."""
        validation.check_is_fitted(self)
        columns = self.preprocessing_
        return columns.kinds_ | {name: f"left out: it {reason}" for name, reason in columns.left_out_.items()}

    @property
    def n_iter_(self):
        """Epochs of the fit, the most of a network."""
        return max(network.n_iter_ for network in self.networks_)

    def _learn_columns(self, X, y):
        """Inputs of the network, and checked targets."""
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        X = self._frame(X, reset=True)
        y = self._checked_targets(y)
        validation.check_consistent_length(X, y)
        self.preprocessing_, self.table_ = Columns(self.max_categories), {}
        return self.preprocessing_.fit_transform(X).astype(self.dtype), y

    def _new_network(self, n, **settings):
        """The network that is to be trained on n rows."""
        shared = self._network_type().get_params(deep=False)
        given = {name: value for name, value in self.get_params(deep=False).items() if name in shared}
        batch_size = self.batch_size if isinstance(self.batch_size, str) else min(self.batch_size, n)
        given |= {"batch_size": batch_size, "max_iter": recipe.epochs_for(self.max_iter, n)}
        given |= {"beta_2": recipe.BETA_2, **settings}
        return self._network_type(**given)

    def untrained(self, X, y):
        """What a fit to X and y would train, but for rows that it would hold back; the estimator stays as it is.

        Parameters
        ----------
        X, y
            As of `fit`.

        Returns
        -------
        network : MLPClassifier or MLPRegressor
        inputs : ndarray of shape (n, n_inputs)
        targets : ndarray of shape (n,)
        """
        est = clone(self)
        est._validate_params()
        inputs, y = est._learn_columns(X, y)
        return est._new_network(len(inputs)), inputs, est._targets(y, np.ones(len(y), bool))

    def _read(self, X):
        """Inputs of the network for rows to predict."""
        validation.check_is_fitted(self)
        return self.preprocessing_.transform(self._frame(X, reset=False)).astype(self.dtype)

    def predict(self, X):
        """Classes of the rows of X, or values in the units of the target.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, n_features)
            A DataFrame's columns are found by their names.

        Returns
        -------
        ndarray of shape (n,)
            Values are float64.
        """
        Z = self._read(X)
        return self._decoded(self.network_.predict(Z) if len(self.networks_) == 1 else self._together(Z))

    def _mean(self, outputs):
        """Mean of what each network gives, in the network's float type."""
        return np.mean([np.float64(one) for one in outputs], axis=0).astype(self.dtype)

    def _targets(self, y, training):
        """What the network learns for checked targets, of which some are for training."""
        return y

    def _decoded(self, predicted):
        """What predictions of the network stand for."""
        return predicted

    def to_sklearn(self):
        """A fitted Pipeline of scikit-learn that predicts the same, with `Columns` as its first step.

        Its last step is scikit-learn's own network where that has the activation, so not for SELU.
        """
        validation.check_is_fitted(self)
        if len(self.networks_) > 1:
            raise ValueError(f"to_sklearn needs n_estimators=1, got {len(self.networks_)} networks")
        try:
            network = self.network_.to_sklearn()
        except ValueError:
            network = self.network_
        return Pipeline([("columns", self.preprocessing_), ("network", self._last_step(network))])

    def _last_step(self, network):
        """A network that predicts as the estimator does."""
        return network

    # --- what a file keeps ---

    def _state(self):
        """What was learnt, but the networks, as plain values and arrays."""
        columns = self.preprocessing_
        state = {name: vars(columns)[name] for name in COLUMNS_STATE}
        state |= {"centers": columns.center_, "factors": columns.factor_, "table": self.table_}
        return state | {name: vars(self)[name] for name in NAMES_STATE if name in vars(self)}

    def _restore(self, state, networks):
        """Take what `_state` gave and the networks."""
        self.preprocessing_ = columns = Columns(self.max_categories)
        columns.__dict__.update({name: state[name] for name in COLUMNS_STATE})
        columns.center_, columns.factor_ = state["centers"], state["factors"]
        self.networks_, self.table_ = networks, state["table"]
        self.__dict__.update({name: state[name] for name in NAMES_STATE if name in state})


class TabularClassifier(ClassifierMixin, Tabular):
    """Multi-layer perceptron that classifies the rows of a table.

    <COLUMNS>

    Parameters
    ----------
    <PARAMETERS>

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    <ATTRIBUTES>

    References
    ----------
    <REFERENCES>

    Examples
    --------
    >>> import pandas
    >>> from fastbp import TabularClassifier
    >>> X = pandas.DataFrame({"colour": ["red", "red", "green", None], "size": [1.0, None, 3.0, 4.0]})
    >>> clf = TabularClassifier(random_state=0).fit(X, ["cherry", "cherry", "apple", "apple"])
    >>> clf.predict(X).tolist()
    ['cherry', 'cherry', 'apple', 'apple']
    """

    _network_type = MLPClassifier

    def __init__(
        self,
        hidden_layer_sizes=(128, 128),
        activation="selu",
        *,
        solver="adam",
        alpha=0.0,
        batch_size=64,
        learning_rate_init=0.0035,
        max_iter="auto",
        max_seconds=None,
        dropout=0.0,
        early_stopping=True,
        validation_fraction=0.1,
        n_iter_no_change=40,
        max_categories=100,
        dtype="float32",
        class_weight=None,
        random_state=None,
        verbose=False,
        n_jobs=None,
        n_estimators=1,
    ):
        store(self, locals())

    @property
    def classes_(self):
        """The labels, in the order of the columns of `predict_proba`."""
        if not hasattr(self, "networks_"):
            raise AttributeError("classes_ exists after a fit")
        return self.network_.classes_

    def _checked_targets(self, y):
        y = column_or_1d(y, warn=True)
        if y.dtype.kind == "f":
            validation.assert_all_finite(y, input_name="y")
        elif pandas().isna(y).any():
            raise ValueError("Input y contains NaN: rows without a class must be left out")
        check_classification_targets(y)
        return y

    def predict_proba(self, X):
        """Probabilities of the classes, in the order of `classes_`.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, n_features)

        Returns
        -------
        ndarray of shape (n, n_classes)
        """
        return self._probabilities(self._read(X))

    def _probabilities(self, Z):
        if len(self.networks_) == 1:
            return self.network_.predict_proba(Z)
        return self._mean(network.predict_proba(Z) for network in self.networks_)

    def _together(self, Z):
        """Classes by all networks."""
        return self.classes_.take(self._probabilities(Z).argmax(axis=1))


def with_scale(mean, scale):
    """A StandardScaler of one column."""
    scaler = StandardScaler().fit([[mean]])
    scaler.scale_ = np.array([scale])
    scaler.var_ = scaler.scale_**2
    return scaler


def scaler_of(y):
    """A StandardScaler of values, whose own takes what differs little from a large mean, or from 0, for a constant."""
    mean = y.mean()
    if recipe.alike(y.min(), y.max()):
        return with_scale(mean, 1.0)
    mean += (y - mean).mean()  # which rounding has left
    most = np.abs(y - mean).max()
    return with_scale(mean, most * np.sqrt(np.mean(np.square((y - mean) / most))))


class TabularRegressor(RegressorMixin, Tabular):
    """Multi-layer perceptron that predicts a number for each row of a table.

    <COLUMNS> The target is standardised for the network.

    Parameters
    ----------
    <PARAMETERS>

    Attributes
    ----------
    <ATTRIBUTES>
    scaler_ : StandardScaler
        Of the target.

    References
    ----------
    <REFERENCES>

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp import TabularRegressor
    >>> X = np.linspace(0, 1, 50)[:, np.newaxis]
    >>> reg = TabularRegressor(random_state=0).fit(X, 100 + X[:, 0])
    >>> bool(reg.score(X, 100 + X[:, 0]) > 0.9)
    True
    """

    _network_type = MLPRegressor

    def _checked_targets(self, y):
        y = column_or_1d(y, warn=True)
        if has_times(y) or y.dtype.kind in "mMV":
            raise ValueError(f"y must be numbers, got {y.dtype}")
        y = y.astype(float)
        validation.assert_all_finite(y, input_name="y")
        return y

    def _targets(self, y, training):
        self.scaler_ = scaler_of(y[training])
        return self.scaler_.transform(y[:, np.newaxis])[:, 0].astype(self.dtype)

    def _together(self, Z):
        """Values by all networks, in the units that these have learnt."""
        return self._mean(network.predict(Z) for network in self.networks_)

    def _decoded(self, predicted):
        return self.scaler_.inverse_transform(predicted[:, np.newaxis].astype(float))[:, 0]

    def _state(self):
        return super()._state() | {"target": [float(self.scaler_.mean_[0]), float(self.scaler_.scale_[0])]}

    def _restore(self, state, networks):
        super()._restore(state, networks)
        self.scaler_ = with_scale(*state["target"])

    def _last_step(self, network):
        step = TransformedTargetRegressor(network, transformer=self.scaler_)
        step.regressor_, step.transformer_, step._training_dim = network, self.scaler_, 1
        return step
