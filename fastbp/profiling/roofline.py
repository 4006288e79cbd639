"""How much work the phases of a training are, and what keeps each of them from being faster.

What a phase has to do at least, per epoch of n rows with B rows per step, for a layer with W = n_in * n_out weights, in a
float type of s bytes:

    phase       operations   bytes that have to be loaded and stored                     functions of single elements
    gather                   2s n (n_in + n_out) for a panel, 2s n n_out without one
    forward     2 n W        s (n n_in + n n_out) + s W per block of rows                activation of n n_out
    loss                     3s n n_out                                                  activation of the output of n n_out
    delta       2 n W        s (2 n n_in + n n_out) + s W per block of rows              derivative of n n_in
    gradient    2 n W        s (n n_in + n n_out) + s W (2 + 2 moments) per step
    update                   s W (3 + 2 moments) per step
    transpose                2s W per block of rows
    wait, overhead, outside

The rule by which a phase is named: divided by the fma peak, the bandwidth and the speed of pointwise functions that were
measured on this machine, its work takes a time at best, for the arithmetic and for the bytes. Where neither is a quarter of
the time it took, it is *latency-bound*: too short, or too dependent on itself, to keep the machine busy. Otherwise it is
*compute-* or *memory-bound*, whichever of the two takes longer. What is no work at all is *overhead-bound*.
The bandwidth is that of the smallest of L2, L3 and memory that holds everything a step uses, its rows apart.
"""

from dataclasses import dataclass

import numpy as np

from fastbp.layout import OF_LAYERS
from fastbp.profiling.machine import Ceilings, cache_bytes
from fastbp.profiling.workload import Workload
from fastbp.training import Run
from fastbp.workspace import NarrowWorkspace, OnlineWorkspace

BUSY = 0.25  # the share of a ceiling from which on a phase is bound by it
BOUND_BY = {"compute": "arithmetic", "memory": "memory", "latency": "latency", "overhead": "overhead"}


@dataclass(frozen=True)
class Phase:
    """Time and speed of a part of training; None for speeds of what has no work, or took no time that marks can tell."""

    name: str
    layer: int | None  # from 0, or None for what belongs to no layer
    seconds: float  # per epoch, averaged over the threads
    share: float
    visits: float  # of a thread in an epoch
    gflops: float | None
    gbs: float | None
    intensity: float | None  # operations per byte
    reached: float | None  # the time that its work takes at the ceiling, as a share of the time it took
    bound: str  # one of BOUND_BY
    label: str


def label_of(name: str, layer: int | None) -> str:
    """A phase's name with the layer's number."""
    return name if layer is None else f"{name}[{layer}]"


def level_of(run: Run) -> str:
    """The smallest level of memory that holds what a step uses, its rows apart."""
    work = run.work
    used = work.arrays[0].nbytes + work.params.nbytes + work.state.nbytes
    if used <= cache_bytes(2) * work.plan.threads:
        return "L2"
    return "L3" if used <= cache_bytes(3) else "memory"


def work_of(
    workload: Workload, run: Run, name: str, layer: int | None, functions: dict[str, float]
) -> tuple[float, float, float]:
    """Operations, bytes and nanoseconds of functions, given per element, that a phase takes at least per epoch."""
    n, steps, blocks = workload.rows, workload.steps, run.work.blocks_per_epoch
    size, moments = np.dtype(workload.dtype).itemsize, workload.rule.moments
    rows = run.layout.rows
    if name == "gather":
        copied = workload.units[-1]
        if isinstance(run.work, NarrowWorkspace):
            copied = 0 if run.work.plan.resident else workload.units[0] + copied
        return 0, 2 * size * n * copied, 0
    if name == "loss":
        word, outputs = workload.rule.out_activation, n * workload.units[-1]
        return 0, 3 * size * outputs, outputs * functions["exp" if word == "softmax" else word]
    if name == "update":
        return 0, size * sum(row.n_in * row.n_out for row in rows) * (3 + 2 * moments) * steps, 0
    if layer is None or name not in OF_LAYERS:
        return 0, 0, 0
    n_out, weights = rows[layer].n_out, rows[layer].n_in * rows[layer].n_out
    n_in = workload.values_per_row if layer == 0 else rows[layer].n_in
    if name == "transpose":
        return 0, 2 * size * weights * blocks, 0
    flops = 2 * n * workload.products[layer]
    if name == "gradient":
        if isinstance(run.work, OnlineWorkspace) and layer > 0:
            flops += 2 * n * weights  # of the delta, which is the same pass over the weights
        return flops, size * (n * (n_in + n_out) + weights * (2 + 2 * moments) * steps), 0
    if name == "forward":
        last = layer == len(rows) - 1
        elements = 0 if last else n * n_out * functions[workload.activations[layer]]
        return flops, size * (n * (n_in + n_out) + weights * blocks), elements
    derivative = functions[f"{workload.activations[layer - 1]}_derivative"]
    return flops, size * (n * (2 * n_in + n_out) + weights * blocks), n * n_in * derivative


def phases_from(times: list, workload: Workload, run: Run, ceilings: Ceilings) -> list[Phase]:
    """Speed and bound of every phase of the workload's run; `times` as of `fastbp.profiling.phases.phase_times`."""
    threads, dtype = run.work.plan.threads, workload.dtype
    functions = {name: ceiling.best for name, ceiling in ceilings.pointwise_ns[dtype].items()}
    peak, bandwidth = ceilings.best(dtype, threads) * 1e9, ceilings.best(level_of(run), threads) * 1e9
    total = sum(seconds for _, _, seconds, _ in times) or 1.0
    result = []
    for name, layer, seconds, visits in times:
        flops, loaded, pointwise = work_of(workload, run, name, layer, functions)
        reached, bound = None, "overhead"
        if (flops or loaded or pointwise) and seconds > 0:
            arithmetic = (flops / peak + pointwise * 1e-9 / threads) / seconds
            loads = loaded / bandwidth / seconds
            reached = max(arithmetic, loads)
            bound = "latency" if reached < BUSY else ("compute" if arithmetic >= loads else "memory")
        gflops, gbs = (amount / seconds / 1e9 if amount and seconds else None for amount in (flops, loaded))
        intensity = flops / loaded if flops else None
        phase = name, layer, seconds, seconds / total, visits, gflops, gbs, intensity, reached, bound
        result.append(Phase(*phase, label_of(name, layer)))
    return result
