"""TabularClassifier and TabularRegressor: networks for tables whose columns hold numbers, categories and gaps.

`Columns` decides what each column is and makes inputs of it; `fastbp.estimators.recipe` says how `MLPClassifier` and
`MLPRegressor` learn from these.
"""

import re
import shlex
import time
import warnings
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin, _fit_context, clone, is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state, column_or_1d, validation
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets

from fastbp import datasets
from fastbp.datasets import DATE, NUMBER, NUMBER_LIKE, pandas
from fastbp.estimators import recipe
from fastbp.estimators.mlp import MLPClassifier, MLPRegressor
from fastbp.estimators.perceptron import PARAMETERS, fill_in, store
from fastbp.neural_network import Saved

# A column of text is of one kind when this share of its filled cells is.
MOST = 0.9
# From this many rows on, a column of text whose cells mostly differ is taken for names or prose.
ENOUGH_ROWS = 20
EARLY_STOPPING_ROWS = 100
# What files keep of the columns and of the estimator.
COLUMNS_STATE = ("kinds_", "left_out_", "words_", "categories_")
NAMES_STATE = ("n_features_in_", "feature_names_in_")

# Names of columns that number the rows: pandas' and R's, and what people write.
INDEX = re.compile(r"(unnamed: ?\d+|index|row\.?names|row|no\.?|nr\.?|obs\.?|#|(.*[_ .-])?id)|.*[a-z]I[dD]", re.IGNORECASE)


class Columns(TransformerMixin, BaseEstimator):
    """Decides what each column of a table holds, and makes inputs of it.

    Numbers, and booleans as 0 and 1, are clipped smoothly, where a missing one becomes 0; categories, known by their text,
    are one-hot, where a missing or unknown one becomes zeros. Columns without values, row numbers, ids and prose are left
    out, with a warning that names them; dates, and numbers in disguise ("28,7", "$5"), are errors that say what to do.

    Parameters
    ----------
    max_categories : int, default=100
        How many categories a column can have; rarer ones are treated as unknown.

    Attributes
    ----------
    kinds_ : dict
        "number", "boolean" or "category" for each column that is used.
    left_out_ : dict
        The reason for each that is not.
    words_ : dict
        For columns of numbers that have them, words that stand for a missing cell, such as "?".
    categories_ : dict
        For columns of categories, a sorted list of them.
    center_, factor_ : ndarray of shape (n_numbers,)
        The median of each column of numbers, and what the distance from it is multiplied by; see `recipe.range_of`.
    """

    def __init__(self, max_categories=100):
        self.max_categories = max_categories

    def fit(self, X, y=None):
        """Decide what the columns of a DataFrame are."""
        self.kinds_: dict[Any, str] = {}
        self.left_out_: dict[Any, str] = {}
        self.words_: dict[Any, list[str]] = {}
        self.categories_: dict[Any, list[str]] = {}
        for name in X.columns:
            self._decide(name, X[name])
        self.learn_words(X)
        for name, reason in self.left_out_.items():
            warnings.warn(f"column {name!r} is left out: it {reason}", stacklevel=2)
        if not self.kinds_:
            raise ValueError(f"X must have a column to learn from, got {'; '.join(map(repr, self.left_out_)) or 'none'}")
        self.center_, self.factor_ = recipe.range_of(self._numbers(X))
        return self

    def _decide(self, name, column):
        filled = column.dropna()
        if filled.empty:
            self.left_out_[name] = "has no values"
        elif column.dtype.kind in "mM":
            raise ValueError(_about_dates(name, str(filled.iloc[0])))
        elif pandas().api.types.infer_dtype(column, skipna=True) == "boolean":
            self.kinds_[name] = "boolean"
        elif pandas().api.types.is_numeric_dtype(column):
            whole = INDEX.fullmatch(str(name)) and (filled % 1 == 0).all() and filled.is_unique
            if whole and len(filled) >= 2:
                self.left_out_[name] = "numbers the rows"
            else:
                self.kinds_[name] = "number"
        else:
            self._decide_text(name, filled.astype(str), isinstance(column.dtype, pandas().CategoricalDtype))

    def _decide_text(self, name, text, is_category):
        counts = text.value_counts()
        cells = [] if is_category else counts.index

        def share(pattern):
            return sum(counts[cell] for cell in cells if pattern.fullmatch(cell)) / len(text)

        if share(NUMBER) >= MOST:
            self.kinds_[name] = "number"
            self.words_[name] = []
        elif share(DATE) >= MOST:
            raise ValueError(_about_dates(name, counts.index[0]))
        elif share(NUMBER_LIKE) >= MOST:
            strange = next(cell for cell in cells if NUMBER_LIKE.fullmatch(cell) and not NUMBER.fullmatch(cell))
            raise ValueError(f"column {name!r}: {datasets.spelling_advice(strange)}")
        elif not is_category and len(text) >= ENOUGH_ROWS and len(counts) > len(text) / 2:
            self.left_out_[name] = f"has {len(counts)} different words in {len(text)} rows: names, ids or prose"
        else:
            self.kinds_[name] = "category"
            self.categories_[name] = sorted(counts.index[: self.max_categories])

    def learn_words(self, X):
        """Take words of further rows for missing cells of numbers, too; a warning names them."""
        for name, known in self.words_.items():
            counts = X[name].dropna().astype(str).value_counts()
            new = [cell for cell in counts.index if not NUMBER.fullmatch(cell) and cell not in known]
            self.words_[name] = sorted([*known, *new])
            if new:
                shown = ", ".join(map(repr, new[:5])) + (", ..." if len(new) > 5 else "")
                message = f"column {name!r} holds numbers: what else stands there is taken for missing, {shown} in "
                warnings.warn(f"{message}{counts[new].sum()} of {counts.sum()} cells", stacklevel=3)

    def _numbers(self, X):
        """Columns of a DataFrame that hold numbers, as a matrix."""
        names = [name for name, kind in self.kinds_.items() if kind != "category"]
        columns = [datasets.numbers(X[name], name, self.words_.get(name, ())) for name in names]
        return np.array(columns).reshape(-1, len(X)).T

    def transform(self, X):
        """Return the inputs (n, n_inputs), float64, of a DataFrame: those of numbers, then those of categories."""
        X = X if hasattr(X, "columns") else pandas().DataFrame(X)
        missing = [name for name in self.kinds_ if name not in X.columns]
        if missing:
            needed = ", ".join(map(str, self.kinds_))
            raise ValueError(f"X must have the columns {needed}, got none called {missing[0]!r}")
        parts = [recipe.clipped(self._numbers(X), self.center_, self.factor_)]
        for name, known in self.categories_.items():
            text = X[name].astype(object).map(str, na_action="ignore")
            codes = pandas().Index(known, dtype=object).get_indexer(text)
            parts.append(np.eye(len(known) + 1, len(known))[codes])  # whose last row, of the code -1, is zeros
        return np.hstack(parts)


def _about_dates(name, cell):
    return (
        f"column {name!r} holds dates or times such as {cell!r}: put numbers in their place (a year, a month, days since a "
        f"day), or leave it out (--ignore {shlex.quote(str(name))})"
    )


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
verbose : bool | Print a line per epoch; the first says how long it will take."""

ATTRIBUTES = """\
    preprocessing_ : Columns
        What makes inputs of the columns; its `kinds_` and `left_out_` say how.
    columns_ : dict
        How each column is used: "number", "boolean", "category", or "left out: " with the reason.
    network_ : MLPClassifier or MLPRegressor
        What was trained, with its `loss_curve_` and `validation_scores_`.
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
        "dtype": [StrOptions({"float32", "float64"})],
    }
    _network_type: ClassVar[Any]
    preprocessing_: Columns
    network_: Any
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
            X = validation.validate_data(self, X, dtype=None, ensure_all_finite=False, reset=reset)
            return pd.DataFrame(X, columns=getattr(self, "feature_names_in_", range(X.shape[1])))
        if reset and not X.columns.is_unique:
            twice = X.columns[X.columns.duplicated()][0]
            raise ValueError(f"X must have one column of each name, got two called {twice!r}")
        if reset or not hasattr(self, "feature_names_in_"):
            validation.validate_data(self, X, skip_check_array=True, reset=reset)
        if not len(X):
            raise ValueError(f"Found array with 0 sample(s) (shape={X.shape}) while a minimum of 1 is required.")
        return X if hasattr(self, "feature_names_in_") else X.set_axis(range(X.shape[1]), axis=1)

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y, sample_weight=None, *, progress=False, callback=None):
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
        start, by_epochs = time.perf_counter(), self.solver != "lbfgs"
        if not by_epochs and self.max_seconds is not None:
            raise ValueError(f"max_seconds needs solver 'sgd' or 'adam', got {self.max_seconds} with solver='lbfgs'")
        Z, y = self._learn_columns(X, y)
        weights = None if sample_weight is None else validation._check_sample_weight(sample_weight, Z)
        random_state, held = check_random_state(self.random_state), np.zeros(len(Z), bool)
        if self.early_stopping and by_epochs and len(Z) >= EARLY_STOPPING_ROWS:
            classes = y if is_classifier(self) else None
            held = datasets.held_out(self.validation_fraction, len(Z), classes, random_state)
        targets = self._targets(y, ~held)
        rows, others = ((Z[of], targets[of], None if weights is None else weights[of]) for of in (~held, held))
        self.network_ = self._new_network(len(rows[0]), early_stopping=bool(held.any()), random_state=random_state)
        if by_epochs:
            how = random_state, start, self.max_seconds, progress, callback
            recipe.Recipe(self.network_, *rows, others if held.any() else None, *how).train()
        else:
            with warnings.catch_warnings():
                # the number of iterations is a choice here, not a failure
                warnings.simplefilter("ignore", ConvergenceWarning)
                self.network_.fit(*rows)
        self.network_.random_state = self.random_state  # a RandomState could not be saved
        return self

    @property
    def columns_(self):
        """How each column is used, or why not."""
        validation.check_is_fitted(self)
        columns = self.preprocessing_
        return columns.kinds_ | {name: f"left out: it {reason}" for name, reason in columns.left_out_.items()}

    @property
    def n_iter_(self):
        """Epochs of the fit."""
        return self.network_.n_iter_

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
        return self._decoded(self.network_.predict(Z))

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
        """What was learnt, but the network, as plain values and arrays."""
        columns = self.preprocessing_
        state = {name: vars(columns)[name] for name in COLUMNS_STATE}
        state |= {"centers": columns.center_, "factors": columns.factor_, "table": self.table_}
        return state | {name: vars(self)[name] for name in NAMES_STATE if name in vars(self)}

    def _restore(self, state, network):
        """Take what `_state` gave and the network."""
        self.preprocessing_ = columns = Columns(self.max_categories)
        columns.__dict__.update({name: state[name] for name in COLUMNS_STATE})
        columns.center_, columns.factor_ = state["centers"], state["factors"]
        self.network_, self.table_ = network, state["table"]
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
    ):
        store(self, locals())

    @property
    def classes_(self):
        """The labels, in the order of the columns of `predict_proba`."""
        if not hasattr(self, "network_"):
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
        Z = self._read(X)
        return self.network_.predict_proba(Z)


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
        y = column_or_1d(y, warn=True).astype(float)
        validation.assert_all_finite(y, input_name="y")
        return y

    def _targets(self, y, training):
        self.scaler_ = StandardScaler().fit(y[training, np.newaxis])
        return self.scaler_.transform(y[:, np.newaxis])[:, 0].astype(self.dtype)

    def _decoded(self, predicted):
        return self.scaler_.inverse_transform(predicted[:, np.newaxis].astype(float))[:, 0]

    def _state(self):
        return super()._state() | {"target": [float(self.scaler_.mean_[0]), float(self.scaler_.scale_[0])]}

    def _restore(self, state, network):
        super()._restore(state, network)
        mean, scale = state["target"]
        self.scaler_ = StandardScaler().fit([[mean]])
        self.scaler_.scale_ = np.array([scale])
        self.scaler_.var_ = self.scaler_.scale_**2

    def _last_step(self, network):
        step = TransformedTargetRegressor(network, transformer=self.scaler_)
        step.regressor_, step.transformer_, step._training_dim = network, self.scaler_, 1
        return step
