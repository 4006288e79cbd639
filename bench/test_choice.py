"""The choice between the two kernels, by timing both over a grid of shapes."""

import time

import numpy as np
import pytest

from fastbp import kernels
from fastbp.layout import CURSOR, RECORD, Layout
from fastbp.rule import Rule
from fastbp.workspace import NarrowWorkspace, OnlineWorkspace, WideWorkspace, workspace_for_training

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
CALL_SECONDS = 2e-3
REPEATS = 15


def trainer(kind, units, batch_size, dtype):
    """A function that trains for about CALL_SECONDS and returns the seconds per step."""
    n_rows = batch_size * max(1, 512 // batch_size)
    layout, rule = Layout(units, dtype, True, [1] * (len(units) - 2)), Rule(reduction="mean").numbers(units[-1])
    rng = np.random.default_rng(0)
    X, Y = (rng.uniform(0, 1, (n_rows, width)).astype(dtype) for width in (units[0], units[-1]))
    work = kind(layout, n_rows, batch_size, shuffled=False)
    work.params[:] = layout.gather(*layout.views(rng.normal(0, 0.3, layout.size)))
    none, order = np.empty(0, X.dtype), np.empty((0, n_rows), np.int64)

    def run(epochs):
        cursor, record = np.zeros(len(CURSOR), np.int64), np.zeros((epochs, len(RECORD)))
        began = time.perf_counter()
        kernels.train(layout.layers, work.params, work.state, X, Y, none, order, batch_size, rule,
                      epochs * work.blocks_per_epoch, cursor, record, work.arrays)  # fmt: skip
        return (time.perf_counter() - began) / epochs / (n_rows // batch_size)

    run(1)  # loads the kernel
    epochs = 1
    while run(epochs) * epochs * (n_rows // batch_size) < CALL_SECONDS:
        epochs *= 2
    return lambda: run(epochs)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("units", SHAPES, ids=lambda units: "-".join(map(str, units)))
def test_the_chosen_kernel_is_close_to_the_better_one(benchmark, units, dtype):
    if not benchmark.enabled:
        pytest.skip("a question of time")
    slower = {}
    for batch_size in BATCHES:
        kinds = [NarrowWorkspace, WideWorkspace] + [OnlineWorkspace] * (batch_size == 1)
        chosen = type(
            workspace_for_training(Layout(units, dtype, True, [0] * (len(units) - 2)), 512, batch_size, shuffled=False)
        )
        runs = [trainer(kind, units, batch_size, dtype) for kind in kinds]
        # in turn, so that whatever else the machine does meets all of them
        seconds = np.min([[run() for run in runs] for _ in range(REPEATS)], axis=0)
        slower[batch_size] = float(seconds[kinds.index(chosen)] / min(seconds))
    benchmark.extra_info |= {"units": units, "dtype": dtype, "slower_than_better": slower}
    benchmark.pedantic(lambda: None)
    assert max(slower.values()) <= ALLOWED, slower
