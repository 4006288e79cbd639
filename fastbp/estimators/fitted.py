"""Parts of a fitted estimator: which there may be, what each can hold, and how they go together."""

import itertools
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin

from fastbp.estimators.perceptron import FLOATS


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))


def _or_none(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or holds(value)


def _list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _dict_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(holds, value.values()))


word, _array, _number = _is(str), _is(np.ndarray), _is(int, float, np.integer, np.floating)
_curve, words = _list_of(_number), _list_of(word)
_arrays = _list_of(lambda value: _array(value) and value.dtype in FLOATS)


def _count(value: Any) -> bool:
    return _is(int, np.integer)(value) and int(value) >= 0


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
    "_sparse_labels": _is(bool),
    "_moments": _list_of(lambda pair: isinstance(pair, tuple) and all(map(_arrays, pair))),
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


def require(holds: bool, message: str) -> None:
    """Raise a ValueError unless something holds."""
    if not holds:
        raise ValueError(message)


def check_parts(table: dict[str, Callable[[Any], bool]], needed: set[str], state: Mapping[str, Any]) -> None:
    """Raise a ValueError where a part is missing, or not of the kind that the table says."""
    for name, value in state.items():
        require(name not in table or table[name](value), f"{name} must be what a fit leaves, got {reprlib.repr(value)}")
    require(needed <= state.keys(), f"{', '.join(sorted(needed - state.keys()))} must be there")


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
