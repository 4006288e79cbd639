"""The choice between the two kernels, by timing both over a grid of shapes."""

import pytest
from work import kernel_of

from fastbp.profiling.workload import Trainer, of_units, take_turns

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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("units", SHAPES, ids=lambda units: "-".join(map(str, units)))
def test_the_chosen_kernel_is_close_to_the_better_one(benchmark, units, dtype):
    if not benchmark.enabled:
        pytest.skip("a question of time")
    slower = {}
    for batch_size in BATCHES:
        rows = batch_size * max(1, 512 // batch_size)
        workload = of_units(units, batch_size=batch_size, rows=rows, dtype=dtype, solver="sgd", activation="logistic")
        kinds = ["narrow", "wide"] + ["online"] * (batch_size == 1)
        trainers = [Trainer(workload.changed(kernel=kind)) for kind in kinds]
        take_turns(trainers, [1] * len(kinds), REPEATS * TURN_SECONDS * len(kinds), REPEATS)
        best = [max(trainer.rates) for trainer in trainers]
        slower[batch_size] = max(best) / best[kinds.index(kernel_of(workload.start().work))]
    benchmark.extra_info |= {"units": units, "dtype": dtype, "slower_than_better": slower}
    benchmark.pedantic(lambda: None)
    assert max(slower.values()) <= ALLOWED, slower
