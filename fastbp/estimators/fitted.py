"""Fitted estimators in files: which parts there may be, what each can hold, how they go together, `save` and `load`."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from fastbp.estimators.mlp import MLPClassifier, MLPRegressor
from fastbp.estimators.perceptron import FLOATS
from fastbp.estimators.tabular import Tabular, TabularClassifier, TabularRegressor
from fastbp.files import (
    ESTIMATOR,
    NETWORK,
    VERSIONS,
    Archive,
    check_parts,
    decode,
    encode,
    is_a,
    list_of,
    read_model,
    reading,
    require,
    save_model,
    word,
    words,
    write,
)
from fastbp.lessons import Model
from fastbp.neural_network import NeuralNetwork

CLASSES: dict[str, Any] = {
    kind.__name__: kind for kind in (MLPClassifier, MLPRegressor, TabularClassifier, TabularRegressor)
}
# The version of which estimators of tables are read: before, inputs were made of columns in another way.
TABLES_VERSION = 2


def _or_none(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or holds(value)


def _dict_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(holds, value.values()))


_array, _number = is_a(np.ndarray), is_a(int, float, np.integer, np.floating)
_curve = list_of(_number)
_arrays = list_of(lambda value: _array(value) and value.dtype in FLOATS)


def _count(value: Any) -> bool:
    return is_a(int, np.integer)(value) and int(value) >= 0


def _names(value: Any) -> bool:
    return _array(value) and value.ndim == 1 and all(map(word, value))


def _labels(value: Any) -> bool:
    return all(_array(column) and column.ndim == 1 for column in (value if isinstance(value, list) else [value]))


# Every attribute that a fitted estimator may have, and what it can be.
STATE: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("n_features_in_", "n_layers_", "n_outputs_", "n_iter_", "t_"), _count),
    **dict.fromkeys(("_dropout_seed", "_no_improvement_count", "_steps"), _count),
    **dict.fromkeys(("coefs_", "intercepts_", "_best_coefs", "_best_intercepts"), _arrays),
    **dict.fromkeys(("loss_", "_learning_rate", "_learning_rate_start"), _number),
    **dict.fromkeys(("best_loss_", "best_validation_score_"), _or_none(_number)),
    **dict.fromkeys(("loss_curve_", "validation_loss_curve_"), _curve),
    **dict.fromkeys(("out_activation_", "_y_type"), word),
    "validation_scores_": _or_none(_curve),
    "feature_names_in_": _names,
    "classes_": _labels,
    "_sparse_labels": is_a(bool),
    "_moments": list_of(lambda pair: isinstance(pair, tuple) and all(map(_arrays, pair))),
    "_sklearn_output_config": lambda value: _dict_of(word)(value) and value.keys() <= {"transform"},
}
NEEDED = {"n_features_in_", "n_layers_", "n_outputs_", "out_activation_", "coefs_", "intercepts_", "n_iter_", "t_"}
# Attributes that scikit-learn puts beside them.
NOT_KEPT = {
    "_metadata_request", "_skl_callbacks", "_callback_fit_ctx", "_parent_callback_ctx", "_skl_callbacks_to_teardown"
}  # fmt: skip
# The output's activation for each kind of classes.
OUTPUTS = {"binary": "logistic", "multiclass": "softmax", "multilabel-indicator": "logistic",
           "multiclass-multioutput": "logistic"}  # fmt: skip
# Every part of the state of a table's estimator.
TABLE_STATE: dict[str, Callable[[Any], bool]] = {
    "kinds_": _dict_of(lambda value: value in ("number", "boolean", "category")),
    "left_out_": _dict_of(word),
    **dict.fromkeys(("words_", "categories_"), _dict_of(words)),
    "centers": _array,
    "factors": lambda value: _array(value) and bool((value >= 0).all()),
    "target": lambda value: _curve(value) and len(value) == 2 and value[1] > 0,
    "table": lambda value: (
        _dict_of(_or_none(lambda one: type(one) in (str, bool) or words(one)))(value) and all(map(word, value))
    ),
    "n_features_in_": _count,
    "feature_names_in_": _names,
}


def check_estimator(estimator: Any) -> None:
    """Raise a ValueError where parameters and attributes do not go together."""
    estimator._validate_params()
    state = vars(estimator)
    check_parts(STATE, NEEDED, state)
    _check_shapes(state)
    if isinstance(estimator, ClassifierMixin):
        _check_classes(state)
    # both raise it themselves
    estimator._activation_codes()
    estimator._rule().numbers(estimator.n_outputs_)


def _check_shapes(state: dict[str, Any]) -> None:
    units = [state["n_features_in_"], *(array.size for array in state["intercepts_"])]
    fits = len(units) == state["n_layers_"] > 1 and units[-1] == state["n_outputs_"] and min(units) > 0
    require(fits, f"n_layers_ and n_outputs_ must go with units {units}")
    names = len(state.get("feature_names_in_", range(units[0])))
    require(names == units[0], f"feature_names_in_ must be {units[0]} names, got {names}")
    weights, biases = list(itertools.pairwise(units)), [(size,) for size in units[1:]]
    expected = {"coefs_": weights, "intercepts_": biases, "_best_coefs": weights, "_best_intercepts": biases}
    found = {name: state[name] for name in expected if name in state}
    for place, pair in enumerate(state.get("_moments", [])):
        for part, (shapes, arrays) in enumerate(zip((weights, biases), pair, strict=True)):
            expected[f"_moments[{place}][{part}]"], found[f"_moments[{place}][{part}]"] = shapes, arrays
    for name, arrays in found.items():
        shapes = [array.shape for array in arrays]
        require(shapes == expected[name], f"{name} must have shapes {expected[name]}, got {shapes}")
    finite = all(np.isfinite(array).all() for array in state["coefs_"] + state["intercepts_"])
    require(finite, "coefs_ and intercepts_ must be finite")


def _check_classes(state: dict[str, Any]) -> None:
    kind, output = state.get("_y_type"), state["out_activation_"]
    classes: Any = state.get("classes_")
    fits = kind in OUTPUTS and output == OUTPUTS[kind]
    require(fits, f"out_activation_ must go with classes that are {kind}, got {output}")
    fits = isinstance(classes, list) == (kind == "multiclass-multioutput") and classes is not None
    require(fits, f"classes_ must go with targets that are {kind}, got {classes}")
    sizes = [len(column) for column in (classes if isinstance(classes, list) else [classes])]
    outputs = 1 if kind == "binary" and sizes[0] in (1, 2) else sum(sizes)
    fits = outputs == state["n_outputs_"] and min(sizes) > 0
    require(fits, f"classes_ must go with {state['n_outputs_']} outputs, got {sizes}")


def check_table(estimator: Any, state: dict[str, Any], network: Any) -> None:
    """Raise a ValueError where parameters, state and network of a table's estimator do not go together."""
    estimator._validate_params()
    for name in state.keys() - TABLE_STATE.keys():
        raise ValueError(f"{name} is no part of a fitted {type(estimator).__name__}")
    optional = {"feature_names_in_"} | (set() if isinstance(estimator, RegressorMixin) else {"target"})
    check_parts(TABLE_STATE, TABLE_STATE.keys() - optional, state)
    kinds, categories = state["kinds_"], state["categories_"]
    fits = {name for name, kind in kinds.items() if kind == "category"} == categories.keys() and kinds
    require(bool(fits), f"categories_ must go with kinds_, got {list(categories)}")
    n_numbers = len(kinds) - len(categories)
    for name in ("centers", "factors"):
        array = state[name]
        fits = array.shape == (n_numbers,) and array.dtype == np.float64 and np.isfinite(array).all()
        require(bool(fits), f"{name} must be {n_numbers} finite numbers, got {array!r}")
    width = n_numbers + sum(map(len, categories.values()))
    require(width == network.n_features_in_, f"network must have {width} inputs, got {network.n_features_in_}")


def save(path: str | Path, estimator: MLPClassifier | MLPRegressor | Tabular | NeuralNetwork) -> None:
    """Write a fitted estimator, or a network, into a file.

    `path` holds either what it held before or all of the new file, whatever happens. The file holds arrays and JSON with a
    checksum, and nothing that is run when it is loaded. Callbacks and metadata requests are not kept.

    Parameters
    ----------
    path : str or Path
        A file name, used as it is.
    estimator : MLPClassifier, MLPRegressor, TabularClassifier, TabularRegressor or NeuralNetwork

    Raises
    ------
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.
    TypeError
        If it is of another class, or a parameter or attribute is something that a file cannot hold, such as a function or a
        RandomState.
    ValueError
        If the fitted attributes do not fit together, or `path` is something else than a file.
    OSError
        If the file cannot be written.

    See Also
    --------
    load : The way back.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import fastbp
    >>> X, y = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array(["no", "yes", "yes", "no"])
    >>> est = fastbp.MLPClassifier(8, solver="lbfgs", random_state=0).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fastbp.save(os.path.join(folder, "xor.npz"), est)
    ...     again = fastbp.load(os.path.join(folder, "xor.npz"))
    >>> bool(np.all(again.predict_proba(X) == est.predict_proba(X)))
    True
    """
    if isinstance(estimator, NeuralNetwork):
        save_model(path, Model(estimator))
        return
    arrays: dict[str, np.ndarray] = {}
    header = {"format": ESTIMATOR, "format_version": VERSIONS[ESTIMATOR][0]} | _described(estimator, "", arrays)
    write(path, header, arrays)


def load(path: str | Path, kind: type | None = None) -> Any:
    """Read an estimator that `save` wrote: it predicts the same bits, and trains on as the saved one would.

    Nothing in the file is run, and memory is asked for in proportion to the file's size, whatever the file says.

    Parameters
    ----------
    path : str or Path
    kind : class or None, default None
        What the file must hold; None takes whatever it is.

    Returns
    -------
    MLPClassifier, MLPRegressor, TabularClassifier, TabularRegressor or NeuralNetwork

    Raises
    ------
    OSError
        If the file cannot be opened.
    ModelFileError
        If it is no estimator's file, is truncated or damaged, holds another kind of estimator, or was written by a newer
        fastbp. It is a ValueError.

    See Also
    --------
    save : The way there, with an example.
    """
    with reading(path) as contents:
        if contents.header.get("format") != NETWORK:
            contents.check_format(ESTIMATOR)
            return _built(contents.header, contents, kind)
        what = "a network, which NeuralNetwork.load and fastbp predict read"
        require(kind in (None, NeuralNetwork), f"must hold {_a(kind)}, got {what}")
        model = read_model(contents)
        require(model.is_bare, "holds a network for scaled rows: fastbp predict reads it, or fastbp.files.load_model")
        return model.net


def _a(kind: Any) -> str:
    name = getattr(kind, "__name__", str(kind))
    return f"an {name}" if name.startswith("MLP") else f"a {name}"


def _described(estimator: Any, prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Class, parameters and state for the header; arrays are added under names with the prefix."""
    name = type(estimator).__name__
    if CLASSES.get(name) is not type(estimator):
        raise TypeError(f"estimator must be one of fastbp's {', '.join(CLASSES)}, got {type(estimator)!r}")
    check_is_fitted(estimator)
    params = estimator.get_params(deep=False)
    if isinstance(estimator, Tabular):
        state = estimator._state()
        check_table(estimator, state, estimator.network_)
    else:
        state = {key: value for key, value in vars(estimator).items() if key not in params and key not in NOT_KEPT}
        for key in state.keys() - STATE.keys():
            raise TypeError(f"{key} is no attribute of an {name}, so it cannot be saved")
    described: dict[str, Any] = {"class": name}
    for part, values in {"params": params, "state": state}.items():
        described[part] = {key: encode(prefix + key, value, arrays) for key, value in values.items()}
    if isinstance(estimator, Tabular):
        described["network"] = _described(estimator.network_, f"{prefix}network.", arrays)
    else:
        check_estimator(estimator)
    return described


def _built(described: dict[str, Any], contents: Archive, kind: type | None) -> Any:
    """The estimator that `_described` described."""
    name = described["class"]
    require(name in CLASSES, f"class must be one of {', '.join(CLASSES)}, got {name!r}")
    cls = CLASSES[name]
    require(kind in (None, cls), f"must hold {_a(kind)}, got {_a(cls)}, which {name}.load reads")
    estimator = cls(**{key: decode(value, contents) for key, value in described["params"].items()})
    state = {key: decode(value, contents) for key, value in described["state"].items()}
    if isinstance(estimator, Tabular):
        version = contents.header["format_version"]
        fresh = version >= TABLES_VERSION
        require(fresh, f"holds {_a(cls)} of format_version {version}, whose inputs were made otherwise: fit it anew")
        network = _built(described["network"], contents, cls._network_type)
        check_table(estimator, state, network)
        estimator._restore(state, network)
        return estimator
    for key, value in state.items():
        require(key in STATE, f"{key} is no attribute of an {name}")
        setattr(estimator, key, value)
    check_estimator(estimator)
    return estimator
