"""Functions of many numbers at once."""

import numpy as np
import pytest
from work import Work, assert_close

from fastbp import reference
from fastbp.kernels import pointwise
from fastbp.kernels.jit import Kernel
from fastbp.rule import ACTIVATIONS

CODES = [function.__name__ for function in pointwise.FUNCTIONS]
# Of the result: what polynomials of a few roundings cost, and the peers' shortcuts in float32. Another function is far off.
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}
apply = Kernel("pointwise", "apply", "code x:T* n out:T* times")


def numpy_function(name):
    return getattr(np, name) if name in ("exp", "log") else reference.ACTIVATIONS[ACTIVATIONS.index(name)]


def fastbp(name, z):
    code, out = CODES.index(name), np.full_like(z, np.nan)

    def run(times):
        apply(code, z, len(z), out, times)
        return out

    return run


def fastbp_reference(name, z):
    function = numpy_function(name)

    def run(times):
        for _ in range(times):
            out = function(z)
        return out

    return run


def torch_eager(name, z):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    name = {"logistic": "sigmoid"}.get(name, name)
    function = getattr(torch, name) if hasattr(torch, name) else getattr(torch.nn.functional, name)
    z = torch.from_numpy(z)

    def run(times):
        for _ in range(times):
            out = function(z)
        return out.numpy()

    return run


def jax_compiled(name, z):
    from networks import import_jax

    jax = import_jax()
    name = {"logistic": "sigmoid"}.get(name, name)
    function = jax.jit(getattr(jax.nn, name) if hasattr(jax.nn, name) else getattr(jax.numpy, name))
    z = jax.numpy.asarray(z)

    def run(times):
        for _ in range(times):
            out = function(z).block_until_ready()
        return np.asarray(out)

    return run


IMPLEMENTATIONS = {"fastbp": fastbp, "reference": fastbp_reference, "torch": torch_eager, "jax": jax_compiled}


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
