"""Where a training's time goes: by phase, layer and thread, counted inside the compiled loop.

A mark takes some 20 ns. Where the blocks of a call (a row, or as many rows as a kernel takes at a time) are so short that
this would be felt, phases are counted in one block of a period only. How long the others took all together is measured, and
shared among the phases as in the blocks that were counted, so that phases and marks sum to the time of the whole call
whatever else the machine did meanwhile.

Among a kernel's work a mark takes longer than alone in a loop, because what follows it no longer overlaps with what precedes
it: in the shortest blocks by a third. There a mark's own time is by how much longer a block takes that is counted.
"""

import contextlib
import math
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastbp.kernels import count_marks
from fastbp.kernels.jit import PLAIN_PYTHON, arm, x86
from fastbp.layout import (
    BLOCKS,
    COUNTED,
    COUNTER_GROUP,
    COUNTERS,
    LIMIT,
    NEXT,
    OF_LAYERS,
    OVERHEAD,
    PERIOD,
    PHASES,
    UNCOUNTED,
    aligned_zeros,
    counters_size,
)
from fastbp.training import Run
from fastbp.workspace import Arrays

# A mark's own time is that of the fastest of some loops of marks: others were interrupted.
LOOPS, MARKS = 30, 1000
# The clock's rate is that over the run, or over so many seconds, of which reading both clocks is a small part.
LEAST_SECONDS = 0.01
# Before LLVM 22, what reads a cycle counter on ARM is an instruction that most systems forbid.
LLVM_FOR_ARM = 22
# Marks may take this part of the time of what they count; if they would take more, a period is chosen with which they take
# the second: blocks that are not counted have to look whether they are.
MARKS_PART, MARKS_PART_THEN = 0.04, 0.02
# From so many blocks that were counted, a mark's own time among them is taken; within these factors of that in a loop.
KNOWN = 3000
LEAST_MARK, MOST_MARK = 0.5, 4
# A period is given up for another one only if it is too short or too long by such a factor.
TOO_SHORT, TOO_LONG = 1.25, 2
# Where not all blocks are counted, what takes so many times as long as the blocks of a period was interrupted.
INTERRUPTED = 20
NEVER = np.iinfo(np.int64).max
NOTHING = (0,) * 4


class Phase(NamedTuple):
    """What one thread has spent on one phase of one layer.

    Parameters
    ----------
    thread : int
    name : str
        See `fastbp.layout.PHASES`.
    layer : int or None
        From 0, the layer above the inputs; the delta of layer l is computed from it for layer l - 1. None where a phase
        belongs to no layer.
    ticks : int
        Of the processor's clock, in the blocks that were counted, with what the marks themselves took.
    marks : int
        How often the phase came to an end in these.
    visits : float
        How often it did in all blocks; where not all were counted, as far as the others were like these.
    seconds : float
        In all blocks: those that were not counted by their own time, shared as in these. Without what the marks took.
    """

    thread: int
    name: str
    layer: int | None
    ticks: int
    marks: int
    visits: float
    seconds: float


@dataclass(frozen=True)
class PhaseTimes:
    """Where the time of a training went.

    Parameters
    ----------
    phases : list of Phase
        Those that occurred, by thread, layer and the order of `fastbp.layout.PHASES`.
    seconds : float
        From the start of the training to its end, measured from outside.
    epochs : int
    ticks_per_second : float
        Rate of the processor's clock, which is not that of its cores.
    mark_seconds : float
        What one mark took.
    ticks : list of int
        Of each thread, from the start of a call to its end, over all calls.
    blocks, counted : int
        How many blocks there were, and in how many of them phases were counted.
    """

    phases: list[Phase]
    seconds: float
    epochs: int
    ticks_per_second: float
    mark_seconds: float
    ticks: list[int]
    blocks: int
    counted: int

    def inside(self, thread: int = 0) -> float:
        """Seconds that a thread spent in the compiled loop, with all marks: measured, whether or not phases were counted."""
        return self.ticks[thread] / self.ticks_per_second

    def in_marks(self, thread: int = 0) -> float:
        """Seconds of these that were no phase's: what the marks took."""
        return self.inside(thread) - sum(phase.seconds for phase in self.phases if phase.thread == thread)

    @property
    def outside(self) -> float:
        """Seconds outside of the compiled loop: row orders, calls, starting threads."""
        return self.seconds - self.inside()


class Counters:
    """The counters of a run, while `counting` lasts; times are those since it began, or since `restart`.

    The period of the blocks that are counted is 1 at first, and is chosen anew after some calls. What has been counted with
    one period is evaluated before the next one begins, so that every block has the weight of those that it stands for.

    Parameters
    ----------
    run : Run

    Attributes
    ----------
    memory : ndarray of int64
        What threads tell each other, with counters.
    alone_ticks : float
        What one mark takes in a loop of marks.
    period : int
        One block of so many is counted.
    """

    def __init__(self, run: Run):
        self.run, self.threads, self.n_layers = run, run.work.threads, len(run.layout.rows)
        self.memory = aligned_zeros(counters_size(self.threads, self.n_layers), np.int64)
        self.groups = self.memory[COUNTERS:].reshape(self.threads, 2 + self.n_layers, COUNTER_GROUP)
        self.alone_ticks = _ticks_of_a_mark()
        self.start, self.began = 0, 0.0
        self.period, self.limit, self.enough = 1, NEVER, 1
        self.before: tuple[Any, ...] = NOTHING
        self._begin()

    def restart(self) -> None:
        """Count from zero; the period stays."""
        self.before = NOTHING
        self._begin()
        self.start, self.began = _read_clocks()

    def read(self) -> PhaseTimes:
        """What has been counted so far, in completed calls."""
        seconds = time.perf_counter() - self.began
        rate = self._ticks_per_second()
        own, raw, visits, net = self._so_far()
        phases = []
        for thread, layer, phase in np.ndindex(visits.shape):
            ticks, marks = raw[thread, layer, phase].tolist()
            if marks:
                name, of_layer = tuple(PHASES)[phase], layer if phase in OF_LAYERS else None
                took = float(net[thread, layer, phase]) / rate
                phases.append(Phase(thread, name, of_layer, ticks, marks, float(visits[thread, layer, phase]), took))
        ticks = (raw[..., 0].sum(axis=(1, 2)) + own[:, UNCOUNTED]).tolist()
        mark = (sum(ticks) - float(net.sum())) / max(int(raw[..., 1].sum()), 1)
        blocks, counted = own[0, [BLOCKS, COUNTED]].tolist()
        return PhaseTimes(phases, seconds, self.run.epochs_done, rate, mark / rate, ticks, blocks, counted)

    def after_call(self) -> None:
        """Keep the threads at the same blocks, and choose the period anew where twice as much is known as last time."""
        if self.threads > 1:  # one that could not be started has not seen the blocks of the call
            self.groups[:, 0, [BLOCKS, NEXT]] = self.groups[0, 0, [BLOCKS, NEXT]]
        if self.groups[0, 0, COUNTED] >= self.enough:
            self.enough = 2 * int(self.groups[0, 0, COUNTED])
            ticks, marks = self.groups[0, 2:].reshape(-1, 2).sum(axis=0).tolist()
            period = self.best_period(ticks, marks)
            if period > TOO_SHORT * self.period or TOO_LONG * period < self.period:
                block = ticks / int(self.groups[0, 0, COUNTED])
                self.before = self._so_far()
                self.period, self.limit = period, NEVER if period == 1 else int(INTERRUPTED * period * block)
                self._begin()

    def best_period(self, ticks: int, marks: int) -> int:
        """The shortest with which marks take no more than their part, where blocks took so long with so many marks."""
        blocks, batch = self.run.work.blocks_per_epoch, -(-self.run.batch_size // self.run.work.block_rows)
        in_marks = marks * self.alone_ticks
        part = in_marks / max(ticks - in_marks, 0.1 * in_marks, 1.0)
        if part <= MARKS_PART:
            return 1
        period = math.ceil(part / MARKS_PART_THEN)
        # so that in the long run every block of an epoch and of a batch is counted as often as any other
        while math.gcd(period, blocks * batch) > 1:
            period += 1
        return period

    def _begin(self) -> None:
        self.groups[:] = 0
        self.groups[:, 0, [PERIOD, LIMIT, NEXT]] = self.period, self.limit, 1
        self.enough = 1

    def _so_far(self) -> tuple[np.ndarray, ...]:
        """Threads' own numbers; (ticks, marks), visits and net ticks of (thread, layer, phase)."""
        own, calls = self.groups[:, 0], self.groups[:, 1]
        blocks, counted, others = own[:, [BLOCKS, COUNTED, UNCOUNTED]].T
        pairs = self.groups[:, 2:].reshape(self.threads, self.n_layers, -1, 2)
        mark = self._ticks_of_a_mark_among(blocks, counted, others, *pairs.sum(axis=(1, 2)).T)[:, None, None]
        net = np.maximum(pairs[..., 0] - pairs[..., 1] * mark, 0)
        net *= 1 + (others / np.maximum(net.sum(axis=(1, 2)), 1))[:, None, None]
        raw, visits = pairs.copy(), pairs[..., 1] * (blocks / np.maximum(counted, 1))[:, None, None]
        # what a call does outside of its blocks stands for nothing else
        calls = calls.reshape(self.threads, -1, 2)
        raw[:, 0] += calls
        visits[:, 0] += calls[..., 1]
        net[:, 0] += np.maximum(calls[..., 0] - calls[..., 1] * self.alone_ticks, 0)
        return tuple(now + before for now, before in zip((own, raw, visits, net), self.before, strict=True))

    def _ticks_of_a_mark_among(self, blocks, counted, others, ticks, marks) -> np.ndarray:
        """What one mark took in the blocks of each thread that were counted, by the time of the others."""
        longer = ticks - others / np.maximum(blocks - counted, 1) * counted
        found = np.clip(longer / np.maximum(marks, 1), LEAST_MARK * self.alone_ticks, MOST_MARK * self.alone_ticks)
        return np.where((blocks > counted) & (counted >= KNOWN), found, self.alone_ticks)

    def _ticks_per_second(self) -> float:
        time.sleep(max(0.0, self.began + LEAST_SECONDS - time.perf_counter()))
        ticks, now = _read_clocks()
        return (ticks - self.start) / (now - self.began)


@contextlib.contextmanager
def counting(run: Run) -> Iterator[Counters]:
    """Let a run count the time of its phases; what it computes stays the same to the last bit.

    Parameters
    ----------
    run : Run

    Yields
    ------
    Counters
        Which may be read after every call of the run.

    Raises
    ------
    RuntimeError
        If the processor has no clock that a program may read.
    """
    _check_clock()
    counters, plain = Counters(run), run.work.arrays
    run.work.arrays, run.counters = Arrays((*plain[:-1], counters.memory)), counters
    try:
        run.advance(0)  # compiles or loads the kernel
        counters.restart()
        yield counters
    finally:
        run.work.arrays, run.counters = plain, None


def phases_of(run: Run, epochs: int) -> PhaseTimes:
    """Train for some epochs, and count where the time goes.

    Parameters
    ----------
    run : Run
        It is trained as if nothing were counted.
    epochs : int

    Returns
    -------
    PhaseTimes

    Raises
    ------
    RuntimeError
        If the processor has no clock that a program may read.
    """
    with counting(run) as counters:
        for _ in run.calls(epochs):
            pass
        return counters.read()


def _marks(number: int) -> np.ndarray:
    """Set so many marks in which nothing is done; the counters, of which the first is the clock after the last mark."""
    memory = aligned_zeros(counters_size(1, 1), np.int64)
    memory[COUNTERS + LIMIT] = NEVER
    count_marks(memory, COUNTERS, number)
    return memory[COUNTERS:]


def _ticks_of_a_mark() -> float:
    return min(int(_marks(MARKS)[COUNTER_GROUP + 2 * OVERHEAD]) for _ in range(LOOPS)) / MARKS


def _read_clocks() -> tuple[int, float]:
    """The processor's clock, and `time.perf_counter` at the same time."""
    before = time.perf_counter()
    ticks = int(_marks(0)[0])
    return ticks, (before + time.perf_counter()) / 2


def _check_clock() -> None:
    if not PLAIN_PYTHON and not x86():
        import llvmlite.binding as llvm

        if not arm() or llvm.llvm_version_info[0] < LLVM_FOR_ARM:
            raise RuntimeError(f"phases cannot be timed: no clock is known that may be read on {platform.machine()}")
    first, _ = _read_clocks()
    time.sleep(0.001)
    if _read_clocks()[0] <= first:
        raise RuntimeError("phases cannot be timed: the processor's clock stands still")
