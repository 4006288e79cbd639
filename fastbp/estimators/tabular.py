"""TabularClassifier and TabularRegressor: networks for tables whose columns hold numbers, categories and gaps.

`Columns` decides what each column is and gives numbers and categories a clean form; `SmoothClip` and scikit-learn's
OneHotEncoder make inputs of them; `MLPClassifier` and `MLPRegressor` learn, as `fastbp.estimators.recipe` says.
"""

import re
import shlex
import warnings
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin, _fit_context, clone
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    assert_all_finite,
    check_consistent_length,
    check_is_fitted,
    validate_data,
)

from fastbp.cells import DATE, NUMBER, NUMBER_LIKE, numbers, pandas, spelling_advice
from fastbp.estimators.mlp import MLPClassifier, MLPRegressor
from fastbp.estimators.perceptron import Perceptron, fill_in, store
from fastbp.estimators.recipe import BETA_2, Recipe, Watch, epochs_for
from fastbp.neural_network import Saved

# A column of text is of one kind when this share of its filled cells is.
MOST = 0.9
# From this many rows on, a column of text whose cells mostly differ is taken for names or prose.
ENOUGH_ROWS = 20
EARLY_STOPPING_ROWS = 100

# Names of columns that number the rows: pandas' and R's, and what people write.
INDEX = re.compile(r"(unnamed: ?\d+|index|row\.?names|row|no\.?|nr\.?|obs\.?|#|(.*[_ .-])?id)|.*[a-z]I[dD]", re.IGNORECASE)


def held_out(size, n, classes=None, random_state=0):
    """Which of n rows are held out, as booleans: a share `size` of them, and of every class.

    A class is only held out with rows to spare: of one or two rows, all are kept.
    """
    order = check_random_state(random_state).permutation(n)
    labels = np.zeros(n, int) if classes is None else np.unique(classes, return_inverse=True)[1][order]
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    rank = np.arange(n) - (np.cumsum(counts) - counts)[labels[by_class]]
    out = np.zeros(n, bool)
    out[order[by_class]] = (rank + 0.5) / counts[labels[by_class]] > 1 - size
    return out


class Columns(TransformerMixin, BaseEstimator):
    """Decides what each column of a table holds, and gives numbers and categories a clean form.

    Numbers become float64, booleans 0 and 1, categories text; missing cells are nan and None. Columns without values, row
    numbers, ids and prose are left out, with a warning that names them; dates, and numbers in disguise ("28,7", "$5"), are
    errors that say what to do.

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
        for name, reason in self.left_out_.items():
            warnings.warn(f"column {name!r} is left out: it {reason}", stacklevel=2)
        if not self.kinds_:
            raise ValueError(f"X must have a column to learn from, got {'; '.join(map(repr, self.left_out_)) or 'none'}")
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
            if whole and isinstance(name, str) and len(filled) >= 2:
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
            self._learn_words(name, counts)
        elif share(DATE) >= MOST:
            raise ValueError(_about_dates(name, counts.index[0]))
        elif share(NUMBER_LIKE) >= MOST:
            strange = next(cell for cell in cells if NUMBER_LIKE.fullmatch(cell) and not NUMBER.fullmatch(cell))
            raise ValueError(f"column {name!r}: {spelling_advice(strange)}")
        elif not is_category and len(text) >= ENOUGH_ROWS and len(counts) > len(text) / 2:
            self.left_out_[name] = f"has {len(counts)} different words in {len(text)} rows: names, ids or prose"
        else:
            self.kinds_[name] = "category"
            self.categories_[name] = sorted(counts.index[: self.max_categories])

    def learn_words(self, X):
        """Take words of further rows for missing cells of numbers, too; a warning names them."""
        for name in self.words_:
            self._learn_words(name, X[name].dropna().astype(str).value_counts())

    def _learn_words(self, name, counts):
        new = [cell for cell in counts.index if not NUMBER.fullmatch(cell) and cell not in self.words_[name]]
        self.words_[name] = sorted([*self.words_[name], *new])
        if new:
            shown = ", ".join(map(repr, new[:5])) + (", ..." if len(new) > 5 else "")
            message = f"column {name!r} holds numbers: what else stands there is taken for missing, {shown} in "
            warnings.warn(f"{message}{counts[new].sum()} of {counts.sum()} cells", stacklevel=4)

    def transform(self, X):
        """Return the used columns of a DataFrame in their clean form, the numbers first."""
        missing = [name for name in self.kinds_ if name not in X.columns]
        if missing:
            known = ", ".join(map(str, self.kinds_))
            raise ValueError(f"X must have the columns {known}, got none called {missing[0]!r}")
        # by text, because scikit-learn takes whole numbers for places
        clean = {str(name): numbers(X[name], name, self.words_.get(name, ())) for name in self.numbers_}
        for name in self.categories_:
            # objects, which encoders of all versions read; a missing one is no category, as an unknown one
            column = X[name].astype(object)
            clean[str(name)] = column.where(column.isna(), column.map(str)).fillna("").to_numpy(object)
        return pandas().DataFrame(clean, index=X.index)

    @property
    def numbers_(self):
        """Columns that become numbers."""
        return [name for name, kind in self.kinds_.items() if kind != "category"]


class SmoothClip(TransformerMixin, BaseEstimator):
    """Makes inputs of numbers: x = (value - median) / (quartile range), then x / sqrt(1 + (x / 3)**2), within -3 and 3.

    Where the quartiles are equal, half the whole range takes the place of theirs; constant columns become 0, as missing
    values do. After Holzmüller, Grinsztajn and Steinwart, "Better by default", NeurIPS 2024.

    Attributes
    ----------
    center_, factor_ : ndarray of shape (n_features,)
        The median, and what the distance from it is multiplied by.
    """

    def fit(self, X, y=None):
        """Learn medians and ranges of columns of numbers, without their missing values."""
        X = np.asarray(X, float)
        X = np.where(np.isnan(X).all(axis=0), 0, X)
        self.n_features_in_ = X.shape[1]
        low, lower, self.center_, upper, high = np.nanquantile(X, (0, 0.25, 0.5, 0.75, 1), axis=0)
        spread = np.where(upper > lower, upper - lower, (high - low) / 2)
        # what is left of a constant after rounding is no spread
        constant = high - low <= 10 * np.finfo(float).eps * np.maximum(np.abs(high), np.abs(low))
        with np.errstate(divide="ignore", over="ignore"):
            factor = 1 / spread
        self.factor_ = np.where(constant | ~np.isfinite(factor), 0, factor)
        return self

    def transform(self, X):
        """Return the inputs, float64."""
        with np.errstate(over="ignore"):
            x = (np.asarray(X, float) - self.center_) * self.factor_
        most = np.finfo(float).max
        x = np.clip(x, -most, most)  # infinity over infinity would be none of them, and missing
        return np.nan_to_num(x / np.hypot(1, x / 3), nan=0.0)


def _about_dates(name, cell):
    return (
        f"column {name!r} holds dates or times such as {cell!r}: put numbers in their place (a year, a month, days since a "
        f"day), or leave it out (--ignore {shlex.quote(str(name))})"
    )


def fit_preprocessing(X, max_categories=100):
    """A fitted Pipeline that makes inputs of a DataFrame: `Columns`, then scikit-learn's transformers."""
    preprocessing = new_preprocessing(Columns(max_categories).fit(X))
    preprocessing.named_steps["inputs"].fit(preprocessing.named_steps["columns"].transform(X))
    return preprocessing


def new_preprocessing(columns):
    """Decided columns, and transformers that have not seen them yet.

    Numbers: scaled by median and quartiles, clipped smoothly. Categories: one-hot; a missing or unknown one is all zeros.
    """
    known = [columns.categories_[name] for name in columns.categories_]
    encoder = OneHotEncoder(
        categories=[np.array(one, object) for one in known], handle_unknown="ignore", sparse_output=False
    )
    names = list(map(str, columns.numbers_)), list(map(str, columns.categories_))
    parts = ColumnTransformer([("numbers", SmoothClip(), names[0]), ("categories", encoder, names[1])])
    return Pipeline([("columns", columns), ("inputs", parts)])


PARAMETERS = """\
    hidden_layer_sizes : array-like of int, default=(128, 128)
        Units of each hidden layer.
    activation : str or list, default='selu'
        Of the hidden layers, as for `MLPClassifier`.
    solver : {'lbfgs', 'sgd', 'adam'}, default='adam'
        By epochs with waves of step lengths, see `fastbp.estimators.recipe`; 'lbfgs' takes all rows at once.
    alpha : float, default=0.0
        Strength of the L2 term.
    batch_size : int or 'auto', default=64
        Rows per step; the training rows, if there are fewer.
    learning_rate_init : float, default=0.0035
        The longest step.
    max_iter : int or 'auto', default='auto'
        Most epochs; 'auto' is 128, and fewer where there are more than 31,000 rows, down to 32.
    max_seconds : float or None, default=None
        When the training ends, by the clock; the waves of step lengths end with it. One epoch is had in
        any case. Results then depend on the machine. 'lbfgs' refuses it.
    dropout : float, default=0.0
        Probability with which a hidden unit is left out of a training step.
    early_stopping : bool, default=True
        Hold rows back, and keep the weights of the epoch with the least loss on them; not with fewer than 100 rows, nor with
        solver 'lbfgs'.
    validation_fraction : float, default=0.1
        How many rows early stopping holds back, of every class.
    n_iter_no_change : int or inf, default=40
        Epochs without a lesser loss on these rows that are put up with.
    max_categories : int, default=100
        How many categories a column can have; rarer ones are treated as unknown.
    dtype : {'float32', 'float64'}, default='float32'
        Float type of the network.
    random_state : int, RandomState instance or None, default=None
        Draws the rows that are held back, the initial weights and the order of the rows.
    verbose : bool, default=False
        Print a line per epoch; the first says how long it will take.
    n_jobs : int or None, default=None
        Threads, as joblib counts."""

ATTRIBUTES = """\
    preprocessing_ : Pipeline
        `Columns`, whose `kinds_` and `left_out_` say what was made of each column, and what makes inputs of them.
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
        "hidden_layer_sizes": "no_validation", "activation": "no_validation", "solver": "no_validation",
        "alpha": "no_validation", "batch_size": "no_validation", "learning_rate_init": "no_validation",
        "max_iter": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_seconds": [Interval(Real, 0, None, closed="neither"), None],
        "dropout": "no_validation", "n_iter_no_change": "no_validation",
        "verbose": "no_validation", "n_jobs": "no_validation", "random_state": ["random_state"],
        "early_stopping": ["boolean"],
        "validation_fraction": Perceptron._parameter_constraints["validation_fraction"],
        "max_categories": [Interval(Integral, 1, None, closed="left")],
        "dtype": [StrOptions({"float32", "float64"})],
    }  # fmt: skip
    _network_type: ClassVar[Any]
    preprocessing_: Any
    network_: Any
    table_: dict

    def __init_subclass__(cls, **arguments):
        super().__init_subclass__(**arguments)
        fill_in(cls, COLUMNS=COLUMNS, PARAMETERS=PARAMETERS, ATTRIBUTES=ATTRIBUTES, REFERENCES=REFERENCES)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = tags.input_tags.categorical = True
        return tags

    def _frame(self, X, reset):
        """X as a DataFrame."""
        pd = pandas()
        if hasattr(X, "to_pandas"):
            X = X.to_pandas()
        if not isinstance(X, pd.DataFrame):
            X = validate_data(self, X, dtype=None, ensure_all_finite=False, reset=reset)
            return pd.DataFrame(X, columns=self._names(X.shape[1]))
        if reset:
            validate_data(self, X, skip_check_array=True)
            if not X.columns.is_unique:
                twice = X.columns[X.columns.duplicated()][0]
                raise ValueError(f"X must have one column of each name, got two called {twice!r}")
            _require_rows(X)
            return X
        if not hasattr(self, "feature_names_in_"):
            validate_data(self, X, skip_check_array=True, reset=False)
            X = X.set_axis(range(X.shape[1]), axis=1)
        _require_rows(X)
        return X

    def _names(self, width):
        """Names for the columns of an array."""
        return getattr(self, "feature_names_in_", range(width))

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
        if self.solver == "lbfgs" and self.max_seconds is not None:
            raise ValueError(f"max_seconds needs solver 'sgd' or 'adam', got {self.max_seconds} with solver='lbfgs'")
        watch = Watch(self.max_seconds, bool(self.verbose), progress, callback)
        X, y = self._learn_columns(X, y)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, np.empty((len(X), 1)))
        self._fit_network(X, y, sample_weight, watch)
        return self

    @property
    def columns_(self):
        """How each column is used, or why not."""
        check_is_fitted(self)
        columns = self.preprocessing_.named_steps["columns"]
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
        check_consistent_length(X, y)
        self.preprocessing_ = fit_preprocessing(X, self.max_categories)
        self.table_ = {}
        return self._inputs(X), y

    def _inputs(self, X):
        return self.preprocessing_.transform(X).astype(self.dtype)

    def _fit_network(self, Z, y, sample_weight, watch):
        random_state = check_random_state(self.random_state)
        classes = y if isinstance(self, ClassifierMixin) else None
        held = np.zeros(len(Z), bool)
        if self.early_stopping and self.solver != "lbfgs" and len(Z) >= EARLY_STOPPING_ROWS:
            held = held_out(self.validation_fraction, len(Z), classes, random_state)
        targets = self._targets(y, ~held)
        parts = [(Z[rows], targets[rows], None if sample_weight is None else sample_weight[rows]) for rows in (~held, held)]
        self.network_ = self._new_network(int((~held).sum()), early_stopping=bool(held.any()), random_state=random_state)
        if self.solver != "lbfgs":
            validation = parts[1] if held.any() else None
            Recipe(self.network_, *parts[0], validation, random_state, watch).train()
        else:
            with warnings.catch_warnings():
                # the number of iterations is a choice here, not a failure
                warnings.simplefilter("ignore", ConvergenceWarning)
                self.network_.fit(*parts[0])
        # which a RandomState could not be saved with
        self.network_.random_state = self.random_state

    def _new_network(self, n, **settings):
        """The network that is to be trained on n rows."""
        shared = self._network_type().get_params(deep=False)
        given = {name: value for name, value in self.get_params(deep=False).items() if name in shared}
        batch_size = self.batch_size if isinstance(self.batch_size, str) else min(self.batch_size, n)
        given |= {"batch_size": batch_size, "max_iter": epochs_for(self.max_iter, n), "beta_2": BETA_2} | settings
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
        check_is_fitted(self)
        return self._inputs(self._frame(X, reset=False))

    def to_sklearn(self):
        """A fitted Pipeline of scikit-learn that predicts the same, with `Columns` as its first step.

        Its last step is scikit-learn's own network where that has the activation, so not for SELU.
        """
        check_is_fitted(self)
        return Pipeline([*self.preprocessing_.steps, ("network", self._pipeline_network())])

    def _pipeline_network(self):
        """The network as scikit-learn's own where that has its activations, else as it is, which pipelines take as well."""
        try:
            return self.network_.to_sklearn()
        except ValueError:
            return self.network_

    # --- what a file keeps ---

    def _state(self):
        """What was learnt, but the network, as plain values and arrays."""
        columns, parts = self.preprocessing_.named_steps.values()
        state = {name: vars(columns)[name] for name in COLUMNS_STATE}
        scaled, none = vars(parts.named_transformers_["numbers"]), np.empty(0)  # none where there are no numbers
        state |= {"centers": scaled.get("center_", none), "factors": scaled.get("factor_", none), "table": self.table_}
        return state | {name: vars(self)[name] for name in SEEN if name in vars(self)}

    def _restore(self, state, network):
        """Take what `_state` gave and the network."""
        columns = Columns(self.max_categories)
        for name in COLUMNS_STATE:
            setattr(columns, name, state[name])
        # a row of medians and no category leaves what was learnt, but for the factors
        row = dict(zip(map(str, columns.numbers_), state["centers"], strict=True))
        row |= {str(name): "" for name in columns.categories_}
        preprocessing = new_preprocessing(columns)
        preprocessing.named_steps["inputs"].fit(pandas().DataFrame([row]))
        scaled = preprocessing.named_steps["inputs"].named_transformers_["numbers"]
        scaled.center_, scaled.factor_ = state["centers"], state["factors"]
        self.preprocessing_, self.network_, self.table_ = preprocessing, network, state["table"]
        self.__dict__ |= {name: state[name] for name in SEEN if name in state}


COLUMNS_STATE = ("kinds_", "left_out_", "words_", "categories_")
SEEN = ("n_features_in_", "feature_names_in_")


def _require_rows(X):
    if not len(X):
        raise ValueError(f"Found array with 0 sample(s) (shape={X.shape}) while a minimum of 1 is required.")


class TabularClassifier(ClassifierMixin, Tabular):
    """Multi-layer perceptron that classifies the rows of a table.

    <COLUMNS>

    Parameters
    ----------
    <PARAMETERS>
    class_weight : dict, 'balanced' or None, default=None
        Factor of the weight of every row of a class.

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

    _parameter_constraints: ClassVar[dict] = {**Tabular._parameter_constraints, "class_weight": "no_validation"}
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
            assert_all_finite(y, input_name="y")
        elif pandas().isna(y).any():
            raise ValueError("Input y contains NaN: rows without a class must be left out")
        check_classification_targets(y)
        return y

    def _targets(self, y, training):
        return y

    def predict(self, X):
        """Classes of the rows of X.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, n_features)
            A DataFrame's columns are found by their names.

        Returns
        -------
        ndarray of shape (n,)
        """
        Z = self._read(X)
        return self.network_.predict(Z)

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

    def _checked_targets(self, y):
        y = column_or_1d(y, warn=True).astype(float)
        assert_all_finite(y, input_name="y")
        return y

    def _targets(self, y, training):
        self.scaler_ = StandardScaler().fit(y[training, np.newaxis])
        return self.scaler_.transform(y[:, np.newaxis])[:, 0].astype(self.dtype)

    def predict(self, X):
        """Values for the rows of X, in the units of the target.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, n_features)
            A DataFrame's columns are found by their names.

        Returns
        -------
        ndarray of shape (n,), float64
        """
        Z = self._read(X)
        return self.scaler_.inverse_transform(self.network_.predict(Z)[:, np.newaxis].astype(float))[:, 0]

    def _state(self):
        return super()._state() | {"target": [float(self.scaler_.mean_[0]), float(self.scaler_.scale_[0])]}

    def _restore(self, state, network):
        super()._restore(state, network)
        mean, scale = state["target"]
        self.scaler_ = StandardScaler().fit([[mean]])
        self.scaler_.scale_ = np.array([scale])
        self.scaler_.var_ = self.scaler_.scale_**2

    def _pipeline_network(self):
        network = TransformedTargetRegressor(super()._pipeline_network(), transformer=self.scaler_)
        network.regressor_, network.transformer_, network._training_dim = network.regressor, self.scaler_, 1
        return network
