"""What a bench times: a `Work`, which can be checked, and how two results are compared."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Work:
    """Something to do over and over, and what its result must be.

    Parameters
    ----------
    run : callable
        run(times) does it so often, beginning anew, and returns the result as a list of arrays.
    check : callable
        check(result) raises an AssertionError unless run(checked) may give this.
    checked : int
        How often it is done to be checked.
    samples, flops : float
        Of doing it once.
    per : float
        Optimiser steps, epochs and the like of doing it once: the time that is reported is that of one of them.
    kernel : str or None
        Of fastbp.
    rounds, seconds : int and float
        Most rounds that are timed, and how long one takes at least; with 0, a round does it once.
    own_bytes : int or None
        Of the weights and biases that run(1) makes, which are no part of its peak memory; None where none is told.
    anew : callable or None
        anew() does it once, and makes all that `run` finds made beside X, y and the weights; None is run(1).
    notes : dict
        What else is to be reported; filled in by `run`.
    """

    run: Callable
    check: Callable
    checked: int = 1
    samples: float = 0
    flops: float = 0
    per: float = 1
    kernel: str | None = None
    rounds: int = 10
    seconds: float = 0.1
    own_bytes: int | None = None
    anew: Callable | None = None
    notes: dict = field(default_factory=dict)


def assert_close(result, expected, rtol=0.0, atol=0.0):
    """Raise an AssertionError unless all arrays are as expected; `atol` may be one number, or one for each array."""
    assert len(result) == len(expected), f"{len(result)} arrays instead of {len(expected)}"
    for got, wanted, tolerance in zip(result, expected, np.broadcast_to(atol, len(expected)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=tolerance, equal_nan=False)


def bytes_of(*lists):
    """Bytes of all arrays in some lists."""
    return sum(array.nbytes for arrays in lists for array in arrays)


def kernel_of(workspace):
    """The name of the kernel that a workspace is for."""
    return type(workspace).__name__.removesuffix("Workspace").lower()


def between(rng, low, high):
    """A size below `high`, drawn log-uniformly."""
    return int(np.exp(rng.uniform(np.log(low), np.log(high))))
