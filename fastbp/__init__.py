"""Fast training of dense neural networks on a CPU.

Names are loaded when they are first used, so that ``import fastbp`` costs next to nothing.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "History": "history",
    "MLPClassifier": "estimators",
    "MLPRegressor": "estimators",
    "NeuralNetwork": "neural_network",
}

__all__ = ["History", "MLPClassifier", "MLPRegressor", "NeuralNetwork", "__version__"]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return sorted([*globals(), *__all__])
