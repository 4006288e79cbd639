"""MLPClassifier and MLPRegressor: scikit-learn's estimators of these names, on compiled kernels."""

import math
from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target

from fastbp.estimators.labels import MULTI_OUTPUT, Labels
from fastbp.estimators.perceptron import Perceptron, has_epochs, store


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
    def partial_fit(self, X, y, sample_weight=None, classes=None):
        """Train for one epoch more.

        Parameters
        ----------
        X, y, sample_weight
            As of `fit`.
        classes : array-like of shape (n_classes,), or list of them, default=None
            All labels that will ever come; needed in the first call.

        Returns
        -------
        self
        """
        if isinstance(classes, (list, tuple)) and len(classes) > 0 and np.ndim(classes[0]) == 1:
            columns = [np.unique(column) for column in classes]
            known = getattr(self, "classes_", columns)
            if not isinstance(known, list) or list(map(list, known)) != list(map(list, columns)):
                raise ValueError(f"classes must be the same as before, {known}, got {classes}")
            self._labels = Labels(MULTI_OUTPUT, columns)
        elif getattr(self, "_y_type", None) == MULTI_OUTPUT:
            pass
        elif _check_partial_fit_first_call(self, classes):
            self._labels = Labels.of(y if type_of_target(y).startswith("multilabel") else classes)
        return self._fit(X, y, sample_weight, incremental=True)

    @property
    def _labels(self):
        if not hasattr(self, "_y_type"):
            self._labels = Labels.of(self.classes_)
        return Labels(self._y_type, self.classes_, getattr(self, "_sparse_labels", False))

    @_labels.setter
    def _labels(self, labels):
        self._y_type, self.classes_, self._sparse_labels = labels

    def _output(self):
        return self._labels.out_activation

    def _encoded(self, y, fresh, name="y"):
        if fresh:
            self._labels = Labels.of(y)
        else:
            self._labels.check(y, name, all_of_them=self.warm_start and name == "y")
        return self._labels.encode(y)

    def _decoded(self, outputs):
        return self._labels.decode(outputs)

    def _weights(self, y, sample_weight, incremental):
        if self.class_weight is None:
            return sample_weight
        if incremental and not isinstance(self.class_weight, dict):
            raise ValueError(f"class_weight must be a dict or None for partial_fit, got {self.class_weight!r}")
        weights = compute_sample_weight(self.class_weight, y)
        return weights if sample_weight is None else weights * sample_weight

    def _score_of(self, y, predicted, sample_weight):
        return self._labels.accuracy_of_own(y, predicted, sample_weight)

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
        predicted = self.predict(X)
        return self._labels.accuracy(np.asarray(y) if isinstance(y, list) else y, predicted, sample_weight)

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
        outputs = self._outputs(self._checked(X))
        return self._labels.probabilities(outputs)

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
    def partial_fit(self, X, y, sample_weight=None):
        """Train for one epoch more.

        Parameters
        ----------
        X, y, sample_weight
            As of `fit`.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def _output(self):
        return "exp" if self.loss == "poisson" else "identity"

    def _encoded(self, y, fresh, name="y"):
        if self.loss == "poisson" and y.min() < 0:
            raise ValueError(f"{name} must be >= 0 for loss 'poisson', got {y.min()}")
        return y.reshape(len(y), -1)

    def _decoded(self, outputs):
        return outputs.ravel() if outputs.shape[1] == 1 else outputs

    def _score_of(self, y, predicted, sample_weight):
        if not np.isfinite(predicted).all():
            return math.nan
        return float(r2_score(y, predicted, sample_weight=sample_weight))
