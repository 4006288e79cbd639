"""Whole fits and predictions of the estimators beside scikit-learn's."""

import functools
import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn import datasets, neural_network
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from work import Work, assert_close, bytes_of, kernel_of

import fastbp
from fastbp import reference
from fastbp.layout import Layout
from fastbp.profiling.workload import of_estimator
from fastbp.rule import ACTIVATIONS, Rule
from fastbp.workspace import workspace_for_prediction

PACKAGES = {"fastbp": fastbp, "scikit-learn": neural_network}
# Of a loss. A training magnifies the roundings of its start, some 1e-16 or 1e-7, while it converges.
TOLERANCE = {"float64": 1e-7, "float32": 5e-3}
# In float32 another order of summing may let the loss fall below the tolerance for stopping an epoch sooner or later.
EPOCHS_APART = {"float64": 0, "float32": 3}
PREDICTION_TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
SHORT_EPOCHS = 3
HIDDEN = {"sparse": (64,)}
# 20,000 rows are seen a hundred steps at a time, and do not take two hundred times that to be timed.
MAX_ITER = {"sparse": 20}


@functools.cache
def rows(name, dtype):
    """X, standardised, and y; "sparse" has one value in a hundred, and four classes."""
    if name == "sparse":
        rng = np.random.default_rng(0)
        X = sparse.random_array((20_000, 50), density=0.01, format="csr", rng=rng, dtype=dtype)
        return X, (X @ rng.normal(size=(50, 4))).argmax(axis=1)
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    return StandardScaler().fit_transform(X).astype(dtype), y


def new_estimator(implementation, name, short):
    kind = "MLPRegressor" if name == "diabetes" else "MLPClassifier"
    epochs = SHORT_EPOCHS if short else MAX_ITER.get(name, 200)
    options = {"hidden_layer_sizes": HIDDEN.get(name, (100,)), "max_iter": epochs, "random_state": 0}
    return getattr(PACKAGES[implementation], kind)(**options)


def fit(implementation, name, dtype, short):
    X, y = rows(name, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return new_estimator(implementation, name, short).fit(X, y)


@functools.cache
def expected_curve(name, dtype, short):
    """The losses of scikit-learn."""
    return np.array(fit("scikit-learn", name, dtype, short).loss_curve_)


def check_curve(result, expected, dtype):
    """Raise an AssertionError unless the losses are the expected ones, as many as there are."""
    [curve] = result
    apart = EPOCHS_APART[dtype]
    assert abs(len(curve) - len(expected)) <= apart, f"{len(curve)} epochs instead of {len(expected)}"
    both = min(len(curve), len(expected))
    assert_close([curve[:both]], [expected[:both]], rtol=TOLERANCE[dtype])


def fit_work(case, short):
    """A fit with default parameters, from a random state."""
    expected = expected_curve(case.subject, case.dtype, short)
    X, y = rows(case.subject, case.dtype)
    workload = of_estimator(new_estimator("fastbp", case.subject, short), X, y)
    kernel = kernel_of(workload.start().work) if case.implementation == "fastbp" else None
    work = Work(run=None, check=lambda result: check_curve(result, expected, case.dtype), kernel=kernel, seconds=0,
                own_bytes=bytes_of(workload.weights, workload.biases))  # fmt: skip

    def run(times):
        for _ in range(times):
            est = fit(case.implementation, case.subject, case.dtype, short)
        work.samples, work.notes["epochs"] = est.n_iter_ * X.shape[0], est.n_iter_
        work.flops = work.samples * workload.flops_per_sample
        return [np.array(est.loss_curve_)]

    work.run = run
    return work


# --- prediction -------------------------------------------------------------------------------------------------------


@functools.cache
def trained(dtype):
    """scikit-learn's classifier for digits."""
    return fit("scikit-learn", "digits", dtype, short=True)


@functools.lru_cache(1)
def many_rows(count, dtype):
    return np.random.default_rng(1).normal(size=(count, 64)).astype(dtype)


def estimator_of(library):
    def predictor(est, X):
        return (fastbp.from_sklearn(est) if library == "fastbp" else est).predict_proba

    return predictor


def layout_of(X):
    return Layout((64, 100, 10), X.dtype, True, [ACTIVATIONS.index("relu")])


def fastbp_reference(est, X):
    layout = layout_of(X)
    params, numbers = layout.gather(est.coefs_, est.intercepts_), Rule("softmax", "log_loss").numbers(10)

    def predict(X):
        out = np.empty((len(X), 10), X.dtype)
        reference.forward(layout.layers.tolist(), params, X, out, numbers, None)
        return out

    return predict


def torch_eager(est, X):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    (V, W), (b, c) = ([torch.from_numpy(np.array(one)) for one in some] for some in (est.coefs_, est.intercepts_))

    @torch.inference_mode()
    def predict(X):
        return torch.softmax(torch.addmm(c, torch.relu(torch.addmm(b, torch.from_numpy(X), V)), W), dim=1).numpy()

    return predict


def jax_compiled(est, X):
    from networks import import_jax

    jax = import_jax()
    (V, W), (b, c) = ([jax.numpy.asarray(one) for one in some] for some in (est.coefs_, est.intercepts_))
    outputs = jax.jit(lambda X: jax.nn.softmax(jax.nn.relu(X @ V + b) @ W + c))
    return lambda X: np.asarray(outputs(X))


PREDICTORS = {
    "fastbp": estimator_of("fastbp"),
    "scikit-learn": estimator_of("scikit-learn"),
    "reference": fastbp_reference,
    "torch": torch_eager,
    "jax": jax_compiled,
}


@functools.lru_cache(1)
def expected_outputs(count, dtype):
    return trained(dtype).predict_proba(many_rows(count, dtype))


def prediction_work(case, short):
    """Probabilities of the classes for some rows."""
    est, X = trained(case.dtype), many_rows(case.rows, case.dtype)
    predict, expected = PREDICTORS[case.implementation](est, X), expected_outputs(case.rows, case.dtype)

    def run(times):
        for _ in range(times):
            outputs = predict(X)
        return [outputs]

    return Work(
        run=run,
        check=lambda result: assert_close(result, [expected], atol=PREDICTION_TOLERANCE[case.dtype]),
        samples=len(X),
        flops=2 * len(X) * (64 * 100 + 100 * 10),
        kernel=kernel_of(workspace_for_prediction(layout_of(X), len(X))) if case.implementation == "fastbp" else None,
        own_bytes=0,
    )
