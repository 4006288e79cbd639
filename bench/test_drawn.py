"""Networks that nobody has chosen, beside numpy and jax: others in every run; a table shows what its author thought of."""

import numpy as np
import pytest
from measure import measured
from table import DTYPES, side_by_side
from work import between

DRAWN = 16
MOST_FLOPS = 3e8  # of a step
STEPS = 4  # of an epoch
# How many times as long as fastbp's the better one's steps take: the geometric mean. Single ones may be behind, as those of
# a few rows are whose layer of hundreds of inputs has one or two units: 0.5 for 313-1, one row, float32, 0.8 for 2-314-1,
# two rows, and 0.7 for 1726-2-42, three rows, both float64.
LEAST_MEAN_LEAD = 1.5


def draw(rng):
    """A network of one to four layers, its batches and its float type, as a case has them."""
    while True:
        hidden = (between(rng, 2, 1000) for _ in range(rng.integers(4)))
        units, batch = (between(rng, 2, 2000), *hidden, between(rng, 1, 100)), between(rng, 1, 1000)
        subject, dtype = "-".join(map(str, units)) + rng.choice(["", " relu"]), str(rng.choice(DTYPES))
        if 6 * batch * sum(np.array(units[1:]) * units[:-1]) <= MOST_FLOPS:
            return {"kind": "epoch", "subject": subject, "dtype": dtype, "batch": batch, "rows": STEPS * batch}


def test_drawn_networks_train_faster_than_by_peers(benchmark, cores):
    if not benchmark.enabled:
        pytest.skip("a question of time")
    rng, leads = np.random.default_rng(), {}
    for _ in range(DRAWN):
        ours, *others = side_by_side(("fastbp", "numpy", "jax"), **draw(rng))
        found = measured([ours, *others], cores)
        found = {case: one for case, one in found.items() if not isinstance(one, pytest.skip.Exception)}
        for wrong in (one for one in found.values() if isinstance(one, BaseException)):
            raise wrong
        leads[ours.group] = min(found[case]["seconds"] for case in others if case in found) / found[ours]["seconds"]
    benchmark.extra_info |= leads
    benchmark.pedantic(lambda: None)
    told = "\n".join(f"{lead:.2f} {group}" for group, lead in sorted(leads.items(), key=lambda one: one[1]))
    print(told)
    assert np.exp(np.mean(np.log([*leads.values()]))) >= LEAST_MEAN_LEAD, told
