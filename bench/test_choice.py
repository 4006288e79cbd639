"""The choice of a kernel, and of lanes, by timing them all: over a grid of shapes, and for networks that are drawn."""

import itertools
import time

import numpy as np
import pytest
from table import DTYPES
from work import between, kernel_of

from fastbp import NeuralNetwork, lanes, train_many
from fastbp.profiling.workload import Trainer, of_units, take_turns
from fastbp.workspace import NARROW_WEIGHTS

SHAPES = [
    (2, 4, 1),
    (4, 8, 3),
    (10, 16, 3),
    (20, 16, 1),
    (4, 32, 16, 4),
    (16, 32, 10),
    (13, 100, 3),
    (30, 32, 2),
    (64, 48, 10),
    (20, 64, 64, 1),
    (64, 100, 10),
]
BATCHES = (1, 4, 16, 64, 256)
# How much slower than the better kernel the chosen one may be.
ALLOWED = 1.15
TURN_SECONDS = 2e-3
REPEATS = 15
# Networks that are drawn, how much slower the chosen kernels may be on average, and how many may be slower than allowed.
DRAWN = 200
ALLOWED_ON_AVERAGE, MOST_BEYOND = 1.01, 0.03
# The same for lanes, which are left where they would gain less than 15%, as they may not be full.
DRAWN_MEMBERS, MEMBERS, MEMBERS_SECONDS = 100, 32, 0.015
ALLOWED_FOR_LANES = 1.07


def slowdown(units, batch_size, dtype, solver="sgd", activation="logistic"):
    """How many times as long as the best kernel the chosen one takes for a step."""
    rows = batch_size * max(1, 512 // batch_size)
    workload = of_units(units, batch_size=batch_size, rows=rows, dtype=dtype, solver=solver, activation=activation)
    kinds = ["narrow", "wide"] + ["online"] * (batch_size == 1)
    trainers = [Trainer(workload.changed(kernel=kind)) for kind in kinds]
    take_turns(trainers, [1] * len(kinds), REPEATS * TURN_SECONDS * len(kinds), REPEATS)
    best = [max(trainer.rates) for trainer in trainers]
    return max(best) / best[kinds.index(kernel_of(workload.start().work))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("units", SHAPES, ids=lambda units: "-".join(map(str, units)))
def test_the_chosen_kernel_is_close_to_the_better_one(benchmark, units, dtype):
    if not benchmark.enabled:
        pytest.skip("a question of time")
    slower = {batch_size: slowdown(units, batch_size, dtype) for batch_size in BATCHES}
    benchmark.extra_info |= {"units": units, "dtype": dtype, "slower_than_better": slower}
    benchmark.pedantic(lambda: None)
    assert max(slower.values()) <= ALLOWED, slower


def draw(rng, most_weights=NARROW_WEIGHTS, least_hidden=0):
    """Arguments of `slowdown`: up to three layers, of no more weights."""
    while True:
        hidden = (between(rng, 4, 128) for _ in range(rng.integers(least_hidden, 3)))
        units = between(rng, 2, 300), *hidden, between(rng, 1, 24)
        if sum(n_in * n_out for n_in, n_out in itertools.pairwise(units)) <= most_weights:
            names = (str(rng.choice(some)) for some in (DTYPES, ("sgd", "adam"), ("logistic", "relu")))
            return units, between(rng, 2, 500), *names


def test_the_chosen_kernels_are_close_to_the_better_ones_on_average(benchmark):
    if not benchmark.enabled:
        pytest.skip("a question of time")
    rng = np.random.default_rng()
    drawn = [draw(rng) for _ in range(DRAWN)]
    slower = np.array([slowdown(*arguments) for arguments in drawn])
    beyond = {str(drawn[at]): slower[at] for at in np.flatnonzero(slower > ALLOWED)}
    benchmark.extra_info |= {"on_average": slower.mean(), "beyond": beyond}
    benchmark.pedantic(lambda: None)
    assert slower.mean() <= ALLOWED_ON_AVERAGE, (slower.mean(), beyond)
    assert len(beyond) <= MOST_BEYOND * DRAWN, beyond


def slowdown_of_lanes(monkeypatch, units, batch_size, dtype, solver, activation):
    """How many times as long as the faster way the chosen one takes: in lanes, or one network after the other."""
    rng = np.random.default_rng(0)
    X, Y = (rng.random((batch_size * max(1, 200 // batch_size), width)).astype(dtype) for width in (units[0], units[-1]))
    settings = {"activation": activation, "solver": solver, "dtype": dtype}
    nets = [NeuralNetwork(units[0], units[1:-1], units[-1], **settings) for _ in range(MEMBERS)]

    def seconds(epochs, **limits):
        with monkeypatch.context() as patch:
            for name, value in limits.items():
                patch.setattr(lanes, name, value)
            start = time.perf_counter()
            train_many(nets, X, Y, epochs, 1e-6, batch_size=batch_size)
            return time.perf_counter() - start

    ways: list[dict] = [{}, {"MOST_PARAMETERS": 0}, {"MOST_PARAMETERS": np.inf, "ROWS_PER_LANE": np.inf}]
    epochs = 1
    while min(seconds(epochs, **limits) for limits in ways) < MEMBERS_SECONDS:
        epochs *= 2
    chosen, *both = np.min([[seconds(epochs, **limits) for limits in ways] for _ in range(3)], axis=0)
    return max(1.0, chosen / min(both))


def test_lanes_are_taken_where_they_pay(benchmark, monkeypatch):
    if not benchmark.enabled:
        pytest.skip("a question of time")
    rng = np.random.default_rng()
    drawn = [draw(rng, most_weights=10_000, least_hidden=1) for _ in range(DRAWN_MEMBERS)]
    slower = np.array([slowdown_of_lanes(monkeypatch, *arguments) for arguments in drawn])
    benchmark.extra_info |= {
        "on_average": slower.mean(),
        "slower": {str(one): s for one, s in zip(drawn, slower, strict=True)},
    }
    benchmark.pedantic(lambda: None)
    assert slower.mean() <= ALLOWED_FOR_LANES, slower
