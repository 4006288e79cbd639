"""Networks of the founding lessons, `fastbp train iris` and `xor`: their training, what rows are to them, their files."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastbp.datasets import Dataset, numbers
from fastbp.files import NETWORK, VERSIONS, Archive, check_parts, count, fits, kinds_of, reading, require, write
from fastbp.history import History
from fastbp.many import train_many
from fastbp.neural_network import NeuralNetwork

# How founding networks are trained unless the user says otherwise; a batch size of None is the full batch.
PRESETS: dict[str, dict[str, Any]] = {
    "xor": {"hidden": (4,), "epochs": 10_000, "learning_rate": 0.1, "batch_size": None, "reduction": "sum", "bias": True,
            "init_scale": 1.0},
    "iris": {"hidden": (2,), "epochs": 5_000, "learning_rate": 0.1, "batch_size": None, "reduction": "mean", "bias": False,
             "init_scale": 0.5},
}  # fmt: skip


@dataclass
class Model:
    """A network, how raw rows become its inputs, and what its outputs stand for.

    Its inputs are (X - input_mean) / input_scale, arrays of shape (n_features,), and `feature_names` names all or none. Two
    of the `class_names` share one output, more have an output each; without any, in regression, an output a stands for
    target_low + target_span * a.
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
        """Return class names (n,) as the outputs (n, n_outputs) that the network should give."""
        names = self.class_names[1:] if len(self.class_names) == 2 else self.class_names
        return (y[:, np.newaxis] == np.array(names, object)).astype(self.net.dtype)

    def predict(self, X: Any) -> np.ndarray:
        """Return the class names or values (n,) of raw rows (n, n_features), or of a DataFrame with such columns."""
        if hasattr(X, "columns"):
            X = np.column_stack([numbers(X[name], name) for name in self.feature_names])
        outputs = self.net.feedforward(self.inputs(X))
        if not self.class_names:
            return self.target_low + self.target_span * outputs[:, 0].astype(np.float64)
        places = outputs.argmax(axis=1) if len(self.class_names) > 2 else (outputs[:, 0] >= 0.5).astype(np.intp)
        return np.array(self.class_names, object)[places]

    def accuracy(self, X: np.ndarray, y: np.ndarray) -> float:
        """Return the share of raw rows whose class is right."""
        return float(np.mean(self.predict(X) == y))


def new_model(data: Dataset, preset: dict[str, Any], **settings: Any) -> Model:
    """A founding network at its start; further settings are those of `NeuralNetwork`."""
    n_classes = len(data.class_names)
    settings |= {"bias": preset["bias"], "init_scale": preset["init_scale"]}
    net = NeuralNetwork(data.X_train.shape[1], preset["hidden"], n_classes if n_classes > 2 else 1, **settings)
    return Model(net, data.feature_names, data.table["target"], data.class_names)


def trained(models: list[Model], data: Dataset, epochs: int, learning_rate: float, **how: Any) -> tuple[int, list[Any]]:
    """Train founding networks; the number of the one with the least loss, and their histories, None of what diverged.

    Further arguments are those of `train_many`; a single network trains by itself.
    """
    nets, (first, *_) = [model.net for model in models], models
    rows = first.inputs(data.X_train), first.targets(data.y_train)
    if len(nets) == 1:
        return 0, [nets[0].train(*rows, epochs, learning_rate, **how)]
    found = train_many(nets, *rows, epochs, learning_rate, n_jobs=-1, **how)
    histories = [one if isinstance(one, History) else None for one in found]
    losses = {number: one.loss[-1] if one else np.inf for number, one in enumerate(histories) if one is not None}
    if not losses:
        raise ValueError(f"none of {len(nets)} networks could be trained: {found[0]}")
    return min(losses, key=losses.__getitem__), histories


def restarts_of(models: list[Model], data: Dataset, histories: list[Any]) -> list[dict[str, Any]]:
    """How many networks ended with which share of the training rows right, the best first, and their losses."""
    ends: dict[float, list[float]] = {}
    for model, history in zip(models, histories, strict=True):
        if history:
            ends.setdefault(model.accuracy(data.X_train, data.y_train), []).append(float(history.loss[-1]))
    found = [{"train_accuracy": share, "networks": len(losses), "least_loss": min(losses), "largest_loss": max(losses)}
             for share, losses in sorted(ends.items(), reverse=True)]  # fmt: skip
    diverged = sum(history is None for history in histories)
    return found + ([{"diverged": diverged}] if diverged else [])


# ---- files -----------------------------------------------------------------------------------------------------------

# A network's header is flat; its arrays are weights_0, ..., biases_0, ..., input_mean, input_scale and the solver's moments,
# moments_0_0, ... Words of NeuralNetwork in it; OPTIONS from version 4 on, so that it trains on as it would have.
NAMED = ("units", "activation", "out_activation", "loss", "bias")
OPTIONS = ("solver", "momentum", "beta_1", "beta_2", "epsilon", "alpha", "max_norm", "dropout", "n_jobs", "init_scale")
# Files of version 1 do not say this.
VERSION_1 = {"out_activation": "logistic", "loss": "squared_error"}
NETWORK_STATE = kinds_of({
    "units": lambda value: fits(value, [count]) and len(value) >= 2 and min(value) > 0,
    "feature_names class_names": [str],
    "target_name": str,
    "target_low target_span": lambda value: type(value) is float and math.isfinite(value),
    "moments": lambda value: count(value) and value <= 2,
    "level": (None, str),
    "steps": lambda value: count(value) and value < 2**63,
    "dropout_seed": lambda value: count(value) and value < 2**32,
})  # fmt: skip


def _numbered(name: str, arrays: Iterable[np.ndarray]) -> dict[str, Any]:
    return {f"{name}_{number}": array for number, array in enumerate(arrays)}


def save_model(path: str | Path, model: Model) -> None:
    """Write a model as `save` writes estimators; a TypeError for a random_state that is not numpy's default Generator."""
    net = model.net
    rng = dict(net._rng.bit_generator.state)
    if (kind := rng["bit_generator"]) != "PCG64":
        raise TypeError(f"random_state must be an int or numpy's default Generator to be saved, got {kind}")
    header = {"format": NETWORK, "format_version": VERSIONS[NETWORK][0], **{name: getattr(net, name) for name in NAMED}}
    header |= {"dtype": net.dtype.name, "feature_names": list(model.feature_names), "target_name": model.target_name}
    header |= {"class_names": list(model.class_names)}
    header |= {name: float(getattr(model, name)) for name in ("target_low", "target_span")}
    header |= {"options": {name: getattr(net, name) for name in OPTIONS}, "dropout_seed": net._seed, "rng": rng}
    header["level"] = net.level
    arrays = _numbered("weights", net.weights) | _numbered("biases", net.biases)
    arrays |= {"input_mean": model.input_mean, "input_scale": model.input_scale}
    if net._moments is not None:
        moments, header["steps"] = net._moments
        header["moments"] = len(moments)
        for place, pair in enumerate(moments):
            arrays |= _numbered(f"moments_{place}", itertools.chain(*pair))
    write(path, header, arrays)


def load_model(path: str | Path) -> Model:
    """Read a model that `save_model` wrote; an OSError or a ModelFileError as of `load`."""
    with reading(path) as contents:
        return read_model(contents)


def read_model(contents: Archive) -> Model:
    """The model in an open file."""

    def arrays(name: str, shapes: list[tuple[int, ...]], finite: bool = True) -> list[np.ndarray]:
        return [contents.shaped(f"{name}_{number}", shape, dtype, finite) for number, shape in enumerate(shapes)]

    header = contents.header
    require("class" not in header, f"holds an estimator, {header.get('class')}, which fastbp.load reads")
    contents.check_format(NETWORK)
    if header["format_version"] == 1:
        header |= VERSION_1
    check_parts(NETWORK_STATE, NETWORK_STATE.keys() - {"moments", "steps", "level"}, header)
    units, dtype = header["units"], np.dtype(header["dtype"])
    # every array is read before a network is built, so that no header can ask for more memory than the file has
    shapes: list[tuple[int, ...]] = list(itertools.pairwise(units))
    bias_shapes = [shape[1:] for shape in shapes] if header["bias"] else []
    weights, biases = arrays("weights", shapes), arrays("biases", bias_shapes)
    mean, scale = (contents.shaped(name, units[:1], np.float64) for name in ("input_mean", "input_scale"))
    options = {name: header["options"][name] for name in OPTIONS if "options" in header}
    options |= {name: header[name] for name in (*NAMED[1:], "dtype")}
    net = NeuralNetwork(units[0], units[1:-1], units[-1], **options)
    net.weights, net.biases = weights, biases
    net.level = header.get("level")
    if "rng" in header:
        net._seed, net._rng.bit_generator.state = header["dropout_seed"], header["rng"]
    if "moments" in header:
        # squares of gradients may be beyond float32, which makes steps 0
        memory = [arrays(f"moments_{place}", shapes + bias_shapes, finite=False) for place in range(header["moments"])]
        net._memory = [(one[: len(shapes)], one[len(shapes) :]) for one in memory], header["steps"]
    features, classes = tuple(header["feature_names"]), tuple(header["class_names"])
    require(len(features) in (0, units[0]), f"feature_names must be {units[0]}, got {features}")
    sound = len(classes) != 1 and units[-1] == (len(classes) if len(classes) > 2 else 1)
    require(sound or not (classes or features), f"class_names must go with {units[-1]} outputs, got {classes}")
    require(bool(np.all(scale > 0)), f"input_scale must be > 0, got {scale}")
    return Model(net, features, header["target_name"], classes, mean, scale, header["target_low"], header["target_span"])
