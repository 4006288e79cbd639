"""What arguments must be: functions that return the value as it is kept, or raise an error that names the argument."""

import functools
import math
import numbers
import operator
import sys

import numpy as np

from fastbp.rule import ACTIVATIONS

DTYPES = ("float32", "float64")
# How far targets may be beyond what an output can give: a few roundings of float32 at 1.
ROUNDED = 1e-6
# Of objects, those of which numpy would make numbers, which they are not meant as.
TIMES = np.datetime64, np.timedelta64
NO_NUMBERS = str, bytes, *TIMES
# Numbers whose squares numpy adds up in one thread, whatever library it has for that.
SMALL = 4096


def at_least(least, name, value):
    """`value` as an int."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if value > sys.maxsize:
        raise ValueError(f"{name} must be <= {sys.maxsize}, got a larger number")
    if value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")
    return value


def number(bounds, within, name, value):
    """`value` as a finite float that is within bounds."""
    if type(value) is not float and (isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        value = float(value)
    except OverflowError:
        raise ValueError(f"{name} must be finite, got a number beyond float64") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}")
    if not within(value):
        raise ValueError(f"{name} must be {bounds}, got {value}")
    return value


above = functools.partial(number, "> 0", lambda value: value > 0)
from_0 = functools.partial(number, ">= 0", lambda value: value >= 0)
fraction = functools.partial(number, "in [0, 1)", lambda value: 0 <= value < 1)


def limit(name, value):
    """`value` as a float above 0, or None where it is that or infinite."""
    unlimited = value is None or (isinstance(value, numbers.Real) and value == math.inf)
    return None if unlimited else above(name, value)


def jobs(name, value):
    """`value` as None or an int other than 0."""
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer or None, got {value!r}")
    if value == 0:
        raise ValueError(f"{name} must not be 0, got 0")
    return int(value)


def words(name, value):
    """`value` as an activation or a list of them."""
    if isinstance(value, (list, tuple)):
        return [one_of(ACTIVATIONS, name, one) for one in value]
    return one_of(ACTIVATIONS, name, value)


def one_of(allowed, name, value):
    """`value`, one of the allowed words."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def float_dtype(name, value):
    """`value` as numpy's float32 or float64."""
    try:
        word = np.dtype(value).name
    except TypeError:
        word = None
    if value is None or word not in DTYPES:
        raise ValueError(f"{name} must be 'float32' or 'float64', got {value!r}")
    return np.dtype(word)


def numeric(name, array, dtype):
    """`array` as a C-contiguous, aligned ndarray of `dtype`; copied only where it is not one already."""
    if type(array) is np.ndarray and array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned:
        return array
    try:
        array = np.asarray(array)
        if array.dtype.kind == "O":
            # astype would read numbers out of these
            if any(isinstance(item, NO_NUMBERS) for item in array.flat):
                raise TypeError("got text or times")
            array = array.astype(dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be numeric: {error}") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be numeric, got dtype {array.dtype}")
    with np.errstate(over="ignore"):  # a value that overflows becomes inf, which is reported as such
        return np.require(array, dtype, ["C", "A"])


def is_finite(array):
    """Whether an array has neither NaN nor infinity; of a small one, a finite sum of squares says so in half the time."""
    small = array.size <= SMALL and array.flags.c_contiguous
    return (small and math.isfinite(np.vdot(array, array))) or bool(np.isfinite(array).all())


def finite(name, array):
    """`array`, which has neither NaN nor infinity."""
    if not is_finite(array):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return array


def matrix(name, array, columns, dtype=None):
    """`array` as a finite C-contiguous matrix of so many columns and a row at least; what `numeric` gave needs no dtype."""
    array = array if dtype is None else numeric(name, array, dtype)
    if array.ndim != 2:
        raise ValueError(f"{name} must be 2-dimensional, got {array.ndim} dimension(s), shape {array.shape}")
    if array.shape[1] != columns:
        raise ValueError(f"{name} must have {columns} columns, got {array.shape[1]}")
    if not len(array):
        raise ValueError(f"{name} must have at least one row, got 0")
    return finite(name, array)


def check_sum(name, weights):
    """Raise a ValueError for row weights by whose sum gradients cannot be divided: 1 / sum has to keep its digits."""
    info = np.finfo(weights.dtype)
    least = float(info.tiny) / float(info.eps)
    with np.errstate(over="ignore"):
        total = weights.sum(dtype=np.float64)
    if not least <= total <= 1 / least:
        raise ValueError(f"{name} must have a sum from {least:.0e} to {1 / least:.0e}, got {total:g}")


def row_weights(weights, n_rows, dtype, some=False):
    """`weights` as a vector of one finite number >= 0 for each row, not all of them 0, unless they are of some rows only."""
    weights = finite("sample_weight", numeric("sample_weight", weights, dtype))
    if weights.shape != (n_rows,):
        raise ValueError(f"sample_weight must have shape ({n_rows},), got {weights.shape}")
    if weights.min() < 0 or not (some or weights.any()):
        raise ValueError(f"sample_weight must be >= 0 and not all 0, got {weights.min()} to {weights.max()}")
    if not some:
        check_sum("sample_weight", weights)
    return weights


def fitting_targets(y, out_activation, loss):
    """Raise a ValueError for targets beyond what the output can give, with advice."""
    if out_activation == "identity":
        return
    what = f"out_activation {out_activation!r}" if loss == "squared_error" else f"loss {loss!r}"
    flat = y.ravel()
    least, most = flat[flat.argmin()], flat[flat.argmax()]  # of few, in a third of the time that min and max take
    if least < -ROUNDED or (out_activation != "exp" and most > 1 + ROUNDED):
        bounds, advice = "in [0, 1]", "classes are 0 or 1 in an output each (one-hot), other values are for"
        if out_activation == "exp":
            bounds, advice = ">= 0", "values below are for"
        raise ValueError(f"y must be {bounds} for {what}, got {least} to {most}; {advice} out_activation 'identity'")
    if out_activation == "softmax":
        sums = y.sum(axis=1, dtype=np.float64)
        worst = sums[np.argmax(np.abs(sums - 1))]
        if abs(worst - 1) > ROUNDED:
            what = "softmax" if loss == "squared_error" else f"softmax with loss {loss!r}"
            advice = "where several classes or none may be right, out_activation 'logistic' is for them"
            raise ValueError(f"y must have rows that sum to 1 for {what}, got {worst}; {advice}")
