"""MLPClassifier and MLPRegressor: scikit-learn's estimators of these names, on compiled kernels."""

import math
from typing import Any, ClassVar

import numpy as np
from scipy import sparse
from sklearn import metrics
from sklearn.base import ClassifierMixin, RegressorMixin, _fit_context
from sklearn.preprocessing import LabelBinarizer, label_binarize
from sklearn.utils import check_consistent_length, multiclass
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if

from fastbp.estimators.perceptron import Perceptron, has_epochs, store
from fastbp.estimators.streams import has_times, some_of
from fastbp.stream import whole

MULTI_OUTPUT = "multiclass-multioutput"
# scikit-learn's types of targets: one logistic output, a softmax, one logistic per label, or one per class and column.
KINDS = ("binary", "multiclass", "multilabel-indicator", MULTI_OUTPUT)


class MLPClassifier(ClassifierMixin, Perceptron):
    """Multi-layer perceptron that classifies, trained on the log loss; drop-in for scikit-learn's class of this name.

    Two classes share a logistic output, more have a softmax; labels that do not exclude each other (2-D indicator y) have a
    logistic output each. Columns of classes (2-D y with more than two values) have a logistic output for every class of
    every column.

    Parameters
    ----------
    <PARAMETERS>

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,), or list of them
        The labels, in the order of the outputs; a list for columns of classes.
    <ATTRIBUTES>

    References
    ----------
    <REFERENCES>

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from fastbp import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = MLPClassifier(learning_rate_init=0.01, random_state=0).fit(X, y)
    >>> bool(clf.score(X, y) > 0.95)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **Perceptron._parameter_constraints,
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
    }
    loss = "log_loss"
    classes_: Any
    _y_type: str
    _sparse_labels = False

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
        verbose=False,
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
    ):
        store(self, locals())

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    @available_if(has_epochs)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None, classes=None, *, chunk_rows=None):
        """Train for one epoch more.

        Parameters
        ----------
        X, y, sample_weight, chunk_rows
            As of `fit`.
        classes : array-like of shape (n_classes,), or list of them, default=None
            All labels that will ever come; needed in the first call.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, incremental=True, chunk_rows=chunk_rows, classes=classes)

    def _take_classes(self, y, classes):
        if isinstance(classes, (list, tuple)) and len(classes) > 0 and np.ndim(classes[0]) == 1:
            columns = [np.unique(column) for column in classes]
            known = getattr(self, "classes_", columns)
            if not isinstance(known, list) or list(map(list, known)) != list(map(list, columns)):
                raise ValueError(f"classes must be the same as before, {known}, got {classes}")
            self._y_type, self.classes_, self._sparse_labels = MULTI_OUTPUT, columns, False
        elif getattr(self, "_y_type", None) == MULTI_OUTPUT:
            if classes is not None:
                raise ValueError(f"classes must be a list for each column, as before, {self.classes_}, got {classes!r}")
        elif getattr(self, "_y_type", "").startswith("multilabel"):
            pass  # what scikit-learn is told of indicators, it does not look at
        elif multiclass._check_partial_fit_first_call(self, classes):
            some = some_of(y)
            self._learn_labels(some if multiclass.type_of_target(some).startswith("multilabel") else classes)

    # --- labels: `classes_`, of which of the `KINDS` they are, and whether indicators come as a sparse matrix ---

    def _learn_labels(self, y):
        """Learn the labels of targets (n,) or (n, n_outputs)."""
        y = y if sparse.issparse(y) else np.asarray(y)
        plain = y.ndim == 1 and y.dtype.kind in "biuU"
        classes: Any = np.unique(y) if plain else []
        if plain and len(classes) <= len(y) / 2:  # else type_of_target warns; it takes a third of a millisecond
            kind = "multiclass" if len(classes) > 2 else "binary"
        else:
            kind = multiclass.type_of_target(y, input_name="y")
            if kind == MULTI_OUTPUT:
                classes = [np.unique(column) for column in y.T]
            elif kind in ("binary", "multiclass"):
                # the second one takes long, but makes plain strings of objects
                classes = np.unique(y) if y.dtype != object else multiclass.unique_labels(y)
            else:
                classes = LabelBinarizer().fit(y).classes_  # labels in indicator form, or an error
        self._y_type, self.classes_, self._sparse_labels = kind, classes, sparse.issparse(y)

    def _output(self):
        return "softmax" if self._y_type == "multiclass" else "logistic"

    def _check_labels(self, y, name, all_of_them):
        """Raise a ValueError where targets are of another kind or have other classes; or not all, where they must."""
        kind, n_columns = self._y_type, len(self.classes_)
        if kind in ("binary", "multiclass"):
            if y.ndim > 1:
                raise ValueError(f"{name} must be a class label for each row, as in the fit before, got shape {y.shape}")
        elif y.shape[1:] != (n_columns,) and not (y.ndim == 1 and kind != MULTI_OUTPUT):
            raise ValueError(f"{name} must have {n_columns} columns, as in the fit before, got shape {y.shape}")
        for column, known in zip(y.T, self.classes_, strict=True) if kind == MULTI_OUTPUT else [(y, self.classes_)]:
            classes = multiclass.unique_labels(column)
            if all_of_them and set(classes) != set(known):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {known}, `y` has {classes}"
                )
            if len(np.setdiff1d(classes, known, assume_unique=True)):
                raise ValueError(
                    f"`{name}` has classes not in `self.classes_`. `self.classes_` has {known}. '{name}' has {classes}."
                )

    def _encoded(self, y, fresh, name="y"):
        if fresh:
            self._learn_labels(y)
        else:
            if not hasattr(self, "_y_type"):  # where somebody has assigned the attributes of a fit
                self._learn_labels(self.classes_)
            self._check_labels(y, name, all_of_them=self.warm_start and name == "y")
        return self._coded(y, name)

    def _coded(self, y, name, classes=None):
        """Outputs for targets whose labels are known: the classes, or what stands for them."""
        classes = self.classes_ if classes is None else classes
        if self._y_type == MULTI_OUTPUT:
            return np.hstack([column[:, None] == known for column, known in zip(y.T, classes, strict=True)])
        if self._y_type.startswith("multilabel"):
            return label_binarize(y, classes=classes) != 0  # as scikit-learn has it: 0 and 255, say, are not 0 and 1
        if self._y_type == "multiclass":
            return y[:, None] == classes
        return (y == classes[-1] if len(classes) > 1 else np.zeros(len(y)))[:, None]

    def _has_labels(self, y, Y, classes=None):
        """Whether targets whose outputs are these have known labels only."""
        classes = self.classes_ if classes is None else classes
        if self._y_type.startswith("multilabel"):
            return len(np.unique(y)) <= 2
        if self._y_type == "binary":
            return bool(((y == classes[0]) | (y == classes[-1])).all())
        columns = len(classes) if self._y_type == MULTI_OUTPUT else 1
        return bool((Y.sum(axis=1) == columns).all())

    def _decoded(self, outputs):
        if self._y_type == MULTI_OUTPUT:
            pairs = zip(self.classes_, self._columns(outputs), strict=True)
            return np.column_stack([known[part.argmax(axis=1)] for known, part in pairs])
        if self._y_type == "multiclass":
            return self.classes_.take(outputs.argmax(axis=1))
        chosen = (outputs > 0.5).astype(int)
        if self._y_type.startswith("multilabel"):
            return sparse.csr_array(chosen) if self._sparse_labels else chosen
        return self.classes_[chosen.ravel() if len(self.classes_) > 1 else np.zeros(len(chosen), int)]

    def _columns(self, outputs):
        """Outputs that belong to each column of classes."""
        return np.split(outputs, np.cumsum([len(known) for known in self.classes_])[:-1], axis=1)

    def _weights(self, y, sample_weight, incremental, class_weight=None):
        if self.class_weight is None:
            return sample_weight
        if incremental and not isinstance(self.class_weight, dict):
            raise ValueError(f"class_weight must be a dict or None for partial_fit, got {self.class_weight!r}")
        if class_weight is None and isinstance(self.class_weight, dict) and self._y_type in ("binary", "multiclass"):
            # by all classes, some of which these rows may lack
            by_class = compute_class_weight(self.class_weight, classes=self.classes_, y=self.classes_)
            weights = by_class[np.searchsorted(self.classes_, y).clip(max=len(by_class) - 1)]
        else:
            weights = compute_sample_weight(self.class_weight if class_weight is None else class_weight, y)
        return weights if sample_weight is None else weights * sample_weight

    def _score_of(self, y, predicted, sample_weight):
        """Accuracy by labels that `_decoded` made: scikit-learn's checks take longer than an epoch of a small data set."""
        if sparse.issparse(y):
            return float(metrics.accuracy_score(y, predicted, sample_weight=sample_weight))
        right = y == predicted
        return float(np.average(right.all(axis=1) if right.ndim > 1 else right, weights=sample_weight))

    def score(self, X, y, sample_weight=None):
        """Share of the rows of X that are given the right labels, all of them where there are several.

        Parameters
        ----------
        X, y, sample_weight
            As of `fit`.

        Returns
        -------
        float
        """
        predicted, y = self.predict(X), whole(y)
        y = np.asarray(y) if isinstance(y, list) or self._y_type == MULTI_OUTPUT else y
        plain = isinstance(y, np.ndarray) and y.shape == predicted.shape == (len(predicted),) and y.dtype.kind in "biuU"
        plain = plain and (y.dtype.kind == "U") == (predicted.dtype.kind == "U")
        if self._y_type == MULTI_OUTPUT:
            if y.shape != predicted.shape:
                raise ValueError(f"y must have shape {predicted.shape}, a label for each row and column, got {y.shape}")
            check_consistent_length(predicted, sample_weight)
            if any((known.dtype.kind in "biuf") != (y.dtype.kind in "biuf") for known in self.classes_ if y.dtype != object):
                raise ValueError(f"y must have labels of the kind of {self.classes_}, got {y.dtype}")
        if self._y_type == MULTI_OUTPUT or (plain and sample_weight is None):
            return self._score_of(y, predicted, sample_weight)
        return float(metrics.accuracy_score(y, predicted, sample_weight=sample_weight))

    def predict_proba(self, X):
        """Probabilities of the classes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n, n_features)

        Returns
        -------
        ndarray of shape (n, n_classes), or list of them
            Columns in the order of `classes_`; a list for columns of classes.
        """
        outputs = self._all_outputs(X)
        if self._y_type == MULTI_OUTPUT:
            return [part / part.sum(axis=1, keepdims=True) for part in self._columns(outputs)]
        return np.hstack([1 - outputs, outputs]) if outputs.shape[1] == 1 else outputs

    def predict_log_proba(self, X):
        """Logarithms of `predict_proba`.

        Parameters and results are of the same kinds.
        """
        probabilities = self.predict_proba(X)
        return [np.log(part) for part in probabilities] if isinstance(probabilities, list) else np.log(probabilities)


class MLPRegressor(RegressorMixin, Perceptron):
    """Multi-layer perceptron that predicts numbers; drop-in for scikit-learn's class of this name.

    Parameters
    ----------
    <PARAMETERS>

    Attributes
    ----------
    <ATTRIBUTES>

    References
    ----------
    <REFERENCES>

    Examples
    --------
    >>> from sklearn.datasets import make_regression
    >>> from fastbp import MLPRegressor
    >>> X, y = make_regression(100, 4, random_state=0)
    >>> reg = MLPRegressor(solver="lbfgs", max_iter=1000, random_state=0).fit(X, y)
    >>> bool(reg.score(X, y) > 0.99)
    True
    """

    _parameter_constraints: ClassVar[dict] = {
        **Perceptron._parameter_constraints,
        "loss": [StrOptions({"squared_error", "poisson", "absolute_error"})],
    }

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
        verbose=False,
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
    ):
        store(self, locals())

    @available_if(has_epochs)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y, sample_weight=None, *, chunk_rows=None):
        """Train for one epoch more.

        Parameters
        ----------
        X, y, sample_weight, chunk_rows
            As of `fit`.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, incremental=True, chunk_rows=chunk_rows)

    def _output(self):
        return "exp" if self.loss == "poisson" else "identity"

    def _validated(self, X, y, reset):
        if has_times(y):  # which scikit-learn would make numbers of
            raise ValueError("y must be numbers, got times")
        return super()._validated(X, y, reset)

    def _encoded(self, y, fresh, name="y"):
        return self._coded(y, name)

    def _coded(self, y, name, classes=None):
        if sparse.issparse(y) or y.dtype.kind not in "biuf":
            raise ValueError(f"{name} must be an array of numbers, got {type(y).__name__} of {y.dtype}")
        if self.loss == "poisson" and y.min() < 0:
            raise ValueError(f"{name} must be >= 0 for loss 'poisson', got {y.min()}")
        return y.reshape(len(y), -1)

    def _decoded(self, outputs):
        return outputs.ravel() if outputs.shape[1] == 1 else outputs

    def _score_of(self, y, predicted, sample_weight):
        if not np.isfinite(predicted).all():
            return math.nan
        return float(metrics.r2_score(y, predicted, sample_weight=sample_weight))
