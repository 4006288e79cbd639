"""Fitted estimators and networks, saved and loaded; the networks' files are those of `fastbp.model_file`.

An estimator's file is an archive of `fastbp.archive`: its header holds the parameters and the fitted state as JSON, with
every array, or list of numpy's scalars, as a member of its own, named by where it stands. What JSON has no word for is an
object with one key: ``{"array": member}``, ``{"scalar": member}``, ``{"scalars": member}``, ``{"float": "inf"}``,
``{"tuple": [...]}``, ``{"dict": [[key, value], ...]}``, ``{"objects": [...]}`` (an array of Python's strings or numbers, as
the classes are that come from a data frame). Only names that a fitted estimator has are taken from a file, and only values
of the kind, size and shape that go with them.
"""

import itertools
import math
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from fastbp import archive, model_file
from fastbp.archive import Archive, ModelFileError
from fastbp.estimators.mlp import FLOATS, MLPClassifier, MLPRegressor
from fastbp.estimators.tabular import Tabular, TabularClassifier, TabularRegressor
from fastbp.neural_network import NeuralNetwork

FORMAT = "fastbp estimator"
FORMAT_VERSION = 1
CLASSES: dict[str, Any] = {
    kind.__name__: kind for kind in (MLPClassifier, MLPRegressor, TabularClassifier, TabularRegressor)
}
# What scikit-learn puts on an estimator beside its state.
NOT_KEPT = {
    "_metadata_request",
    "_skl_callbacks",
    "_callback_fit_ctx",
    "_parent_callback_ctx",
    "_skl_callbacks_to_teardown",
}
# The output's activation for each kind of classes.
OUTPUTS = {
    "binary": "logistic",
    "multiclass": "softmax",
    "multilabel-indicator": "logistic",
    "multiclass-multioutput": "logistic",
}


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
        model_file.save(path, model_file.Model(estimator))
        return
    arrays: dict[str, np.ndarray] = {}
    header = {"format": FORMAT, "format_version": FORMAT_VERSION} | _described(estimator, "", arrays)
    archive.write(path, header, arrays)


def _described(estimator: Any, prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Class, parameters and state for the header; arrays are added under names with the prefix."""
    name = type(estimator).__name__
    if CLASSES.get(name) is not type(estimator):
        raise TypeError(f"estimator must be one of fastbp's {', '.join(CLASSES)}, got {type(estimator)!r}")
    check_is_fitted(estimator)
    params = estimator.get_params(deep=False)
    if isinstance(estimator, Tabular):
        state = estimator._state()
    else:
        state = {key: value for key, value in vars(estimator).items() if key not in params and key not in NOT_KEPT}
        for key in state.keys() - STATE.keys():
            raise TypeError(f"{key} is no attribute of an {name}, so it cannot be saved")
    parts = {"params": params, "state": state}
    described: dict[str, Any] = {"class": name}
    for part, values in parts.items():
        described[part] = {key: _encode(prefix + key, value, arrays) for key, value in values.items()}
    if isinstance(estimator, Tabular):
        _check_table(estimator, state, estimator.network_)
        described["network"] = _described(estimator.network_, f"{prefix}network.", arrays)
    else:
        _check(estimator)
    return described


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
    with archive.reading(path) as contents:
        return _estimator(contents, kind)


def _estimator(contents: Archive, kind: type | None) -> Any:
    header = contents.header
    if header.get("format") == archive.NETWORK:
        return _network(contents, kind)
    _require(header.get("format") == FORMAT, f"format must be {FORMAT!r}, got {header.get('format')!r}")
    version = header["format_version"]
    _require(
        type(version) is int and 1 <= version <= FORMAT_VERSION,
        f"format_version must be at most {FORMAT_VERSION}, got {version!r}",
    )
    _require(contents.sealed, "must end in a checksum")
    return _built(header, contents, kind)


def _network(contents: Archive, kind: type | None) -> NeuralNetwork:
    what = "a network, which NeuralNetwork.load and fastbp predict read"
    _require(kind in (None, NeuralNetwork), f"must hold {_a(kind)}, got {what}")
    model = model_file.model_of(contents)
    _require(model.is_bare, "holds a network for scaled rows: fastbp predict reads it, or fastbp.model_file.load")
    return model.net


def _built(described: dict[str, Any], contents: Archive, kind: type | None) -> Any:
    """The estimator that `_described` described."""
    name = described["class"]
    _require(name in CLASSES, f"class must be one of {', '.join(CLASSES)}, got {name!r}")
    cls = CLASSES[name]
    _require(kind in (None, cls), f"must hold {_a(kind)}, got {_a(cls)}, which {name}.load reads")
    estimator = cls(**{key: _decode(value, contents) for key, value in described["params"].items()})
    state = {key: _decode(value, contents) for key, value in described["state"].items()}
    if isinstance(estimator, Tabular):
        network = _built(described["network"], contents, cls._network_type)
        _check_table(estimator, state, network)
        estimator._restore(state, network)
        return estimator
    for key, value in state.items():
        _require(key in STATE, f"{key} is no attribute of an {name}")
        setattr(estimator, key, value)
    _check(estimator)
    return estimator


def _a(kind: Any) -> str:
    name = getattr(kind, "__name__", str(kind))
    return f"an {name}" if name.startswith("MLP") else f"a {name}"


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ModelFileError(message)


# ---- values as JSON and arrays ---------------------------------------------------------------------------------------


def _encode(name: str, value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return a value for JSON; what belongs in a member of its own is added to `arrays`."""
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, np.generic):
        return {"scalar": _add(name, np.asarray(value), arrays)}
    if isinstance(value, np.ndarray):
        if value.dtype == object and value.ndim == 1:
            return {"objects": [_encode(f"{name}.{place}", one, arrays) for place, one in enumerate(value.tolist())]}
        return {"array": _add(name, value, arrays)}
    if isinstance(value, list) and _alike(value):
        return {"scalars": _add(name, np.array(value), arrays)}
    if isinstance(value, (list, tuple)):
        items = [_encode(f"{name}.{place}", one, arrays) for place, one in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, dict):
        keys = [_encode(f"{name}.{place}.key", one, arrays) for place, one in enumerate(value)]
        values = [_encode(f"{name}.{place}", one, arrays) for place, one in enumerate(value.values())]
        return {"dict": list(zip(keys, values, strict=True))}
    raise TypeError(f"{name} must be None, a number, text, or arrays, lists or dicts of them to be saved, got {value!r}")


def _alike(values: list[Any]) -> bool:
    """Whether these are numpy's scalars of one type, as a curve may be."""
    return len(values) > 0 and isinstance(values[0], np.generic) and len(set(map(type, values))) == 1


def _add(name: str, array: np.ndarray, arrays: dict[str, np.ndarray]) -> str:
    if array.dtype.kind not in archive.KINDS:
        raise TypeError(f"{name} must hold numbers or text to be saved, got an array of {array.dtype}")
    arrays[name] = array
    return name


def _decode(value: Any, contents: Archive) -> Any:
    if isinstance(value, list):
        return [_decode(one, contents) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    return DECODERS[kind](content, contents)


def _objects(content: Any, contents: Archive) -> np.ndarray:
    array = np.empty(len(content), object)
    for place, one in enumerate(content):
        array[place] = _decode(one, contents)
    return array


DECODERS: dict[str, Callable[[Any, Archive], Any]] = {
    "float": lambda content, contents: {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}[content],
    "array": lambda content, contents: contents.array(content),
    "scalar": lambda content, contents: contents.array(content)[()],
    "scalars": lambda content, contents: list(contents.array(content)),
    "tuple": lambda content, contents: tuple(_decode(one, contents) for one in content),
    "dict": lambda content, contents: {_decode(key, contents): _decode(one, contents) for key, one in content},
    "objects": _objects,
}


# ---- what a fitted estimator holds -----------------------------------------------------------------------------------


def _count(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 0


def _number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def _number_or_none(value: Any) -> bool:
    return value is None or _number(value)


def _curve(value: Any) -> bool:
    return isinstance(value, list) and all(map(_number, value))


def _curve_or_none(value: Any) -> bool:
    return value is None or _curve(value)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _word(value: Any) -> bool:
    return isinstance(value, str)


def _names(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 1 and all(map(_word, value))


def _labels(value: Any) -> bool:
    columns = value if isinstance(value, list) else [value]
    return all(isinstance(column, np.ndarray) and column.ndim == 1 for column in columns)


def _arrays(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, np.ndarray) and one.dtype in FLOATS for one in value)


def _moments(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(pair, tuple) and all(map(_arrays, pair)) for pair in value)


def _output_config(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() <= {"transform"} and all(map(_word, value.values()))


# Every attribute that an estimator may have, and what it can be.
STATE: dict[str, Callable[[Any], bool]] = {
    "n_features_in_": _count,
    "feature_names_in_": _names,
    "n_layers_": _count,
    "n_outputs_": _count,
    "out_activation_": _word,
    "classes_": _labels,
    "coefs_": _arrays,
    "intercepts_": _arrays,
    "n_iter_": _count,
    "t_": _count,
    "loss_": _number,
    "loss_curve_": _curve,
    "best_loss_": _number_or_none,
    "validation_scores_": _curve_or_none,
    "best_validation_score_": _number_or_none,
    "validation_loss_curve_": _curve,
    "_y_type": _word,
    "_sparse_labels": _flag,
    "_dropout_seed": _count,
    "_best_coefs": _arrays,
    "_best_intercepts": _arrays,
    "_no_improvement_count": _count,
    "_moments": _moments,
    "_steps": _count,
    "_learning_rate": _number,
    "_learning_rate_start": _number,
    "_sklearn_output_config": _output_config,
}
NEEDED = {"n_features_in_", "n_layers_", "n_outputs_", "out_activation_", "coefs_", "intercepts_", "n_iter_", "t_"}


def _check(estimator: Any) -> None:
    """Raise a ValueError where parameters and attributes do not go together."""
    estimator._validate_params()
    state = vars(estimator)
    for name, holds in STATE.items():
        if name in state and not holds(state[name]):
            raise ValueError(f"{name} must be what a fit leaves, got {reprlib.repr(state[name])}")
    missing = NEEDED - state.keys()
    if missing:
        raise ValueError(f"{', '.join(sorted(missing))} must be there")
    _check_shapes(state)
    if isinstance(estimator, MLPClassifier):
        _check_classes(state)
    # both raise it themselves
    estimator._activation_codes()
    estimator._rule().numbers(estimator.n_outputs_)


def _check_shapes(state: dict[str, Any]) -> None:
    units = [state["n_features_in_"], *(array.size for array in state["intercepts_"])]
    if not (len(units) == state["n_layers_"] > 1 and units[-1] == state["n_outputs_"] and min(units) > 0):
        raise ValueError(f"n_layers_ and n_outputs_ must go with units {units}")
    if "feature_names_in_" in state and len(state["feature_names_in_"]) != units[0]:
        raise ValueError(f"feature_names_in_ must be {units[0]} names, got {len(state['feature_names_in_'])}")
    weights, biases = list(itertools.pairwise(units)), [(size,) for size in units[1:]]
    expected = {"coefs_": weights, "intercepts_": biases, "_best_coefs": weights, "_best_intercepts": biases}
    found = {name: state[name] for name in expected if name in state}
    for place, pair in enumerate(state.get("_moments", [])):
        for part, (name, arrays) in enumerate(zip((weights, biases), pair, strict=True)):
            expected[f"_moments[{place}][{part}]"], found[f"_moments[{place}][{part}]"] = name, arrays
    for name, arrays in found.items():
        if [array.shape for array in arrays] != expected[name]:
            raise ValueError(f"{name} must have shapes {expected[name]}, got {[array.shape for array in arrays]}")
    if not all(np.isfinite(array).all() for array in state["coefs_"] + state["intercepts_"]):
        raise ValueError("coefs_ and intercepts_ must be finite")


def _check_classes(state: dict[str, Any]) -> None:
    kind, classes = state.get("_y_type"), state.get("classes_")
    if kind not in OUTPUTS or state["out_activation_"] != OUTPUTS[kind]:
        raise ValueError(f"out_activation_ must go with classes that are {kind}, got {state['out_activation_']}")
    if isinstance(classes, list) != (kind == "multiclass-multioutput") or classes is None:
        raise ValueError(f"classes_ must go with targets that are {kind}, got {classes}")
    sizes = [len(column) for column in classes] if isinstance(classes, list) else [len(classes)]
    outputs = 1 if kind == "binary" and sizes[0] in (1, 2) else sum(sizes)
    if outputs != state["n_outputs_"] or min(sizes) < 1:
        raise ValueError(f"classes_ must go with {state['n_outputs_']} outputs, got {sizes}")


# ---- and a fitted table ----------------------------------------------------------------------------------------------


def _words_by_column(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, list) and all(map(_word, one)) for one in value.values())


def _table(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_word, value)) and all(
        one is None or type(one) in (str, bool) or (isinstance(one, list) and all(map(_word, one))) for one in value.values()
    )  # fmt: skip


# Every part of the state of a table's estimator but names of kinds, and what it can be.
TABLE_STATE: dict[str, Callable[[Any], bool]] = {
    "kinds_": lambda value: isinstance(value, dict) and set(value.values()) <= {"number", "boolean", "category"},
    "left_out_": lambda value: isinstance(value, dict) and all(map(_word, value.values())),
    "words_": _words_by_column,
    "categories_": _words_by_column,
    "centers": lambda value: isinstance(value, np.ndarray),
    "factors": lambda value: isinstance(value, np.ndarray) and bool((value >= 0).all()),
    "target": lambda value: isinstance(value, list) and len(value) == 2 and all(map(_number, value)) and value[1] > 0,
    "table": _table,
    "n_features_in_": _count,
    "feature_names_in_": _names,
}


def _check_table(estimator: Any, state: dict[str, Any], network: Any) -> None:
    """Raise a ValueError where parameters, state and network of a table's estimator do not go together."""
    estimator._validate_params()
    for name, value in state.items():
        if name not in TABLE_STATE or not TABLE_STATE[name](value):
            raise ValueError(f"{name} must be what a fit leaves, got {value!r}")
    needed = TABLE_STATE.keys() - {"feature_names_in_"} - (set() if isinstance(estimator, TabularRegressor) else {"target"})
    if needed - state.keys():
        raise ValueError(f"{', '.join(sorted(needed - state.keys()))} must be there")
    kinds, categories = state["kinds_"], state["categories_"]
    n_numbers = len(kinds) - list(kinds.values()).count("category")
    if {name for name, kind in kinds.items() if kind == "category"} != categories.keys() or not kinds:
        raise ValueError(f"categories_ must go with kinds_, got {list(categories)}")
    for name in ("centers", "factors"):
        if state[name].shape != (n_numbers,) or state[name].dtype != np.float64 or not np.isfinite(state[name]).all():
            raise ValueError(f"{name} must be {n_numbers} finite numbers, got {state[name]!r}")
    width = n_numbers + sum(map(len, categories.values()))
    if width != network.n_features_in_:
        raise ValueError(f"network must have {width} inputs, got {network.n_features_in_}")
