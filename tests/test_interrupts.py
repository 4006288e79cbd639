"""No exception that a signal's handler raises, at whatever place, crashes, hangs or leaves halves of a training behind."""

import os
import random

import draws
import pytest
from processes import run_python

ROUNDS, SECONDS = 180, 400


@pytest.mark.compiled
@pytest.mark.skipif(os.name != "posix", reason="needs a timer that sends signals")
def test_an_interrupt_leaves_what_belongs_together():
    seed = str(random.Random(f"{draws.SEED} interrupts").randrange(10**6))
    result = run_python("-m", "interrupts", ROUNDS, seed, timeout=SECONDS)
    assert result.returncode == 0, f"seed {seed}\n" + result.stdout[-500:] + result.stderr[-2000:]
    interrupted, came_out = map(int, result.stdout.splitlines()[-1].split())
    assert interrupted == ROUNDS
    assert came_out > 0
