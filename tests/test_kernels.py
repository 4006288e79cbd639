"""The kernels, held to the reference."""

import decimal
import os
import platform
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cases
import numpy as np
import pytest
from cases import (
    CASES,
    Case,
    assert_same_bits,
    assert_same_outputs,
    assert_same_training,
    forward,
    reference_of,
    train,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbp import kernels, reference
from fastbp.kernels.jit import PLAIN_PYTHON
from fastbp.layout import CURSOR_SIZE, Layout, NarrowWorkspace, WideWorkspace, workspace

DTYPES = ("float32", "float64")


def cases_to_run(cases, widest=5):
    """Test parameters; what takes long as plain Python, wider networks, is left to compiled kernels."""
    short = Case((21, 26, 19), 70, 70)
    return [
        pytest.param(case, id=str(case), marks=[] if max(case.units) <= widest or case == short else pytest.mark.compiled)
        for case in cases
    ]


@pytest.mark.parametrize("case", cases_to_run(CASES))
def test_training_agrees_with_the_reference(case):
    assert_same_training(train(kernels, case), reference_of(case), case)


@pytest.mark.parametrize("case", cases_to_run(CASES[:: len(DTYPES) + 1]))
def test_forward_agrees_with_the_reference(case):
    assert_same_outputs(forward(kernels, case), forward(reference, case), case)


sizes = st.integers(1, 35)


@settings(max_examples=5 if PLAIN_PYTHON else 60, deadline=None, derandomize=True)
@given(st.data(), sizes, sizes, sizes, sizes, *[st.booleans()] * 3, st.sampled_from(DTYPES))
def test_any_small_size_agrees_with_the_reference(data, n_in, n_hidden, n_out, n_rows, bias, mean, shuffled, dtype):
    batch_size = data.draw(st.integers(1, n_rows))
    case = Case((n_in, n_hidden, n_out), n_rows, batch_size, bias, "mean" if mean else "sum", shuffled, dtype)
    assert_same_training(train(kernels, case), train(reference, case), case)
    assert_same_outputs(forward(kernels, case), forward(reference, case), case)


@pytest.mark.parametrize("case", cases_to_run(CASES[::5], widest=4))
def test_where_a_call_ends_changes_no_bit(case):
    once = train(kernels, case)
    assert_same_bits(train(kernels, case), once)
    for calls in ([1], [2], [3], [7]):
        assert_same_bits(train(kernels, case, calls), once)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("units", [(2, 4, 1), (3, 17, 5)])
def test_a_row_of_forward_does_not_depend_on_the_others(units, dtype):
    case = Case(units, 50, 50, dtype=dtype)
    X, _ = case.rows()
    whole = forward(kernels, case)
    for i in range(len(X)):
        assert_same_bits([forward(kernels, case, X[i : i + 1])], [whole[i : i + 1]])
    for wild in (np.nan, np.inf, np.finfo(dtype).max):
        wild_rows = X.copy()
        wild_rows[::2] = wild
        assert_same_bits([forward(kernels, case, wild_rows)[1::2]], [whole[1::2]])
    order = np.random.default_rng(0).permutation(len(X))
    assert_same_bits([forward(kernels, case, X[order])], [whole[order]])


@pytest.mark.parametrize("case", cases_to_run([case for case in CASES if case.kernel == "wide"][::9]))
def test_both_kernels_predict_the_same_bits(case):
    assert_same_bits(forward(kernels, case), forward(kernels, replace(case, kernel="narrow")))


@pytest.mark.parametrize(
    ("units", "batch_size", "expected"),
    [
        ((2, 4, 1), 4, NarrowWorkspace),
        ((4, 2, 3), 130, NarrowWorkspace),
        ((4, 32, 16, 4), 10_000, NarrowWorkspace),
        ((20, 16, 1), 1, WideWorkspace),
        ((64, 100, 10), 200, WideWorkspace),
        ((784, 30, 10), 10, WideWorkspace),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_kernel_is_chosen_by_shape(units, batch_size, expected, dtype):
    assert type(workspace(Layout(units, np.dtype(dtype), True), batch_size, batch_size, shuffled=False)) is expected


@pytest.mark.parametrize("case", cases_to_run(CASES[::7]))
def test_padding_stays_zero(case):
    layout, params = case.layout, train(kernels, case).params
    weights, biases = layout.views(np.ones(layout.size))
    padding = layout.gather(weights, biases) == 0
    assert padding.any()
    assert not params[padding].any()
    assert params[~padding].all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("units", "targets"),
    [
        # no weights: all outputs are 0.5, of equal values the first one counts
        ((2, 3), [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0.5], [0, 1, 1]]),
        # one output: 0.5 is on the upper side
        ((2, 1), [[0], [1], [0.5], [0.49]]),
    ],
)
def test_hits_of_equal_values(units, targets, dtype):
    Y = np.array(targets, dtype)
    layout, X = Layout(units, dtype, True), np.ones((len(Y), 2), dtype)
    results = []
    for implementation in (reference, kernels):
        params, sse, correct = layout.gather(*layout.views(np.zeros(layout.size))), np.zeros(1), np.zeros(1)
        work = NarrowWorkspace(layout, len(X), len(X), shuffled=False).arrays
        implementation.train(
            layout.layers, params, X, Y, np.empty((0, len(X)), np.int64), len(X), 1.0, False, 1,
            np.zeros(CURSOR_SIZE, np.int64), sse, correct, work,
        )  # fmt: skip
        results.append(int(correct[0]))
    assert results == [2, 2]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_not_hidden(bad, dtype):
    case = replace(CASES[0], dtype=dtype)
    X, Y = case.rows()
    X[-1, 0] = bad
    with np.errstate(invalid="ignore"):
        ours, theirs = (train(implementation, case, rows=(X, Y)) for implementation in (kernels, reference))
    assert not np.isfinite(theirs.params).all()
    assert_same_bits([np.isnan(ours.params), np.isnan(ours.mse)], [np.isnan(theirs.params), np.isnan(theirs.mse)])


@pytest.mark.compiled
def test_threads_do_not_disturb_each_other():
    case = CASES[-1]
    with ThreadPoolExecutor(4) as pool:
        trained = list(pool.map(lambda _: train(kernels, case, calls=[3]), range(8)))
    for one in trained:
        assert_same_bits(one, train(kernels, case))


# --- memory -----------------------------------------------------------------------------------------------------------


def run_guarded(code_or_file, *arguments):
    folder = str(Path(cases.__file__).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([folder, *sys.path])}
    return subprocess.run(
        [sys.executable, *code_or_file, *arguments], env=environment, capture_output=True, text=True, timeout=120
    )


needs_mprotect = pytest.mark.skipif(os.name != "posix", reason="needs mprotect")


@needs_mprotect
@pytest.mark.compiled
@pytest.mark.parametrize("side", ["before", "after"])
def test_no_access_beyond_any_array(side):
    numbers = [*range(0, len(CASES), 5), len(CASES) - 1]
    result = run_guarded(["-m", "guard"], side, *map(str, numbers))
    assert result.returncode == 0, result.stdout[-200:] + result.stderr[-2000:]
    assert result.stdout.splitlines() == [str(CASES[number]) for number in numbers]


@needs_mprotect
@pytest.mark.compiled
@pytest.mark.parametrize("side", ["before", "after"])
def test_an_access_beyond_an_array_is_seen(side):
    beyond = {"before": 4, "after": -1}[side]
    code = (
        "import ctypes, guard, numpy\n"
        f"array = guard.guarded(numpy.arange(4.0), {side!r})\n"
        "assert list(array) == [0, 1, 2, 3]\n"
        "print('sound', flush=True)\n"
        f"ctypes.c_double.from_address(array.ctypes.data + {8 * beyond}).value"
    )
    result = run_guarded(["-c", code])
    assert result.stdout == "sound\n"
    assert -result.returncode in (signal.SIGSEGV, signal.SIGBUS)


# --- logistic ---------------------------------------------------------------------------------------------------------

# ULP, wherever the result is a normal number.
LARGEST_ERROR = {"float32": 3, "float64": 2.5}


def logistic(z):
    """The kernels' logistic function, through a network of one weight that is 1."""
    case = replace(CASES[0], units=(1, 1), bias=False, dtype=z.dtype.name)
    layout, out = case.layout, np.empty((len(z), 1), z.dtype)
    params = layout.gather([np.ones((1, 1))], [])
    work = NarrowWorkspace(layout, len(z), len(z), shuffled=True).arrays
    kernels.forward(layout.layers, params, z.reshape(-1, 1), out, work)
    return out[:, 0]


def exact_logistic(z):
    """To some 25 digits."""
    with decimal.localcontext(prec=28):
        e = (-abs(decimal.Decimal(float(z)))).exp()
        return (1 if z >= 0 else e) / (1 + e)


def error_in_ulp(ours, exact):
    """Distance in units of the last place of the exact value."""
    below = type(ours)(exact)
    if decimal.Decimal(float(below)) > exact:
        below = np.nextafter(below, type(ours)(0))
    return float(abs(decimal.Decimal(float(ours)) - exact) / decimal.Decimal(float(np.spacing(below))))


def arguments(dtype):
    """The whole range, denser around 0, and the neighbourhood of every place where something changes."""
    tiny, roundoff, points = np.finfo(dtype).tiny, np.finfo(dtype).eps / 2, 2_000 if PLAIN_PYTHON else 20_000
    lowest, highest = np.log(tiny), -np.log(roundoff)
    near_zero = np.geomspace(tiny, -lowest, points // 4)
    halves = np.arange(np.floor(lowest / np.log(2)), np.ceil(highest / np.log(2))) * np.log(2) + np.log(2) / 2
    spots = np.concatenate([halves, [0, lowest, highest, 2 * highest, 1.03 * highest]]).astype(dtype)
    for_each = np.concatenate([spots + k * np.spacing(spots) for k in range(-8, 9)])
    uniform = np.random.default_rng(0).uniform(lowest, 1.2 * highest, points)
    return np.concatenate([uniform, near_zero, -near_zero, for_each]).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logistic_is_accurate(dtype):
    z = arguments(dtype)
    s = logistic(z)
    assert s.dtype == dtype
    assert np.all((s >= 0) & (s <= 1))
    exact = [exact_logistic(value) for value in z]
    normal = np.array([float(value) for value in exact]) >= np.finfo(dtype).tiny
    errors = [error_in_ulp(ours, theirs) for ours, theirs in zip(s, exact, strict=True)]
    assert np.sum(normal) > 0.9 * len(z)
    assert max(np.array(errors)[normal]) <= LARGEST_ERROR[dtype]
    assert np.all(s[~normal] <= np.finfo(dtype).tiny)


@pytest.mark.parametrize("dtype", DTYPES)
def test_errors_are_counted_in_ulp(dtype):
    half, roundoff = np.array(0.5, dtype)[()], np.finfo(dtype).eps / 2
    assert error_in_ulp(half, decimal.Decimal("0.5")) == 0
    assert error_in_ulp(np.nextafter(half, half + half), decimal.Decimal("0.5")) == 1
    assert error_in_ulp(half - half * roundoff, decimal.Decimal("0.5")) == 0.5
    assert error_in_ulp(half + half, 1 - decimal.Decimal(float(roundoff)) / 4) == pytest.approx(0.25)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logistic_limits(dtype):
    largest = np.finfo(dtype).max
    z = np.array([-np.inf, -largest, -1e4, -0.0, 0.0, 1e4, largest, np.inf], dtype)
    assert list(logistic(z)) == [0, 0, 0, 0.5, 0.5, 1, 1, 1]
    # beside any number of other lanes
    for count in (1, 2, 40):
        z = np.full(count, 1.0, dtype)
        z[count // 2] = np.nan
        assert list(np.flatnonzero(np.isnan(logistic(z)))) == [count // 2]


# --- machine code -----------------------------------------------------------------------------------------------------


def packed_fma(dtype):
    """Pattern of a fused multiply-add of several lanes, or None on a processor that is not known to have one."""
    import llvmlite.binding as llvm

    if platform.machine().lower() in ("arm64", "aarch64"):
        return r"fmla(\.2d|\s+v\d+\.2d)" if dtype == "float64" else r"fmla(\.4s|\s+v\d+\.4s)"
    if llvm.get_host_cpu_features().get("fma"):
        return r"vfn?m(add|sub)\d+p[d].*%[yz]mm" if dtype == "float64" else r"vfn?m(add|sub)\d+ps.*%[yz]mm"
    return None


@pytest.mark.compiled
@pytest.mark.parametrize("kernel", [kernels._train, kernels._train_wide], ids=["narrow", "wide"])
@pytest.mark.parametrize(("dtype", "width"), [("float64", 64), ("float32", 64), ("float64", 32)])
def test_the_machine_code_computes_with_vectors(kernel, dtype, width):
    pattern = packed_fma(dtype)
    if pattern is None:
        pytest.skip("no fused multiply-add on this processor")
    assembly = kernel.assembly(dtype, width)
    assert len(re.findall(pattern, assembly)) >= 20
    assert not re.search(r"\b(exp|fma)f?\b", assembly), "a vector is computed lane by lane"
