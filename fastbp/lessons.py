"""Networks of the founding lessons, `fastbp train iris` and `xor`, together with how raw rows become their inputs."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastbp.datasets import Dataset, Preset
from fastbp.neural_network import NeuralNetwork


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


def new_model(data: Dataset, preset: Preset, **settings: Any) -> Model:
    """A founding network at its start; further settings are those of `NeuralNetwork`."""
    n_classes = len(data.class_names)
    net = NeuralNetwork(
        data.X_train.shape[1],
        preset.hidden,
        n_classes if n_classes > 2 else 1,
        bias=preset.bias,
        init_scale=preset.init_scale,
        **settings,
    )
    return Model(net, data.feature_names, data.target_name, data.class_names)
