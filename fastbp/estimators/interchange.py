"""Models from and for scikit-learn, and fastbp in its place where code cannot be edited.

This is the one module that knows what scikit-learn's MLP estimators keep under private names: the label binarizer that a
classifier decodes outputs with, and the optimiser that partial_fit goes on with.
"""

import copy
import sys
from typing import Any

import numpy as np
import scipy.sparse
from sklearn import neural_network
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.validation import check_is_fitted

from fastbp.estimators.mlp import MLPClassifier, MLPRegressor

OURS: dict[str, type] = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}
# Taken before anybody can call `patch_sklearn`.
THEIRS: dict[str, Any] = {name: getattr(neural_network, name) for name in OURS}

# What both keep under the same name, with the same meaning.
SHARED = (
    "classes_", "coefs_", "intercepts_", "n_features_in_", "feature_names_in_", "n_layers_", "n_outputs_", "out_activation_",
    "n_iter_", "t_", "loss_", "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_", "_best_coefs",
    "_best_intercepts", "_no_improvement_count",
)  # fmt: skip
THEIR_ACTIVATIONS = ("identity", "logistic", "tanh", "relu")
THEIR_LOSSES = ("log_loss", "squared_error", "poisson")


def to_sklearn(estimator: MLPClassifier | MLPRegressor) -> Any:
    """Return a fitted estimator of scikit-learn that predicts the same; `from_sklearn` is the way back.

    Tools that know scikit-learn's classes take it: converters to other formats, inspection, deployment. Its partial_fit
    goes on where the estimator stopped. What scikit-learn has no parameter for (dropout, max_norm, class_weight, n_jobs and
    scoring) matters to training only and is left behind.

    Parameters
    ----------
    estimator : MLPClassifier or MLPRegressor
        Fitted.

    Returns
    -------
    sklearn.neural_network.MLPClassifier or MLPRegressor
        With copies of all arrays.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.
    TypeError
        If it is none of fastbp's.
    ValueError
        If scikit-learn has no such model: other activations than its four, different ones per layer, the absolute error, or
        columns of classes.

    Examples
    --------
    >>> import fastbp
    >>> X, y = [[0, 0], [0, 1], [1, 0], [1, 1]], ["no", "yes", "yes", "no"]
    >>> ours = fastbp.MLPClassifier(8, solver="lbfgs", random_state=0).fit(X, y)
    >>> theirs = fastbp.to_sklearn(ours)
    >>> type(theirs).__module__.split(".")[0], theirs.predict(X).tolist()
    ('sklearn', ['no', 'yes', 'yes', 'no'])
    """
    name = _named(estimator, OURS, "fastbp")
    check_is_fitted(estimator)
    kind = THEIRS[name]
    params = copy.deepcopy(estimator.get_params(deep=False))
    theirs = kind(**{key: params[key] for key in kind().get_params(deep=False)})
    theirs.activation = _their_activation(estimator)
    if estimator.loss not in THEIR_LOSSES:
        raise ValueError(f"scikit-learn has no loss {estimator.loss!r}")
    if name == "MLPClassifier":
        theirs._label_binarizer = _label_binarizer(estimator)
    _share(estimator, theirs)
    memory = estimator._solver_memory()
    if memory is not None:
        theirs._optimizer = _their_optimizer(estimator, *memory)
    return theirs


def _named(estimator: Any, kinds: dict[str, type], owner: str) -> str:
    """Name of the class in a table that an estimator belongs to."""
    for name, kind in kinds.items():
        if isinstance(estimator, kind):
            return name
    raise TypeError(f"estimator must be an MLPClassifier or MLPRegressor of {owner}, got {type(estimator)!r}")


def _share(source: Any, target: Any) -> None:
    for name in SHARED:
        if name in vars(source):
            setattr(target, name, copy.deepcopy(vars(source)[name]))


def _their_activation(estimator: Any) -> str:
    words = {estimator.activation} if isinstance(estimator.activation, str) else set(estimator.activation)
    if len(words) > 1:
        raise ValueError(f"scikit-learn has one activation for all hidden layers, got {list(estimator.activation)}")
    # without hidden layers any word will do
    (word,) = words or {"identity"}
    if word not in THEIR_ACTIVATIONS:
        raise ValueError(f"scikit-learn has no activation {word!r}, only {', '.join(THEIR_ACTIVATIONS)}")
    return word


def _label_binarizer(estimator: Any) -> LabelBinarizer:
    if isinstance(estimator.classes_, list):
        raise ValueError(f"scikit-learn has no networks for columns of classes, got {len(estimator.classes_)} columns")
    if estimator._y_type == "multilabel-indicator":
        labels = np.eye(estimator.n_outputs_, dtype=int)
        return LabelBinarizer().fit(scipy.sparse.csr_array(labels) if estimator._sparse_labels else labels)
    binarizer = LabelBinarizer().fit(estimator.classes_)
    binarizer.classes_ = estimator.classes_.copy()  # it makes text of objects
    return binarizer


def _their_optimizer(estimator: Any, memory: list, steps: int) -> Any:
    """What partial_fit goes on with: the solver's moments, in lists of those of all coefs_ and of all intercepts_."""
    params = estimator.coefs_ + estimator.intercepts_
    moments = [[np.array(one) for one in weights + biases] for weights, biases in memory]
    start = float(estimator.learning_rate_init)
    if estimator.solver == "adam":
        optimizer = AdamOptimizer(params, start, estimator.beta_1, estimator.beta_2, estimator.epsilon)
        optimizer.ms, optimizer.vs = moments
        optimizer.t = steps
    else:
        optimizer = SGDOptimizer(
            params, start, estimator.learning_rate, estimator.momentum, estimator.nesterovs_momentum, estimator.power_t
        )
        if moments:
            (optimizer.velocities,) = moments
    optimizer.learning_rate = estimator._optimizer.learning_rate
    return optimizer


def from_sklearn(estimator: Any, kind: type | None = None) -> Any:
    """Return the same model as a fitted estimator of scikit-learn; `to_sklearn` is the way back.

    It predicts the same, and its partial_fit goes on where the estimator stopped.

    Parameters
    ----------
    estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
        Fitted.
    kind : class or None, default None
        `MLPClassifier`, `MLPRegressor` or a subclass of them; by default the one of the same name.

    Returns
    -------
    MLPClassifier or MLPRegressor
        With copies of all arrays.

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.
    TypeError
        If it is none of scikit-learn's, or not of this kind.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neural_network import MLPClassifier
    >>> import fastbp
    >>> X, y = [[0, 0], [0, 1], [1, 0], [1, 1]], ["no", "yes", "yes", "no"]
    >>> theirs = MLPClassifier(8, solver="lbfgs", random_state=0).fit(X, y)
    >>> ours = fastbp.from_sklearn(theirs)
    >>> bool(np.allclose(ours.predict_proba(X), theirs.predict_proba(X)))
    True
    """
    name = _named(estimator, THEIRS, "scikit-learn")
    kind = OURS[name] if kind is None else kind
    if not issubclass(kind, OURS[name]):
        raise TypeError(f"estimator must be an {kind.__name__} of scikit-learn, got an {name}")
    check_is_fitted(estimator)
    ours: Any = kind(**copy.deepcopy(estimator.get_params(deep=False)))
    _share(estimator, ours)
    if name == "MLPClassifier":
        binarizer = estimator._label_binarizer
        ours._y_type, ours._sparse_labels = binarizer.y_type_, bool(binarizer.sparse_input_)
    ours._dropout_seed, ours.level_ = 0, None
    if hasattr(estimator, "_optimizer"):
        _take_optimizer(ours, estimator._optimizer)
    return ours


def _take_optimizer(ours: Any, optimizer: Any) -> None:
    adam = isinstance(optimizer, AdamOptimizer)
    moments = [optimizer.ms, optimizer.vs] if adam else [optimizer.velocities][: optimizer.momentum > 0]
    layers = len(ours.coefs_)
    lists = [[np.array(one) for one in moment] for moment in moments]
    ours._moments = [(arrays[:layers], arrays[layers:]) for arrays in lists]
    ours._steps = optimizer.t if adam else 0
    ours._learning_rate_start = float(optimizer.learning_rate_init)
    # that of adam has the correction of its moments in it
    ours._learning_rate = float(optimizer.learning_rate_init if adam else optimizer.learning_rate)


def patch_sklearn() -> None:
    """Put fastbp's MLPClassifier and MLPRegressor in the place of scikit-learn's, until `unpatch_sklearn`.

    Whoever imports them from `sklearn.neural_network` from now on gets fastbp's; modules that imported them earlier keep
    scikit-learn's, so this comes first. Calling it again changes nothing. ``python -m fastbp script.py`` runs a whole
    script so.

    While it is on, scikit-learn's own networks can neither be pickled nor unpickled, as pickle looks them up by name.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.patch_sklearn()
    >>> from sklearn.neural_network import MLPClassifier
    >>> MLPClassifier is fastbp.MLPClassifier
    True
    >>> fastbp.unpatch_sklearn()
    """
    _put(OURS)


def unpatch_sklearn() -> None:
    """Undo `patch_sklearn`; what was imported meanwhile stays fastbp's."""
    _put(THEIRS)


def _put(kinds: dict[str, type]) -> None:
    for name, kind in kinds.items():
        for module in (neural_network, sys.modules[THEIRS[name].__module__]):
            setattr(module, name, kind)
