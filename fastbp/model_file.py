"""Trained networks together with what they need to read raw rows, and the files that keep them.

A model file is an archive of `fastbp.archive` with the arrays ``weights_0``, ``weights_1``, ... and, unless the network
has no biases, ``biases_0``, ..., then ``input_mean`` and ``input_scale``, and the solver's moments, ``moments_0_0``, ...
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastbp import archive
from fastbp.archive import Archive, ModelFileError
from fastbp.neural_network import NeuralNetwork

FORMAT = archive.NETWORK
FORMAT_VERSION = 4
# What networks in files of version 1 are, which do not say it.
VERSION_1 = {"out_activation": "logistic", "loss": "squared_error"}
# Earlier ones have no checksum.
FIRST_SEALED = 3
# What files say of a network from version 4 on, so that it trains on as it would have.
OPTIONS = ("solver", "momentum", "beta_1", "beta_2", "epsilon", "alpha", "max_norm", "dropout", "n_jobs", "init_scale")


@dataclass
class Model:
    """A network, how raw rows become its inputs, and what its outputs stand for.

    Parameters
    ----------
    net : NeuralNetwork
    feature_names : tuple of str, default=()
        One name for each input, or none.
    target_name : str, default=""
    class_names : tuple of str, default=()
        Empty for regression. Two classes share one output, more have an output each.
    input_mean, input_scale : ndarray of shape (n_features,), float64, default=0 and 1
        The network's inputs are (X - input_mean) / input_scale.
    target_low, target_span : float, default=0.0 and 1.0
        In regression an output a stands for target_low + target_span * a.
    """

    net: NeuralNetwork
    feature_names: tuple[str, ...] = ()
    target_name: str = ""
    class_names: tuple[str, ...] = ()
    input_mean: np.ndarray | None = None
    input_scale: np.ndarray | None = None
    target_low: float = 0.0
    target_span: float = 1.0

    def __post_init__(self):
        if self.input_mean is None:
            self.input_mean, self.input_scale = np.zeros(self.net.units[0]), np.ones(self.net.units[0])

    @property
    def is_bare(self) -> bool:
        """Whether rows go into the network, and values come out of it, as they are."""
        same = np.all(self.input_mean == 0) and np.all(self.input_scale == 1)
        return bool(same) and (self.target_low, self.target_span) == (0.0, 1.0)

    def inputs(self, X: np.ndarray) -> np.ndarray:
        """Return raw rows (n, n_features) as the network reads them, in the network's dtype."""
        return ((X - self.input_mean) / self.input_scale).astype(self.net.dtype)

    def targets(self, y: np.ndarray) -> np.ndarray:
        """Return class numbers or values (n,) as the outputs (n, n_outputs) that the network should give."""
        dtype = self.net.dtype
        if not self.class_names:
            return ((y - self.target_low) / self.target_span).astype(dtype)[:, np.newaxis]
        if len(self.class_names) == 2:
            return y.astype(dtype)[:, np.newaxis]
        return np.eye(len(self.class_names), dtype=dtype)[y]

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class numbers or values (n,) of raw rows (n, n_features)."""
        outputs = self.net.feedforward(self.inputs(X))
        if not self.class_names:
            return self.target_low + self.target_span * outputs[:, 0].astype(np.float64)
        if len(self.class_names) == 2:
            return (outputs[:, 0] >= 0.5).astype(np.intp)
        return outputs.argmax(axis=1)

    def score(self, X: np.ndarray, y: np.ndarray) -> float:
        """Return the accuracy of classification, or R2 of regression, which is nan where all y are the same.

        R2 = 1 - sum (y - p)^2 / sum (y - mean(y))^2 for predictions p.
        """
        predicted = self.predict(X)
        if self.class_names:
            return float(np.mean(predicted == y))
        if np.all(y == y[0]):
            return np.nan
        return float(1 - np.sum((y - predicted) ** 2) / np.sum((y - np.mean(y)) ** 2))


def save(path: str | Path, model: Model) -> None:
    """Write a model so that `path` holds either what it held before or all of the new model, whatever happens.

    Parameters
    ----------
    path : str or Path
        A file name, used as it is.
    model : Model

    Raises
    ------
    OSError
        If the file cannot be written.
    ValueError
        If `path` is something else than a file, a device for instance.
    """
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "units": model.net.units,
        "activation": model.net.activation,
        "out_activation": model.net.out_activation,
        "loss": model.net.loss,
        "bias": model.net.bias,
        "dtype": model.net.dtype.name,
        "feature_names": list(model.feature_names),
        "target_name": model.target_name,
        "class_names": list(model.class_names),
        "target_low": float(model.target_low),
        "target_span": float(model.target_span),
    }
    arrays = {f"weights_{layer}": W for layer, W in enumerate(model.net.weights)}
    arrays |= {f"biases_{layer}": b for layer, b in enumerate(model.net.biases)}
    arrays |= {"input_mean": model.input_mean, "input_scale": model.input_scale}
    header["options"] = {name: getattr(model.net, name) for name in OPTIONS}
    header["dropout_seed"], header["rng"] = model.net._seed, _rng_state(model.net)
    if model.net._moments is not None:
        moments, header["steps"] = model.net._moments
        for place, pair in enumerate(moments):
            arrays |= {f"moments_{place}_{number}": array for number, array in enumerate(itertools.chain(*pair))}
        header["moments"] = len(moments)
    archive.write(path, header, arrays)


def _rng_state(net: NeuralNetwork) -> dict[str, Any]:
    state = dict(net._rng.bit_generator.state)
    if (kind := state["bit_generator"]) != "PCG64":
        raise TypeError(f"random_state must be an int or numpy's default Generator to be saved, got {kind}")
    return state


def load(path: str | Path) -> Model:
    """Read a model that `save` wrote.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Model

    Raises
    ------
    OSError
        If the file cannot be opened.
    ModelFileError
        If it is no model file, is truncated or damaged, or was written by a newer fastbp.
    """
    with archive.reading(path) as contents:
        return model_of(contents)


def model_of(contents: Archive) -> Model:
    """The model in an open file."""
    header = _checked_header(contents)
    units, dtype = header["units"], np.dtype(header["dtype"])
    # every array is read before a network is built, so that no header can ask for more memory than the file has
    shapes = list(itertools.pairwise(units))
    weights = [_array(contents, f"weights_{layer}", shape, dtype) for layer, shape in enumerate(shapes)]
    n_biases = len(weights) if header["bias"] else 0
    biases = [_array(contents, f"biases_{layer}", shapes[layer][1:], dtype) for layer in range(n_biases)]
    mean = _array(contents, "input_mean", units[:1], np.dtype(np.float64))
    scale = _array(contents, "input_scale", units[:1], np.dtype(np.float64))
    net = NeuralNetwork(
        units[0],
        units[1:-1],
        units[-1],
        activation=header["activation"],
        out_activation=header["out_activation"],
        loss=header["loss"],
        bias=header["bias"],
        dtype=header["dtype"],
        **{name: header["options"][name] for name in OPTIONS if "options" in header},
    )
    net.weights = weights
    if biases:
        net.biases = biases
    if "rng" in header:
        net._seed, net._rng.bit_generator.state = header["dropout_seed"], header["rng"]
    if "moments" in header:
        _read_moments(contents, net, [*shapes, *([shape[1:] for shape in shapes] if header["bias"] else [])])
    model = Model(
        net,
        tuple(header["feature_names"]),
        header["target_name"],
        tuple(header["class_names"]),
        mean,
        scale,
        float(header["target_low"]),
        float(header["target_span"]),
    )
    _require(len(model.feature_names) == units[0] or not model.feature_names, "feature_names", model.feature_names)
    n_classes = len(model.class_names)
    fits = n_classes != 1 and units[-1] == (n_classes if n_classes > 2 else 1)
    _require(fits or not (n_classes or model.feature_names), "class_names", model.class_names)
    _require(bool(np.all(scale > 0)), "input_scale", scale)
    return model


def _read_moments(contents: Archive, net: NeuralNetwork, shapes: list[Any]) -> None:
    """What the solver remembers: for each moment, arrays like all weights and then like all biases."""
    header, layers = contents.header, len(net.weights)
    _require(type(header["moments"]) is int and 0 <= header["moments"] <= 2, "moments", header["moments"])
    _require(type(header["steps"]) is int and header["steps"] >= 0, "steps", header["steps"])
    moments = []
    for place in range(header["moments"]):
        arrays = [_array(contents, f"moments_{place}_{n}", shape, net.dtype) for n, shape in enumerate(shapes)]
        moments.append((arrays[:layers], arrays[layers:]))
    net._moments = moments, header["steps"]


def _checked_header(contents: Archive) -> dict[str, Any]:
    header = contents.header
    if "class" in header:
        raise ModelFileError(f"holds an estimator, {header['class']}, which fastbp.load reads")
    _require(header["format"] == FORMAT, "format", header["format"])
    version = header["format_version"]
    _require(type(version) is int, "format_version", version)
    if not 1 <= version <= FORMAT_VERSION:
        raise ModelFileError(f"format_version must be at most {FORMAT_VERSION}, got {version}")
    _require(contents.sealed or version < FIRST_SEALED, "format_version", f"{version} without a checksum")
    if version == 1:
        header |= VERSION_1
    units = header["units"]
    _require(len(units) >= 2 and all(type(n) is int and n > 0 for n in units), "units", units)
    for name in ("feature_names", "class_names"):
        names = header[name]
        _require(isinstance(names, list) and all(isinstance(one, str) for one in names), name, names)
    _require(isinstance(header["target_name"], str), "target_name", header["target_name"])
    for name in ("target_low", "target_span"):
        _require(type(header[name]) is float and math.isfinite(header[name]), name, header[name])
    return header


def _array(contents: Archive, name: str, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    array = contents.array(name)
    if array.shape != tuple(shape) or array.dtype != dtype:
        raise ModelFileError(f"{name} must be {dtype} of shape {tuple(shape)}, got {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise ModelFileError(f"{name} must be finite")
    return array


def _require(holds: bool, name: str, got: object) -> None:
    if not holds:
        raise ModelFileError(f"header has {name} that do not fit, got {got}")
