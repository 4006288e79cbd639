"""Networks of the founding lessons, `fastbp train iris` and `xor`: how they are trained, and what rows are to them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbp.datasets import Dataset, numbers
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
