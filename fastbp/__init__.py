"""Fast training of dense neural networks on a CPU.

Names are loaded when they are first used, so that ``import fastbp`` costs next to nothing.
"""

__version__ = "0.1.0"

__all__ = [
    "History",
    "LossCurveDisplay",
    "MLPClassifier",
    "MLPEnsembleClassifier",
    "MLPEnsembleRegressor",
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
    "rows",
    "save",
    "search",
    "to_sklearn",
    "train_many",
    "unpatch_sklearn",
]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(_home(name), name)
    except AttributeError as error:  # which would be taken for "no such name"
        raise ImportError(f"{name} cannot be imported from {__name__}: {error}") from error


def _home(name):
    """The module that defines a name; by import statements, which tools that freeze programs follow."""
    home: object
    match name:
        case "LossCurveDisplay":
            from fastbp.estimators import display as home
        case "ModelFileError":
            from fastbp import files as home
        case "load" | "save":
            from fastbp.estimators import fitted as home
        case "MLPClassifier" | "MLPRegressor":
            from fastbp.estimators import mlp as home
        case "MLPEnsembleClassifier" | "MLPEnsembleRegressor":
            from fastbp.estimators import ensemble as home
        case "History":
            from fastbp import history as home
        case "from_sklearn" | "patch_sklearn" | "to_sklearn" | "unpatch_sklearn":
            from fastbp.estimators import interchange as home
        case "search":
            from fastbp.estimators import search as home
        case "train_many":
            from fastbp import many as home
        case "NeuralNetwork":
            from fastbp import neural_network as home
        case "profile":
            from fastbp.profiling import report as home
        case "rows":
            from fastbp import sources as home
        case "TabularClassifier" | "TabularRegressor":
            from fastbp.estimators import tabular as home
    return home


def __dir__():
    return sorted([*globals(), *__all__])
