"""Functions of many numbers at once."""

import numpy as np
import pytest
from work import Work, assert_close

from fastbp import reference
from fastbp.kernels import APPLY, pointwise
from fastbp.rule import ACTIVATIONS

CODES = [function.__name__ for function in pointwise.FUNCTIONS]
# Of the result: what polynomials of a few roundings cost, and the peers' shortcuts in float32. Another function is far off.
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}


def numpy_function(name):
    return getattr(np, name) if name in ("exp", "log") else reference.ACTIVATIONS[ACTIVATIONS.index(name)]


def again(function, z):
    """run(times), which calls a function of z so often and returns its output as an array."""

    def run(times):
        for _ in range(times):
            out = function(z)
        return np.asarray(out)

    return run


def fastbp(name, z):
    code, out = CODES.index(name), np.full_like(z, np.nan)

    def run(times):
        APPLY(code, z, len(z), out, times)
        return out

    return run


def torch_eager(name, z):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return again(peer(name, torch, torch.nn.functional), torch.from_numpy(z))


def jax_compiled(name, z):
    from networks import import_jax

    jax = import_jax()
    function = jax.jit(peer(name, jax.nn, jax.numpy))
    return again(lambda z: function(z).block_until_ready(), jax.numpy.asarray(z))


def peer(name, first, second):
    """A function by its name in one module of a library or in another."""
    name = {"logistic": "sigmoid"}.get(name, name)
    return getattr(first, name) if hasattr(first, name) else getattr(second, name)


IMPLEMENTATIONS = {
    "fastbp": fastbp,
    "reference": lambda name, z: again(numpy_function(name), z),
    "torch": torch_eager,
    "jax": jax_compiled,
}


def work(case, short):
    """One function of `case.rows` numbers."""
    low = 0.01 if case.subject == "log" else -8
    z = np.random.default_rng(0).uniform(low, 8, case.rows).astype(case.dtype)
    expected = [numpy_function(case.subject)(z.astype("float64"))]
    run = IMPLEMENTATIONS[case.implementation](case.subject, z)
    return Work(
        run=lambda times: [run(times)],
        check=lambda result: assert_close(result, expected, rtol=TOLERANCE[case.dtype]),
        samples=case.rows,
        seconds=0.02,
        rounds=15,
    )
