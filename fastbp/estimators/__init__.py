"""scikit-learn's estimators on compiled kernels, and what belongs to them.

The two networks are loaded when they are first asked for, so that a picture of a loss curve does not load them.
"""

__all__ = ["MLPClassifier", "MLPRegressor"]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fastbp.estimators import mlp

    return getattr(mlp, name)
