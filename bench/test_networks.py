"""Networks of all sizes: fastbp against numpy, scikit-learn, torch and jax, and against what the machine could do."""

import functools
import time
from dataclasses import replace

import numpy as np
import pytest
from implementations import IMPLEMENTATIONS, fastbp_reference, new_problem, with_identity_output
from peak import peak_gflops
from threadpoolctl import threadpool_info

# units, batch, rows of the data
NETWORKS = [
    ((2, 4, 1), 4, 4),
    ((20, 16, 1), 1, 64),
    ((4, 2, 3), 130, 130),
    ((784, 30, 10), 10, 1000),
    ((20, 64, 64, 1), 64, 640),
    ((64, 100, 10), 200, 2000),
    ((784, 128, 10), 128, 1280),
    ((784, 512, 512, 10), 256, 1024),
]
FOR_TWO_CORES = NETWORKS[3:]
THREADS = {"fastbp n_jobs=2": 2}
CASES = [
    (implementation, network, dtype)
    for dtype in ("float32", "float64")
    for network in NETWORKS
    for implementation in IMPLEMENTATIONS
    if implementation not in THREADS or network in FOR_TWO_CORES
]

CHECKED_EPOCHS = 3
# Difference from the reference in float64, as a share of what training has changed in an array at most. Rounding a weight at
# every step costs digits of a change that is smaller than the weight: some 100 to 1000 times in the widest of these networks
# after a few steps, which have been seen to cost 5e-3 and 3e-13.
TOLERANCE = {"float32": 2e-2, "float64": 1e-11}

# One row takes about ROUNDS * ROUND_SECONDS for each implementation, or MIN_ROUNDS epochs where an epoch is long.
ROUND_SECONDS, ROUNDS, MIN_ROUNDS = 0.2, 5, 3


def name_of(units):
    return "-".join(map(str, units))


@functools.lru_cache(2)
def new_case(network, dtype, identity):
    """A problem, and the weights and biases after CHECKED_EPOCHS by the reference in float64."""
    problem = new_problem(*network, dtype)
    if identity:
        problem = with_identity_output(problem)
    arrays = {name: getattr(problem, name).astype("float64") for name in ("X", "Y")}
    start = {name: [one.astype("float64") for one in getattr(problem, name)] for name in ("weights", "biases")}
    return problem, fastbp_reference(replace(problem, **arrays, **start))(CHECKED_EPOCHS)


def check(parameters, problem, expected):
    """Raise an AssertionError unless the parameters are as expected."""
    tolerance = TOLERANCE[problem.X.dtype.name]
    for got, wanted, before in zip(parameters, expected, problem.weights + problem.biases, strict=True):
        assert got.dtype == before.dtype
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted - before).max())


def epochs_of_a_round(train):
    """Epochs that take at least ROUND_SECONDS, and the seconds that they took."""
    epochs = 1
    while True:
        start = time.perf_counter()
        train(epochs)
        seconds = time.perf_counter() - start
        if seconds >= ROUND_SECONDS:
            return epochs, seconds
        epochs *= 2


def numpy_blas():
    """The BLAS that numpy calls; scipy brings another one, in a folder of its own."""
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas" and "scipy.libs" not in pool["filepath"]]
    return ", ".join(f"{pool['internal_api']} {pool.get('architecture', '')}".strip() for pool in pools)


@pytest.mark.parametrize(
    ("implementation", "network", "dtype"),
    CASES,
    ids=[f"{name_of(units)}-{dtype}-{implementation}" for implementation, (units, _, _), dtype in CASES],
)
def test_network(benchmark, cores, implementation, network, dtype):
    problem, expected = new_case(network, dtype, identity=implementation == "scikit-learn")
    threads = THREADS.get(implementation, 1)
    with cores(threads):
        train = IMPLEMENTATIONS[implementation](problem)
        check(train(CHECKED_EPOCHS), problem, expected)
        benchmark.group = f"{name_of(problem.units)}, batch {problem.batch}, {dtype}"
        if not benchmark.enabled:
            benchmark(train, 1)
            return
        epochs, seconds = epochs_of_a_round(train)
        peak = peak_gflops(dtype)
        rounds = min(ROUNDS, max(MIN_ROUNDS, int(ROUNDS * ROUND_SECONDS / seconds)))
        benchmark.pedantic(train, args=(epochs,), rounds=rounds)
        peak = max(peak, peak_gflops(dtype))
    steps = epochs * problem.steps
    # the fastest round: whatever else a shared machine does only ever adds time
    step = benchmark.stats.stats.min / steps
    gflops = problem.flops / step / 1e9
    benchmark.extra_info |= {
        "network": name_of(problem.units),
        "batch": problem.batch,
        "dtype": dtype,
        "implementation": implementation,
        "microseconds_per_step": step * 1e6,
        "median_microseconds_per_step": benchmark.stats.stats.median / steps * 1e6,
        "samples_per_second": problem.batch / step,
        "gflops": gflops,
        "threads": threads,
        "kernel": problem.kernel if implementation.startswith("fastbp") else None,
        "blas": numpy_blas(),
        "peak_gflops_per_core": peak,
        "fraction_of_peak": gflops / (threads * peak),
    }


def unchanged(problem):
    return lambda epochs: problem.weights + problem.biases


def one_epoch_short(problem):
    return lambda epochs: fastbp_reference(problem)(epochs - 1)


def without_a_bias_gradient(problem):
    def train(epochs):
        parameters = fastbp_reference(problem)(epochs)
        return [*parameters[:-1], problem.biases[-1]]

    return train


def half_the_rate(problem):
    return fastbp_reference(replace(problem, learning_rate=problem.learning_rate / 2))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("wrong", [unchanged, one_epoch_short, without_a_bias_gradient, half_the_rate])
def test_a_wrong_result_is_refused(wrong, dtype):
    problem, expected = new_case(NETWORKS[4], dtype, identity=False)
    check(fastbp_reference(problem)(CHECKED_EPOCHS), problem, expected)
    with pytest.raises(AssertionError, match="Not equal"):
        check(wrong(problem)(CHECKED_EPOCHS), problem, expected)
