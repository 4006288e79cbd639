"""Check, then time: how every case is measured."""

import math
import statistics
import time

import fits
import founding
import networks
import pointwise
import startup
from threadpoolctl import threadpool_info

from fastbp.machine import peak_gflops

WORK_OF = {
    "pointwise": pointwise.work,
    "step": networks.work,
    "epoch": networks.work,
    "founding": founding.work,
    "fit": fits.fit_work,
    "predict": fits.prediction_work,
    "start-up": startup.work,
    "memory": fits.memory_work,
}
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


def measure(benchmark, case, work):
    """Time a case that gives the right result; any other raises an AssertionError."""
    benchmark.group = case.group
    result, seconds = timed(work, work.checked)
    work.check(result)
    if not benchmark.enabled:
        benchmark(lambda: None)
        return
    times, seconds = times_of_a_round(work) if work.seconds else (1, seconds / work.checked)
    peak = peak_gflops(case.dtype, 1).best if work.flops else 0
    benchmark.pedantic(work.run, args=(times,), rounds=rounds_for(work, seconds))
    peak = max(peak, peak_gflops(case.dtype, 1).best) if work.flops else 0
    rounds = benchmark.stats.stats.data
    # pytest-benchmark's own tables then show the same, and what stands side by side can be compared
    rounds[:] = [seconds / times / work.per for seconds in rounds]
    benchmark.extra_info |= figures(case, work, list(rounds), peak)


def figures(case, work, rounds, peak):
    """What is reported of a case whose unit, a step for instance, took so many seconds in each round.

    Rates go by the fastest round: whatever else a shared machine does only ever adds time.
    """
    best = min(rounds)
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
        "seconds": best,
        "median_seconds": statistics.median(rounds),
        "rounds": rounds,
        **work.notes,
    }
    if work.samples:
        found["samples_per_second"] = work.samples / work.per / best
    if work.flops:
        gflops = work.flops / work.per / best / 1e9
        found |= {"gflops": gflops, "peak_gflops_per_core": peak, "fraction_of_peak": gflops / (case.threads * peak)}
    return found
