"""Whole processes: what a new one takes to import a library, and to fit a first network."""

import functools
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from work import Work

MODULES = {"fastbp": "fastbp", "numpy": "numpy", "scikit-learn": "sklearn.neural_network", "torch": "torch", "jax": "jax"}
IMPORT = "import {0}; import sys; print(sys.modules['{0}'.split('.')[0]].__version__)"
FIT = """
import warnings
import numpy as np
from {} import MLPRegressor
warnings.simplefilter("ignore")
X = np.random.default_rng(0).normal(size=(200, 4))
print(MLPRegressor(max_iter=10, random_state=0).fit(X, X @ [1, 2, 3, 4]).loss_)
"""
TOLERANCE = 1e-10


def output_of(code, **environment):
    """What a new process prints."""
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True, timeout=600
    )
    return run.stdout.strip()


@functools.cache
def expected_loss():
    return float(output_of(FIT.format("sklearn.neural_network")))


def check_loss(result):
    [loss] = result
    np.testing.assert_allclose(float(loss), expected_loss(), rtol=TOLERANCE)


def import_work(case):
    if case.implementation == "python":
        code, version = "print('no library')", "no library"
    else:
        module = MODULES[case.implementation]
        code, version = IMPORT.format(module), pytest.importorskip(module.split(".")[0]).__version__
    return code, lambda result: np.testing.assert_array_equal(result, [version])


def work(case, short):
    """One process, which runs until its end."""
    if case.subject == "import":
        code, check = import_work(case)
    else:
        code, check = FIT.format(MODULES[case.implementation]), check_loss

    def run(times):
        for _ in range(times):
            if case.subject.endswith("empty cache"):
                with tempfile.TemporaryDirectory() as folder:
                    printed = output_of(code, NUMBA_CACHE_DIR=folder)
            else:
                printed = output_of(code)
        return [np.array(printed)]

    if short and case.subject.endswith("empty cache"):
        pytest.skip("compiling takes long")
    return Work(run=run, check=check, rounds=2 if case.subject.endswith("empty cache") else 5, seconds=0)
