"""What a run draws from tables that are too long for every run: other cases each time, and all of them over some runs.

The seed stands in pytest's header; `FASTBP_SEED` gives it back, and ``pytest --all`` runs everything.
"""

import math
import os
import random

ALL = os.environ.get("FASTBP_ALL") == "1"
SEED = int(os.environ["FASTBP_SEED"])


def drawn(cases, share, name, seed=SEED):
    """One of `share` cases, at least one, in their order; those of another name are drawn independently."""
    cases = list(cases)
    chosen = random.Random(f"{seed} {name}").sample(range(len(cases)), math.ceil(len(cases) / share))
    return [cases[number] for number in sorted(chosen)]


def some(cases, share, name):
    """What a test runs of its cases: all of them if that is asked for."""
    return list(cases) if ALL else drawn(cases, share, name)


def examples(number, share=4):
    """How many random examples a test takes, of which every run has others anyway."""
    return number if ALL else -(-number // share)
