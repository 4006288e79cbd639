"""Fitted estimators in files: which parts there may be, what each can hold, how they go together, `save` and `load`."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from fastbp import files, lessons
from fastbp.estimators.mlp import KINDS, MULTI_OUTPUT, MLPClassifier, MLPRegressor
from fastbp.estimators.perceptron import FLOATS
from fastbp.estimators.tabular import Tabular, TabularClassifier, TabularRegressor
from fastbp.files import count, fits, require
from fastbp.neural_network import NeuralNetwork, Saved
from fastbp.rule import HEADS

CLASSES: dict[str, Any] = {
    kind.__name__: kind for kind in (MLPClassifier, MLPRegressor, TabularClassifier, TabularRegressor)
}
# The version of which estimators of tables are read: before, inputs were made of columns in another way.
TABLES_VERSION = 2


NUMBER = (int, float, np.integer, np.floating)


def _floats(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype in FLOATS


def _column(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 1


def _names(value: Any) -> bool:
    return _column(value) and all(isinstance(name, str) for name in value)


# Every attribute that a fitted network may have, and what it can be.
STATE = files.kinds_of({
    "n_features_in_ n_layers_ n_outputs_ n_iter_ t_ _dropout_seed _no_improvement_count _steps": count,
    "coefs_ intercepts_ _best_coefs _best_intercepts": [_floats],
    "loss_ _learning_rate _learning_rate_start": NUMBER,
    "best_loss_ best_validation_score_": (None, NUMBER),
    "loss_curve_ validation_loss_curve_": [NUMBER],
    "validation_scores_": (None, [NUMBER]),
    "out_activation_ _y_type": str,
    "feature_names_in_": _names,
    "classes_": (_column, [_column]),
    "_sparse_labels": bool,
    "level_": (None, str),
    "_moments": [lambda pair: isinstance(pair, tuple) and len(pair) == 2 and fits([*pair], [[_floats]])],
    "_sklearn_output_config": {lambda name: name == "transform": str},
})  # fmt: skip
NEEDED = {"n_features_in_", "n_layers_", "n_outputs_", "out_activation_", "coefs_", "intercepts_", "n_iter_", "t_"}
# Attributes that scikit-learn puts beside them.
NOT_KEPT = {
    "_metadata_request", "_skl_callbacks", "_callback_fit_ctx", "_parent_callback_ctx", "_skl_callbacks_to_teardown"
}  # fmt: skip


def _table(value: Any) -> bool:
    """Whether it is how a file was read, as `Dataset` describes it, or nothing."""
    sound = fits(value, {str: (None, bool, str, [str])})
    return value == {} or (sound and type(value.get("target")) is str and len(value.get("decimal", ".")) == 1)


# Every part of the state of a table's estimator.
TABLE_STATE = files.kinds_of({
    "kinds_": {object: lambda value: value in ("number", "boolean", "category")},
    "left_out_": {object: str},
    "words_ categories_": {object: [str]},
    "centers": np.ndarray,
    "factors": lambda value: isinstance(value, np.ndarray) and bool((value >= 0).all()),
    "target": lambda value: fits(value, [NUMBER]) and len(value) == 2 and value[1] > 0,
    "table": _table,
    "n_features_in_": count,
    "feature_names_in_": _names,
})  # fmt: skip


def _check(estimator: Any, state: dict[str, Any], networks: list[Any]) -> None:
    """Raise a ValueError where parameters, attributes and, of tables, the networks do not go together."""
    estimator._validate_params()
    if isinstance(estimator, Tabular):
        require(bool(networks), "networks must be there")
        optional = {"feature_names_in_"} | (set() if isinstance(estimator, RegressorMixin) else {"target"})
        files.check_parts(TABLE_STATE, TABLE_STATE.keys() - optional, state)
        for network in networks:
            _check_columns(state, network)
        known = [getattr(network, "classes_", np.empty(0)) for network in networks]
        alike = all(np.array_equal(one, known[0]) for one in known)
        require(alike, f"networks must have the same classes, got {known}")
        return
    is_classifier = isinstance(estimator, ClassifierMixin)
    files.check_parts(STATE, NEEDED | ({"classes_", "_y_type"} if is_classifier else set()), state)
    _check_shapes(state)
    if is_classifier:
        _check_classes(state, estimator._output())
    estimator._activation_codes()  # raises it itself
    rule = estimator._rule()
    words = f"loss {estimator.loss!r} and out_activation_ {estimator.out_activation_!r}"
    require((rule.out_activation, rule.loss) in HEADS, f"{words} must go together")


def _check_shapes(state: dict[str, Any]) -> None:
    units = [state["n_features_in_"], *(array.size for array in state["intercepts_"])]
    alike = len(units) == state["n_layers_"] > 1 and units[-1] == state["n_outputs_"] and min(units) > 0
    require(alike, f"n_layers_ and n_outputs_ must go with units {units}")
    names = len(state.get("feature_names_in_", range(units[0])))
    require(names == units[0], f"feature_names_in_ must be {units[0]} names, got {names}")
    weights, biases = list(itertools.pairwise(units)), [(size,) for size in units[1:]]
    expected = {"coefs_": weights, "intercepts_": biases, "_best_coefs": weights, "_best_intercepts": biases}
    lists = [(name, state[name], shapes) for name, shapes in expected.items() if name in state]
    for place, pair in enumerate(state.get("_moments", [])):
        lists += [(f"_moments[{place}][{part}]", pair[part], shapes) for part, shapes in enumerate((weights, biases))]
    for name, arrays, shapes in lists:
        found = [array.shape for array in arrays]
        require(found == shapes, f"{name} must have shapes {shapes}, got {found}")
    finite = all(np.isfinite(array).all() for array in state["coefs_"] + state["intercepts_"])
    require(finite, "coefs_ and intercepts_ must be finite")


def _check_classes(state: dict[str, Any], expected: str) -> None:
    kind, classes, output = (state[name] for name in ("_y_type", "classes_", "out_activation_"))
    alike = kind in KINDS and output == expected
    require(alike, f"out_activation_ must go with classes that are {kind}, got {output}")
    alike = isinstance(classes, list) == (kind == MULTI_OUTPUT)
    require(alike, f"classes_ must go with targets that are {kind}, got {classes}")
    sizes = [len(column) for column in (classes if isinstance(classes, list) else [classes])]
    outputs = 1 if kind == "binary" and sizes[0] in (1, 2) else sum(sizes)
    alike = outputs == state["n_outputs_"] and min(sizes) > 0
    require(alike, f"classes_ must go with {state['n_outputs_']} outputs, got {sizes}")


def _check_columns(state: dict[str, Any], network: Any) -> None:
    kinds, categories = state["kinds_"], state["categories_"]
    alike = {name for name, kind in kinds.items() if kind == "category"} == categories.keys() and kinds
    require(alike, f"categories_ must go with kinds_, got {list(categories)}")
    alike = all(len({*known}) == len(known) for known in categories.values())
    require(alike, f"categories_ must be different in each column, got {categories}")
    columns = len(kinds) + len(state["left_out_"])
    require(columns == state["n_features_in_"], f"n_features_in_ must be {columns}, got {state['n_features_in_']}")
    n_numbers = len(kinds) - len(categories)
    for name in ("centers", "factors"):
        array = state[name]
        alike = array.shape == (n_numbers,) and array.dtype == np.float64 and np.isfinite(array).all()
        require(alike, f"{name} must be {n_numbers} finite numbers, got {array!r}")
    width = n_numbers + sum(map(len, categories.values()))
    require(width == network.n_features_in_, f"network must have {width} inputs, got {network.n_features_in_}")


def save(path: str | Path, estimator: Saved) -> None:
    """Write a fitted estimator, or a network, into a file that `load` reads.

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
        lessons.save_model(path, lessons.Model(estimator))
        return
    arrays: dict[str, np.ndarray] = {}
    header = {"format": files.ESTIMATOR, "format_version": files.VERSIONS[files.ESTIMATOR][0]}
    files.write(path, header | _described(estimator, "", arrays), arrays)


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
    """
    with files.reading(path) as contents:
        if contents.header.get("format") != files.NETWORK:
            contents.check_format(files.ESTIMATOR)
            return _built(contents.header, contents, kind)
        what = "a network, which NeuralNetwork.load and fastbp predict read"
        require(kind in (None, NeuralNetwork), f"must hold {_a(kind)}, got {what}")
        model = lessons.read_model(contents)
        require(model.is_bare, "holds a network for scaled rows: fastbp predict reads it, or fastbp.lessons.load_model")
        return model.net


def _a(kind: Any) -> str:
    name = getattr(kind, "__name__", str(kind))
    return f"an {name}" if name.startswith("MLP") else f"a {name}"


def _described(estimator: Any, prefix: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Class, parameters and state for the header; arrays are added under names with the prefix."""
    name = type(estimator).__name__
    if CLASSES.get(name) is not type(estimator):
        raise TypeError(f"estimator must be one of fastbp's {', '.join(CLASSES)}, got {type(estimator)!r}")
    check_is_fitted(estimator, "networks_" if isinstance(estimator, Tabular) else "coefs_")
    params, networks = estimator.get_params(deep=False), vars(estimator).get("networks_", [])
    if not networks:
        state = {key: value for key, value in vars(estimator).items() if key not in params and key not in NOT_KEPT}
        for key in state.keys() - STATE.keys():
            raise TypeError(f"{key} is no attribute of an {name}, so it cannot be saved")
    else:
        state = estimator._state()
    described: dict[str, Any] = {"class": name}
    for part, values in {"params": params, "state": state}.items():
        described[part] = {key: files.encode(prefix + key, value, arrays) for key, value in values.items()}
    if networks:
        places = ["network.", *(f"network_{number}." for number in range(1, len(networks)))]
        parts = [_described(network, prefix + place, arrays) for network, place in zip(networks, places, strict=True)]
        described |= {"network": parts[0], "more_networks": parts[1:]}
    _check(estimator, state, networks)
    return described


def _built(described: dict[str, Any], contents: files.Archive, kind: type | None) -> Any:
    """The estimator that `_described` described."""
    name = described["class"]
    require(name in CLASSES, f"class must be one of {', '.join(CLASSES)}, got {name!r}")
    cls, networks = CLASSES[name], []
    require(kind in (None, cls), f"must hold {_a(kind)}, got {_a(cls)}, which {name}.load reads")
    own = (described["params"], described["state"])
    params, state = ({key: files.decode(value, contents) for key, value in part.items()} for part in own)
    if issubclass(cls, Tabular):
        version = contents.header["format_version"]
        fresh = version >= TABLES_VERSION
        require(fresh, f"holds {_a(cls)} of format_version {version}, whose inputs were made otherwise: fit it anew")
        parts = [described["network"], *described.get("more_networks", [])]
        networks = [_built(part, contents, cls._network_type) for part in parts]
    unknown = state.keys() - (TABLE_STATE if networks else STATE).keys()
    require(not unknown, f"{', '.join(sorted(unknown))} is no attribute of {_a(cls)}")
    estimator = cls(**params)
    if not networks:
        vars(estimator).update(state)
    _check(estimator, state, networks)
    if networks:
        estimator._restore(state, networks)
    return estimator
