"""Where a training's time goes, by phase, layer and thread, and what keeps each phase from being faster.

Phases are marked in a training of their own, which takes turns with the one that is profiled. What counts are their shares
of a turn without the marks, in the median of the turns, so that another program that takes the processor counts little;
they are shares of the time which the training takes unmarked.

A mark takes some 20 ns. Among a kernel's work it takes longer than alone in a loop, because what follows it no longer
overlaps with what precedes it: in the shortest steps by a third. Where marks are felt, a mark's own time is by how much
longer the training takes with them.

What binds a phase is said by a rule (Williams, Waterman and Patterson, "Roofline: an insightful visual performance model
for multicore architectures", Communications of the ACM 52, 2009). Divided by the fma peak, the bandwidth and the speed of
pointwise functions that were measured on this machine, the work that it has to do at least, see `work_of`, takes a time at
best, for the arithmetic and for the bytes. Where neither is a quarter of the time it took, it is *latency-bound*: too
short, or too dependent on itself, to keep the machine busy. Otherwise it is *compute-* or *memory-bound*, whichever of the
two takes longer. What is no work at all is *overhead-bound*. The bandwidth is that of the smallest of L2, L3 and memory
that holds everything a step uses, its rows apart.
"""

import platform
import time
from dataclasses import dataclass

import numpy as np

from fastbp import layout
from fastbp.kernels import count_marks, gate
from fastbp.kernels.jit import PLAIN_PYTHON
from fastbp.kernels.levels import machine
from fastbp.profiling.machine import Ceilings, cache_bytes
from fastbp.profiling.workload import Trainer, Workload, rate_of, take_turns
from fastbp.training import Run
from fastbp.workspace import NarrowWorkspace, OnlineWorkspace

# A mark's own time is that of the fastest of some loops of marks: others were interrupted.
LOOPS, MARKS = 30, 1000
# From this part of the time on, marks are felt; then a mark takes so many times as long as alone, within these bounds.
FELT, LEAST_MARK, MOST_MARK = 0.04, 0.5, 4
OUTSIDE = "outside"  # of the compiled loop: row orders, calls, starting threads
BUSY = 0.25  # the share of a ceiling from which on a phase is bound by it
BOUND_BY = {"compute": "arithmetic", "memory": "memory", "latency": "latency", "overhead": "overhead"}
# Seconds per epoch, of each thread, and visits of a phase, and of a layer or None.
Times = list[tuple[str, int | None, np.ndarray, float]]


def count(run: Run) -> np.ndarray:
    """Let a run count ticks and marks of (thread, layer, phase), and change no bit; the first layer has what is of none."""
    check_clock()
    threads, n_layers = run.work.plan.threads, len(run.layout.rows)
    memory = layout.aligned_zeros(layout.counters_of(threads, n_layers), np.int64)
    run.work.arrays, run.marked = gate.Arrays((*run.work.arrays[:-1], memory)), True
    run.advance(0)  # compiles or loads the kernel
    counters = memory[layout.COUNTERS :].reshape(threads, n_layers, layout.COUNTER_GROUP)
    counters[:] = 0
    return counters[..., : layout.CLOCK].reshape(threads, n_layers, -1, 2)


class Marked(Trainer):
    """A training that keeps, of each turn, what was counted, the ticks from its start to its end, and the rows."""

    def __init__(self, workload: Workload):
        super().__init__(workload)
        self.turns: list[tuple[np.ndarray, int, int]] = []
        self.counters = count(self.run)

    def turn(self, seconds: float) -> int:
        """As a training's."""
        before, start = self.counters.copy(), ticks_now()
        rows = super().turn(seconds)
        self.turns.append((self.counters - before, ticks_now() - start, rows))
        return rows


def phase_times(workload: Workload, plain: Trainer, seconds: float) -> tuple[Times, float | None]:
    """Times in the order of a step, and by which part counting slows down the same training, `plain`.

    No times, and None in the place of the slowdown, where kernels run as plain Python.
    """
    if PLAIN_PYTHON:
        return [], None
    marked = Marked(workload)
    take_turns([marked, plain], [1, 1], seconds)
    slower = float(np.median(np.divide(plain.rates, marked.rates))) - 1
    pairs, whole, rows = map(np.array, zip(*marked.turns[-len(marked.rates) :], strict=True))
    inside, outside = shares_of(pairs, whole, slower)
    epoch = workload.rows / rate_of(plain.rates).median / (inside.sum(axis=(1, 2)) + outside)  # of each thread
    visits = pairs[..., 1].sum(axis=0) * workload.rows / rows.sum()
    times: Times = []
    for name, layer in in_a_step(inside.shape[1], isinstance(marked.run.work, NarrowWorkspace)):
        of_threads = slice(None), layer or 0, getattr(layout.PHASES, name)
        if visits[of_threads].any():
            times.append((name, layer, inside[of_threads] * epoch, float(visits[of_threads].mean())))
    return [*times, (OUTSIDE, None, outside * epoch, 0.0)], slower


def shares_of(pairs: np.ndarray, whole: np.ndarray, slower: float) -> tuple[np.ndarray, np.ndarray]:
    """Shares of (thread, layer, phase) and of what is outside, by thread: medians of turns, without what marks took."""
    ticks, marks = pairs[..., 0], pairs[..., 1]
    first = marks[:, 0].sum(axis=(1, 2))
    mark = min(int(set_marks(MARKS)[2 * layout.PHASES.overhead]) for _ in range(LOOPS)) / MARKS
    if np.median(first * mark / whole) > FELT:
        among = np.median(whole * slower / (1 + slower) / first)
        mark = min(max(among, LEAST_MARK * mark), MOST_MARK * mark)
    inside = np.maximum(ticks - marks * mark, 0) / whole[:, None, None, None]
    outside = np.maximum(whole[:, None] - ticks.sum(axis=(2, 3)), 0) / whole[:, None]
    return np.median(inside, axis=0), np.median(outside, axis=0)


def in_a_step(n_layers: int, narrow: bool) -> list[tuple[str, int | None]]:
    """Phases, with their layers, in the order of a step; the narrow kernel has a layer's gradient before the next delta."""
    layers = range(n_layers)
    backward = ("transpose", "delta", "gradient") if narrow else ("transpose", "delta")
    steps = [("gather", None), *[("forward", layer) for layer in layers], ("loss", None)]
    steps += [(name, layer) for layer in reversed(layers) for name in backward]
    steps += [] if narrow else [("gradient", layer) for layer in layers]
    return [*steps, ("update", None), ("wait", None), ("overhead", None)]


def set_marks(number: int) -> np.ndarray:
    """Set so many marks in which nothing is done; returns the counters."""
    memory = layout.aligned_zeros(layout.counters_of(1, 1), np.int64)
    count_marks(memory, layout.COUNTERS, number)
    return memory[layout.COUNTERS :]


def ticks_now() -> int:
    """The processor's clock."""
    return int(set_marks(0)[layout.CLOCK])


def check_clock() -> None:
    """Raise a RuntimeError where no clock can be read."""
    if not PLAIN_PYTHON and machine() not in ("x86_64", "aarch64"):
        raise RuntimeError(f"phases cannot be timed: no clock is known that may be read on {platform.machine()}")
    first = ticks_now()
    time.sleep(0.001)
    if ticks_now() <= first:
        raise RuntimeError("phases cannot be timed: the processor's clock stands still")


# ---- work, and what bounds it ----------------------------------------------------------------------------------------


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
    label: str  # the name with the layer
    threads: list[float]  # seconds per epoch of each


def work_of(workload: Workload, run: Run, functions: dict[str, float]) -> dict[tuple[str, int | None], tuple]:
    """By phase and layer, operations, bytes, and nanoseconds of functions, given per element, that it takes per epoch."""
    n, steps, blocks = workload.rows, workload.steps, run.work.blocks_per_epoch
    size, moments = np.dtype(workload.dtype).itemsize, workload.rule.moments
    units, words, output = workload.units, workload.activations, workload.rule.out_activation
    copied = units[-1]
    if isinstance(run.work, NarrowWorkspace):  # whose rows may stay in their panel, or be read where they stand
        copied = 0 if run.work.plan.resident else units[0] * (not run.work.plan.direct) + units[-1]
    exponential = functions["exp" if output == "softmax" else output]
    work: dict[tuple[str, int | None], tuple] = {
        ("gather", None): (0, 2 * size * n * copied, 0),
        ("loss", None): (0, 3 * size * n * units[-1], n * units[-1] * exponential),
        ("update", None): (0, size * run.layout.n_weights * (3 + 2 * moments) * steps, 0),
    }
    online = isinstance(run.work, OnlineWorkspace)
    for layer, (row, products) in enumerate(zip(run.layout.rows, workload.products, strict=True)):
        n_in, n_out = row.n_in if layer else workload.values_per_row, row.n_out
        W = row.n_in * row.n_out
        flops, activated = 2 * n * products, n * n_out * functions[words[layer]] if layer < len(words) else 0
        with_delta = 2 * n * W if online and layer else 0  # which is the same pass over the weights
        work["forward", layer] = flops, size * (n * (n_in + n_out) + W * blocks), activated
        work["gradient", layer] = flops + with_delta, size * (n * (n_in + n_out) + W * (2 + 2 * moments) * steps), 0
        work["transpose", layer] = 0, 2 * size * W * blocks, 0
        if layer:
            derivative = n * n_in * functions[f"{words[layer - 1]}_derivative"]
            work["delta", layer] = flops, size * (n * (2 * n_in + n_out) + W * blocks), derivative
    return work


def phases_from(times: Times, workload: Workload, run: Run, ceilings: Ceilings) -> list[Phase]:
    """Speed and bound of every phase of the workload's run; `times` as of `phase_times`."""
    threads, dtype = run.work.plan.threads, workload.dtype
    functions = {name: ceiling.best for name, ceiling in ceilings.pointwise_ns[dtype].items()}
    used = run.work.arrays[0].nbytes + run.work.params.nbytes + run.work.state.nbytes  # by a step, its rows apart
    level = "L2" if used <= cache_bytes(2) * threads else "L3" if used <= cache_bytes(3) else "memory"
    peak, bandwidth = ceilings.best(dtype, threads) * 1e9, ceilings.best(level, threads) * 1e9
    total = sum(of_threads.mean() for _, _, of_threads, _ in times) or 1.0
    result, work = [], work_of(workload, run, functions)
    for name, layer, of_threads, visits in times:
        flops, loaded, pointwise = work.get((name, layer), (0, 0, 0))
        seconds, reached, bound = float(of_threads.mean()), None, "overhead"
        if (flops or loaded or pointwise) and seconds > 0:
            arithmetic = (flops / peak + pointwise * 1e-9 / threads) / seconds
            loads = loaded / bandwidth / seconds
            reached = max(arithmetic, loads)
            bound = "latency" if reached < BUSY else ("compute" if arithmetic >= loads else "memory")
        gflops, gbs = (amount / seconds / 1e9 if amount and seconds else None for amount in (flops, loaded))
        intensity, label = flops / loaded if flops else None, name if layer is None else f"{name}[{layer}]"
        phase = name, layer, seconds, seconds / total, visits, gflops, gbs, intensity, reached, bound
        result.append(Phase(*phase, label, of_threads.tolist()))
    return result
