"""Where a training's time goes: by phase, layer and thread, counted inside the compiled loop.

Phases are marked in a training of their own, which takes turns with the one that is profiled. What counts are their shares
of a turn without the marks, in the median of the turns, so that another program that takes the processor counts little;
they are shares of the time which the training takes unmarked.

A mark takes some 20 ns. Among a kernel's work it takes longer than alone in a loop, because what follows it no longer
overlaps with what precedes it: in the shortest steps by a third. Where marks are felt, a mark's own time is by how much
longer the training takes with them.
"""

import platform
import time

import numpy as np

from fastbp.kernels import count_marks, gate
from fastbp.kernels.jit import PLAIN_PYTHON
from fastbp.kernels.levels import machine
from fastbp.layout import CLOCK, COUNTER_GROUP, COUNTERS, OF_LAYERS, PHASES, aligned_zeros, counters_of
from fastbp.profiling.clock import Trainer, rate_of, take_turns
from fastbp.profiling.roofline import label_of
from fastbp.profiling.workload import Workload
from fastbp.training import Run
from fastbp.workspace import NarrowWorkspace

# A mark's own time is that of the fastest of some loops of marks: others were interrupted.
LOOPS, MARKS = 30, 1000
# Before LLVM 22, what reads a cycle counter on ARM is an instruction that most systems forbid.
LLVM_FOR_ARM = 22
# From this part of the time on, marks are felt; then a mark takes so many times as long as alone, within these bounds.
FELT, LEAST_MARK, MOST_MARK = 0.04, 0.5, 4
OUTSIDE = "outside"  # of the compiled loop: row orders, calls, starting threads
# The order of a step, for those that follow each other in every layer before the next one begins.
BACKWARD = ("transpose", "delta", "gradient")


def count(run: Run) -> np.ndarray:
    """Let a run count ticks and marks of (thread, layer, phase), and change no bit; the first layer has what is of none."""
    check_clock()
    threads, n_layers = run.work.plan.threads, len(run.layout.rows)
    memory = aligned_zeros(counters_of(threads, n_layers), np.int64)
    run.work.arrays, run.marked = gate.Arrays((*run.work.arrays[:-1], memory)), True
    run.advance(0)  # compiles or loads the kernel
    memory[COUNTERS:] = 0
    return memory[COUNTERS:].reshape(threads, n_layers, COUNTER_GROUP)[..., :CLOCK].reshape(threads, n_layers, -1, 2)


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


def phase_times(workload: Workload, plain: Trainer, seconds: float) -> tuple[list, list, float | None]:
    """Where the time goes, and by which part counting slows down the same training that is yet to take its turns, `plain`.

    Phases in the order of a step, each with its layer or None, seconds per epoch and visits, averaged over the threads; for
    each thread pairs of label and seconds per step; and None in the place of the slowdown where plain Python is not timed.
    """
    if PLAIN_PYTHON:
        return [], [], None
    marked = Marked(workload)
    take_turns([marked, plain], [1, 1], seconds)
    slower = float(np.median(np.divide(plain.rates, marked.rates))) - 1
    pairs, whole, rows = map(np.array, zip(*marked.turns[-len(marked.rates) :], strict=True))
    inside, outside = shares_of(pairs, whole, slower)
    epoch = workload.rows / rate_of(plain.rates).median / (inside.sum(axis=(1, 2)) + outside)  # of each thread
    spent: dict[tuple[str, int | None], tuple[np.ndarray, float]] = {(OUTSIDE, None): (outside * epoch, 0.0)}
    visits = pairs[..., 1].sum(axis=0) * workload.rows / rows.sum()
    for layer, phase in np.argwhere(visits.any(axis=0)):
        name = PHASES._fields[phase]
        key = name, int(layer) if name in OF_LAYERS else None
        spent[key] = inside[:, layer, phase] * epoch, float(visits[:, layer, phase].mean())
    narrow = isinstance(marked.run.work, NarrowWorkspace)
    keys = sorted(spent, key=lambda key: place_in_step(key[0], key[1], narrow))
    times = [(*key, float(spent[key][0].mean()), spent[key][1]) for key in keys]
    tracks = [
        [(label_of(*key), float(spent[key][0][thread]) / workload.steps) for key in keys] for thread in range(len(visits))
    ]
    return times, tracks, slower


def shares_of(pairs: np.ndarray, whole: np.ndarray, slower: float) -> tuple[np.ndarray, np.ndarray]:
    """Shares of (thread, layer, phase) and of what is outside, by thread: medians of turns, without what marks took."""
    ticks, marks = pairs[..., 0], pairs[..., 1]
    first = marks[:, 0].sum(axis=(1, 2))
    mark = min(int(set_marks(MARKS)[2 * PHASES.overhead]) for _ in range(LOOPS)) / MARKS
    if np.median(first * mark / whole) > FELT:
        among = np.median(whole * slower / (1 + slower) / first)
        mark = min(max(among, LEAST_MARK * mark), MOST_MARK * mark)
    inside = np.maximum(ticks - marks * mark, 0) / whole[:, None, None, None]
    outside = np.maximum(whole[:, None] - ticks.sum(axis=(2, 3)), 0) / whole[:, None]
    return np.median(inside, axis=0), np.median(outside, axis=0)


def place_in_step(name: str, layer: int | None, narrow: bool) -> tuple[int, int, int]:
    """Where a phase stands in a step."""
    first = ["gather", "forward", "loss"]
    level = 0 if layer is None else layer
    if name in first:
        return first.index(name), level, 0
    if name in ("transpose", "delta") or (name == "gradient" and narrow):
        return len(first), -level, BACKWARD.index(name)
    last = ["gradient", "update", "wait", "overhead", OUTSIDE]
    return len(first) + 1 + last.index(name), level, 0


def set_marks(number: int) -> np.ndarray:
    """Set so many marks in which nothing is done; returns the counters."""
    memory = aligned_zeros(counters_of(1, 1), np.int64)
    count_marks(memory, COUNTERS, number)
    return memory[COUNTERS:]


def ticks_now() -> int:
    """The processor's clock."""
    return int(set_marks(0)[CLOCK])


def check_clock() -> None:
    """Raise a RuntimeError where no clock can be read."""
    if not PLAIN_PYTHON and machine() != "x86_64":
        import llvmlite.binding as llvm

        if machine() != "aarch64" or llvm.llvm_version_info[0] < LLVM_FOR_ARM:
            raise RuntimeError(f"phases cannot be timed: no clock is known that may be read on {platform.machine()}")
    first = ticks_now()
    time.sleep(0.001)
    if ticks_now() <= first:
        raise RuntimeError("phases cannot be timed: the processor's clock stands still")
