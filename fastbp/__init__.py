"""Fast training of dense neural networks on a CPU.

Names are loaded when they are first used, so that ``import fastbp`` costs next to nothing.
"""

import importlib

__version__ = "0.1.0"

_HOMES = {
    "History": "history",
    "LossCurveDisplay": "display",
    "MLPClassifier": "estimators",
    "MLPRegressor": "estimators",
    "ModelFileError": "archive",
    "NeuralNetwork": "neural_network",
    "TabularClassifier": "tabular",
    "TabularRegressor": "tabular",
    "from_sklearn": "interchange",
    "load": "estimator_file",
    "patch_sklearn": "interchange",
    "profile": "profiler",
    "save": "estimator_file",
    "to_sklearn": "interchange",
    "unpatch_sklearn": "interchange",
}

__all__ = [
    "History",
    "LossCurveDisplay",
    "MLPClassifier",
    "MLPRegressor",
    "ModelFileError",
    "NeuralNetwork",
    "TabularClassifier",
    "TabularRegressor",
    "__version__",
    "from_sklearn",
    "load",
    "patch_sklearn",
    "profile",
    "save",
    "to_sklearn",
    "unpatch_sklearn",
]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return sorted([*globals(), *__all__])
