"""Check, then time: how every case is measured.

What stands side by side is measured a round at a time, one after the other, over and over: whatever else a machine does,
and however it changes its speed, then meets all of it.
"""

import functools
import gc
import math
import statistics
import time
import tracemalloc

import fashion
import fits
import founding
import many
import networks
import pointwise
import pytest
import startup
from threadpoolctl import threadpool_info

from fastbp import training
from fastbp.profiling.machine import peak_gflops

WORK_OF = {
    "pointwise": pointwise.work,
    "step": networks.work,
    "epoch": networks.work,
    "founding": founding.work,
    "members": many.work,
    "fit": fits.fit_work,
    "fashion": fashion.work,
    "predict": fits.prediction_work,
    "start-up": startup.work,
}
# Whose arrays are all numpy's, which tells tracemalloc of them; scikit-learn's in whole fits and predictions.
TOLD_OF_MEMORY = {"fastbp", "fastbp n_jobs=2"}
ALSO_TOLD = {("fit", "scikit-learn"), ("predict", "scikit-learn")}
# Rounds that are slower than Work.seconds are fewer, down to this, so that no case takes much longer than the others.
MIN_ROUNDS, MOST_SECONDS = 3, 3.0


def numpy_blas():
    """The BLAS that numpy calls; scipy brings another one, in a folder of its own."""
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas" and "scipy.libs" not in pool["filepath"]]
    return ", ".join(f"{pool['internal_api']} {pool.get('architecture', '')}".strip() for pool in pools)


def timed(work, times):
    """The result of doing it so often, and the seconds that took."""
    start = time.perf_counter()
    result = work.run(times)
    return result, time.perf_counter() - start


def times_of_a_round(work):
    """How often it is done in a round of `work.seconds`, and how long that takes."""
    times = 1
    while True:
        _, seconds = timed(work, times)
        if seconds >= work.seconds:
            return times, seconds
        # a little more than enough, and no more than tenfold, because what is quick the second time was slow at first
        times = min(10 * times, math.ceil(1.1 * times * work.seconds / max(seconds, 1e-9)))


def rounds_for(work, seconds):
    return max(min(work.rounds, MIN_ROUNDS), min(work.rounds, int(MOST_SECONDS / seconds)))


class Bench:
    """A case that gives the right result, and the time of its rounds; any other raises an AssertionError.

    Parameters
    ----------
    case : table.Case
    work : work.Work

    Attributes
    ----------
    times, n_rounds : int
        How often it is done in a round, and how many rounds there are.
    rounds : list of float
        Seconds of one of its units, a step for instance, in each round so far.
    """

    def __init__(self, case, work):
        self.case, self.work, self.rounds = case, work, []
        seconds = check(work)
        self.times, seconds = times_of_a_round(work) if work.seconds else (1, seconds)
        self.n_rounds = rounds_for(work, seconds)

    def turn(self, turn, turns):
        """A round, in as many of the turns as there are rounds."""
        if turn * self.n_rounds % turns < self.n_rounds:
            _, seconds = timed(self.work, self.times)
            self.rounds.append(seconds / self.times / self.work.per)


def check(work):
    """The seconds of doing it once; an AssertionError if it does not give the right result."""
    result, seconds = timed(work, work.checked)
    work.check(result)
    return seconds / work.checked


def tells_memory(case):
    """Whether the memory that a case takes is told."""
    return case.implementation in TOLD_OF_MEMORY or (case.kind, case.implementation) in ALSO_TOLD


def peak_bytes(work):
    """The most that doing it once takes at a time beside X, y and one set of weights, in a run that is not timed.

    Counted are arrays, workspaces among them, and objects of Python, by what tracemalloc hears of them: no machine code, and
    no compiler, as all of this has run before. No workspace is idle from an earlier run.
    """
    for idle in (training.idle_workspaces, training.idle_predictors):
        idle.clear()
    gc.collect()
    tracemalloc.start()
    try:
        (work.anew or functools.partial(work.run, 1))()
        return tracemalloc.get_traced_memory()[1] - work.own_bytes
    finally:
        tracemalloc.stop()


def work_of(case, short=False):
    """What a case does; `short` for less of it, where it is not timed."""
    return WORK_OF[case.kind](case, short=short)


def measured(cases, cores, work_of=work_of):
    """Measure cases that stand side by side: {case: figures, or the exception that says why there are none}."""
    found, benches = {}, []
    for case in cases:
        try:
            with cores(case.threads):
                benches.append(Bench(case, work_of(case)))
        except (Exception, pytest.skip.Exception) as failure:
            found[case] = failure
    dtypes, peaks = {bench.case.dtype for bench in benches if bench.work.flops}, []
    turns = max((bench.n_rounds for bench in benches), default=0)
    for turn in range(turns):
        peaks.append({dtype: peak_gflops(dtype, 1).best for dtype in dtypes})
        for bench in benches:
            with cores(bench.case.threads):
                bench.turn(turn, turns)
    for bench in benches:
        if bench.work.own_bytes is not None and tells_memory(bench.case):
            with cores(bench.case.threads):
                bench.work.notes["peak_bytes"] = peak_bytes(bench.work)
        peak = statistics.median(each.get(bench.case.dtype, 0) for each in peaks)
        found[bench.case] = figures(bench.case, bench.work, bench.rounds, peak)
    return found


def tell(benchmark, found):
    """Give a bench's figures to pytest-benchmark, or raise what there is in their place."""
    if isinstance(found, BaseException):
        raise found
    benchmark.pedantic(lambda: None, rounds=len(found["rounds"]))
    # its own tables then show the same
    benchmark.stats.stats.data[:] = found["rounds"]
    benchmark.extra_info |= found


def figures(case, work, rounds, peak):
    """What is reported of a case whose unit, a step for instance, took so many seconds in each round.

    All of it by the median of the rounds, with a peak that was measured in the same turns: the fastest round of one bench
    and that of another one may have met a machine in two different states.
    """
    seconds = statistics.median(rounds)
    found = {
        "kind": case.kind,
        "subject": case.subject,
        "implementation": case.implementation,
        "dtype": case.dtype,
        "batch": case.batch,
        "rows": case.rows,
        "threads": case.threads,
        "kernel": work.kernel,
        "blas": numpy_blas(),
        "seconds": seconds,
        "rounds": rounds,
        **work.notes,
    }
    if work.samples:
        found["samples_per_second"] = work.samples / work.per / seconds
    if work.flops:
        gflops = work.flops / work.per / seconds / 1e9
        found |= {"gflops": gflops, "peak_gflops_per_core": peak, "fraction_of_peak": gflops / (case.threads * peak)}
    return found
